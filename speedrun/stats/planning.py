"""Before the runs: how many seeds, and when to look at them. After them: what choosing a result costs.

Pure functions over plain numbers, in nats. Every test here is one-sided (a mean below a target, a recipe
better than another); for a two-sided test at .05 give .025. `sd` is that of the quantity tested: between the
seeds of one recipe for a margin below a target, `difference_sd` for the difference of two recipes.
"""
import bisect
import math

import numpy as np
from scipy import optimize, special, stats

from .intervals import DUST
from .rule import CRITICAL, LEVEL, SIGMA

MOST_SEEDS = 2**20
MOST_LOOKS = 100
REACH = 8.0  # sds: what lies beyond has probability under 1e-15
NODES, WEIGHTS = np.polynomial.legendre.leggauss(400)
SPENDING = {  # alpha spent at the share t of the seeds: Lan & DeMets, Biometrika 70 (1983)
    "obrien-fleming": lambda t, alpha: 2 * stats.norm.sf(stats.norm.isf(alpha / 2) / math.sqrt(t)),
    "pocock": lambda t, alpha: alpha * math.log1p((math.e - 1) * t),
}


def _check(alpha: float, effect: float, sd: float) -> None:
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha {alpha} must lie between 0 and 0.5")
    if not sd > 0:
        raise ValueError(f"sd {sd} must be a positive number")
    if not 1e-6 < effect / sd < 1e6:
        raise ValueError(f"effect {effect} must be positive and within a million sds ({sd:g}) either way")


########################################
#             Seeds needed             #
########################################


def difference_sd(sd: float, correlation: float = 0.0) -> float:
    """sd of the difference of two recipes on one seed: sd sqrt(2 (1 - correlation)); unpaired seeds: 0."""
    if not -1 <= correlation < 1:
        raise ValueError(f"correlation {correlation} must be at least -1 and less than 1")
    return sd * math.sqrt(2 * (1 - correlation))


def seeds_needed(effect: float, sd: float, alpha: float = LEVEL, power: float = 0.8, arms: int = 1) -> dict:
    """The fewest seeds with which the one-sided t-test at `alpha` finds `effect` with probability `power`.

    Under the alternative t is noncentral t with arms (n - 1) degrees of freedom and noncentrality
    effect sqrt(n / arms) / sd (Johnson, Kotz & Balakrishnan, Continuous Univariate Distributions 2, ch. 31).
    arms = 1: a mean against a target, or paired differences (sd: theirs); 2: two recipes on unrelated seeds,
    n each (sd: of one recipe). Returns n and the power that n has. ValueError for what is out of range and
    for more than a million seeds.
    """
    _check(alpha, effect, sd)
    if not alpha < power < 1:
        raise ValueError(f"power {power} must lie between alpha {alpha} and 1")

    def reached(n: int) -> float:
        df = arms * (n - 1)
        return float(stats.nct.sf(stats.t.isf(alpha, df), df, effect / sd * math.sqrt(n / arms)))

    high = 2
    while reached(high) < power:
        if high == MOST_SEEDS:
            raise ValueError(f"an effect of {effect} at sd {sd} needs more than {MOST_SEEDS} seeds")
        high *= 2
    n = 2 + bisect.bisect_left(range(2, high), power, key=reached)
    return dict(n=n, power=reached(n))


def seeds_for_rule(margin: float, power: float = 0.8) -> int:
    """The fewest seeds with which fineweb-124m's rule passes a recipe truly `margin` below the target with
    probability `power`: ((CRITICAL + z_power) SIGMA / margin)^2, rounded up."""
    _check(LEVEL, margin, SIGMA)
    if not LEVEL < power < 1:
        raise ValueError(f"power {power} must lie between {LEVEL:.4f} and 1")
    return math.ceil(((CRITICAL + stats.norm.ppf(power)) * SIGMA / margin) ** 2)


def seeds_for_interval(half_width: float, sds: tuple[float, float]) -> int:
    """The fewest seeds of each of two recipes, unrelated, whose Welch interval of the difference reaches no
    further than `half_width` to either side, where their losses have the sds `sds`:

    t(.975, df) sqrt((sd_a^2 + sd_b^2) / n), df = (n - 1) (sd_a^2 + sd_b^2)^2 / (sd_a^4 + sd_b^4).
    ValueError for what is not positive and for more than a million seeds.
    """
    variance, fourth = (sum(sd**power for sd in sds) for power in (2, 4))
    if not (half_width > 0 and min(sds) >= 0 and fourth > 0):
        raise ValueError(f"a half width of {half_width} at the sds {sds}: give positive numbers")

    def narrow(n: int) -> bool:
        reach = stats.t.ppf(0.975, (n - 1) * variance**2 / fourth) * math.sqrt(variance / n)
        return bool(reach <= half_width * (1 + DUST))

    if not narrow(MOST_SEEDS):
        raise ValueError(f"an interval of {half_width} either way needs more than {MOST_SEEDS} seeds")
    return 2 + bisect.bisect_left(range(2, MOST_SEEDS), True, key=narrow)


########################################
#          The sequential plan         #
########################################

# The sum of the seeds' margins, scaled to variance 1 at the last look, is a Brownian motion that the looks
# see. Its density is carried from look to look by quadrature over the paths that have not stopped (Armitage,
# McPherson & Rowe, J. R. Statist. Soc. A 132, 1969). A path is (time, nodes, density times weights).
START = (0.0, np.zeros(1), np.ones(1))


def _stops(path: tuple, time: float, bound: float, drift: float) -> float:
    """P(not stopped so far, and z > bound at `time`)."""
    before, x, mass = path
    step = time - before
    return float(mass @ special.ndtr((x + drift * step - bound * math.sqrt(time)) / math.sqrt(step)))


def _goes_on(path: tuple, time: float, bound: float, drift: float) -> tuple:
    """The paths that are at or under `bound` at `time`."""
    before, x, mass = path
    step, scale = time - before, math.sqrt(time)
    low = drift * time - REACH * scale
    high = max(low, min(bound * scale, drift * time + REACH * scale))
    y = low + (high - low) * (NODES + 1) / 2
    kernel = np.exp(-(y[:, None] - x - drift * step) ** 2 / (2 * step)) / math.sqrt(2 * math.pi * step)
    return time, y, kernel @ mass * WEIGHTS * (high - low) / 2


def boundaries(times: list[float], alpha: float, spending: str) -> list[float]:
    """The z to exceed at each share `times` of the seeds so that SPENDING[spending] is spent by then.

    Infinite where a look has too little to spend (under 1e-15); it is then spent at the next.
    """
    path, spent, bounds = START, 0.0, []
    for time in times:
        due = SPENDING[spending](time, alpha) - spent
        bound = math.inf
        if due > _stops(path, time, REACH, 0.0):
            bound = optimize.brentq(lambda z: _stops(path, time, z, 0.0) - due, -REACH, REACH, xtol=1e-12)
            spent += due
        bounds.append(bound)
        path = _goes_on(path, time, bound, 0.0)
    return bounds


def stop_probabilities(times: list[float], bounds: list[float], drift: float = 0.0) -> list[float]:
    """P(stop at each look) where z has mean drift sqrt(time); what is left to 1 never stops."""
    path, stops = START, []
    for time, bound in zip(times, bounds):
        stops.append(_stops(path, time, bound, drift))
        path = _goes_on(path, time, bound, drift)
    return stops


def plan(looks: list[int], effect: float, sd: float, alpha: float = LEVEL,
         spending: str = "obrien-fleming") -> dict:
    """A group-sequential test that looks after `looks` seeds and stops at the first z over its boundary.

    z is that of a known sd. Where the seeds estimate it, compare the t-test's p with `nominal_p` instead: an
    approximation (Pocock, Biometrika 64, 1977), whose error tests/stats/test_planning.py simulates.
    Returns looks (n, z, margin in nats, nominal_p, probability to stop there under null and alternative;
    z, margin and nominal_p None where a look cannot stop), alpha, error (computed back from the boundaries),
    power at `effect`, expected seeds under null and alternative, fixed (seeds that one look with the same
    power takes) and naive_error: the error of testing at `alpha` at each of these looks.
    ValueError for what is out of range.
    """
    _check(alpha, effect, sd)
    ascending = all(a < b for a, b in zip([0, *looks], [*looks, MOST_SEEDS]))
    if not (1 <= len(looks) <= MOST_LOOKS and ascending):
        raise ValueError(f"looks must be 1 to {MOST_LOOKS} ascending numbers of seeds, from 1 on")
    times = [n / looks[-1] for n in looks]
    bounds = boundaries(times, alpha, spending)
    null = stop_probabilities(times, bounds)
    found = stop_probabilities(times, bounds, drift=effect / sd * math.sqrt(looks[-1]))
    rows = []
    for n, z, p_null, p_found in zip(looks, bounds, null, found):
        row = dict(n=n, z=None, margin=None, nominal_p=None, stop_null=p_null, stop_alternative=p_found)
        if math.isfinite(z):
            row.update(z=z, margin=z * sd / math.sqrt(n), nominal_p=float(stats.norm.sf(z)))
        rows.append(row)
    power, constant = sum(found), float(stats.norm.isf(alpha))
    fixed = ((constant + stats.norm.ppf(min(power, 1 - 1e-12))) * sd / effect) ** 2
    return dict(looks=rows, spending=spending, alpha=alpha, error=sum(null), power=power,
                expected_null=_expected(looks, null), expected_alternative=_expected(looks, found),
                fixed=math.ceil(fixed - 1e-6), naive_error=naive_error(looks, alpha))


def by_t_test(found: dict, effect: float, sd: float, draws: int = 20_000) -> dict:
    """What a `plan` has where the seeds estimate the sd: each look compares the t-test's p with its nominal
    p, as `pair` and a track without a known sd do. Simulated with a fixed seed; (error, power, draws)."""
    looks = [row for row in found["looks"] if row["nominal_p"] is not None and row["n"] > 1]
    draws = max(1000, min(draws, 10**7 // found["looks"][-1]["n"]))
    noise = np.random.default_rng(0).normal(size=(draws, found["looks"][-1]["n"]))

    def stopped(shift: float) -> float:
        passed = np.zeros(draws, dtype=bool)
        for row in looks:
            n = row["n"]
            x = noise[:, :n] + shift
            t = x.mean(axis=1) * math.sqrt(n) / x.std(axis=1, ddof=1)
            passed |= t > stats.t.isf(row["nominal_p"], n - 1)
        return float(passed.mean())

    return dict(error=stopped(0.0), power=stopped(effect / sd), draws=draws)


def naive_error(looks: list[int], alpha: float = LEVEL) -> float:
    """The error of a one-sided test at `alpha` that is made after each of `looks` seeds until one passes."""
    bound, times = float(stats.norm.isf(alpha)), [n / looks[-1] for n in looks]
    return sum(stop_probabilities(times, [bound] * len(times)))


def _expected(looks: list[int], stops: list[float]) -> float:
    """Seeds run on average: all of them where no look stops."""
    return sum(n * p for n, p in zip(looks, stops)) + looks[-1] * (1 - sum(stops))


########################################
#           The winner's curse         #
########################################
