"""The self-test passes where evaluation is right, and fails where it is wrong."""

from dataclasses import replace

import numpy as np
import pytest

from flow3r.eval import selftest as module
from flow3r.eval.selftest import FAULTS, Check, selftest


@pytest.fixture(scope="module")
def checks() -> list[Check]:
    return list(selftest())


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


def test_a_measure_that_is_blind_is_noticed(monkeypatch):
    harmless = replace(FAULTS[0], name="nothing", plant=lambda sample: sample)
    harmful = replace(FAULTS[-1], plant=lambda s: replace(s, flow=np.zeros_like(s.flow)))
    monkeypatch.setattr(module, "FAULTS", (harmless, harmful))
    blind, harmed = (check for check in selftest() if "scores perfect" not in check.text)
    assert not blind.passed and "is not seen by any of rra@5" in blind.text
    assert not harmed.passed and "lowers aepe, which it does not touch" in harmed.text
