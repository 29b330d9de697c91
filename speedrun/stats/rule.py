"""What the losses of a record's seeds show: the rules, tests between recipes, the crossing step.

Pure functions over plain numbers: losses in nats, lower is better; a `series` is `records.log.Log.series`,
seed -> validations in order of step. What cannot be computed (one seed, no spread) is None in the results,
never NaN. Every p is stated as one-sided or two-sided; an interval holds 95 %. planning.py is the part that
comes before the runs.
"""
import math

import numpy as np
from scipy import optimize, special, stats

SIGMA = 0.0013                        # nats between seeds on fineweb-124m: modded-nanogpt track 3, README
KNOWN_SIGMA = {"fineweb-124m": SIGMA}  # other tracks estimate it from their own seeds
MARGIN = 0.004                        # the same README: (target - mean) sqrt(n) must reach it
CRITICAL = MARGIN / SIGMA             # as a z: 3.077
LEVEL = float(stats.norm.sf(CRITICAL))  # the one-sided error of that rule, .00104; every track's level
NATS_PER_STEP = 0.0045 / 100          # the same README: what a step less is worth near the target
DUST = 1e-9                           # logs state losses to 1e-5: a smaller spread is rounding


def mean_interval(values) -> dict:
    """n, mean, sd and the t-interval mean -+ t(.975, n - 1) sd / sqrt(n); no interval without spread.

    ValueError for no values or one that is not finite.
    """
    values = _finite(values)
    n, mean = len(values), float(values.mean())
    if n < 2:
        return dict(n=n, mean=mean, sd=None, low=None, high=None)
    sd = float(values.std(ddof=1))
    if sd < DUST:
        return dict(n=n, mean=mean, sd=0.0, low=None, high=None)
    half = float(special.stdtrit(n - 1, 0.975)) * sd / math.sqrt(n)
    return dict(n=n, mean=mean, sd=sd, low=mean - half, high=mean + half)


def _finite(values) -> np.ndarray:
    values = np.asarray(list(values), dtype=float)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("needs at least one value, and all of them finite")
    return values


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


def grid(series: dict) -> list[int]:
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
    for step in grid(series):
        losses = [losses[step] for losses in by_seed]
        if sum(losses) / len(losses) < target:  # or it cannot pass; nor where a loss is not finite
            found = one_sample(losses, target, sigma)
            if found["pass"]:
                return dict(found, step=step)
    return None


########################################
#              Two recipes             #
########################################


def paired(a, b) -> dict:
    """The mean of a - b over pairs of one seed each: t-interval, two-sided t-test, Pearson's correlation.

    The sd of a difference is sqrt(sd_a^2 + sd_b^2 - 2 r sd_a sd_b): what the seeds share cancels.
    Returns method, n, mean, sd, low, high, p, correlation (from three pairs on). ValueError as mean_interval
    and where a and b differ in length.
    """
    a, b = _finite(a), _finite(b)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} losses cannot be paired with {len(b)}")
    found, p, correlation = mean_interval(a - b), None, None
    if found["sd"]:
        p = 2 * float(special.stdtr(len(a) - 1, -abs(found["mean"]) * math.sqrt(len(a)) / found["sd"]))
    if len(a) > 2 and min(a.std(), b.std()) > DUST:
        correlation = float(np.corrcoef(a, b)[0, 1])
    return dict(found, method="paired", p=p, correlation=correlation)


def welch(a, b) -> dict:
    """mean(a) - mean(b) of unrelated seeds: interval and two-sided test of Welch (Biometrika 34, 1947).

    Returns method, n (of each), mean, low, high, p; no interval and no test where either has no spread.
    """
    a, b = _finite(a), _finite(b)
    found = dict(method="welch", n=[len(a), len(b)], mean=float(a.mean() - b.mean()), low=None, high=None,
                 p=None)
    if min(a.std(), b.std()) > DUST:
        test = stats.ttest_ind(a, b, equal_var=False)
        low, high = test.confidence_interval(0.95)
        found.update(low=float(low), high=float(high), p=float(test.pvalue))
    return found


def compare(a: dict, b: dict) -> dict:
    """seed -> loss of two recipes: `paired` where at least two seeds are in both, else `welch` over all.

    `left_out`: how many losses have no partner and so are not in a paired result.
    """
    both = sorted(set(a) & set(b), key=str)
    if len(both) < 2:
        return dict(welch(a.values(), b.values()), left_out=0)
    found = paired([a[seed] for seed in both], [b[seed] for seed in both])
    return dict(found, left_out=len(a) + len(b) - 2 * len(both))


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


def crossing(points: list, target: float | None) -> float | None:
    """The step at which the loss first comes down to `target`, between validations by linear interpolation.

    None where it never does; the first validation's step where that is at the target already.
    """
    for i, after in enumerate(points):
        if target is not None and after.val_loss <= target:
            before = points[i - 1] if i else after
            if i == 0 or not math.isfinite(before.val_loss):
                return float(after.step)
            share = (before.val_loss - target) / (before.val_loss - after.val_loss)
            return before.step + share * (after.step - before.step)
    return None


def mean_crossing(series: dict, target: float | None) -> dict:
    """The mean crossing step over the seeds, those that never cross censored at their last step.

    Returns n, crossed, mean, sd, low, high as `censored_mean`.
    """
    steps = {seed: crossing(points, target) for seed, points in series.items()}
    limits = [series[seed][-1].step for seed, step in steps.items() if step is None]
    return censored_mean([step for step in steps.values() if step is not None], limits)


def censored_mean(values, limits=()) -> dict:
    """Mean and sd of a normal variable: `values` were seen, the others are only known to be above `limits`.

    Maximises r log h - h^2 sum (x - m)^2 / 2 + sum log Phi(-h (L - m)), h = 1 / sd (Tobin, Econometrica 26,
    1958; concave in (h, h m): Olsen, Econometrica 46, 1978, so each maximum here is the only one). The
    interval is where the log profile likelihood is within r log(1 + t^2 / (r - 1)) / 2 of its top, t being
    t(.975, r - 1) and r the number of values seen: without limits that is exactly the t-interval, which is
    then computed directly, and with many seeds the usual chi-squared one. Fewer than two values seen, or no
    spread: no interval; and no estimate where one was seen and others censored.
    Returns n, crossed (= r), mean, sd (maximum likelihood where censored), low, high.
    """
    values, limits = np.asarray(list(values), dtype=float), np.asarray(list(limits), dtype=float)
    n, r = len(values) + len(limits), len(values)
    nothing = dict(n=n, crossed=r, mean=None, sd=None, low=None, high=None)
    if r == 0 or (r == 1 and n > 1):
        return nothing
    if not len(limits):
        return {**nothing, **mean_interval(values)}
    if np.ptp(values) < DUST:
        # one place for all that was seen: nothing measures the spread
        return dict(nothing, mean=float(values[0]), sd=0.0) if limits.max() <= values[0] else nothing
    centre, unit = values.mean(), np.ptp(np.concatenate([values, limits]))
    x, limit = (values - centre) / unit, (limits - centre) / unit

    best = optimize.minimize_scalar(lambda m: -_profile(m, x, limit)[0], bracket=(0.0, 0.1),
                                    options=dict(xtol=1e-9))
    mean, top, t = float(best.x), -best.fun, stats.t.ppf(0.975, r - 1)
    drop = r * math.log1p(t * t / (r - 1)) / 2
    ends = []
    for sign in (-1, 1):
        reach = 0.1
        while top - _profile(mean + sign * reach, x, limit)[0] < drop:
            reach *= 2
        excess = optimize.brentq(lambda d: top - _profile(mean + sign * d, x, limit)[0] - drop, 0, reach)
        ends.append(float(centre + unit * (mean + sign * excess)))
    sd = unit / _profile(mean, x, limit)[1]
    return dict(nothing, mean=float(centre + unit * mean), sd=float(sd), low=ends[0], high=ends[1])


def _profile(mean: float, x: np.ndarray, limit: np.ndarray) -> tuple[float, float]:
    """The log-likelihood of `mean` maximised over h = 1 / sd, and that h."""
    squares, gaps = float(((x - mean) ** 2).sum()), limit - mean

    def slope(log_h):  # h times the derivative by h: falls from r to minus infinity
        z = math.exp(log_h) * gaps
        hazard = math.sqrt(2 / math.pi) / special.erfcx(z / math.sqrt(2))  # phi(z) / Phi(-z)
        return len(x) - math.exp(2 * log_h) * squares - float((z * hazard).sum())

    log_h = optimize.brentq(slope, -40, 40, xtol=1e-10)
    tail = float(special.log_ndtr(-math.exp(log_h) * gaps).sum())
    return len(x) * log_h - math.exp(2 * log_h) * squares / 2 + tail, math.exp(log_h)
