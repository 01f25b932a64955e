"""Intervals hold the truth as often as they say, pairs cancel what methods share, and coins are fair."""

import numpy as np
import pytest

from flow3r.eval.tables import intervals
from flow3r.eval.tables.intervals import mean_intervals, paired_differences, sign_test


def draws_of(values: np.ndarray) -> dict[str, dict[int, float]]:
    """(n, k): n sequences of k draws."""
    return {f"s{s}": dict(enumerate(map(float, row))) for s, row in enumerate(values)}


def test_the_interval_holds_the_true_mean_about_95_times_in_100() -> None:
    random = np.random.default_rng(1)
    inside = 0
    for k in range(200):
        sequences = random.normal(3.0, 2.0, size=(40, 1)) + random.normal(0.0, 0.5, size=(40, 3))
        found = mean_intervals({"ate": draws_of(sequences)}, resamples=400, seed=k)["ate"]
        inside += found.low <= 3.0 <= found.high
    assert 0.90 <= inside / 200 <= 0.98


def test_draws_of_one_sequence_are_no_evidence_of_their_own() -> None:
    """The cluster is the sequence: repeating every value in more draws changes nothing."""
    values = np.random.default_rng(2).normal(size=(12, 1))
    once, often = (mean_intervals({"m": draws_of(np.repeat(values, k, axis=1))})["m"] for k in (1, 5))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert (once.samples, often.samples, often.sequences) == (12, 60, 12)
    gaussian = 1.96 * values.std(ddof=1) / 12**0.5
    assert often.high - often.low == pytest.approx(2 * gaussian, rel=0.15)


def test_the_bootstrap_equals_a_loop_over_its_resamples() -> None:
    values = np.random.default_rng(3).normal(size=(9, 2))
    values[4, 1] = np.nan  # of one sequence only one draw has the measure
    data = {s: {d: v for d, v in draws.items() if v == v} for s, draws in draws_of(values).items()}
    found = mean_intervals({"m": data}, resamples=300, seed=5)["m"]
    drawn = np.random.Generator(np.random.PCG64(5)).integers(9, size=(300, 9))
    means = [np.nanmean(values[row]) for row in drawn]
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert found.mean == pytest.approx(np.nanmean(values)) and found.samples == 17


def test_chunks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"m": draws_of(np.random.default_rng(4).normal(size=(10, 1)))}
    whole = mean_intervals(data, resamples=500)["m"]
    monkeypatch.setattr(intervals, "CHUNK", 70)
    assert mean_intervals(data, resamples=500)["m"] == whole


def test_one_sequence_has_a_mean_and_no_interval() -> None:
    found = mean_intervals({"m": {"a": {0: 2.0, 1: 4.0}}, "none": {}})
    assert found["m"].mean == 3.0 and np.isnan([found["m"].low, found["m"].high]).all()
    assert "none" not in found and mean_intervals({}) == {}


def test_a_paired_difference_cancels_what_both_methods_find_hard() -> None:
    random = np.random.default_rng(6)
    hard, gain = random.normal(10.0, 5.0, size=(30, 2)), random.normal(0.5, 0.1, size=(30, 2))
    first, second = draws_of(hard - gain), draws_of(hard)
    second.pop("s29")
    first["s0"].pop(1)
    found = paired_differences({"ate": first}, {"ate": second}, {"ate": "lower"})["ate"]
    assert (found.interval.sequences, found.interval.samples) == (29, 57)
    assert -0.56 < found.interval.low < found.interval.mean < found.interval.high < -0.44
    assert (found.wins, found.losses, found.ties) == (29, 0, 0) and found.p < 1e-7
    alone = mean_intervals({"ate": first})["ate"]
    assert alone.high - alone.low > 20 * (found.interval.high - found.interval.low)


def test_a_method_against_itself_has_no_difference_and_only_ties() -> None:
    data = {"rra@30": draws_of(np.random.default_rng(7).normal(size=(12, 2)))}
    found = paired_differences(data, data, {"rra@30": "higher"})["rra@30"]
    assert (found.interval.low, found.interval.mean, found.interval.high) == (0.0, 0.0, 0.0)
    assert (found.wins, found.losses, found.ties, found.p) == (0, 0, 12, 1.0)


def test_swapping_methods_mirrors_everything() -> None:
    random = np.random.default_rng(8)
    one, two = ({"f@5": draws_of(random.normal(size=(20, 2)))} for _ in range(2))
    there, back = (paired_differences(a, b, {"f@5": "higher"})["f@5"] for a, b in ((one, two), (two, one)))
    assert (there.interval.low, there.interval.high) == pytest.approx((-back.interval.high, -back.interval.low))
    assert (there.wins, there.losses, there.p) == (back.losses, back.wins, back.p)


def test_the_sign_test_is_the_exact_binomial_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    for wins, losses in ((0, 0), (1, 0), (3, 3), (5, 0), (2, 9), (14, 6), (700, 801)):
        expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        assert sign_test(wins, losses) == pytest.approx(expected, rel=1e-9)
