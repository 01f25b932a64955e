"""Intervals over few seeds and many worlds, on data whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from flow3r.experiment.seed_intervals import drawn_correlations, drawn_means, ranks, seed_interval, widening


def scattered(random, seeds=3, worlds=60, *, between_seeds=0.0, between_worlds=0.0, within=1.0):
    """Values by seed and world about zero, as two crossed effects and what is left."""
    a, b = random.normal(0, between_seeds, (seeds, 1)), random.normal(0, between_worlds, (1, worlds))
    return a + b + random.normal(0, within, (seeds, worlds))


def test_where_seeds_agree_the_interval_is_the_analytic_one_over_worlds():
    values = np.random.default_rng(0).normal(3.0, 2.0, 500)
    found = seed_interval(drawn_means(np.stack([values] * 3)))
    half = 1.96 * values.std() / np.sqrt(500)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.06 * half)


def test_where_only_many_seeds_differ_the_interval_is_that_of_student():
    random = np.random.default_rng(1)
    by_seed = random.normal(1.0, 2.0, 25)
    found = seed_interval(drawn_means(np.repeat(by_seed[:, None], 10, 1)))
    low, high = stats.t.interval(0.95, 24, by_seed.mean(), stats.sem(by_seed))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.12 * (high - low))


def test_three_seeds_are_widened_by_the_ratio_of_student_and_normal_quantiles():
    assert widening(3) == pytest.approx(4.302653 / 1.959964 * np.sqrt(1.5), abs=1e-5)
    assert widening(1000) == pytest.approx(1, abs=0.002)


@pytest.mark.parametrize(
    ("scatter", "error"),
    [
        ({"between_seeds": 5.0, "within": 0.1}, 0.072),
        ({"between_worlds": 1.0, "within": 1.0}, 0.04),
        ({"between_seeds": 0.13, "within": 1.0}, 0.088),
    ],
    ids=["seeds differ", "worlds differ", "both alike"],
)
def test_the_interval_misses_the_truth_as_rarely_as_is_told(scatter, error):
    """`error`: as often as was found when the rule was simulated; twice as many are found out."""
    random = np.random.default_rng(2)
    found = (seed_interval(drawn_means(scattered(random, **scatter), 400)) for _ in range(600))
    missed = sum(not one.low <= 0 <= one.high for one in found)
    assert 0.5 * error <= missed / 600 <= 1.5 * error


def test_pairing_by_world_takes_out_what_makes_worlds_differ():
    random = np.random.default_rng(3)
    hard = random.normal(0, 10, 200)
    one, other = (hard + random.normal(0, 1, (3, 200)) for _ in range(2))
    paired = seed_interval(drawn_means(one - other))
    apart = seed_interval(drawn_means(one, part=0) - drawn_means(other, part=1))
    assert paired.mean == pytest.approx(apart.mean)
    assert paired.high - paired.low < 0.25 * (apart.high - apart.low)


def test_worlds_without_a_value_are_left_out_seed_by_seed():
    values = np.array([[1.0, np.nan, 3.0], [2.0, 4.0, np.nan]])
    assert drawn_means(values, 200).point.tolist() == [2.0, 3.0]
    full = np.random.default_rng(4).normal(0, 1, (2, 40))
    padded = np.concatenate([full, np.full((2, 1), np.nan)], 1)
    assert seed_interval(drawn_means(padded, 200)).mean == pytest.approx(seed_interval(drawn_means(full, 200)).mean)


def test_the_order_of_seeds_and_worlds_does_not_matter_to_the_mean_and_hardly_to_the_bounds():
    random = np.random.default_rng(5)
    values = scattered(random, between_seeds=0.5, between_worlds=1.0)
    found = seed_interval(drawn_means(values))
    turned = seed_interval(drawn_means(values[::-1, random.permutation(60)]))
    assert turned.mean == pytest.approx(found.mean)
    assert (turned.low, turned.high) == pytest.approx((found.low, found.high), abs=0.06 * (found.high - found.low))


def test_rank_correlation_is_that_of_scipy():
    random = np.random.default_rng(6)
    fact = np.round(random.uniform(0, 5, 80))  # with ties, as counts of objects have
    values = np.stack([fact + random.normal(0, 3, 80), -np.exp(fact)])
    values[0, 7] = np.nan
    kept = np.arange(80) != 7
    drawn = drawn_correlations(values, fact, 300)
    assert drawn.point[0] == pytest.approx(stats.spearmanr(values[0, kept], fact[kept]).statistic)
    assert drawn.point[1] == pytest.approx(-1)
    assert drawn.draws[:, 1] == pytest.approx(np.full(300, -1))
    assert ranks(np.array([3.0, 1.0, np.nan, 3.0])).tolist()[:2] == [1.5, 0.0]


def test_rank_correlation_of_what_is_unrelated_has_an_interval_about_zero():
    random = np.random.default_rng(7)
    held = 0
    for _ in range(100):
        drawn = drawn_correlations(random.normal(0, 1, (3, 50)), random.uniform(0, 1, 50), 300)
        found = seed_interval(drawn)
        held += found.low <= 0 <= found.high
    assert held >= 85


def test_one_seed_has_the_interval_of_its_worlds_and_none_is_refused():
    values = np.random.default_rng(8).normal(0, 1, (1, 100))
    found = seed_interval(drawn_means(values))
    assert found.seeds == 1 and found.low < found.mean < found.high
    with pytest.raises(ValueError, match="no seed"):
        seed_interval(drawn_means(np.empty((0, 100))))
