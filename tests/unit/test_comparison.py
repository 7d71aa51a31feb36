"""Chapters 48 and 72: verdicts on made-up values whose truth is known."""

from itertools import combinations

import numpy as np
import pytest
from command import said
from scipy import stats

from semgan_nb.comparison import SCALES, comparison_text, fit_line, paired_spread, recommend
from semgan_nb.paired_differences import compare_measures, compare_settings, holm, paired_t, power, smallest_seen


def settings(rng, levels, seeds, scatter=1.0):
    """Values of settings at these levels; what a seed does to all of them alike is large."""
    both = 5 * rng.normal(size=seeds)
    return {name: {s: level + both[s] + scatter * rng.normal() for s in range(seeds)} for name, level in levels.items()}


def test_one_comparison_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    values = settings(rng, dict(a=20, b=21), 6)
    (one,) = compare_settings(values)
    theirs = stats.ttest_rel(list(values["b"].values()), list(values["a"].values()))
    low, high = theirs.confidence_interval(0.95)
    assert (one.p, one.low, one.high) == pytest.approx((theirs.pvalue, low, high)) and one.p == one.p_holm


def test_seeds_that_only_one_setting_has_play_no_part():
    values = {"a": {0: 1.0, 1: 2.0, 2: 99.0}, "b": {1: 2.5, 0: 1.6, 7: -99.0, 3: float("nan")}, "c": {5: 1.0}}
    (one,) = compare_settings(values)
    assert one.seeds == 2 and one.mean == pytest.approx(0.55)


def test_holm_against_its_definition():
    p = np.random.default_rng(1).random((50, 6)) ** 3
    for row, adjusted in zip(p, holm(p)):
        order = np.argsort(row)
        by_hand, top = np.empty(6), 0
        for rank, k in enumerate(order):
            top = max(top, min(1, row[k] * (6 - rank)))
            by_hand[k] = top
        np.testing.assert_allclose(adjusted, by_hand)


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_an_interval_leaves_zero_out_exactly_where_a_difference_is_shown(seeds):
    rng = np.random.default_rng(seeds)
    shown = 0
    for _ in range(30):
        found = compare_settings(settings(rng, dict(a=0, b=0, c=rng.normal(0, 30), d=3), seeds))
        assert all((one.low > 0 or one.high < 0) == one.shown == (one.p_holm < 0.05) for one in found)
        shown += sum(one.shown for one in found)
    assert shown


@pytest.mark.parametrize("seeds, kind", [(3, "normal"), (5, "skewed"), (5, "smallest"), (10, "normal")])
def test_equal_settings_show_a_difference_in_at_most_5_of_100_studies(seeds, kind):
    rng, shape = np.random.default_rng(seeds), (4000, 8, seeds)
    scatter = dict(
        normal=lambda: rng.normal(size=shape),
        skewed=lambda: np.exp(rng.normal(size=shape)),
        smallest=lambda: rng.normal(size=(*shape, 20)).min(-1),
    )[kind]()
    pairs = np.array(list(combinations(range(8), 2)))
    wrong = (holm(paired_t(scatter[:, pairs[:, 1]] - scatter[:, pairs[:, 0]])[2]) < 0.05).any(-1).mean()
    assert wrong < 0.05 + 2.5 * (0.05 * 0.95 / 4000) ** 0.5


@pytest.mark.parametrize("difference", [1, 2, 3])
@pytest.mark.parametrize("seeds", [3, 10])
def test_power_is_what_made_up_studies_count(difference, seeds):
    values = np.random.default_rng(7).normal(difference, 1, (4000, seeds))
    counted = (paired_t(values)[2] < 0.05 / 6).mean()
    assert counted == pytest.approx(float(power(difference, seeds, 6)), abs=0.025)
    size = smallest_seen(seeds, 6)
    assert float(power(size, seeds, 6)) == pytest.approx(0.8, abs=1e-3)


def test_values_of_a_share_are_rounded_and_equal_differences_are_no_certainty():
    equal = {"a": {0: 0.30, 1: 0.32}, "b": {0: 0.33, 1: 0.35}, "c": {0: 0.40, 1: 0.10}}
    assert not any(one.shown for one in compare_settings(equal)) and compare_settings(equal)[0].p == 1
    assert 0 < compare_settings(equal, step=1 / 500)[0].p < 0.05
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(300):
        values = {name: {s: round(500 * rng.normal(0.4, 0.004)) / 500 for s in range(2)} for name in "abcdef"}
        wrong += any(one.shown for one in compare_settings(values, step=1 / 500))
    assert wrong < 300 * 0.09  # of 5 in 100, and rounding


def test_few_seeds_say_what_they_could_have_seen():
    rng = np.random.default_rng(4)
    few, many = settings(rng, dict(a=40, b=41, c=40), 3), settings(rng, dict(a=40, b=41, c=40), 6)
    text = comparison_text(few, compare_settings(few))
    size = smallest_seen(3, 3) * paired_spread(few)
    assert "None of 3 comparisons" in text and f"from {size:.3g} on" in text and "in 4 of 5 studies" in text
    assert "in 4 of 5 studies" not in comparison_text(many, compare_settings(many))
    assert "share two seeds" in comparison_text({"a": {0: 1.0}, "b": {0: 2.0}}, [])
    clear = settings(rng, dict(zip("abcde", (10, 60, 110, 160, 210))), 5, scatter=0.1)
    text = comparison_text(clear, compare_settings(clear), dict(a="the first"))
    assert text.startswith("10 of 10 comparisons show a difference, the clearest: ") and text.count(";") == 2


def test_the_papers_two_point_lines():
    quality = fit_line(SCALES["log10"](np.array([1000, 3000])), (13.25, 6.59))
    diversity = fit_line(SCALES["sqrt"](np.array([1000, 3000])), (0.45, 0.58))
    assert (quality.intercept, quality.slope) == pytest.approx((55.13, -13.96), abs=0.006)
    assert (diversity.intercept, diversity.slope) == pytest.approx((0.2724, 0.005615), abs=1e-4)
    assert np.allclose(quality.residuals, 0) and np.isnan(quality.slope_low)
    assert "two different sizes" in said(fit_line, [3, 3], [1, 2])


def test_measures_together_are_stricter_than_one():
    rng = np.random.default_rng(5)
    values = settings(rng, dict(a=0, b=3.2, c=0), 5)
    alone, both = compare_settings(values), compare_measures(dict(x=values, y=settings(rng, dict(a=0, b=0, c=0), 5)))
    assert len(both["x"]) == len(both["y"]) == 3
    assert all(two.p == one.p and two.p_holm >= one.p_holm for one, two in zip(alone, both["x"]))


@pytest.mark.parametrize(
    "distances, recalls, remain, words",
    [
        ((40, 20, 40, 60), (0.3, 0.7, 0.3, 0.1), [0.5], "Take target 0.5: target 0.5 is shown to be better than"),
        ((40, 20, 40, 60), (0.4, 0.4, 0.4, 0.4), [0.5], "No difference is shown in recall"),
        ((20, 20, 20, 60), (0.4, 0.4, 0.4, 0.4), [0.3, 0.5, 0.7], "Not target 0.9: "),
        ((20, 40, 60, 80), (0.2, 0.4, 0.6, 0.8), [0.3, 0.5, 0.7, 0.9], "No choice is best in everything"),
        ((40, 40, 40, 40), (0.4, 0.4, 0.4, 0.4), [0.3, 0.5, 0.7, 0.9], "Not distinguishable with these seeds"),
    ],
)
def test_a_target_is_recommended_where_the_truth_is_known(distances, recalls, remain, words):
    rng, targets = np.random.default_rng(8), (0.3, 0.5, 0.7, 0.9)
    found = recommend(
        dict(
            distance=(settings(rng, dict(zip(targets, distances)), 6), False),
            recall=(settings(rng, dict(zip(targets, recalls)), 6, 0.02), True),
        ),
        words={target: f"target {target}" for target in targets},
    )
    assert found.remain == remain and words in found.text


def test_one_seed_recommends_nothing():
    found = recommend(dict(distance=({0.3: {0: 9.0}, 0.5: {0: 7.0}}, False)))
    assert found.front == [0.5] and found.text.startswith("Not distinguishable with these seeds: it takes two seeds")
    assert recommend(dict(distance=({0.3: {0: 9.0}}, False))).text == "There is nothing to choose from."
