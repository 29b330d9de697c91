#!/usr/bin/env python3
"""Take a recipe to modded-nanogpt's optimization track: the script to run there, then the folder to submit.

The first form writes your copy of its train_gpt_simple.py with the sections "Optimizer" and "Init & Optim
Hyperparams" replaced by those of RECIPE: torch alone, every constant in code, all else as it was.
What changes is shown on stderr. Run it there as you would the original; `[FIRST_SEED] TRIALS` are its
arguments.

The second form drafts the folder from the logs of such runs: the logs, README.md, summary.tsv and a figure.
"""
import difflib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import need

need("numpy", "torch")

from optimizers import RECIPES, resolve
from speedrun import ROOT
from speedrun.cli import Parser, Refusal, command, near, print_json
from speedrun.export import sections
from speedrun.text import printable

TRACK = "fineweb-124m"  # whose conditions are those of their track 3
EXAMPLE = """examples:
  python scripts/export.py aurora --upstream train_gpt_simple.py --out train_gpt_simple_aurora.py
  torchrun --standalone --nproc_per_node=8 train_gpt_simple_aurora.py 8      # there: seeds 0 to 7
  python scripts/export.py --evidence logs/*.txt --out 20261122_aurora
"""


def read_script(path: Path) -> str:
    """The text of a script, its line ends as they are. Refusal where it cannot be read."""
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise Refusal(f"cannot read {printable(path)} ({error.strerror}); name your copy of "
                      f"{sections.UPSTREAM}", code=2) from None
    except UnicodeDecodeError:
        raise Refusal(f"{printable(path)} is not UTF-8 text; name your copy of "
                      f"{sections.UPSTREAM}") from None


def export_script(args) -> int:
    """Write the exported script, its difference to stderr; the exit code."""
    if args.recipe not in RECIPES:
        raise Refusal(f"unknown recipe {args.recipe!r}; {near(args.recipe, RECIPES)}", code=2)
    if args.out and args.out.exists() and args.upstream.exists() and args.out.samefile(args.upstream):
        raise Refusal(f"--out {printable(args.out)} is the --upstream file, which is to stay; name another",
                      code=2)
    before = read_script(args.upstream)
    try:
        after = sections.export(before, resolve(args.recipe, TRACK), ROOT)
    except ValueError as error:  # of Recipe.check
        raise Refusal(str(error)) from None
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_bytes(after.encode())
    lines = [text.splitlines(keepends=True) for text in (before, after)]
    diff = list(difflib.unified_diff(*lines, args.upstream.name, (args.out or Path(args.recipe)).name))
    sys.stderr.writelines(diff)
    if args.json:
        count = [sum(line.startswith(sign) for line in diff[2:]) for sign in "+-"]
        print_json(dict(recipe=args.recipe, upstream=str(args.upstream), out=args.out and str(args.out),
                        added=count[0], removed=count[1], **({} if args.out else dict(text=after))))
    elif not args.out:
        sys.stdout.buffer.write(after.encode())
    return 0


def draft(args) -> int:
    """Write the submission folder; the exit code."""
    from speedrun.export import submission
    found = submission.draft(args.evidence, args.out, ROOT / "records/reference/track3.json")
    if args.json:
        print_json(found)
    else:
        print("\n".join(submission.words(found)))
    return 0


@command
def main(argv: list[str]) -> int:
    """Run one of the two forms; the exit code."""
    parser = Parser(prog="export.py", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help=", ".join(RECIPES))
    parser.add_argument("--upstream", type=Path, metavar="FILE", help="your copy of train_gpt_simple.py")
    parser.add_argument("--evidence", type=Path, nargs="+", metavar="LOG",
                        help="logs of the exported script")
    parser.add_argument("--out", type=Path, metavar="PATH",
                        help="the script to write (default: stdout); with --evidence the folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    if args.evidence:
        if args.recipe or args.upstream or not args.out:
            parser.error("--evidence takes logs and --out DIR, and neither RECIPE nor --upstream")
        return draft(args)
    if not args.recipe or not args.upstream:
        parser.error("name a RECIPE and --upstream FILE, or --evidence LOG... and --out DIR")
    return export_script(args)


if __name__ == "__main__":
    sys.exit(main())
