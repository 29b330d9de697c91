#!/usr/bin/env python3
"""Take a recipe to modded-nanogpt's optimization track: the script to run there, then the folder to submit.

The first form writes your copy of its train_gpt_simple.py with the sections "Optimizer" and "Init & Optim
Hyperparams" replaced by those of RECIPE: torch alone, every constant in code, all else as it was.
What changes is shown on stderr. Run it there as you would the original; `[FIRST_SEED] TRIALS` are its
arguments.

The second form drafts the folder from the logs of such runs: the logs, README.md, summary.tsv and a figure.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import need

need("numpy", "torch")

from optimizers import RECIPES
from speedrun import ROOT
from speedrun.cli import Parser, command, print_json
from speedrun.export import script

EXAMPLE = """examples:
  python scripts/export.py aurora --upstream train_gpt_simple.py --out train_gpt_simple_aurora.py
  torchrun --standalone --nproc_per_node=8 train_gpt_simple_aurora.py 8      # there: seeds 0 to 7
  python scripts/export.py --evidence logs/*.txt --out 20261122_aurora
"""


def show_script(args) -> None:
    """The difference to stderr; the script, or with --json one object, to stdout."""
    found = script.export_script(args.recipe, args.upstream, args.out)
    sys.stderr.writelines(found.diff)
    if args.json:
        print_json(dict(recipe=args.recipe, upstream=str(args.upstream), out=args.out and str(args.out),
                        added=found.added, removed=found.removed,
                        **({} if args.out else dict(text=found.text))))
    elif not args.out:
        sys.stdout.buffer.write(found.text.encode())


def show_draft(args) -> None:
    """What the folder claims."""
    from speedrun.export import submission  # which loads what exporting does without
    found = submission.draft(args.evidence, args.out, ROOT / "records/reference/track3.json")
    if args.json:
        print_json(found)
    else:
        print("\n".join(submission.words(found)))


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
        show_draft(args)
        return 0
    if not args.recipe or not args.upstream:
        parser.error("name a RECIPE and --upstream FILE, or --evidence LOG... and --out DIR")
    show_script(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
