#!/usr/bin/env python3
"""What record logs show, and how many seeds a claim needs.

  one    is a recipe's mean loss below a target? the track's rule, a t-test, the step it may claim, its mean
         crossing step
  pair   is recipe A better than recipe B? paired by seed where both have it, else Welch's test
  power  seeds needed for a margin below a target, or for a difference between two recipes
  plan   looks at the seeds while they come in, at a stated error: boundaries, expected
         seeds, and what peeking would cost
"""
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import need

need("numpy", "scipy")

from speedrun.cli import Parser, Refusal, command, print_json
from speedrun.report.runs import RecipeRuns, read_runs
from speedrun.stats import intervals, planning, rule, selection, words
from speedrun.stats.crossing import mean_crossing

EXAMPLE = """examples:
  python scripts/stats.py one records/laptop/DATE_RECIPE --step 300 --target 1.38
  python scripts/stats.py pair --a aurora/*.txt --b muon/*.txt
  python scripts/stats.py power --difference 0.001 --correlation 0.9
  python scripts/stats.py plan --looks 4 8 12 --margin 0.0015
"""
NO_NOISE = "one seed or equal losses tell nothing of the noise"

########################################
#                 one                  #
########################################


def one(args) -> dict:
    """The one-sample test at a step, the official step and the mean crossing step."""
    runs = read_runs(args.logs)
    target = args.target if args.target is not None else (runs.track or {}).get("target")
    if not isinstance(target, (int, float)):
        raise Refusal("the logs name no target loss; give --target", code=2)
    official = runs.official_step(target)
    step = args.step if args.step is not None else official["step"] if official else runs.last_step
    losses = runs.losses_at(step)
    found = rule.one_sample(losses.values(), target, runs.sigma)
    warnings = runs.doubts
    if official and official["step"] == step:
        warnings += first_step_warnings(runs, official)
    if args.best_of is not None:
        noise = (found["n"], runs.sigma or found["sd"])
        warnings.append(best_of_warning(args.best_of, *noise, rule.LEVEL, "passes at the target"))
    return dict(found, step=step, target=target, sigma=runs.sigma, level=rule.LEVEL, forked=runs.forked,
                official_step=official and official["step"], seeds=list(losses),
                crossing=mean_crossing(runs.on_grid, target), warnings=warnings)


def first_step_warnings(runs: RecipeRuns, official: dict) -> list[str]:
    """What the choice of the first passing step does."""
    step, steps = official["step"], rule.common_steps(runs.on_grid)
    found = []
    if runs.sigma is not None:  # a t-test's p does not say this by itself
        found = [f"step {step} is chosen as the first of {len(steps)} that passes, and such a step passes "
                 "narrowly: as many fresh seeds would pass there with probability "
                 f"{selection.replication(official['p']):.2f}"]
    if step != steps[0]:
        before = rule.losses_at(runs.on_grid, steps[steps.index(step) - 1])
        at = rule.losses_at(runs.on_grid, step)
        over = selection.first_step_overstatement([before[seed] for seed in at], at.values())
        if over is not None:
            found.append(f"by that choice its margin is overstated by {over:.5f} nats on average, through "
                         "noise that changes between validations")
    return found


def best_of_warning(k: int, n: int, sd: float | None, level: float, passes: str) -> str:
    """What it means that the recipe is the best of k; `passes`: what a test at `level` then says wrongly."""
    found = selection.best_of(k, n, sd or 0.0, level)
    words = f"the best of {k} equal recipes {passes} with probability {found['error']:.2g}"
    if sd:
        words += (f" and looks better than it is by {found['overstatement']:.5f} nats on average (less "
                  "where the recipes share seeds)")
    return words + "; confirm the winner on fresh seeds"


def show_one(found: dict) -> list[str]:
    n, gap = found["n"], found["target"] - found["mean"]
    spread, side = "" if found["sd"] is None else f" (sd {found['sd']:.5f})", "below" if gap > 0 else "above"
    lines = [f"step {found['step']}, {seeds(n)}: mean loss {found['mean']:.5f}{spread}, {abs(gap):.5f} "
             f"{side} the target {found['target']:g}"]
    if found["sigma"] is not None:
        lines.append(f"rule, sigma {found['sigma']} known: z = {found['z']:.2f}, one-sided p = "
                     f"{found['p']:.2g}; (target - mean) sqrt(n) = {gap * math.sqrt(n):.5f}, needs "
                     f"{rule.MARGIN}")
    t_test = f"none, as {NO_NOISE}"
    if found["t"] is not None:
        t_test = f"t = {found['t']:.2f}, one-sided p = {found['t_p']:.2g}"
        t_test += "" if found["sigma"] is not None else f", needs {found['level']:.2g}"
    lines.append(f"t-test, sigma from the seeds: {t_test}")
    first = found["official_step"]
    none = "forks claim no official step" if found["forked"] else "no step of the grid passes"
    first = none if first is None else f"the first step that passes is {first}"
    lines.append(f"verdict: at this step the target is {'' if found['pass'] else 'not '}shown to be "
                 f"reached; {first}")
    return lines + [crossing_words(found["crossing"])]


def crossing_words(found: dict) -> str:
    count = f"{found['crossed']} of {seeds(found['n'])} cross the target"
    if found["mean"] is None:
        return f"mean crossing step: none, as {count}"
    late = "" if found["crossed"] == found["n"] else ", the others count as later than their last step"
    return f"mean crossing step: {words.interval(found, '.0f', '95 % ')}; {count}{late}"


def seeds(n: int) -> str:
    return words.count(n, "seed")


########################################
#                 pair                 #
########################################


def pair(args) -> dict:
    """The difference A - B with its interval, and the exchange rule where the track has one."""
    a, b = read_runs(args.a), read_runs(args.b)
    if a.track != b.track or not a.of_same_data(b):
        raise Refusal("A and B are of different tracks or data; compare recipes on one track")
    steps = [args.step] * 2 if args.step is not None else [a.last_step, b.last_step]
    if steps[0] != steps[1] and a.sigma is None:
        raise Refusal(f"A ends at step {steps[0]}, B at {steps[1]}, and this track has no exchange rate "
                      "between steps and loss; give --step", code=2)
    losses_a, losses_b = a.losses_at(steps[0]), b.losses_at(steps[1])
    if a.paired and b.paired:
        found = intervals.compare(losses_a, losses_b)
    else:
        found = dict(intervals.welch(losses_a.values(), losses_b.values()), left_out=0)
    exchange = None
    if a.sigma is not None:
        exchange = rule.exchange(losses_a.values(), losses_b.values(), *steps)
    warnings = [*a.doubts, *b.doubts]
    if a.codes != b.codes:
        warnings.append("A and B are not of the same code; a difference may be the code's")
    if args.best_of is not None:
        n = found["n"] if found["method"] == "paired" else min(found["n"])
        sd = found["sd"] if found["method"] == "paired" else a.sigma and planning.difference_sd(a.sigma)
        warnings.append(best_of_warning(args.best_of, n, sd, 0.025, "is called lower than an equal one"))
    means = [intervals.mean_interval(losses.values())["mean"] for losses in (losses_a, losses_b)]
    return dict(found, a=a.name, b=b.name, steps=steps, means=means, exchange=exchange,
                warnings=list(dict.fromkeys(warnings)))


def show_pair(found: dict) -> list[str]:
    lines = [f"{letter} {found[letter.lower()]}: mean loss {loss:.5f} at step {step}"
             for letter, loss, step in zip("AB", found["means"], found["steps"])]
    n, same_step = found["n"], found["steps"][0] == found["steps"][1]
    how = f"paired over {seeds(n)}" if found["method"] == "paired" else f"Welch, {n[0]} and {n[1]} seeds"
    if found["p"] is None:
        rest = f"; no test, as {NO_NOISE}"
    else:
        rest = f", 95 % {words.ends(found['low'], found['high'], '+.5f')}, two-sided p = {found['p']:.2g}"
    if found.get("correlation") is not None:
        rest += f", correlation {found['correlation']:.2f}"
    lines.append(f"A - B: {found['mean']:+.5f} nats ({how}){rest}")
    if found["left_out"]:
        lines.append(f"left out: {found['left_out']} losses whose seed the other recipe lacks")
    if found["p"] is not None:
        lower = f"{'A' if found['mean'] < 0 else 'B'} is lower" if found["p"] < 0.05 else "not told apart"
        lines.append(f"verdict: {lower} at the 5 % level" + ("" if same_step else ", each at its own step"))
    if (exchange := found["exchange"]) is not None:
        lines.append(f"rule: (gain of A + {rule.NATS_PER_STEP * 100:g} per 100 steps saved) / "
                     f"sqrt(1/n_a + 1/n_b) = {exchange['statistic']:.5f}, needs {rule.MARGIN}; A is "
                     f"{'' if exchange['pass'] else 'not '}shown to be better "
                     f"(one-sided p = {exchange['p']:.2g})")
    return lines


########################################
#            power and plan            #
########################################


def power(args) -> dict:
    """Seeds needed: for a margin by t-test and by the race's rule, for a difference unpaired and paired."""
    common = dict(alpha=args.alpha, power=args.power)
    if args.margin is not None:
        return dict(common, sd=args.sd, margin=args.margin,
                    t_test=planning.seeds_needed(args.margin, args.sd, **common),
                    rule=planning.seeds_for_rule(args.margin, args.power))
    paired = None
    if args.correlation is not None:
        sd = planning.difference_sd(args.sd, args.correlation)
        paired = planning.seeds_needed(args.difference, sd, **common)
    return dict(common, sd=args.sd, difference=args.difference, correlation=args.correlation, paired=paired,
                unpaired=planning.seeds_needed(args.difference, args.sd, arms=2, **common))


def show_power(found: dict) -> list[str]:
    given = (f"power {found['power']:g}, one-sided alpha {found['alpha']:.2g}, sd {found['sd']:g} between "
             "seeds")
    if "margin" in found:
        need = found["t_test"]
        return [f"to show a mean {found['margin']:g} nats below the target ({given}):",
                f"  t-test: {seeds(need['n'])} (power {need['power']:.3f})",
                f"  fineweb-124m's rule, sigma {rule.SIGMA} known: {seeds(found['rule'])}"]
    lines = [f"to show a difference of {found['difference']:g} nats ({given}):"]
    for name, need in (("unrelated seeds", found["unpaired"]), ("the same seeds", found["paired"])):
        if need:
            lines.append(f"  {name}: {need['n']} of each recipe (power {need['power']:.3f})")
    return lines


def plan(args) -> dict:
    """The group-sequential plan for a margin below a target, or for a difference between two recipes."""
    effect, sd = args.margin, args.sd
    if args.difference is not None:
        effect, sd = args.difference, planning.difference_sd(args.sd, args.correlation or 0.0)
    found = planning.plan(args.looks, effect, sd, args.alpha, args.spending)
    return dict(found, margin=args.margin, difference=args.difference, correlation=args.correlation,
                sd=args.sd)


def show_plan(found: dict) -> list[str]:
    effect, below, each = found["margin"], "the target", ""
    if effect is None:
        effect, below, each = found["difference"], "the other recipe's", " of each recipe"
    lines = [f"{found['spending']} spending, one-sided alpha {found['alpha']:.2g}, sd {found['sd']:g} "
             f"between seeds; stop and claim where the mean is below {below}"]
    for row in found["looks"]:
        need = "by anything: never" if row["z"] is None else (
            f"by {row['margin']:.5f} nats (z >= {row['z']:.3f}, nominal p {row['nominal_p']:.2g})")
        lines.append(f"  after {row['n']:>3} seeds{each} {need}; if the truth is {effect:g} it stops here "
                     f"with probability {row['stop_alternative']:.3f}")
    return lines + [
        f"power {found['power']:.3f}; seeds run on average: {found['expected_alternative']:.1f} if the "
        f"truth is {effect:g}, {found['expected_null']:.1f} if it is 0; one look of that power takes "
        f"{found['fixed']}",
        f"a test at alpha at each of these looks would be wrong with probability {found['naive_error']:.2g}"]


########################################
#             Command line             #
########################################


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


def finite(text: str) -> float:
    """A number, neither nan nor infinite."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


@command
def main(argv: list[str]) -> int:
    """Print the result of one mode; the exit code is 0 whatever a test finds."""
    args = parser().parse_args(argv)
    compute, show = dict(one=(one, show_one), pair=(pair, show_pair), power=(power, show_power),
                         plan=(plan, show_plan))[args.mode]
    try:
        found = compute(args)
    except ValueError as error:  # of planning: a number out of its range
        raise Refusal(str(error), code=2) from None
    if args.json:
        print_json(found)
    else:
        print("\n".join(show(found) + [f"warning: {text}" for text in found.get("warnings", [])]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
