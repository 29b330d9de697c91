"""The rules, tests and intervals of records/evidence.py: known values, properties, and simulations that show
that the stated error rates hold."""
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from speedrun.log.format import Point
from speedrun.stats import intervals, rule
from speedrun.stats.crossing import censored_mean, crossing_step, mean_crossing

TARGET = 3.28
LOSSES = st.lists(st.integers(310000, 340000), min_size=2, max_size=12).map(lambda v: [x / 1e5 for x in v])
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def series_of(curves, steps=(0, 25, 50, 75)):
    """seed -> losses as a log's series."""
    return {seed: [Point(step, loss, 1.0 * step, 0) for step, loss in zip(steps, losses)]
            for seed, losses in curves.items()}


def within(count, trials, rate, sds=4):
    """Is a count of `trials` what a rate gives, within Monte-Carlo error?"""
    return abs(count - trials * rate) < sds * math.sqrt(trials * rate * (1 - rate))


########################################
#          One recipe, a target        #
########################################


@pytest.mark.parametrize("losses, passes", [
    ([3.276], True), ([3.27601], False),                                      # .004 at n = 1, to the digit
    ([3.278] * 4, True), ([3.278, 3.278, 3.278, 3.27804], False),             # .002 at n = 4
    ([3.2776, 3.2780, 3.2784, 3.2780, 3.2780, 3.2780, 3.2780, 3.2780, 3.2780], True),
    ([3.281] * 20, False),
])
def test_the_race_rule_is_margin_times_root_n(losses, passes):
    found = rule.one_sample(losses, TARGET, rule.SIGMA)
    assert found["pass"] is passes and {"n", "mean", "sd", "z", "p", "pass"} <= set(found)
    assert found["z"] == pytest.approx((TARGET - np.mean(losses)) * len(losses)**0.5 / 0.0013)
    assert found["p"] == pytest.approx(stats.norm.sf(found["z"]))


def test_without_a_known_sigma_it_is_the_t_test_at_the_same_level():
    losses = [1.361, 1.359, 1.366, 1.358, 1.363]
    found = rule.one_sample(losses, 1.38)
    test = stats.ttest_1samp(losses, 1.38, alternative="less")
    assert (found["t"], found["t_p"]) == pytest.approx((-test.statistic, test.pvalue))
    assert (found["z"], found["p"]) == (found["t"], found["t_p"]) and found["pass"] is True
    assert rule.LEVEL == pytest.approx(0.00104575, rel=1e-4)
    sd = np.std(losses, ddof=1)  # the target at which p is the level
    edge = np.mean(losses) + stats.t.isf(rule.LEVEL, 4) * sd / 5**0.5
    assert rule.one_sample(losses, edge + 1e-5)["pass"] is True
    assert rule.one_sample(losses, edge - 1e-5)["pass"] is False


def test_one_seed_and_equal_losses_show_no_spread():
    for losses in ([1.0], [1.0, 1.0, 1.0], [0.1 + 0.2, 0.3]):
        found = rule.one_sample(losses, 9.0)
        assert (found["z"], found["p"], found["t"], found["t_p"], found["pass"]) == (None,) * 4 + (False,)
        assert intervals.mean_interval(losses)["low"] is None
        assert rule.one_sample(losses, 9.0, rule.SIGMA)["pass"]
    for losses in ([], [math.nan], [1.0, math.inf]):
        with pytest.raises(ValueError, match="finite"):
            rule.one_sample(losses, 9.0)


@FEW
@given(LOSSES, st.randoms(use_true_random=False), st.integers(-100, 100))
def test_neither_the_order_of_seeds_nor_a_shift_matters(losses, random, shift):
    found = rule.one_sample(losses, TARGET, rule.SIGMA)
    moved = [loss + shift / 100 for loss in random.sample(losses, len(losses))]
    again = rule.one_sample(moved, TARGET + shift / 100, rule.SIGMA)
    for name in ("z", "t", "t_p", "sd"):
        if found[name] is None:
            assert again[name] is None, name
        else:
            assert again[name] == pytest.approx(found[name], rel=1e-5, abs=1e-7), name
    assert again["pass"] == found["pass"] or abs(found["z"] - rule.CRITICAL) < 1e-5


@pytest.mark.parametrize("sigma", [None, rule.SIGMA])
def test_p_is_uniform_at_the_target(sigma):
    """So that the test errs as often as its level says, at every level."""
    rng = np.random.default_rng(0)
    found = [rule.one_sample(TARGET + 0.0013 * rng.standard_normal(4), TARGET, sigma)["p"]
             for _ in range(1500)]
    assert stats.kstest(found, "uniform").pvalue > 1e-3


def test_the_official_step_is_the_first_of_the_common_grid_that_passes():
    curves = {0: [5, 3.29, 3.278, 3.27], 1: [5, 3.29, 3.277, 3.27], 2: [5, 3.29, 3.2770, 3.27]}
    series = series_of(curves)
    found = rule.official_step(series, TARGET, rule.SIGMA, declared=[2, 0, 1])
    assert found["step"] == 50 and found["n"] == 3 and found["mean"] == pytest.approx(3.2773333)
    assert rule.official_step(series, TARGET, rule.SIGMA, declared=[0, 1]) is None
    assert rule.official_step(series, TARGET, rule.SIGMA, declared=[0, 1, 2, 3]) is None
    assert rule.official_step(series, 3.2, rule.SIGMA) is None
    assert rule.official_step({}, TARGET, rule.SIGMA) is None
    series[1] = [point for point in series[1] if point.step != 50]  # not every seed was seen there
    assert rule.official_step(series, TARGET, rule.SIGMA)["step"] == 75
    torn = series_of({0: [5, math.nan, 3.2, 3.3]})
    assert rule.official_step(torn, TARGET, rule.SIGMA)["step"] == 50


########################################
#              Two recipes             #
########################################


def test_paired_is_the_t_test_of_the_differences():
    a, b = {0: 1.40, 1: 1.42, 2: 1.37, 7: 9.0}, {2: 1.34, 0: 1.38, 1: 1.39}
    found = intervals.compare(a, b)
    assert (found["method"], found["n"], found["left_out"]) == ("paired", 3, 1)
    test = stats.ttest_rel([1.40, 1.42, 1.37], [1.38, 1.39, 1.34])
    low, high = test.confidence_interval(0.95)
    assert (found["low"], found["high"], found["p"]) == pytest.approx((low, high, test.pvalue))
    assert found["mean"] == pytest.approx(0.08 / 3)
    assert found["correlation"] == pytest.approx(np.corrcoef([1.40, 1.42, 1.37], [1.38, 1.39, 1.34])[0, 1])


def test_unrelated_seeds_get_welch():
    a, b = {0: 1.40, 1: 1.42, 2: 1.37}, {10: 1.34, 11: 1.38, 12: 1.39, 2: 1.30}
    found = intervals.compare(a, b)
    test = stats.ttest_ind(list(a.values()), list(b.values()), equal_var=False)
    assert (found["method"], found["n"], found["left_out"]) == ("welch", [3, 4], 0)
    assert (found["mean"], found["p"]) == pytest.approx((1.39 + 1 / 150 - 1.3525, test.pvalue))
    assert found["low"] < found["mean"] < found["high"]


@pytest.mark.parametrize("a, b", [
    ({0: 1.0}, {0: 2.0}), ({0: 1.0, 1: 1.1}, {0: 2.0, 1: 2.1}), ({0: 1.0}, {5: 2.0}),
    ({0: 1.0, 1: 1.0}, {5: 2.0, 6: 2.2})])
def test_a_difference_without_noise_to_judge_it_by_has_no_interval(a, b):
    found = intervals.compare(a, b)
    assert found["mean"] < -0.9 and (found["low"], found["high"], found["p"]) == (None, None, None)


@FEW
@given(LOSSES, LOSSES)
def test_swapping_the_recipes_turns_the_sign(a, b):
    a, b = dict(enumerate(a)), dict(enumerate(b))
    one, other = intervals.compare(a, b), intervals.compare(b, a)
    assert other["mean"] == pytest.approx(-one["mean"], abs=1e-12)
    if one["low"] is not None:
        assert (other["low"], other["high"]) == pytest.approx((-one["high"], -one["low"]))


@pytest.mark.parametrize("method", ["paired", "welch"])
def test_an_interval_misses_one_time_in_twenty(method):
    rng, trials, missed = np.random.default_rng(1), 1500, 0
    for _ in range(trials):
        shared = rng.standard_normal(6)
        a = 0.0010 + 0.0017 * (0.9 * shared + 0.44 * rng.standard_normal(6))
        if method == "paired":
            found = intervals.paired(a, 0.0017 * (0.9 * shared + 0.44 * rng.standard_normal(6)))
        else:
            found = intervals.welch(a, 0.0007 * rng.standard_normal(9))
        inside = found["low"] <= 0.0010 <= found["high"]
        missed += not inside
        assert (found["p"] < 0.05) != (found["low"] <= 0 <= found["high"])
    assert within(missed, trials, 0.05)


def test_the_exchange_rule_counts_the_steps_saved():
    a, b = [3.2790] * 10, [3.2780] * 10   # worse by .001, and 100 steps earlier: .0035 net
    found = rule.exchange(a, b, 3100, 3200)
    assert found["gain"] == pytest.approx(0.0035) and found["pass"]
    assert found["statistic"] == pytest.approx(0.0035 / (2 / 10)**0.5)
    assert not rule.exchange(a, b, 3200, 3200)["pass"]
    edge = rule.exchange([3.0], [3.0 + 0.004 * 2**0.5], 100, 100)  # exactly the threshold
    assert edge["pass"] and edge["p"] == pytest.approx(rule.LEVEL)


########################################
#           The crossing step          #
########################################


@pytest.mark.parametrize("losses, step", [
    ([5, 4, 3, 2], 43.75), ([5, 3.25, 3, 2], 25), ([5, 3.25, 3.5, 2], 25), ([3.25, 4, 5, 3], 0),
    ([math.nan, 4, 3.5, 3], 62.5), ([5, math.inf, 3, 2], 50), ([5, 4, 3.5, 3.26], None),
    ([5, 4, 3, math.nan], 43.75),
])
def test_crossing_is_the_first_interpolated(losses, step):
    found = crossing_step(series_of({0: losses})[0], 3.25)
    assert found == (step if step is None else pytest.approx(step))
    assert crossing_step(series_of({0: losses})[0], None) is None


def test_the_mean_crossing_step_keeps_seeds_that_never_cross():
    curves = {0: [5, 4, 3, 2], 1: [5, 4, 3.1, 2], 2: [5, 4, 3.05, 2], 3: [5, 4, 3.6, 3.3]}
    found = mean_crossing(series_of(curves), 3.25)
    seen = [43.75, 25 + 25 * 0.75 / 0.9, 25 + 25 * 0.75 / 0.95]
    assert (found["n"], found["crossed"]) == (4, 3)
    assert found == pytest.approx(censored_mean(seen, [75]))
    assert found["mean"] > np.mean(seen) and found["low"] < found["mean"] < found["high"]
    del curves[3]
    found = mean_crossing(series_of(curves), 3.25)
    assert found == pytest.approx({**intervals.mean_interval(seen), "crossed": 3})


def test_the_estimate_is_that_of_scipy():
    seen, limits = [2600.0, 2610.0, 2640.0, 2655.0, 2622.0, 2590.0], [2660.0, 2660.0, 2650.0]
    found = censored_mean(seen, limits)
    mean, sd = stats.norm.fit(stats.CensoredData(uncensored=seen, right=limits))
    assert (found["mean"], found["sd"]) == pytest.approx((mean, sd), rel=1e-3)
    fall = [profile_fall(end, seen, limits, found) for end in (found["low"], found["high"])]
    assert fall == pytest.approx([3 * math.log1p(stats.t.ppf(0.975, 5)**2 / 5)] * 2, rel=1e-4)


def profile_fall(mean, seen, limits, found):
    """By how much the log-likelihood at `mean`, the best sd for it, is under the top; by brute force."""
    def likelihood(m, sd):
        return (stats.norm.logpdf(np.array(seen)[:, None], m, sd).sum(0)
                + stats.norm.logsf(np.array(limits)[:, None], m, sd).sum(0))
    return float(likelihood(found["mean"], np.array([found["sd"]]))[0]
                 - likelihood(mean, np.geomspace(1, 1000, 20001)).max())


def test_a_limit_that_tells_nothing_leaves_the_t_interval():
    seen = [100.0, 110.0, 93.0, 104.0]
    found, plain = censored_mean(seen, [0.0]), intervals.mean_interval(seen)
    for name in ("mean", "low", "high"):
        assert found[name] == pytest.approx(plain[name], abs=1e-3)


@pytest.mark.parametrize("seen, limits, mean", [
    ([], [], None), ([], [100, 100], None), ([90], [], 90), ([90], [100], None), ([90, 90], [], 90),
    ([90, 90], [100], None), ([100, 100], [100], 100), ([100, 100], [90], 100),
])
def test_what_gives_no_interval(seen, limits, mean):
    found = censored_mean(seen, limits)
    assert (found["mean"], found["low"], found["high"]) == (mean, None, None)
    assert (found["n"], found["crossed"]) == (len(seen) + len(limits), len(seen))


@settings(FEW, max_examples=25)
@given(st.lists(st.integers(0, 300), min_size=2, max_size=8), st.lists(st.integers(0, 400), max_size=5),
       st.integers(-1000, 1000), st.sampled_from([0.01, 3.0]))
def test_the_interval_moves_and_scales_with_the_steps(seen, limits, shift, scale):
    found = censored_mean(seen, limits)
    moved = censored_mean([shift + scale * x for x in reversed(seen)],
                                   [shift + scale * x for x in limits])
    for name in ("mean", "low", "high"):
        if found[name] is None:
            assert moved[name] is None, name
        else:
            assert moved[name] == pytest.approx(shift + scale * found[name], rel=1e-4, abs=1e-3), name
    if found["low"] is not None:
        assert found["low"] <= found["mean"] <= found["high"]


def test_the_censored_interval_holds():
    """8 seeds of which a fifth never cross: the interval misses the true mean about as often as it says."""
    rng, trials, missed, limit = np.random.default_rng(2), 300, 0, 3225.0
    for _ in range(trials):
        steps = 3200 + 30 * rng.standard_normal(8)
        seen = steps[steps <= limit]
        found = censored_mean(seen, [limit] * (8 - len(seen)))
        missed += found["low"] is None or not found["low"] <= 3200 <= found["high"]
    assert missed <= trials * 0.05 + 4 * math.sqrt(trials * 0.05 * 0.95)
    assert missed > 0
