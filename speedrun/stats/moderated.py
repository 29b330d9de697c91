"""Variances of many small samples, each moderated by what all of them say, and p-values of many tests."""
import math

import numpy as np
from scipy import optimize, special, stats


def prior(variances, df) -> tuple[float, float]:
    """(d0, s0^2): the prior of the variances, scaled inverse chi-squared, estimated from all of them.

    Each s^2 of d degrees of freedom is s0^2 times an F of d and d0, so that log s^2 - digamma(d / 2) +
    log(d / 2) has mean log s0^2 - digamma(d0 / 2) + log(d0 / 2) and variance trigamma(d / 2) +
    trigamma(d0 / 2): Smyth, Stat. Appl. Genet. Mol. Biol. 3 (2004), section 6.2. d0 is infinite where they
    spread no more than their degrees of freedom make them. ValueError for fewer than three and for zeros.
    """
    s2, d = np.asarray(list(variances), dtype=float), np.asarray(list(df), dtype=float)
    if len(s2) < 3 or len(s2) != len(d) or not (np.isfinite(s2).all() and s2.min() > 0 and d.min() >= 1):
        raise ValueError("needs three variances above 0 or more, each with its degrees of freedom")
    e = np.log(s2) - special.digamma(d / 2) + np.log(d / 2)
    excess = float(e.var(ddof=1) - special.polygamma(1, d / 2).mean())
    if excess <= 1e-4:
        return math.inf, float(math.exp(e.mean()))
    half = optimize.brentq(lambda log_x: float(special.polygamma(1, math.exp(log_x))) - excess, -20, 20)
    d0 = 2 * math.exp(half)
    return d0, float(math.exp(e.mean() + special.digamma(d0 / 2) - math.log(d0 / 2)))


def moderated(mean: float, sd: float, n: int, of: tuple[float, float]) -> dict:
    """The two-sided t-test and 95 % interval of a mean of n values, its variance moderated by a `prior`:

    (d0 s0^2 + d s^2) / (d0 + d) with d = n - 1, and d0 + d degrees of freedom.
    Returns mean, sd (moderated), df, low, high, p. ValueError for n < 2.
    """
    if n < 2:
        raise ValueError(f"a variance needs 2 values or more, got {n}")
    (d0, s02), d = of, n - 1
    s2, df = (s02, math.inf) if math.isinf(d0) else ((d0 * s02 + d * sd * sd) / (d0 + d), d0 + d)
    error = math.sqrt(s2 / n)
    t = stats.norm if math.isinf(df) else stats.t(df)
    half = float(t.ppf(0.975)) * error
    return dict(mean=mean, sd=math.sqrt(s2), df=df, low=mean - half, high=mean + half,
                p=float(2 * t.sf(abs(mean) / error)))


def benjamini_hochberg(ps) -> list[float]:
    """The p-values, adjusted: those at most q are a set of which a share q at most is expected to be false
    (Benjamini & Hochberg, J. R. Statist. Soc. B 57, 1995). In the order given. ValueError outside 0..1."""
    p = np.asarray(list(ps), dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a p-value must lie between 0 and 1")
    order = np.argsort(p)
    steps = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    return adjusted.tolist()
