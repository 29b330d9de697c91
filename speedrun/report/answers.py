"""Four questions about runs, which scripts/stats.py asks: is the target reached, which recipe is better,
how many seeds does a claim need, how may one look while they come in. Each answer is plain JSON;
`*_lines` say it in words.
"""
import math
from pathlib import Path

from speedrun.cli import Refusal
from speedrun.stats import intervals, planning, rule, selection, words
from speedrun.stats.crossing import mean_crossing

from .runs import RecipeRuns, read_runs

NO_NOISE = "one seed or equal losses tell nothing of the noise"

########################################
#                 one                  #
########################################


def one(logs: list[Path], *, step: int | None = None, target: float | None = None,
        best_of: int | None = None) -> dict:
    """Is the mean loss of one recipe below a target? The one-sample test at `step`, the official step and the
    mean crossing step.

    logs: logs or record folders. step: by default the first that passes, else the last. target: in nats, by
    default the track's. best_of: how many recipes were tried, of which this is the best.
    Returns `rule.one_sample`'s figures, step, target, sigma, level, forked, official_step, seeds, crossing
    (`mean_crossing`) and warnings. Refusal as `read_runs`, and without a target.
    """
    runs = read_runs(logs)
    target = target if target is not None else (runs.track or {}).get("target")
    if not isinstance(target, (int, float)):
        raise Refusal("the logs name no target loss; give --target", code=2)
    official = runs.official_step(target)
    if step is None:
        step = official["step"] if official else runs.last_step
    losses = runs.losses_at(step)
    found = rule.one_sample(losses.values(), target, runs.sigma)
    warnings = runs.doubts
    if official and official["step"] == step:
        warnings += _first_step_warnings(runs, official)
    if best_of is not None:
        noise = (found["n"], runs.sigma or found["sd"])
        warnings.append(_best_of_warning(best_of, *noise, rule.LEVEL, "passes at the target"))
    return dict(found, step=step, target=target, sigma=runs.sigma, level=rule.LEVEL, forked=runs.forked,
                official_step=official and official["step"], seeds=list(losses),
                crossing=mean_crossing(runs.on_grid, target), warnings=warnings)


def _first_step_warnings(runs: RecipeRuns, official: dict) -> list[str]:
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


def _best_of_warning(k: int, n: int, sd: float | None, level: float, passes: str) -> str:
    """What it means that the recipe is the best of k; `passes`: what a test at `level` then says wrongly."""
    found = selection.best_of(k, n, sd or 0.0, level)
    said = f"the best of {k} equal recipes {passes} with probability {found['error']:.2g}"
    if sd:
        said += (f" and looks better than it is by {found['overstatement']:.5f} nats on average (less "
                  "where the recipes share seeds)")
    return said + "; confirm the winner on fresh seeds"


def one_lines(found: dict) -> list[str]:
    """The answer of `one` for a person, but for its warnings."""
    n, gap = found["n"], found["target"] - found["mean"]
    side, mean = "below" if gap > 0 else "above", words.mean_and_sd(found, ".5f")
    lines = [f"step {found['step']}, {words.count(n, 'seed')}: mean loss {mean}, {abs(gap):.5f} {side} the "
             f"target {found['target']:g}"]
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
    return lines + [_crossing_line(found["crossing"])]


def _crossing_line(found: dict) -> str:
    count = f"{found['crossed']} of {words.count(found['n'], 'seed')} cross the target"
    if found["mean"] is None:
        return f"mean crossing step: none, as {count}"
    late = "" if found["crossed"] == found["n"] else ", the others count as later than their last step"
    return f"mean crossing step: {words.interval(found, '.0f', '95 % ')}; {count}{late}"


########################################
#                 pair                 #
########################################


def pair(a: list[Path], b: list[Path], *, step: int | None = None, best_of: int | None = None) -> dict:
    """Is recipe A better than recipe B? The difference A - B with its interval, paired by seed where both
    have it, else by Welch's test, and the exchange rule where the track has one.

    a, b: logs or record folders of each. step: by default the last of each. best_of: how many recipes were
    tried, of which this is the best.
    Returns `intervals.compare`'s figures, a and b (the names), steps, means, exchange (`rule.exchange`) and
    warnings. Refusal as `read_runs`, and for recipes that do not compare.
    """
    a, b = read_runs(a), read_runs(b)
    if a.track != b.track or not a.of_same_data(b):
        raise Refusal("A and B are of different tracks or data; compare recipes on one track")
    steps = [step] * 2 if step is not None else [a.last_step, b.last_step]
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
    if best_of is not None:
        n = found["n"] if found["method"] == "paired" else min(found["n"])
        sd = found["sd"] if found["method"] == "paired" else a.sigma and planning.difference_sd(a.sigma)
        warnings.append(_best_of_warning(best_of, n, sd, 0.025, "is called lower than an equal one"))
    means = [intervals.mean_interval(losses.values())["mean"] for losses in (losses_a, losses_b)]
    return dict(found, a=a.name, b=b.name, steps=steps, means=means, exchange=exchange,
                warnings=list(dict.fromkeys(warnings)))


def pair_lines(found: dict) -> list[str]:
    """The answer of `pair` for a person, but for its warnings."""
    lines = [f"{letter} {found[letter.lower()]}: mean loss {loss:.5f} at step {step}"
             for letter, loss, step in zip("AB", found["means"], found["steps"])]
    n, same_step = found["n"], found["steps"][0] == found["steps"][1]
    how = f"Welch, {n[0]} and {n[1]} seeds" if found["method"] == "welch" else (
        f"paired over {words.count(n, 'seed')}")
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
        lower = f"{'A' if found['mean'] < 0 else 'B'} is lower"
        said = lower if found["p"] < 0.05 else "no significant difference"
        lines.append(f"verdict: {said} at the 5 % level" + ("" if same_step else ", each at its own step"))
    if (exchange := found["exchange"]) is not None:
        lines.append(f"rule: (gain of A + {rule.NATS_PER_STEP * 100:g} per 100 steps saved) / "
                     f"sqrt(1/n_a + 1/n_b) = {exchange['statistic']:.5f}, needs {rule.MARGIN}; A is "
                     f"{'' if exchange['pass'] else 'not '}shown to be better "
                     f"(one-sided p = {exchange['p']:.2g})")
    return lines


########################################
#            power and plan            #
########################################


def power(*, margin: float | None = None, difference: float | None = None, sd: float = rule.SIGMA,
          correlation: float | None = None, alpha: float = rule.LEVEL, power: float = 0.8) -> dict:
    """How many seeds does a claim need? Of a margin below a target by t-test and by the race's rule, or of a
    difference between two recipes unpaired and, where their correlation on one seed is given, paired.

    margin or difference: nats, one of them. sd: between seeds. alpha: one-sided. power: the chance to find
    the effect. ValueError for a number out of its range.
    """
    common = dict(alpha=alpha, power=power)
    if margin is not None:
        return dict(common, sd=sd, margin=margin, t_test=planning.seeds_needed(margin, sd, **common),
                    rule=planning.seeds_for_rule(margin, power))
    paired = None
    if correlation is not None:
        paired = planning.seeds_needed(difference, planning.difference_sd(sd, correlation), **common)
    return dict(common, sd=sd, difference=difference, correlation=correlation, paired=paired,
                unpaired=planning.seeds_needed(difference, sd, arms=2, **common))


def power_lines(found: dict) -> list[str]:
    """The answer of `power` for a person."""
    given = (f"power {found['power']:g}, one-sided alpha {found['alpha']:.2g}, sd {found['sd']:g} between "
             "seeds")
    if "margin" in found:
        need = found["t_test"]
        return [f"to show a mean {found['margin']:g} nats below the target ({given}):",
                f"  t-test: {words.count(need['n'], 'seed')} (power {need['power']:.3f})",
                f"  fineweb-124m's rule, sigma {rule.SIGMA} known: {words.count(found['rule'], 'seed')}"]
    lines = [f"to show a difference of {found['difference']:g} nats ({given}):"]
    for name, need in (("unrelated seeds", found["unpaired"]), ("the same seeds", found["paired"])):
        if need:
            lines.append(f"  {name}: {need['n']} of each recipe (power {need['power']:.3f})")
    return lines


def plan(looks: list[int], *, margin: float | None = None, difference: float | None = None,
         sd: float = rule.SIGMA, correlation: float | None = None, alpha: float = rule.LEVEL,
         spending: str = "obrien-fleming") -> dict:
    """How to look at the seeds while they come in: the group-sequential plan for a margin below a target, or
    for a difference between two recipes.

    looks: numbers of seeds after which to test. spending: one of planning.SPENDING. The others as `power` has
    them. Returns `planning.plan`'s figures and these. ValueError for a number out of its range.
    """
    effect, of = margin, sd
    if difference is not None:
        effect, of = difference, planning.difference_sd(sd, correlation or 0.0)
    found = planning.plan(looks, effect, of, alpha, spending)
    found["t_test"] = planning.by_t_test(found, effect, of)
    return dict(found, margin=margin, difference=difference, correlation=correlation, sd=sd)


def plan_lines(found: dict) -> list[str]:
    """The answer of `plan` for a person."""
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
        f"with the sd from the seeds, each look comparing the t-test's p with its nominal p: power "
        f"{found['t_test']['power']:.2f}, error {found['t_test']['error']:.2g} ({found['t_test']['draws']} "
        "simulated)",
        f"a test at alpha at each of these looks would be wrong with probability {found['naive_error']:.2g}"]
