"""What a run leaves to look at: records that are strict JSON and repeat no step, pictures in files, sinks if there."""

import builtins
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flow3r.draw import to_bytes
from flow3r.errors import TrainingError
from flow3r.train import log as log_module
from flow3r.train.log import RunLog

PICTURE = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(1))
PACE = {"steps/s": 2.0, "images/s": 1234.0, "data_wait": 0.25}


def strict(text: str) -> list[dict]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def records(folder: Path) -> list[dict]:
    return strict((folder / "log.jsonl").read_text())


def run_to(folder: Path, last: int, first: int = 0, **options) -> None:
    """A run that records its step, a value and a picture at every step up to `last` of 8."""
    with RunLog(folder, 8, first, quiet=True, **options) as log:
        for step in range(first + 1, last + 1):
            log.advance(step)
            log.scalars(step, {"loss": torch.tensor(1 / step), "grad/encoder": 2 * step})
            log.picture(step, "flow and points", PICTURE)


def test_every_record_is_one_object_with_all_its_values(tmp_path):
    run_to(tmp_path, 3)
    assert records(tmp_path) == [
        {"step": step, "loss": pytest.approx(1 / step), "grad/encoder": 2 * step} for step in (1, 2, 3)
    ]


def test_a_record_holds_what_each_tensor_is_whatever_its_type_and_shape(tmp_path):
    values = {"a": torch.tensor(0.1, dtype=torch.float64), "b": torch.tensor([0.5], dtype=torch.bfloat16), "c": 3}
    values |= {"d": torch.tensor(7), "e": torch.tensor(1.5, requires_grad=True)}
    with RunLog(tmp_path, 1, 0, quiet=True) as log:
        log.scalars(1, values)
    assert records(tmp_path) == [{"step": 1, "a": 0.1, "b": 0.5, "c": 3, "d": 7, "e": 1.5}]


def test_what_is_not_finite_is_null_and_named(tmp_path):
    with RunLog(tmp_path, 2, 0, quiet=True) as log:
        log.scalars(1, {"loss": torch.tensor(torch.nan), "a": 1.0, "b": float("inf"), "c": -torch.tensor(torch.inf)})
    (record,) = records(tmp_path)
    assert record == {"step": 1, "loss": None, "a": 1, "b": None, "c": None, "non_finite": record["non_finite"]}
    assert record["non_finite"] == {"loss": "nan", "b": "inf", "c": "-inf"}


def test_a_resumed_run_leaves_what_an_uninterrupted_one_does(tmp_path):
    run_to(tmp_path / "whole", 8)
    run_to(tmp_path / "cut", 6)
    with open(tmp_path / "cut" / "log.jsonl", "a") as file:
        file.write('{"step": 7, "lo')  # killed while writing
    run_to(tmp_path / "cut", 8, first=4)
    assert records(tmp_path / "whole") == records(tmp_path / "cut")
    whole, cut = ({path.name for path in (tmp_path / name / "pictures").iterdir()} for name in ("whole", "cut"))
    assert whole == cut and len(whole) == 8
    assert not list(tmp_path.rglob(".tmp-*"))


def test_what_a_resumed_run_will_repeat_is_dropped_before_it_does(tmp_path):
    run_to(tmp_path, 6)
    with RunLog(tmp_path, 8, 4, quiet=True):
        assert [record["step"] for record in records(tmp_path)] == [1, 2, 3, 4]
        assert len(list((tmp_path / "pictures").iterdir())) == 4


def test_old_records_stay_whole_if_dropping_some_fails(tmp_path, monkeypatch):
    run_to(tmp_path, 6)
    before = (tmp_path / "log.jsonl").read_text()

    def full(self: Path, text: str, **options: object) -> int:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        RunLog(tmp_path, 8, 4, quiet=True)
    assert (tmp_path / "log.jsonl").read_text() == before


def test_a_picture_is_a_png_named_by_step_and_kind(tmp_path):
    run_to(tmp_path, 1)
    (path,) = (tmp_path / "pictures").iterdir()
    assert path.name == "step_00000001_flow_and_points.png"
    assert np.array_equal(np.asarray(Image.open(path)), to_bytes(PICTURE).numpy())


def test_tensorboard_holds_the_same_scalars_and_pictures(tmp_path):
    run_to(tmp_path, 3)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("grad/encoder")] == [(1, 2), (2, 4), (3, 6)]
    image = board.Images("flow and points")[-1]
    assert (image.step, image.height, image.width) == (3, 5, 7)


def missing(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As if these packages were not installed."""
    real = builtins.__import__

    def importing(name: str, *arguments: object, **options: object) -> object:
        if name.startswith(names):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", importing)


def test_records_and_pictures_need_no_tensorboard(tmp_path, monkeypatch):
    missing(monkeypatch, "torch.utils.tensorboard")
    run_to(tmp_path, 2)
    assert len(records(tmp_path)) == 2 and not (tmp_path / "tensorboard").exists()


def test_weights_and_biases_are_not_touched_unless_asked_for(tmp_path, monkeypatch):
    missing(monkeypatch, "wandb")
    run_to(tmp_path, 2)
    assert not list(tmp_path.glob("wandb*"))


def test_weights_and_biases_asked_for_but_absent_are_named_and_nothing_is_lost(tmp_path, monkeypatch):
    run_to(tmp_path, 6)
    missing(monkeypatch, "wandb")
    with pytest.raises(TrainingError, match=r"'mine'.*not installed.*pip install 'flow3r\[wandb\]'"):
        RunLog(tmp_path, 8, 4, quiet=True, wandb="mine")
    assert len(records(tmp_path)) == 6


class Imagined(types.ModuleType):
    """wandb, as far as it is used: what a run is told is kept."""

    class Error(Exception):
        pass

    def __init__(self, refuses: bool = False):
        super().__init__("wandb")
        self.refuses = refuses
        self.runs: list[dict] = []
        self.logged: list[tuple[int, dict]] = []
        self.exit_codes: list[int] = []

    def Image(self, data_or_path: np.ndarray) -> np.ndarray:
        assert data_or_path.dtype == np.uint8 and data_or_path.shape[-1] == 3
        return data_or_path

    def init(self, *, project, name, id, resume, dir, config, settings) -> "Imagined":
        if self.refuses:
            raise self.Error("no API key")
        told = {"project": project, "name": name, "id": id, "resume": resume, "dir": dir}
        self.runs.append({**told, "config": config, "settings": settings})
        return self

    def log(self, data: dict, step: int) -> None:
        self.logged.append((step, data))

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)


def test_weights_and_biases_receive_every_scalar_and_picture_in_one_run(tmp_path, monkeypatch):
    fake = Imagined()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    folder = tmp_path / "street"
    folder.mkdir()
    (folder / "config.json").write_text('{"steps": 8}')
    run_to(folder, 2, wandb="mine")
    run_to(folder, 3, first=2, wandb="mine")
    first, resumed = fake.runs
    assert first == resumed  # it goes on with the same run
    assert first["project"] == "mine" and first["name"] == "street" and first["resume"] == "allow"
    assert first["config"] == {"steps": 8} and first["settings"] == {"silent": True}
    assert [step for step, _ in fake.logged] == [1, 1, 2, 2, 3, 3]
    assert fake.logged[-2][1] == {"loss": pytest.approx(1 / 3), "grad/encoder": 6}
    assert np.array_equal(fake.logged[-1][1]["flow and points"], to_bytes(PICTURE).numpy())
    run_to(folder, 1, wandb="mine")  # from the start
    assert fake.runs[-1]["id"] != first["id"]


@pytest.mark.parametrize(("error", "code"), [(ValueError, 1), (KeyboardInterrupt, 1), (SystemExit(0), 0)])
def test_weights_and_biases_learn_whether_a_run_failed_or_was_stopped(tmp_path, monkeypatch, error, code):
    fake = Imagined()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(BaseException), RunLog(tmp_path, 8, 0, quiet=True, wandb="mine"):  # noqa: B017
        raise error
    assert fake.exit_codes == [code]


def test_weights_and_biases_that_do_not_start_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", Imagined(refuses=True))
    with pytest.raises(TrainingError, match=r"no API key.*wandb login.*WANDB_MODE=offline"):
        RunLog(tmp_path, 8, 0, quiet=True, wandb="mine")


def test_a_console_without_a_terminal_gets_lines_of_pace_time_left_and_losses(tmp_path, capsys):
    with RunLog(tmp_path, 100, 0) as log:
        for step in (1, 2, 100):  # the second comes too soon for a line of its own
            log.scalars(step, {"loss": 0.5, "grad/encoder": 3.0, **PACE})
    first, last = capsys.readouterr().out.splitlines()
    assert first.split("  ") == [
        "step 1/100", "loss 0.5", "2 steps/s", "1230 images/s", "25% waiting for data", "0:00:50 left"
    ]  # fmt: skip
    assert last.startswith("step 100/100") and last.endswith("0:00:00 left")


def test_a_quiet_run_prints_nothing(tmp_path, capsys):
    run_to(tmp_path, 8)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_a_bar_and_below_it_the_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("rich._console", None)
    with RunLog(tmp_path, 100, 0) as log:
        log.advance(40)
        log.scalars(40, {"loss": 0.5, **PACE})
    shown = capsys.readouterr().out
    assert "40/100" in shown and "loss 0.5  2 steps/s  1230 images/s  25% waiting for data  0:00:30 left" in shown
    assert log_module.LINE_EVERY > 0 and "step 40/100" not in shown
