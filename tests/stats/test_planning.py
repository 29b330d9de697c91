"""Seeds needed, sequential plans and the winner's curse: published values, and simulations of each claim."""
import math

import numpy as np
import pytest
from scipy import stats

from speedrun.stats import planning, selection
from speedrun.stats.rule import CRITICAL, LEVEL, SIGMA

FIFTHS = [0.2, 0.4, 0.6, 0.8, 1.0]


def near(found, rate, trials):
    """Is a simulated rate within Monte-Carlo error of the stated one?"""
    return abs(found - rate) < 4 * math.sqrt(rate * (1 - rate) / trials)


########################################
#             Seeds needed             #
########################################


@pytest.mark.parametrize("alpha, margin, n", [(0.01, 0.0005, 71), (0.01, 0.001, 20), (0.01, 0.002, 8)])
def test_seeds_for_a_margin(alpha, margin, n):
    assert planning.seeds_needed(margin, SIGMA, alpha)["n"] == n


@pytest.mark.parametrize("alpha, difference, n", [(0.05, 0.001, 22), (0.01, 0.001, 36),
                                                  (0.025, 0.001, 28)])
def test_seeds_for_a_difference(alpha, difference, n):
    """28: power .8 at a two-sided .05 for an effect of .77 sd, as t-test tables have it."""
    assert planning.seeds_needed(difference, SIGMA, alpha, arms=2)["n"] == n


def test_the_power_is_the_stated_one():
    rng, trials = np.random.default_rng(0), 60_000
    found = planning.seeds_needed(0.001, SIGMA, alpha=0.01, power=0.8)
    x = 0.001 + SIGMA * rng.standard_normal((trials, found["n"]))
    t = x.mean(1) / x.std(1, ddof=1) * math.sqrt(found["n"])
    assert near(np.mean(t > stats.t.isf(0.01, found["n"] - 1)), found["power"], trials)
    assert found["power"] >= 0.8

    sd = planning.difference_sd(SIGMA, 0.9)  # two recipes on the same seeds
    paired = planning.seeds_needed(0.001, sd, alpha=0.01, power=0.8)
    shared = rng.standard_normal((trials, paired["n"], 1)) * math.sqrt(0.9)
    own = rng.standard_normal((trials, paired["n"], 2)) * math.sqrt(0.1)
    losses = SIGMA * (shared + own)
    gain = losses[..., 0] - losses[..., 1] + 0.001
    t = gain.mean(1) / gain.std(1, ddof=1) * math.sqrt(paired["n"])
    assert near(np.mean(t > stats.t.isf(0.01, paired["n"] - 1)), paired["power"], trials)
    assert paired["n"] < planning.seeds_needed(0.001, SIGMA, alpha=0.01, power=0.8, arms=2)["n"] / 3


def test_one_seed_less_is_too_few():
    n = planning.seeds_needed(0.001, SIGMA, alpha=0.01, power=0.8)["n"] - 1
    power = stats.nct.sf(stats.t.isf(0.01, n - 1), n - 1, 0.001 / SIGMA * math.sqrt(n))
    assert power < 0.8
    rule = planning.seeds_for_rule(0.001, 0.8)
    assert stats.norm.sf(CRITICAL - 0.001 * math.sqrt(rule) / SIGMA) >= 0.8
    assert stats.norm.sf(CRITICAL - 0.001 * math.sqrt(rule - 1) / SIGMA) < 0.8


def test_a_large_effect_takes_two_seeds_and_a_tiny_one_too_many():
    assert planning.seeds_needed(1e3, SIGMA)["n"] == 2
    with pytest.raises(ValueError, match="more than"):
        planning.seeds_needed(1e-6, SIGMA)


@pytest.mark.parametrize("call", [
    lambda: planning.seeds_needed(0.0, 1.0), lambda: planning.seeds_needed(1.0, -1.0),
    lambda: planning.seeds_needed(1.0, math.nan), lambda: planning.seeds_needed(1.0, 1.0, alpha=0.6),
    lambda: planning.seeds_needed(1.0, 1.0, alpha=0.1, power=0.05), lambda: planning.seeds_for_rule(-1.0),
    lambda: planning.seeds_for_rule(1.0, 1.0), lambda: planning.difference_sd(1.0, 1.0),
    lambda: planning.plan([], 1.0, 1.0), lambda: planning.plan([4, 4], 1.0, 1.0),
    lambda: planning.plan([0, 4], 1.0, 1.0), lambda: planning.plan(list(range(1, 200)), 1.0, 1.0),
    lambda: planning.plan([4], 1.0, math.inf), lambda: selection.best_of(0, 4, 1.0),
    lambda: planning.plan([10**400], 1.0, 1.0), lambda: planning.plan([4], 1e300, 1e-300),
])
def test_what_is_out_of_range_is_named(call):
    with pytest.raises(ValueError, match=r"\S+ \S+"):
        call()


########################################
#          The sequential plan         #
########################################


@pytest.mark.parametrize("spending, published", [
    ("obrien-fleming", [4.877, 3.357, 2.680, 2.290, 2.031]),
    ("pocock", [2.438, 2.427, 2.410, 2.397, 2.386])])
def test_boundaries_are_the_published_ones(spending, published):
    """Five equal looks at one-sided .025, as Reboussin et al. (Control. Clin. Trials 21, 2000) compute."""
    assert planning.boundaries(FIFTHS, 0.025, spending) == pytest.approx(published, abs=6e-4)


def test_repeated_looks_err_as_armitage_mcpherson_and_rowe_found():
    """Two-sided .05 at 2, 3, 5, 10 equal looks: .083, .107, .142, .193 (J. R. Statist. Soc. A 132, 1969)."""
    z = stats.norm.isf(0.025)
    for looks, error in ((2, 0.083), (3, 0.107), (5, 0.142), (10, 0.193)):
        times = [(k + 1) / looks for k in range(looks)]
        assert 2 * sum(planning.stop_probabilities(times, [z] * looks)) == pytest.approx(error, abs=1.5e-3)


def test_the_quadrature_is_the_multivariate_normal():
    times, bounds, drift = [0.3, 0.5, 1.0], [2.2, 2.5, 2.1], 1.3
    covariance = [[math.sqrt(min(a, b) / max(a, b)) for a in times] for b in times]
    stays = stats.multivariate_normal(mean=[drift * math.sqrt(t) for t in times], cov=covariance)
    going_on = 1 - sum(planning.stop_probabilities(times, bounds, drift))
    assert going_on == pytest.approx(stays.cdf(bounds), abs=1e-4)


@pytest.mark.parametrize("spending", list(planning.SPENDING))
def test_error_power_and_expected_seeds_are_the_stated_ones(spending):
    looks, margin, trials = [4, 6, 10, 16], 0.001, 50_000
    found = planning.plan(looks, margin, SIGMA, 0.025, spending)
    assert found["error"] == pytest.approx(0.025, abs=1e-6)
    noise = np.cumsum(np.random.default_rng(3).standard_normal((trials, 16)), axis=1)
    z_null = noise[:, np.array(looks) - 1] / np.sqrt(looks)
    z_true = z_null + margin / SIGMA * np.sqrt(looks)
    bounds = [row["z"] for row in found["looks"]]
    for z, error, seeds in ((z_null, "error", "expected_null"), (z_true, "power", "expected_alternative")):
        over = z >= bounds
        assert near(over.any(1).mean(), found[error], trials)
        at = np.where(over.any(1), over.argmax(1), len(looks) - 1)
        assert np.array(looks)[at].mean() == pytest.approx(found[seeds], abs=0.1)
    assert near((z_null >= stats.norm.isf(0.025)).any(1).mean(), found["naive_error"], trials)
    for row in found["looks"]:
        assert row["margin"] == pytest.approx(row["z"] * SIGMA / math.sqrt(row["n"]))
    assert planning.seeds_needed(margin, SIGMA, 0.025, found["power"])["n"] >= found["fixed"] - 1


def test_peeking_at_the_rule_after_each_of_twenty_seeds_errs_eight_times_as_often():
    found = planning.plan(list(range(1, 21)), 0.001, SIGMA)
    assert found["naive_error"] == pytest.approx(0.0079, abs=5e-5) and found["alpha"] == LEVEL
    assert found["looks"][0]["z"] is None  # nothing to spend after one seed
    assert found["error"] == pytest.approx(LEVEL, rel=1e-6)


def test_nominal_p_serves_where_the_seeds_estimate_the_noise():
    """The t-test's p against nominal_p: the error stays near alpha (over 200,000 trials .0254 for .025)."""
    looks, trials = [5, 10, 15, 20], 40_000
    found = planning.plan(looks, 0.001, SIGMA, 0.025)
    x = np.random.default_rng(4).standard_normal((trials, 20))
    stopped = np.zeros(trials, dtype=bool)
    for row in found["looks"]:
        part = x[:, :row["n"]]
        t = part.mean(1) / part.std(1, ddof=1) * math.sqrt(row["n"])
        stopped |= t >= stats.t.isf(row["nominal_p"], row["n"] - 1)
    assert 0.023 < stopped.mean() < 0.029


def test_one_look_is_the_plain_test():
    found = planning.plan([9], 0.002, SIGMA, 0.01)
    assert found["looks"][0]["z"] == pytest.approx(stats.norm.isf(0.01))
    assert found["naive_error"] == pytest.approx(0.01)
    assert found["power"] == pytest.approx(stats.norm.sf(stats.norm.isf(0.01) - 0.002 * 3 / SIGMA))
    assert (found["expected_null"], found["expected_alternative"], found["fixed"]) == (9, 9, 9)


########################################
#           The winner's curse         #
########################################


def test_the_best_of_equal_recipes():
    """Expected maxima of normals: .56419 of 2, .84628 of 3, 1.86748 of 20 (Harter, Biometrika 48, 1961)."""
    for k, expected in ((1, 0), (2, 0.56419), (3, 0.84628), (20, 1.86748)):
        assert selection.best_of(k, 1, 1.0)["overstatement"] == pytest.approx(expected, abs=1e-5)
    found = selection.best_of(20, 10, SIGMA)
    assert found["overstatement"] == pytest.approx(0.00077, abs=5e-6)
    rng, trials = np.random.default_rng(5), 40_000
    best = (rng.standard_normal((trials, 20)) / math.sqrt(10)).max(1)
    assert near(np.mean(best * math.sqrt(10) >= CRITICAL), found["error"], trials)


@pytest.mark.parametrize("fall", [0.2, 1.0, 5.0])
def test_what_choosing_the_first_passing_step_overstates(fall):
    """A seed's noise: a part that stays through its run, and one of sd 1 that is new at each validation."""
    rng, trials, n, steps = np.random.default_rng(6), 10_000, 4, 120
    margin = fall * (np.arange(steps) - steps / 2 + rng.random((trials, 1)))  # of the truth, in seeds' sds
    new = rng.standard_normal((trials, steps)) / math.sqrt(n)
    shared = 3 * rng.standard_normal((trials, 1)) / math.sqrt(n)
    first = (margin + shared + new >= 0).argmax(1)
    over = new[np.arange(trials), first]
    half = math.sqrt(2 / n)  # two seeds whose changes, fall -+ half, say: the new part of a mean has sd .5
    stated = selection.first_step_overstatement([fall + half, fall - half], [0.0, 0.0])
    assert stated == pytest.approx(over.mean(), abs=4 * over.std() / math.sqrt(trials))


def test_without_noise_between_validations_the_first_step_overstates_nothing():
    assert selection.first_step_overstatement([3.29, 3.30], [3.28, 3.29]) == 0.0
    assert selection.first_step_overstatement([3.29], [3.28]) is None
    assert selection.first_step_overstatement([3.28, 3.27], [3.29, 3.28]) is None
    assert selection.first_step_overstatement([3.28, math.nan], [3.27, 3.28]) is None


def test_a_bare_pass_is_repeated_half_the_time():
    assert selection.replication(LEVEL) == pytest.approx(0.5)
    rng, trials = np.random.default_rng(7), 400_000
    true = rng.uniform(-6, 12, trials)
    seen = true + rng.standard_normal(trials)
    again = (true + rng.standard_normal(trials))[np.abs(seen - 4) < 0.05]
    assert near(np.mean(again >= CRITICAL), selection.replication(stats.norm.sf(4.0)), len(again))
