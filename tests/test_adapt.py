"""Adapting to footage: what is held out, which weights are kept, what is warned of, what a second start does."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from made_media import write_video
from tiny_model import TINY, TINY_REFERENCE, TINY_VGGT

from flow3r import adapt as adapting
from flow3r import cli
from flow3r.adapt import Adaptation, adapt, label, worse_worlds
from flow3r.data.labels import LabelStore
from flow3r.data.worlds import mean_relative_poses, render_worlds
from flow3r.draw import save_png
from flow3r.errors import InputError, LabelStoreError
from flow3r.eval import scenes
from flow3r.eval.report import Report, Row, Score
from flow3r.model.checkpoints import save_model
from flow3r.model.flow3r import Flow3r
from flow3r.model.vggt import Vggt
from flow3r.teacher.classical import ClassicalTeacher
from flow3r.teacher.label import provenance

SMALL = dataclasses.replace(TINY, tokens=(40, 60))


@pytest.fixture(scope="module")
def footage(tmp_path_factory) -> Path:
    """Two videos in a folder, labels of them, and a small model."""
    folder = tmp_path_factory.mktemp("footage")
    torch.manual_seed(0)
    save_model(Flow3r(SMALL), folder / "tiny.safetensors")
    (folder / "clips").mkdir()
    for name, seed, frames in (("a", 3, 8), ("b", 4, 4)):
        images = render_worlds([seed], frames, (168, 224), difficulty=0.0).views.images[0]
        pixels = [(image.movedim(0, -1) * 255).round().byte().numpy() for image in images]
        write_video(folder / "clips" / f"{name}.mp4", pixels)
    label([folder / "clips"], folder / "labels", tokens=SMALL.tokens, progress=False)
    return folder


@pytest.fixture(autouse=True)
def _small_measures(monkeypatch):
    """Few worlds, for the mean training pose too: a thousand take seconds."""
    monkeypatch.setattr(scenes, "mean_relative_poses", partial(mean_relative_poses, scenes=8))
    monkeypatch.setattr(adapting, "adapt", partial(adapt, worlds=1))
    scenes.mean_training_poses.cache_clear()
    yield
    scenes.mean_training_poses.cache_clear()


def test_a_folder_of_videos_is_learnt_from_and_the_weights_best_on_held_out_pairs_are_kept(
    footage, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(adapting, "VALIDATE_EVERY", 1)
    shutil.copytree(footage / "labels", tmp_path / "run" / "labels")
    command = ["adapt", str(footage / "clips"), "-o", str(tmp_path / "run")]
    command += ["--model", str(footage / "tiny.safetensors"), "--held-out", "0.4"]
    cli.main([*command, "--steps", "3"])
    out, said = tmp_path / "run", capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    errors = [line["validation/clip/aepe"] for line in lines]
    best = report["run"]["best step"]
    assert errors[best - 1] == min(errors) and report["weights"] == "best.safetensors"
    assert {segment.source for segment in LabelStore(out / "labels").segments()} == {"a", "b"}
    for name in ("clip", "worlds"):
        assert [row["name"] for row in report["reports"][name]["rows"]][:2] == ["before", "after"]
    assert "held-out pairs" in said and "held-out worlds" in said and "before" in said and "Sampson" in said
    assert "held-out pairs are too few to judge by, expected at least 20" in said.replace("\n", "")
    assert all(warning in (out / "report.md").read_text() for warning in report["warnings"])
    written = {path: path.stat().st_mtime_ns for path in (out / "labels").iterdir()}
    cli.main([*command, "--steps", "4"])
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["validation/clip/aepe"] for line in lines][:3] == errors and len(lines) == 4
    assert {path: path.stat().st_mtime_ns for path in (out / "labels").iterdir()} == written

    for other, error in (
        ({"held_out": 0.4, "videos": [footage / "clips" / "a.mp4"]}, pytest.raises(LabelStoreError, match=r"\(b\)")),
        ({"held_out": 0.2}, pytest.raises(InputError, match=r"made with held out 0\.4")),
    ):
        with error:
            adapt(**{"videos": [footage / "clips"], "model": footage / "tiny.safetensors", "out": out, **other})
    assert json.loads((out / "adapt.json").read_text()) == {"held out": 0.4, **provenance(ClassicalTeacher())}


def test_a_folder_whose_teacher_had_other_parameters_is_refused(tmp_path):
    torch.manual_seed(0)
    save_model(Flow3r(dataclasses.replace(TINY, tokens=(40, 60))), tmp_path / "tiny.safetensors")
    (tmp_path / "run").mkdir()
    save_png(tmp_path / "0.png", torch.rand(3, 56, 70))
    said = {"held out": 0.2, **provenance(ClassicalTeacher())}
    arguments = {"model": tmp_path / "tiny.safetensors", "held_out": 0.2}
    (tmp_path / "run" / "adapt.json").write_text(json.dumps(said))
    Adaptation([tmp_path / "0.png"], tmp_path / "run", **arguments)
    (tmp_path / "run" / "adapt.json").write_text(json.dumps({**said, "parameters": {"weights": "other"}}))
    with pytest.raises(InputError, match=r"made with parameters \{'weights': 'other'\}; asked for parameters"):
        Adaptation([tmp_path / "0.png"], tmp_path / "run", **arguments)


def test_without_held_out_pairs_the_last_weights_are_kept_and_it_is_said(footage, tmp_path):
    arguments = {"model": footage / "tiny.safetensors", "steps": 1, "held_out": 0.0, "quiet": True, "worlds": 1}
    shutil.copytree(footage / "labels", tmp_path / "run" / "labels")
    adapted = adapt([footage / "clips", tmp_path / "none.mp4"], tmp_path / "run", **arguments)
    assert adapted.run.best is None and adapted.weights.name == "model.safetensors"
    assert any("no pair is held out" in warning for warning in adapted.warnings)
    assert any("left out" in warning and "none.mp4" in warning for warning in adapted.warnings)


def test_vggts_family_adapts_to_footage_by_flow_beside_worlds(tmp_path: Path):
    torch.manual_seed(0)
    save_model(Vggt(dataclasses.replace(TINY_VGGT, tokens=(40, 60))), tmp_path / "tiny.safetensors")
    frames = tmp_path / "frames"
    frames.mkdir()
    for k, image in enumerate(render_worlds([3], 4, (168, 224), difficulty=0.0).views.images[0]):
        save_png(frames / f"{k}.png", image)
    adapted = adapt([frames], tmp_path / "run", model=tmp_path / "tiny.safetensors", worlds=1, steps=3, quiet=True)
    assert isinstance(adapted.model, Vggt) and adapted.steps == 3
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(value is not None for line in lines for value in line.values())


def test_a_model_without_a_flow_head_is_refused_before_anything_is_labelled(tmp_path: Path):
    save_model(Vggt(TINY_REFERENCE), tmp_path / "tiny.safetensors")
    with pytest.raises(InputError, match="no flow head"):
        adapt(["missing.mp4"], tmp_path / "run", model=tmp_path / "tiny.safetensors", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("clips --held-out 1", "held out is 1 of every shot"),
        ("clips --held-out -0.1", "held out is -0.1 of every shot"),
        ("clips --teacher oracle", "no teacher is called 'oracle'"),
        ("clips --steps 0", "--steps 0: expected more than 0"),
        ("clips --seconds 0", "--seconds 0: expected more than 0"),
        ("clips --device gpu", "device gpu: cannot be used here"),
        ("empty", "empty: the folder holds no videos and no images"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(arguments, said, footage, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").symlink_to(footage / "clips")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as exit_:
        cli.main(["adapt", "--model", str(footage / "tiny.safetensors"), "-o", "run", *arguments.split()])
    errors = capsys.readouterr().err
    assert exit_.value.code == 1 and errors.count("\n") == 1 and said in errors
    assert not (tmp_path / "run").exists()


def worlds_report(before: list[float], after: list[float], name: str) -> Report:
    rows = (
        Row(key, tuple(Score(str(k), {name: v}) for k, v in enumerate(values)))
        for key, values in (("before", before), ("after", after))
    )
    return Report("held-out worlds", tuple(rows))


def test_worlds_that_got_worse_are_warned_of_and_chance_is_not():
    steady = [50.0, 60.0, 70.0, 80.0]
    (warning,) = worse_worlds(worlds_report(steady, [value - 10 for value in steady], "auc@30"))
    assert "AUC@30° % 65.0 before, 55.0 after, over 4 worlds (warned of from 10%" in warning
    (warning,) = worse_worlds(worlds_report([0.2, 0.3, 0.25], [0.25, 0.34, 0.31], "abs_rel"))
    assert "AbsRel 0.2500 before, 0.3000 after" in warning
    assert not worse_worlds(worlds_report(steady, [value - 5 for value in steady], "auc@30"))  # below the threshold
    assert not worse_worlds(worlds_report([10.0, 0.0, 0.0, 0.0], [0.0] * 4, "auc@30"))  # one world of four
    assert not worse_worlds(worlds_report(steady, [value + 10 for value in steady], "auc@30"))
    assert not worse_worlds(worlds_report([0.0] * 4, [0.0] * 4, "auc@30"))
