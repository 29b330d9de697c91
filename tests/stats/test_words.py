"""Figures in words, for every page alike."""
import pytest

from speedrun.stats import intervals, words
from speedrun.stats.crossing import censored_mean

ALONE = dict(mean=1.5, low=None, high=None)


def test_an_interval_is_said_where_there_is_one():
    found = intervals.mean_interval([1.0, 2.0, 3.0])  # t(.975, 2) = 4.303, sd 1
    assert words.interval(found, ".2f") == "2.00 (-0.48 to 4.48)"
    assert words.interval(found, "+.0f", "95 % ", to="–") == "+2 (95 % -0–+4)"
    assert words.interval(ALONE, ".1f", "95 % ") == "1.5"
    assert words.interval(None, ".1f") == words.interval(dict(ALONE, mean=None), ".1f") == ""


def test_the_spread_of_one_seed_is_not_said():
    assert words.mean_and_sd(intervals.mean_interval([1.0, 2.0, 3.0]), ".2f") == "2.00 (sd 1.00)"
    assert words.mean_and_sd(intervals.mean_interval([1.0]), ".2f") == "1.00"


def test_seeds_that_never_cross_are_counted():
    assert words.crossing(censored_mean([1240, 1250, 1260])) == "1,250.0 (1,225.2 to 1,274.8)"
    assert words.crossing(censored_mean([240.0], [300])) == "1 of 2 seeds cross"
    assert words.crossing(censored_mean([240, 241], [300])).endswith("), 2 of 3 seeds cross")


@pytest.mark.parametrize("p, said", [(0.0123, "0.012"), (0.001, "0.001"), (0.000999, "< 0.001")])
def test_a_small_p_is_said_to_be_below_a_bound(p, said):
    assert words.p_value(p) == said
    assert words.p_value(p, equals="= ") == (said if said[0] == "<" else f"= {said}")
    assert words.p_value(p, ".001") == said.replace("< 0", "< ")


def test_a_count_has_its_plural():
    assert [words.count(n, "seed") for n in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]
