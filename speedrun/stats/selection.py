"""What choosing the best of many runs, or the first step that passes, does to what it shows."""
import math

import numpy as np
from scipy import integrate, special, stats

from .intervals import DUST
from .planning import MOST_SEEDS, REACH
from .rule import CRITICAL, LEVEL


def best_of(k: int, n: int, sd: float, level: float = LEVEL) -> dict:
    """What reporting the best of k recipes adds where all k are equal and their n seeds each unrelated.

    overstatement: E[largest of k normals] sd / sqrt(n), in nats; error: 1 - (1 - level)^k, the chance that
    one of them passes a one-sided test at `level` by chance alone. Shared seeds make both smaller.
    ValueError for k or n < 1.
    """
    if not 1 <= k <= MOST_SEEDS or n < 1:
        raise ValueError(f"the best of {k} recipes with {n} seeds: give 1 to {MOST_SEEDS} and at least 1")
    above = integrate.quad(lambda x: -np.expm1(k * special.log_ndtr(x)), 0, REACH)[0]
    below = integrate.quad(lambda x: special.ndtr(x) ** k, -REACH, 0)[0]
    error = -math.expm1(k * math.log1p(-level))
    return dict(k=k, overstatement=(above - below) * sd / math.sqrt(n), error=error)


def first_step_overstatement(before, at) -> float | None:
    """By how many nats the mean at the first passing step of a grid is expected to lie under the truth.

    before, at: the losses of the same seeds at the grid step before the passing one and at that one. Only
    noise that a seed does not carry from one validation to the next can be selected: of the mean its sd is
    s = sd(at - before) / sqrt(2 n). With losses that fall by s r a grid step, and the threshold anywhere
    between two steps, E = (s / r) integral phi(a) prod_{i >= 1} Phi(a + i r) da. None for one seed, for a
    loss that is not finite, and where the losses do not fall by a hundredth of s.
    """
    change = np.asarray(list(before), dtype=float) - np.asarray(list(at), dtype=float)
    if len(change) < 2 or not np.isfinite(change).all():
        return None
    s, fall = float(change.std(ddof=1)) / math.sqrt(2 * len(change)), float(change.mean())
    if fall <= max(0.01 * s, DUST):
        return None
    if s < DUST:
        return 0.0
    r = fall / s
    steps = r * np.arange(1, 2 + int(2 * REACH / r))

    def first(a: float) -> float:
        return math.exp(-a * a / 2 + float(special.log_ndtr(a + steps).sum())) / math.sqrt(2 * math.pi)

    return s / r * integrate.quad(first, -REACH, REACH, points=[0.0], limit=200)[0]


def replication(p: float) -> float:
    """The chance that as many fresh seeds pass the rule too, given this one-sided p and a flat prior:
    Phi((z - CRITICAL) / sqrt(2)) (Goodman, Statistics in Medicine 11, 1992). One half for a bare pass."""
    return float(stats.norm.cdf((stats.norm.isf(p) - CRITICAL) / math.sqrt(2)))
