"""The step at which a loss comes down to the target, over seeds, some of which may never reach it."""
import math

import numpy as np
from scipy import optimize, special, stats

from .intervals import DUST, mean_interval


def crossing_step(points: list, target: float | None) -> float | None:
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
    steps = {seed: crossing_step(points, target) for seed, points in series.items()}
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
