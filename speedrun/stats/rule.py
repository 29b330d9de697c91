"""What the losses of a record's seeds show: the rules, tests between recipes, the crossing step.

Pure functions over plain numbers: losses in nats, lower is better; a `series` is `records.log.Log.series`,
seed -> validations in order of step. What cannot be computed (one seed, no spread) is None in the results,
never NaN. Every p is stated as one-sided or two-sided; an interval holds 95 %. planning.py is the part that
comes before the runs.
"""
import math

from scipy import special, stats

from .intervals import DUST, _finite, mean_interval

SIGMA = 0.0013                        # nats between seeds on fineweb-124m: modded-nanogpt track 3, README
POOLED_SIGMA = 0.00111                # what its 32 public rows of 8 runs or more show, pooled
KNOWN_SIGMA = {"fineweb-124m": SIGMA}  # other tracks estimate it from their own seeds
MARGIN = 0.004                        # the same README: (target - mean) sqrt(n) must reach it
CRITICAL = MARGIN / SIGMA             # as a z: 3.077
LEVEL = float(stats.norm.sf(CRITICAL))  # the one-sided error of that rule, .00104; every track's level
NATS_PER_STEP = 0.0045 / 100          # the same README: what a step less is worth near the target


########################################
#          One recipe, a target        #
########################################


def one_sample(losses, target: float, sigma: float | None = None) -> dict:
    """Is the mean loss below `target`? z = (target - mean) sqrt(n) / sigma, one-sided p, pass at p <= LEVEL.

    With a known sigma this is the rule of modded-nanogpt's track 3, (target - mean) sqrt(n) >= 0.004 at
    sigma = 0.0013. Without one, sigma is the seeds' own sd and p that of the t-test: z is then its t. `t`
    and `t_p` are the t-test in both cases; seeds without spread tell nothing about sigma, so they have none.
    Returns n, mean, sd, z, p, pass, t, t_p. ValueError as mean_interval.
    """
    losses = _finite(losses)
    found = mean_interval(losses)
    n, mean, sd = found["n"], found["mean"], found["sd"]
    t = t_p = None
    if sd:
        t = float((target - mean) * math.sqrt(n) / sd)
        t_p = float(special.stdtr(n - 1, -t))
    z, p, critical = t, t_p, -float(special.stdtrit(n - 1, LEVEL)) if sd else math.inf
    if sigma is not None:
        z, critical = (target - mean) * math.sqrt(n) / sigma, CRITICAL
        p = float(stats.norm.sf(z))
    # 3.28 - 3.276 is a little under .004 in binary: what meets the rule to the digit meets it
    passes = z is not None and z >= critical - 1e-6
    return {"n": n, "mean": mean, "sd": sd, "z": z, "p": p, "pass": passes, "t": t, "t_p": t_p}


def common_steps(series: dict) -> list[int]:
    """The steps at which every seed has a validation, ascending."""
    steps = [{point.step for point in points} for points in series.values()]
    return sorted(set.intersection(*steps)) if steps else []


def losses_at(series: dict, step: int) -> dict:
    """seed -> loss at `step`, for the seeds that have a validation there."""
    return {seed: p.val_loss for seed, points in series.items() for p in points if p.step == step}


def official_step(series: dict, target: float, sigma: float | None, declared=None) -> dict | None:
    """The step a record may claim: the first of the grid at which the rule of `one_sample` holds.

    declared: the seeds named before the run; None is returned unless exactly these are in `series`.
    Returns `one_sample`'s figures and `step`, or None where no step passes.
    """
    if declared is not None and set(declared) != set(series):
        return None
    by_seed = [{point.step: point.val_loss for point in points} for points in series.values()]
    for step in common_steps(series):
        losses = [losses[step] for losses in by_seed]
        if sum(losses) / len(losses) < target:  # or it cannot pass; nor where a loss is not finite
            found = one_sample(losses, target, sigma)
            if found["pass"]:
                return dict(found, step=step)
    return None


########################################
#              Two recipes             #
########################################


def exchange(a, b, steps_a: int, steps_b: int) -> dict:
    """Is a better than b, its steps counted in? The pairwise rule of modded-nanogpt's track 3, its README:

    (mean(b) - mean(a) + 0.0045 (steps_b - steps_a) / 100) / sqrt(1 / n_a + 1 / n_b) >= 0.004.
    Returns gain (nats, the bracket), statistic, p (one-sided z at sigma = 0.0013), pass.
    """
    a, b = _finite(a), _finite(b)
    gain = float(b.mean() - a.mean()) + NATS_PER_STEP * (steps_b - steps_a)
    statistic = gain / math.sqrt(1 / len(a) + 1 / len(b))
    return {"gain": gain, "statistic": statistic, "p": float(stats.norm.sf(statistic / SIGMA)),
            "pass": statistic >= MARGIN - DUST}


########################################
#           The crossing step          #
########################################
