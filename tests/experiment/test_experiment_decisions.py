"""Claims are decided as the truth behind made-up results has it; what cannot be used is refused or counted."""

import json
from dataclasses import replace

import pytest
from synthetic_results import Truth, write_arm

from flow3r.errors import InputError
from flow3r.experiment.claims import Conjunction, Hypothesis, Side
from flow3r.experiment.comparisons import decide, decision
from flow3r.experiment.hypotheses import conjunctions, hypotheses
from flow3r.experiment.result_files import FACTS, MEASURES, read_run, read_runs

LIKE_OURS = Truth()
A, B = Side("flow-factored"), Side("3d-sup")


def claim(measure="auc@30", better=(A,), worse=(B,), **others) -> Hypothesis:
    return Hypothesis("table1/x", "table1", "A is better than B.", "ours", measure, better, worse, **others)


def decided(out, *, gain, truth=LIKE_OURS, measure="auc@30", seeds_of_a=(0, 1, 2), diverged=((), ()), resamples=2000):
    write_arm(out, A, 10 + gain, replace(truth, seeds=seeds_of_a), aepe=9.0, diverged=diverged[0])
    write_arm(out, B, 10, truth, diverged=diverged[1])
    return decision(claim(measure), read_runs(out, "cpu"), resamples)


@pytest.mark.parametrize("measure", ["auc@30", "mse", "rotation"])
def test_a_known_gain_is_supported_and_its_opposite_contradicted(tmp_path, measure):
    """Also where less is better: a gain is positive in all measures."""
    better, worse = (decided(tmp_path / name, gain=gain, measure=measure) for name, gain in (("a", 8), ("b", -8)))
    assert (better.verdict, worse.verdict) == ("supported", "contradicted")
    assert better.interval.mean > 0 > worse.interval.mean
    assert set(better.by_seed) == {0, 1, 2} and better.worlds == 60


def test_the_difference_is_that_which_was_put_in(tmp_path):
    quiet = Truth(between_seeds=0.0, within=0.01)
    assert decided(tmp_path, gain=5, truth=quiet).interval.mean == pytest.approx(5, abs=0.01)


def test_where_nothing_differs_no_more_than_about_one_claim_in_ten_is_decided(tmp_path):
    """One result for each of many made-up arms; seeds, worlds and what is left all scatter, in the mix in which most
    are decided: 99 of 1,000 that were drawn as these are."""
    wrong = 0
    for number in range(100):
        out = tmp_path / str(number)
        one, other = Side(f"flow-{number}"), Side(f"3d-{number}")
        for side in (one, other):
            write_arm(out, side, 10, Truth(worlds=20, between_seeds=1.0))
        made = decision(claim(better=(one,), worse=(other,)), read_runs(out, "cpu"), 400)
        wrong += made.verdict != "undecided"
    assert 2 <= wrong <= 14  # 20 if it were twice as many


def test_a_claim_of_halves_needs_what_it_supposes(tmp_path):
    t = Side("flow-tracking")
    gain = claim()
    little = replace(claim(better=(A, B), worse=(t,), presupposes=gain.id), id="table1/little")
    for name, worth, verdict in (("gains", 12, "supported"), ("loses", -12, "undecided")):
        write_arm(tmp_path / name, A, 10 + worth)
        write_arm(tmp_path / name, B, 10)
        write_arm(tmp_path / name, t, 10 + worth / 2 - 5)
        _, made = decide((gain, little), (), read_runs(tmp_path / name, "cpu"), 1000)
        assert made.verdict == verdict, name
    assert gain.id in made.why


def test_several_parts_hold_together_or_not_at_all(tmp_path):
    pose, flow = claim(), replace(claim("aepe", (Side("flow-tracking"),), (A,)), id="table1/flow")
    both = Conjunction("table1/both", "table1", "Both.", "ours", (pose.id, flow.id))
    for aepe, verdict in ((5.0, "supported"), (15.0, "contradicted")):
        write_arm(tmp_path, A, 20, aepe=9.0)
        write_arm(tmp_path, B, 10)
        write_arm(tmp_path, Side("flow-tracking"), 10, aepe=aepe)
        *_, made = decide((pose, flow), (both,), read_runs(tmp_path, "cpu"), 1000)
        assert made.verdict == verdict


def test_error_that_grows_with_a_fact_is_seen_and_error_that_does_not_is_not(tmp_path):
    trend = claim("rotation", (), (A,), grows_with="moving_area")
    lost = claim("rotation", (B,), (A,), grows_with="moving_area")
    write_arm(tmp_path / "grows", A, 10, Truth(area=60.0))
    write_arm(tmp_path / "grows", B, 10, Truth(area=0.0))
    write_arm(tmp_path / "shrinks", A, 10, Truth(area=-60.0))
    runs = read_runs(tmp_path / "grows", "cpu")
    assert [decision(one, runs, 1000).verdict for one in (trend, lost)] == ["supported", "supported"]
    assert decision(trend, read_runs(tmp_path / "shrinks", "cpu"), 1000).verdict == "contradicted"


def test_training_worlds_are_compared_with_test_worlds_without_being_paired(tmp_path):
    write_arm(tmp_path, B, 10)
    made = decision(claim(better=(replace(B, split="train"),), worse=(B,)), read_runs(tmp_path, "cpu"), 1000)
    assert made.verdict == "supported" and made.worlds == 80


def test_missing_runs_are_named_and_the_rest_is_compared(tmp_path):
    made = decided(tmp_path, gain=8, seeds_of_a=(0, 2))
    assert made.missing == ("vggt/dynamic/flow-factored/seed1",) and set(made.by_seed) == {0, 2}
    alone = decided(tmp_path / "one", gain=8, seeds_of_a=(1,))
    assert alone.verdict == "undecided" and "one seed" in alone.why
    none = decision(claim(), read_runs(tmp_path / "nothing", "cpu"), 100)
    assert none.verdict == "not run" and len(none.missing) == 6


def test_a_measure_that_no_run_has_is_missing(tmp_path):
    made = decided(tmp_path, gain=8, measure="aepe")
    assert made.verdict == "undecided" and "aepe of vggt/dynamic/3d-sup/seed0" in made.missing


def test_what_diverged_is_counted_and_never_helps_its_side(tmp_path):
    some = decided(tmp_path / "a", gain=8, diverged=((1,), ()))
    assert some.diverged == ("vggt/dynamic/flow-factored/seed1",) and set(some.by_seed) == {0, 2}
    assert some.verdict == "undecided"
    against = decided(tmp_path / "b", gain=8, diverged=((), (1,)), truth=Truth(between_seeds=0.0))
    assert against.verdict == "supported"
    assert decided(tmp_path / "c", gain=8, diverged=((0, 1, 2), ())).verdict == "contradicted"
    assert decided(tmp_path / "d", gain=-8, diverged=((), (0, 1, 2))).verdict == "supported"
    both = decided(tmp_path / "e", gain=8, diverged=((0, 1, 2), (0, 1, 2)))
    assert both.verdict == "undecided" and len(both.diverged) == 6


def test_sides_without_a_common_seed_decide_nothing(tmp_path):
    """Although no run of the worse side that could be compared did not diverge."""
    t = Side("flow-tracking")
    write_arm(tmp_path, A, 10)
    write_arm(tmp_path, B, 10, replace(LIKE_OURS, seeds=(0, 1)))
    write_arm(tmp_path, t, 10, replace(LIKE_OURS, seeds=(2, 3)))
    assert decision(claim(worse=(B, t)), read_runs(tmp_path, "cpu"), 100).verdict == "undecided"


def test_every_measure_that_decides_is_one_that_runs_have():
    for one in hypotheses():
        assert one.measure in MEASURES and one.grows_with in (None, *FACTS)


def test_all_claims_are_told_to_be_not_run_before_any_run(tmp_path):
    made = decide(hypotheses(), conjunctions(), read_runs(tmp_path, "cpu"))
    assert {one.verdict for one in made} == {"not run"} and len(made) == len(hypotheses()) + len(conjunctions())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version 2"),
        ({"seed": "0"}, "'seed' is '0'"),
        ({"steps": True}, "'steps' is True"),
        ({"test": None}, "no measures of test worlds"),
        ({"test": {"worlds": 2, "measures": {"mse": [0.1]}}}, "1 values for 2 worlds"),
        ({"test": {"worlds": 1, "measures": {"mse": ["a"]}}}, "neither finite numbers nor null"),
        ({"seed": 1}, "was moved"),
    ],
)
def test_a_result_that_cannot_be_used_is_refused_with_its_path(tmp_path, change, words):
    write_arm(tmp_path, B, 10, Truth(seeds=(0,)))
    (path,) = tmp_path.rglob("result.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | change))
    with pytest.raises(InputError, match=words) as raised:
        read_runs(tmp_path, "cpu")
    assert str(path) in str(raised.value)


def test_broken_json_nan_and_absent_fields_are_refused(tmp_path):
    path = tmp_path / "result.json"
    for text, words in (("{", "cannot be read"), ('{"seed": NaN}', "NaN is not JSON"), ("[]", "no JSON object")):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read_run(path)
    path.write_text('{"version": 1}')
    with pytest.raises(InputError, match="it has no 'schedule'"):
        read_run(path)


@pytest.mark.parametrize(("what", "other"), [("steps", 400), ("flow_weight", 0.3)])
def test_an_arm_whose_seeds_were_trained_otherwise_is_refused(tmp_path, what, other):
    write_arm(tmp_path, A, 10)
    path = tmp_path / "cpu/vggt/dynamic/flow-factored/seed1/result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {what: other}))
    with pytest.raises(InputError, match=rf"its seeds differ in {what} \(seed 0: [\d.]+, seed 1: {other}"):
        read_runs(tmp_path, "cpu")


def test_runs_of_a_regime_that_were_tested_on_different_worlds_are_not_compared(tmp_path):
    write_arm(tmp_path, A, 10, Truth(worlds=30))
    write_arm(tmp_path, B, 10, Truth(worlds=60))
    with pytest.raises(InputError, match=r"\[30, 60\] worlds"):
        read_runs(tmp_path, "cpu")
