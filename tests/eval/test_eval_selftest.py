"""The self-test passes where evaluation is right, and fails where it is wrong."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from flow3r.eval import measures
from flow3r.eval import score as scoring
from flow3r.eval import selftest as module
from flow3r.eval.report import COLUMNS
from flow3r.eval.selftest import FAULTS, Check, selftest


@pytest.fixture(scope="module")
def recorded() -> tuple[list[Check], dict[str, list[dict]]]:
    """The checks on worlds, and the rows that they rest on by the name of what was planted."""
    rows = {}

    def score(benchmark, manifest, root, samples, scores, **options):
        rows[scores.parent.name] = list(honest(benchmark, manifest, root, samples, scores, **options))
        return rows[scores.parent.name]

    honest = module.score
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "score", score)
        return list(selftest()), rows


@pytest.fixture
def checks(recorded) -> list[Check]:
    return recorded[0]


def test_every_check_passes_on_worlds(checks):
    assert not [check.text for check in checks if not check.passed]


def test_the_truth_is_checked_on_every_world_and_every_fault_is_planted(checks):
    assert sum("scores perfect" in check.text for check in checks) == module.MOST_DRAWS
    for fault in FAULTS:
        assert sum(f": {fault.name}: lowers" in check.text for check in checks) == 1, fault.name


def test_an_oracle_that_errs_is_noticed(monkeypatch):
    honest = module.oracle_sample

    def off(sequence, frames):
        sample = honest(sequence, frames)
        poses = sample.world_from_camera.copy()
        poses[0, :3, 3] += 0.05
        return replace(sample, world_from_camera=poses)

    monkeypatch.setattr(module, "oracle_sample", off)
    monkeypatch.setattr(module, "FAULTS", ())
    assert not any(check.passed for check in selftest())


def test_a_fault_that_nothing_sees_and_one_that_harms_what_it_should_not_are_noticed(monkeypatch):
    harmless = replace(FAULTS[0], name="nothing", plant=lambda sample: sample)
    harmful = replace(FAULTS[-1], plant=lambda s: replace(s, flow=np.zeros_like(s.flow)))
    monkeypatch.setattr(module, "FAULTS", (harmless, harmful))
    blind, harmed, last = (check for check in selftest() if "scores perfect" not in check.text)
    assert not blind.passed and "is not seen by any of rra@5" in blind.text
    assert not harmed.passed and "which it does not touch" in harmed.text and "and lowers aepe" in harmed.text
    assert not last.passed and "no fault lowers rra@5" in last.text and "aepe" not in last.text


def replayed(monkeypatch, rows, change) -> list[Check]:
    """The checks of recorded rows whose values are changed."""

    def score(benchmark, manifest, root, samples, scores, **options):
        return [row | {"values": change(dict(row["values"]))} for row in rows[scores.parent.name]]

    monkeypatch.setattr(module, "score", score)
    truth = SimpleNamespace(flow=())  # is there; nothing is planted in it, since that was measured already
    monkeypatch.setattr(module, "FAULTS", tuple(replace(fault, plant=lambda sample: sample) for fault in FAULTS))
    monkeypatch.setattr(module, "oracle_sample", lambda sequence, frames: truth)
    monkeypatch.setattr(module, "write_sample", lambda path, sample: None)
    return list(selftest())


def test_every_main_measure_that_is_dead_is_noticed(monkeypatch, recorded):
    _, rows = recorded
    oracle = rows["oracle"][0]["values"]
    main = [name for name in oracle if COLUMNS[name].main]
    assert {"ate", "rpe_translation", "rpe_rotation", "rta@30", "auc@30", "chamfer", "f@2", "f@5"} <= set(main)
    assert all(check.passed for check in replayed(monkeypatch, rows, lambda values: values))
    for name in main:
        *_, last = failed = [
            check.text
            for check in replayed(monkeypatch, rows, lambda values, name=name: values | {name: oracle[name]})
            if not check.passed
        ]
        assert last == f"worlds: no fault lowers {name}"
        concerned = [fault.name for fault in FAULTS if name in fault.lowers]
        assert concerned
        for fault, text in zip(concerned, failed, strict=False):
            assert text.startswith(f"worlds: {fault}: lowers") and f", and not {name}, which must tell" in text


def test_a_measure_that_is_fixed_by_what_scores_is_noticed(monkeypatch):
    honest = measures.score_scene

    def blind(*arguments, **options):
        found = honest(*arguments, **options)
        return replace(found, values=found.values | {"chamfer": 0.0})

    monkeypatch.setattr(scoring, "score_scene", blind)
    monkeypatch.setattr(module, "FAULTS", FAULTS[2:3])
    fault, last = (check for check in selftest() if "scores perfect" not in check.text)
    assert not fault.passed and "and not chamfer, which must tell" in fault.text
    assert not last.passed and "chamfer" in last.text and "mse" not in last.text


def test_a_measure_that_is_missing_is_noticed(monkeypatch, recorded):
    failed = [
        check.text
        for check in replayed(monkeypatch, recorded[1], lambda values: {k: v for k, v in values.items() if k != "ate"})
        if not check.passed
    ]
    assert len(failed) == sum("ate" in fault.lowers for fault in FAULTS)
    assert all("and not ate, which must tell" in text for text in failed)
