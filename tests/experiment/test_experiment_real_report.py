"""The report of the runs on real clips: means, and differences that are signed, paired and by sequence."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from synthetic_results import Truth, write_arm, write_trivial

from flow3r.errors import InputError
from flow3r.experiment.claims import Side
from flow3r.experiment.real_report import analyse_real, as_page, report_real
from flow3r.experiment.result_files import read_runs

SEQUENCES = [f"sequence{k}" for k in range(8)]
TRUTH = Truth(worlds=len(SEQUENCES), within=1.0)
WORTH = {"base": 0.0, "3d-sup": 2.0, "flow-factored": 20.0, "flow-tracking": 19.9}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Four arms of three seeds, one of which diverged, as runs leave them."""
    out = tmp_path_factory.mktemp("out")
    for arm, worth in WORTH.items():
        diverged = (1,) if arm == "flow-tracking" else ()
        write_arm(out, Side(arm, "real"), worth, TRUTH, aepe=9.0, diverged=diverged)
    write_trivial(out, "vggt", "real", TRUTH)
    for path in (*out.glob("cpu/vggt/real/*/seed*/result.json"), out / "cpu/vggt/real/trivial.json"):
        content = json.loads(path.read_text()) | {"tests": "f" * 64}
        if "test" in content:
            content["test"]["names"] = SEQUENCES
        path.write_text(json.dumps(content))
    return out / "cpu"


@pytest.fixture(scope="module")
def told(results) -> dict:
    return analyse_real(read_runs(results.parent, "cpu"), results, resamples=500)


def test_every_arm_that_was_run_is_a_row_and_every_other_is_named(told):
    assert [row["arm"] for row in told["rows"]] == ["base", "3d-sup", "flow-factored", "flow-tracking"]
    assert told["missing"] == ["flow-factored-worlds", "flow-projective", "flow-factored-transductive"]
    assert told["sequences"] == SEQUENCES
    assert told["rows"][3]["diverged"].keys() == {"1"} and set(told["rows"][3]["by_seed"]) == {"0", "2"}


def test_differences_are_positive_where_the_first_is_better(told):
    found = {(one["worse"], one["measure"]): one for one in told["differences"]}
    gain = found["3d-sup", "auc@30"]
    assert gain["low"] > 0 and gain["mean"] == pytest.approx(18, abs=3) and gain["seeds"] == 3
    assert found["3d-sup", "rotation"]["mean"] > 0 and found["3d-sup", "mse"]["mean"] > 0
    assert found["flow-tracking", "auc@30"]["seeds"] == 2
    assert len(gain["by_sequence"]) == 8 and np.mean(gain["by_sequence"]) == pytest.approx(gain["mean"])


def test_a_measure_that_a_sequence_lacks_is_null_there_and_no_hindrance(told):
    row = next(row for row in told["rows"] if row["arm"] == "flow-factored")
    assert row["by_sequence"]["aepe"][0] is None and row["test"]["aepe"]["mean"] == pytest.approx(9, abs=2)


def test_the_page_has_all_rows_and_both_files_are_written(results, told, tmp_path):
    data, page = report_real(results, tmp_path)
    assert json.loads(data.read_text())["sequences"] == SEQUENCES
    text = page.read_text()
    for name in (*WORTH, "*identity*", "flow-factored over 3d-sup", "Not run: flow-factored-worlds", *SEQUENCES):
        assert name in text
    assert as_page(told).count("NaN") == 0


@pytest.mark.parametrize("place", ["base/seed2/result.json", "trivial.json"])
def test_runs_that_were_tested_on_different_frames_are_refused(results, tmp_path, place):
    shutil.copytree(results.parent, tmp_path / "out")
    path = tmp_path / "out/cpu/vggt/real" / place
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tests": "0" * 64}))
    with pytest.raises(InputError, match=r"different frames .*00000000"):
        analyse_real(read_runs(tmp_path / "out", "cpu"), tmp_path / "out/cpu")


def test_nothing_that_was_run_is_an_empty_page(tmp_path):
    (tmp_path / "cpu").mkdir()
    told = analyse_real(read_runs(tmp_path, "cpu"), tmp_path / "cpu", resamples=10)
    assert told["rows"] == [] and "Not run: base" in as_page(told)
