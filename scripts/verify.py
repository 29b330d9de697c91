#!/usr/bin/env python3
"""Check record logs and record folders: one line for each rule that is broken, exit 1 where one is.

A log stands where it is whole, complete, and agrees with its declared seeds, its track and its own
arithmetic. A record folder stands where besides its logs are runs of one code, track, recipe and data, and a
mean that ends below the track's target is so by the track's rule. A record that ends above the target, a
custom track and an overridden recipe stand without a claim. Hashes and rules show that a log is consistent,
not that it is true: a replay shows that.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import Parser, Refusal, command, need, print_json

need("numpy", "scipy")

from speedrun.experiments.replay import TOLERANCE, rerun
from speedrun.stats.planning import MOST_LOOKS, naive_error
from speedrun.stats.rule import LEVEL
from speedrun.text import printable
from speedrun.verify.claim import shortfall
from speedrun.verify.verdict import Failure, Verdict, find

EXAMPLE = """examples:
  python scripts/verify.py records/
  python scripts/verify.py logs/20260131-120000_laptop_aurora/*.txt --rerun
"""


def summary(verdict: Verdict) -> str:
    """The line of a log or record that stands."""
    found = verdict.claim
    seeds = f"{found['n']} seed{'s' * (found['n'] > 1)}"
    recipe = f"{printable(found['track'])}, {printable(found['recipe'])}"
    line = f"{printable(verdict.path, 400)}: stands: {recipe}, {seeds}"
    if found["track"] == "custom" or found["target"] is None:
        why = "a custom track claims nothing" if found["track"] == "custom" else "the track has no target"
        return f"{line}, final loss {found['final']['mean']:.5f}; {why}"
    if found["step"] is None:
        return f"{line}; no claim: {shortfall(found)}"
    line += f"; {found['target']} reached at step {found['step']}, mean {found['mean']:.5f}"
    line += f", p = {found['p']:.1e}{peeking(found['looks'])}"
    return line + (f", no time claim ({found['no_time']})" if found["no_time"] else
                   f", {found['seconds']:.1f} s on the training clock")


def peeking(looks: list[int]) -> str:
    """What a rule for one look is worth where seeds were declared log by log."""
    if len(looks) == 1:
        return ""
    error = f" is {naive_error(looks):.1e}, not {LEVEL:.1e}" if len(looks) <= MOST_LOOKS else " is larger"
    return (f" (declared in {len(looks)} logs: if each was begun after a look at those before, the rule's "
            f"error{error})")


@command
def main(argv: list[str]) -> int:
    """Verdicts on stdout; the exit code."""
    parser = Parser(prog="verify.py", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH",
                        help="a log, a record folder, or a folder of such folders")
    parser.add_argument("--rerun", action="store_true",
                        help="also train the first seed of each log named again, on this machine (laptop "
                             f"only); every loss must agree to {TOLERANCE} nats, which CPUs of one kind keep")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    folders = [path for path in args.paths if path.is_dir()]
    if args.rerun and folders:
        raise Refusal(f"--rerun takes logs, {printable(folders[0])} is a folder; name the log", code=2)
    verdicts = [verdict for path in args.paths for verdict in find(path)]
    for verdict in verdicts:
        if args.rerun and verdict.stands:
            verdict.failures += [Failure(str(verdict.path), line, "rerun", what)
                                 for line, what in rerun(verdict.path)]
    stands = all(verdict.stands for verdict in verdicts)
    if args.json:
        print_json(dict(stands=stands, verdicts=[
            dict(path=str(v.path), kind=v.kind, stands=v.stands, claim=v.claim,
                 failures=[vars(failure) for failure in v.failures]) for v in verdicts]))
        return 0 if stands else 1
    for verdict in verdicts:
        print("\n".join(map(str, verdict.failures)) if verdict.failures else
              summary(verdict) + "; its code was not committed" * verdict.claim["uncommitted"])
    return 0 if stands else 1


if __name__ == "__main__":
    sys.exit(main())
