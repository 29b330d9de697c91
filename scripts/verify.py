#!/usr/bin/env python3
"""Check record logs and record folders. Of each: it stands, it is consistent (it verifies, and is on no
board, and why), or one line for each rule that it breaks, and exit 1.

A log verifies where it is whole, complete, and agrees with its declared seeds, its track and its own
arithmetic; a folder where besides its logs are runs of one code, track, recipe and data, and a mean that ends
below the target is so by the track's rule. It stands where every lock holds: the code is the repository's,
the recipe is what its name says, a part was trained again, other records agree. docs/rules.md has them all.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun import ROOT
from speedrun.cli import Parser, Refusal, command, need, print_json

need("numpy", "scipy")

from speedrun.experiments.replay import TOLERANCE, rerun
from speedrun.text import printable
from speedrun.verify import rules
from speedrun.verify.history import history
from speedrun.verify.verdict import Failure, verdicts
from speedrun.verify.words import explained, summary

EXAMPLE = """examples:
  python scripts/verify.py records/
  python scripts/verify.py records/laptop --explain
  python scripts/verify.py logs/20260131-120000_laptop_aurora/*.txt --rerun
"""

@command
def main(argv: list[str]) -> int:
    """Verdicts on stdout; the exit code."""
    parser = Parser(prog="verify.py", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("paths", type=Path, nargs="*", metavar="PATH",
                        help="a log, a record folder, or a folder of such folders")
    parser.add_argument("--rerun", action="store_true",
                        help="also train the first seed of each log named again, on this machine (laptop "
                             f"only); every loss must agree to {TOLERANCE} nats, which CPUs of one kind keep")
    parser.add_argument("--explain", action="store_true", help="print each lock, and how it was checked")
    parser.add_argument("--rules", action="store_true", help="print docs/rules.md, and check nothing")
    parser.add_argument("--history", type=Path, metavar="DIR", default=ROOT,
                        help="the clone whose history and records count (default: this checkout)")
    parser.add_argument("--base", metavar="REF", default="HEAD",
                        help="the branch that a submission is for: its harness must be that of this one")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    if args.rules:
        print(rules.page(), end="")
        return 0
    if not args.paths:
        parser.error("name a log, a record folder, or a folder of such folders")
    folders = [path for path in args.paths if path.is_dir()]
    if args.rerun and folders:
        raise Refusal(f"--rerun takes logs, {printable(folders[0])} is a folder; name the log", code=2)
    found = verdicts(args.paths, history(args.history, args.base))
    for verdict in found:
        if args.rerun and verdict.verifies:
            verdict.failures += [Failure(str(verdict.path), line, "rerun", what)
                                 for line, what in rerun(verdict.path)]
    verifies = all(verdict.verifies for verdict in found)
    if args.json:
        print_json(dict(verifies=verifies, stands=all(verdict.stands for verdict in found), verdicts=[
            dict(path=str(v.path), kind=v.kind, outcome=v.outcome, verifies=v.verifies, stands=v.stands,
                 why=v.why if v.verifies else None, claim=v.claim, locks=[vars(lock) for lock in v.locks],
                 failures=[vars(failure) for failure in v.failures]) for v in found]))
        return 0 if verifies else 1
    for verdict in found:
        print("\n".join(map(str, verdict.failures)) if verdict.failures else summary(verdict))
        if args.explain and verdict.verifies:
            print("\n".join(explained(verdict)))
    return 0 if verifies else 1


if __name__ == "__main__":
    sys.exit(main())
