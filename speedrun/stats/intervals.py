"""Means, paired and unpaired differences, each with its 95 % interval and test."""
import itertools
import math

import numpy as np
from scipy import special, stats

MOST_EXACT = 8                        # pairs: 40,320 orders
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


def rank_correlation(pairs: list) -> dict | None:
    """Spearman's r of (x, y) pairs, its 95 % interval tanh(atanh r -+ 1.96 sqrt((1 + r^2 / 2) / (n - 3)))
    (Bonett and Wright, Psychometrika 65, 2000) and two-sided p; None for fewer than 5 pairs. p is exact up to
    MOST_EXACT pairs, the share of all orders of y with as large a correlation; by t from there on."""
    if len(pairs) < 5:
        return None
    test, n = stats.spearmanr(*zip(*pairs)), len(pairs)
    r, p = float(test.statistic), float(test.pvalue)
    if n <= MOST_EXACT:
        x, y = (stats.rankdata(values) for values in zip(*pairs))
        p = _exact_p(x, y, r)
    z, half = math.atanh(min(max(r, -0.9999), 0.9999)), 1.96 * math.sqrt((1 + r * r / 2) / (n - 3))
    return dict(n=n, mean=r, low=math.tanh(z - half), high=math.tanh(z + half), p=p)


def _exact_p(x: np.ndarray, y: np.ndarray, r: float) -> float:
    """The share of the orders of the ranks y whose correlation with x is at least |r| either way."""
    orders = np.array(list(itertools.permutations(y - y.mean())))
    scale = math.sqrt(float(((x - x.mean()) ** 2).sum() * ((y - y.mean()) ** 2).sum()))
    return float((np.abs(orders @ (x - x.mean())) / scale >= abs(r) - 1e-9).mean())
