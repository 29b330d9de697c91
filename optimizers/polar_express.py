"""Coefficients of Polar Express: the composition of odd quintics that is nearest to 1 on [lower, 1].

Each step is the best odd quintic for the interval that the steps before it leave, by the Remez exchange.
Source: Amsel, Persson, Musco, Gower, "The Polar Express", arXiv 2505.16932, sections 3 and 4 and its code.
"""
import math

import torch


def best_quintic(low: float, high: float) -> tuple[float, float, float]:
    """(a, b, c) that minimises max |1 - (a x + b x^3 + c x^5)| over [low, high], by the Remez exchange.

    The error of the best one takes its largest size at four points, signs alternating: both ends, and the
    two inner extremes of the polynomial, which each round moves.
    """
    if low / high > 1 - 5e-6:  # the exchange is singular; the limit is the Taylor (Pade) quintic at 1
        return 15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5
    inner, error, last = ((3 * low + high) / 4, (low + 3 * high) / 4), math.inf, 0.0
    a = b = c = 0.0
    for _ in range(100):
        rows = [[x, x**3, x**5, sign] for x, sign in zip((low, *inner, high), (1, -1, 1, -1))]
        system = torch.tensor(rows, dtype=torch.float64, device="cpu")
        a, b, c, error = torch.linalg.solve(system, torch.ones_like(system[0])).tolist()
        if abs(error - last) < 1e-15:
            break
        last, root = error, math.sqrt(9 * b * b - 20 * a * c)
        inner = tuple(math.sqrt((-3 * b + sign * root) / (10 * c)) for sign in (-1, 1))
    return a, b, c


def composition(lower: float, steps: int, safety: float = 0.02, cushion: float = 0.02) -> tuple:
    """`steps` quintics (a, b, c), made for singular values in [lower, 1].

    cushion: a step's polynomial is fitted on [max(lower, cushion * upper), upper] and then centred about 1
    on the whole interval, which keeps small singular values growing. safety: every step but the last is
    stretched by 1 + safety, so that a rounding error above the interval does not blow up.
    """
    low, high, found = lower, 1.0, []
    for step in range(steps):
        a, b, c = best_quintic(max(low, cushion * high), high)
        if cushion * high > low:
            scale = 2 / sum(a * x + b * x**3 + c * x**5 for x in (low, high))
            a, b, c = a * scale, b * scale, c * scale
        s = 1 + safety if step < steps - 1 else 1.0
        a, b, c = a / s, b / s**3, c / s**5
        found.append((a, b, c))
        low = a * low + b * low**3 + c * low**5
        high = 2 - low
    return tuple(found)
