#!/usr/bin/env python3
"""Run a study of records/studies/NAME/study.toml to its end: each recipe, setting and seed not yet done.

Each run is a process of its own, one a GPU, or --jobs at a time that share the cores. Logs go to
records/studies/NAME; a study that was stopped resumes where it was, run by run. Then its README.md and its
picture are written, and docs/findings.md, whose numbers are all taken from logs. See docs/studies.md.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import need

need("numpy", "scipy", "torch")

from speedrun import ROOT
from speedrun.cli import Parser, Refusal, command, print_json
from speedrun.studies import publish
from speedrun.studies.file import names
from speedrun.studies.page import page

EXAMPLE = """examples:
  python scripts/study.py ladder
  python scripts/study.py --list
  python scripts/study.py --check
"""


@command
def main(argv: list[str]) -> int:
    """Run, list or check studies, as the command line asks; the exit code."""
    parser = Parser(prog="study.py", description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="a study of records/studies, or a .toml file like theirs")
    add("--check", action="store_true",
        help="run nothing: exit 1 where a README.md, a picture or docs/findings.md is not what the logs "
             "give (without NAME: of all studies)")
    add("--write", action="store_true",
        help="run nothing: write those files from the logs there are, e.g. some that another machine made")
    add("--list", action="store_true", help="list the studies and how many runs are left, and stop")
    add("--jobs", type=int, metavar="N", help="runs at a time (default: one a GPU, else one a core)")
    add("--records", type=Path, default=ROOT / "records", metavar="DIR",
        help="where studies/ and tuning/ lie (default: the repository's records)")
    add("--data-dir", type=Path, metavar="DIR", help="the folder of the shards, as train_gpt.py takes it")
    add("--json", action="store_true", help="print one JSON object; progress goes to stderr")
    args = parser.parse_args(argv)
    if args.jobs is not None and args.jobs < 1:
        raise Refusal(f"--jobs {args.jobs}: give at least 1", code=2)
    if not args.records.is_dir():
        raise Refusal(f"--records {args.records}: there is no such folder", code=2)
    args.records = args.records.resolve()
    studies = publish.Studies(args.records)
    if args.list:
        rows = publish.listing(studies)
        width = max(len(row["name"]) for row in rows)
        return say(args, dict(studies=rows), [
            f"{row['name']:{width}}  {row['track']}: {row['cells']} cells, seeds "
            f"{' '.join(map(str, row['seeds']))}; {row['runs_left']} runs left" for row in rows])
    if args.check:
        wrong, fix = publish.wrong(studies, args.name), "; run `python scripts/study.py --write`"
        return say(args, dict(ok=not wrong, wrong=wrong),
                   [line + fix for line in wrong] or ["every figure is what the logs give"], bool(wrong))
    if args.write:
        publish.write(studies, args.name)
        return 0
    if args.name is None:
        raise Refusal(f"name a study: {', '.join(names())}; or give --check, --write or --list", code=2)
    diverged = publish.run(studies, args.name, args.jobs, args.data_dir)
    study, found = studies.load(args.name)
    return say(args, dict(found, diverged=diverged, folder=str(study.folder)),
               [page(study, found), f"written: {study.folder / 'README.md'} and picture.png"], bool(diverged))


def say(args, found: dict, lines: list[str], failed: bool = False) -> int:
    """Print the result as --json asks; the exit code."""
    if args.json:
        print_json(found)
    else:
        print("\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
