"""The ratio of two training times: its intervals hold what they say, and equal sides are rarely called
different."""
import numpy as np
import pytest

from speedrun.stats.ratio import interval_of, judged, time_ratio


def test_the_ratio_of_pairs():
    found = time_ratio([90, 180, 45], [100, 200, 50])
    assert found["ratio"] == pytest.approx(0.9) and found["low"] is None is found["t_low"]  # no spread
    a, b = [9.1, 9.0, 8.9, 9.05, 8.95], [10.0, 10.1, 9.9, 10.0, 10.0]
    found, inverse = time_ratio(a, b), time_ratio(b, a)
    assert found["n"] == 5 and found["ratio"] == pytest.approx(1 / inverse["ratio"])
    assert found["t_low"] < found["low"] < found["ratio"] < found["high"] < found["t_high"] < 1
    assert found == time_ratio(a, b) and judged(found, 1) == "below" and judged(inverse, 1) == "above"
    assert time_ratio([9], [10])["low"] is None and judged(time_ratio([9], [10]), 1) == "open"


@pytest.mark.parametrize("pairs, held", [(2, 0.5), (4, 0.8), (12, 0.9)])
def test_a_bootstrap_of_few_pairs_is_too_narrow_and_says_so(pairs, held):
    ratios = np.exp(0.05 * np.random.default_rng(pairs).standard_normal((200, pairs)))
    found = [time_ratio(of, [1.0] * pairs) for of in ratios]
    for low, high, share in (("low", "high", held), ("t_low", "t_high", 0.95)):
        seen = sum(ratio[low] < 1 < ratio[high] for ratio in found) / len(found)
        assert abs(seen - share) < 3 * (share * (1 - share) / len(found)) ** 0.5 + 0.03, low
    assert interval_of(found[0]).endswith("by bootstrap, too narrow for few pairs")


@pytest.mark.parametrize("pairs", [2, 3, 6])
def test_equal_sides_are_called_different_in_5_percent_at_most(pairs):
    rng, times = np.random.default_rng(pairs), 200
    noise = np.exp(0.01 * rng.standard_normal((times, 2, pairs)))
    wrong = sum(judged(time_ratio(a, b), 1) != "open" for a, b in noise)
    assert wrong <= times * 0.05 + 3 * (times * 0.05 * 0.95) ** 0.5  # 3 sigma of the Monte-Carlo error
    faster = sum(judged(time_ratio(0.8 * a, b), 1) == "below" for a, b in noise[:50])
    assert pairs == 2 or faster > 45
