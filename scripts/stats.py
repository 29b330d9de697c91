#!/usr/bin/env python3
"""What record logs show, and how many seeds a claim needs.

  one    is a recipe's mean loss below a target? the track's rule, a t-test, the step it may claim, its mean
         crossing step
  pair   is recipe A better than recipe B? paired by seed where both have it, else Welch's test
  power  seeds needed for a margin below a target, or for a difference between two recipes
  plan   looks at the seeds while they come in, at a stated error: boundaries, expected
         seeds, and what peeking would cost
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import need

need("numpy", "scipy")

from speedrun.cli import Parser, Refusal, command, finite, print_json
from speedrun.report import answers
from speedrun.stats import planning, rule

EXAMPLE = """examples:
  python scripts/stats.py one records/laptop/DATE_RECIPE --step 300 --target 1.38
  python scripts/stats.py pair --a aurora/*.txt --b muon/*.txt
  python scripts/stats.py power --difference 0.001 --correlation 0.9
  python scripts/stats.py plan --looks 4 8 12 --margin 0.0015
"""
QUESTIONS = dict(one=(answers.one, answers.one_lines), pair=(answers.pair, answers.pair_lines),
                 power=(answers.power, answers.power_lines), plan=(answers.plan, answers.plan_lines))


def parser() -> Parser:
    top = Parser(prog="stats.py", description=__doc__, epilog=EXAMPLE)
    modes = top.add_subparsers(dest="mode", required=True, metavar="one | pair | power | plan")
    p = modes.add_parser("one", help="one recipe against a target", epilog=EXAMPLE)
    p.add_argument("logs", type=Path, nargs="+", help="logs or record folders of one recipe")
    p.add_argument("--step", type=int, help="default: the first step that passes, else the last")
    p.add_argument("--target", type=finite, help="nats; default: the track's")
    q = modes.add_parser("pair", help="two recipes", epilog=EXAMPLE)
    for letter in "ab":
        q.add_argument(f"--{letter}", type=Path, nargs="+", required=True, metavar="LOG",
                       help=f"logs or record folders of recipe {letter.upper()}")
    q.add_argument("--step", type=int, help="default: the last step of each")
    for mode in (p, q):
        mode.add_argument("--best-of", type=int, metavar="K", help="it is the best of K recipes tried")
    r = modes.add_parser("power", help="seeds needed", epilog=EXAMPLE)
    r.add_argument("--power", type=finite, default=0.8, help="chance to find the effect (default 0.8)")
    s = modes.add_parser("plan", help="a sequential plan", epilog=EXAMPLE)
    s.add_argument("--looks", type=int, nargs="+", required=True, metavar="N",
                   help="numbers of seeds after which to test")
    s.add_argument("--spending", choices=list(planning.SPENDING), default="obrien-fleming")
    for mode in (r, s):
        effect = mode.add_mutually_exclusive_group(required=True)
        effect.add_argument("--margin", type=finite, help="of the true mean below the target, nats")
        effect.add_argument("--difference", type=finite, help="of two recipes' true means, nats")
        mode.add_argument("--correlation", type=finite, help="between the recipes' losses on one seed")
        mode.add_argument("--sd", type=finite, default=rule.SIGMA,
                          help=f"between seeds (default {rule.SIGMA}, fineweb-124m's)")
        mode.add_argument("--alpha", type=finite, default=rule.LEVEL,
                          help=f"one-sided error (default {rule.LEVEL:.5f}, that of the tracks' rule)")
    for mode in (p, q, r, s):
        mode.add_argument("--json", action="store_true", help="print one JSON object")
    return top


@command
def main(argv: list[str]) -> int:
    """Print the answer to one question; the exit code is 0 whatever a test finds."""
    asked = vars(parser().parse_args(argv))
    (answer, lines), as_json = QUESTIONS[asked.pop("mode")], asked.pop("json")
    try:
        found = answer(**asked)
    except ValueError as error:  # of planning: a number out of its range
        raise Refusal(str(error), code=2) from None
    if as_json:
        print_json(found)
    else:
        print("\n".join(lines(found) + [f"warning: {text}" for text in found.get("warnings", [])]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
