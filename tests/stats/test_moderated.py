"""speedrun/stats/moderated.py: the error stated is the error had, by simulation; adjusted p-values."""
import math

import numpy as np
import pytest

from speedrun.stats import planning
from speedrun.stats.intervals import rank_correlation
from speedrun.stats.moderated import benjamini_hochberg, moderated, prior


def drawn(rng, contrasts: int, n: int, d0: float, s0: float):
    """Samples of n whose variances come from the prior: rows of (mean, sd)."""
    sd = np.sqrt(s0**2 * d0 / rng.chisquare(d0, contrasts)) if math.isfinite(d0) else np.full(contrasts, s0)
    x = rng.normal(0, sd[:, None], (contrasts, n))
    return x.mean(axis=1), x.std(axis=1, ddof=1)


@pytest.mark.parametrize("d0", [3.5, 10.0, math.inf])
def test_the_error_stated_is_the_error_had_and_the_interval_covers(d0):
    rng, errors, misses, wider, rounds = np.random.default_rng(1), 0, 0, 0, 120
    for _ in range(rounds):
        means, sds = drawn(rng, 40, 3, d0, 0.0019)
        of = prior(sds**2, [2] * 40)
        found = [moderated(mean, sd, 3, of) for mean, sd in zip(means, sds)]
        errors += sum(row["p"] < 0.05 for row in found)
        misses += sum(not row["low"] <= 0 <= row["high"] for row in found)
        wider += np.mean([row["high"] - row["low"] for row in found]) / np.mean(2 * 4.303 * sds / 3**0.5)
    tests = 40 * rounds
    assert errors == misses
    assert abs(errors / tests - 0.05) < 4 * math.sqrt(0.05 * 0.95 / tests) + 0.004  # the prior is estimated
    assert wider / rounds < 0.9  # what it is for: intervals are narrower than by each sample alone


def test_the_prior_is_found_again():
    rng = np.random.default_rng(2)
    _, sds = drawn(rng, 4000, 3, 3.5, 0.0019)
    d0, s02 = prior(sds**2, [2] * 4000)
    assert d0 == pytest.approx(3.5, rel=0.15) and s02**0.5 == pytest.approx(0.0019, rel=0.05)


@pytest.mark.parametrize("variances, df", [([1.0, 2.0], [2, 2]), ([1.0, 0.0, 2.0], [2, 2, 2]),
                                           ([1.0, 2.0, math.nan], [2, 2, 2])])
def test_a_prior_of_too_little_is_refused(variances, df):
    with pytest.raises(ValueError, match="variances"):
        prior(variances, df)


def test_benjamini_and_hochbergs_own_example():
    ps = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719,
          0.6528, 0.7590, 1.0]
    adjusted = benjamini_hochberg(ps)
    assert sum(p <= 0.05 for p in adjusted) == 4  # their section 3.2
    assert benjamini_hochberg(ps[::-1]) == adjusted[::-1] and adjusted == sorted(adjusted)
    with pytest.raises(ValueError):
        benjamini_hochberg([0.5, 1.5])


def test_of_true_hypotheses_no_more_than_the_share_stated_is_rejected():
    rng, false, rounds = np.random.default_rng(3), 0.0, 1500
    for _ in range(rounds):
        ps = np.concatenate([rng.uniform(size=20), rng.uniform(0, 1e-4, size=10)])
        hits = np.array(benjamini_hochberg(ps)) <= 0.05
        false += hits[:20].sum() / max(1, hits.sum())
    assert false / rounds == pytest.approx(0.05 * 20 / 30, abs=0.006)


def test_the_rank_correlation_of_few_pairs_is_exact():
    rising = [(i, i) for i in range(5)]
    assert rank_correlation(rising)["p"] == pytest.approx(2 / 120)
    nine_tenths = [(0, 0), (1, 1), (2, 2), (3, 4), (4, 3)]  # r = .9: 5 of 120 orders, and 5 the other way
    assert rank_correlation(nine_tenths)["p"] == pytest.approx(10 / 120)


def test_a_plan_says_the_power_of_the_t_test_it_is_used_with():
    found = planning.plan([4, 8, 12], 0.0015, 0.0013)
    used = planning.by_t_test(found, 0.0015, 0.0013)
    assert found["power"] == pytest.approx(0.82, abs=0.005) and used["power"] == pytest.approx(0.53, abs=0.02)
    assert used["error"] < 0.003
