"""reconstruct and plan as commands: what cannot be written is refused before anything is worked out."""

import inspect

import numpy as np
import pytest
from PIL import Image

from flow3r import cli
from flow3r import reconstruct as in_python
from flow3r.cli.scenes import plan, reconstruct
from flow3r.reconstruction.forecast import forecast


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with an image; a reconstruction that is begun there fails the test."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("a.png")
    monkeypatch.setattr("flow3r.reconstruction.reconstruct", lambda *a, **k: pytest.fail("was begun"))
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--formats", "ply,foo"], "unknown format foo; expected some of npz, ply,"),
        (["--confidence-percentile", "200"], "confidence_percentile is 200.0; expected a percentage in [0, 100)"),
        (["--min-confidence", "5"], "min_confidence is 5.0; expected an absolute confidence in [0, 1]"),
        (["--max-points", "0"], "max_points is 0; expected at least 1"),
        ([], "out: holds viewer.html that flow3r did not write; choose another folder"),
    ],
)
def test_what_could_not_be_written_is_refused_at_the_door(flags, said, place, capsys):
    if not flags:
        (place / "out").mkdir()
        (place / "out" / "viewer.html").write_text("mine")
    before = sorted(place.rglob("*"))
    with pytest.raises(SystemExit) as exit_:
        cli.main(["reconstruct", "a.png", "-o", "out", *flags])
    assert exit_.value.code == 1 and said in capsys.readouterr().err
    assert sorted(place.rglob("*")) == before


def test_a_turntable_of_no_points_is_refused_before_the_scene_is_read(place, capsys):
    with pytest.raises(SystemExit):
        cli.main(["render", "missing", "--max-points", "0"])
    assert "max_points is 0" in capsys.readouterr().err


def test_plan_reconstruct_and_python_take_the_same_frames_by_default():
    defaults = {
        tuple(inspect.signature(run).parameters[name].default for name in ("max_frames", "shot"))
        for run in (reconstruct, plan, in_python, forecast)
    }
    assert defaults == {(32, "longest")}
