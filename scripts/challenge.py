#!/usr/bin/env python3
"""Train the first steps of one seed of a record again, and write what came of it beside the record.

The seed is drawn from the hashes that end the record's logs. The harness is this checkout's HEAD; of the
record only its optimizers/ run, in a read-only copy and without a network where the system allows it. Nothing
runs before you agree. verify.py counts a record as challenged where the losses agree.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import need

need("numpy", "scipy", "torch")

from speedrun import ROOT
from speedrun.cli import Parser, Refusal, command, print_json
from speedrun.experiments.challenge import challenge_record, read_challenge, unlike, write
from speedrun.text import printable
from speedrun.verify.history import history

EXAMPLE = """examples:
  python scripts/challenge.py records/laptop/2026-11-23_aurora
  python scripts/challenge.py records/laptop/2026-11-23_muon --by CI --yes
"""


def consent(yes: bool) -> None:
    """Returns where the person agrees; Refusal where not, or where nobody can be asked."""
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise Refusal("nothing was run: there is no terminal to ask at; read what is above, then add --yes")
    print("Run these optimizers on this machine? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Refusal("nothing was run")


@command
def main(argv: list[str]) -> int:
    """Show, ask, train, compare; the exit code is 0 where the losses agree."""
    parser = Parser(prog="challenge.py", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("record", type=Path, metavar="RECORD", help="a record's folder, or a log")
    parser.add_argument("--yes", action="store_true", help="you agree that the record's optimizers/ run here")
    parser.add_argument("--by", default="not said", metavar="NAME", help="who challenges, for challenge.json")
    parser.add_argument("--data-dir", type=Path, metavar="D", default=ROOT / "data",
                        help="the folder of the shards (default: this checkout's data)")
    parser.add_argument("--harness", default="HEAD", metavar="REV",
                        help="the commit whose harness trains, one that HEAD descends from (default: HEAD)")
    parser.add_argument("--dry", action="store_true", help="compare and print, and write nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the rest goes to stderr")
    args = parser.parse_args(argv)
    if not args.record.exists():
        raise Refusal(f"{printable(args.record, 400)}: no such record; name a folder or a log", code=2)
    challenge, clone = read_challenge(args.record), history()
    strange = unlike(challenge, clone)
    where = printable(args.record, 400)
    print(f"{where}: seed {challenge.seed}, {challenge.steps} steps, recipe "
          f"{printable(challenge.run.recipe.name, 60)}; of its optimizers/ "
          + (f"{len(strange)} files are of no commit of this history, read them first: "
             f"{', '.join(map(printable, strange[:8]))}" if strange else "every file is of this history"),
          file=sys.stderr)
    consent(args.yes)
    found = challenge_record(challenge, clone, args.data_dir, lambda line: print(
        printable(line.rstrip("\n")), file=sys.stderr, flush=True), args.by, args.harness)
    if not args.dry:
        print(f"written: {write(found, args.record)}", file=sys.stderr)
    if args.json:
        print_json(found)
    else:
        print("\n".join([*(f"step {p['step']}: log {p['log']:.5f}, trained again {p['loss']:.5f}"
                           for p in found["points"]),
                         f"{'agrees' if found['agrees'] else 'differs'}: {found['tolerance']} is allowed; "
                         f"harness {found['harness'][:10]}; {found['isolation']}"]))
    return 0 if found["agrees"] else 1


if __name__ == "__main__":
    sys.exit(main())
