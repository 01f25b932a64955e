"""`flow3r train` as a user meets it: flags that contradict each other, what a run would cost, and small runs."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from made_media import write_video
from tiny_model import TINY

from flow3r import cli
from flow3r.adapt import label
from flow3r.cli import training
from flow3r.config import DataConfig, TrainConfig
from flow3r.data.worlds import render_worlds
from flow3r.draw import save_png
from flow3r.model.checkpoints import load_model, save_model
from flow3r.model.flow3r import Flow3r

SMALL = TrainConfig(
    name="small",
    model=dataclasses.replace(TINY, tokens=(40, 60)),
    data=DataConfig(views=(2, 2), images_per_batch=4, tokens=(40, 60), pairs_per_scene=1, augment=False, workers=0),
    steps=2,
    log_every=1,
)
PRESETS = {
    "small": SMALL,
    "no-flow": dataclasses.replace(SMALL, name="no-flow", model=dataclasses.replace(SMALL.model, flow=None)),
    "labelled": dataclasses.replace(SMALL, name="labelled", data=dataclasses.replace(SMALL.data, unlabelled_share=0.0)),
}


def video(path: Path, seed: int, frames: int) -> Path:
    images = render_worlds([seed], frames, (168, 224), difficulty=0.0).views.images[0]
    return write_video(path, [(image.movedim(0, -1) * 255).round().byte().numpy() for image in images])


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """`a.mp4` and a store `labels` of it, `b.mp4`, and `scene`: posed images with depth."""
    folder = tmp_path_factory.mktemp("material")
    label([video(folder / "a.mp4", 3, frames=8)], folder / "labels", tokens=(40, 60), progress=False)
    video(folder / "b.mp4", 4, frames=4)
    posed_images(folder / "scene")
    return folder


def posed_images(folder: Path) -> None:
    import cv2

    views, entries = render_worlds([5], 3, (84, 98), difficulty=0.0).views, []
    folder.mkdir()
    for k in range(3):
        save_png(folder / f"{k}.png", views.images[0, k])
        depth = (views.depth[0, k] * 1000).clamp(0, 65535).to(torch.int32).numpy().astype("uint16")
        cv2.imwrite(str(folder / f"{k}_depth.png"), depth)
        entry = {"image": f"{k}.png", "depth": f"{k}_depth.png", "K": views.intrinsics[0, k].tolist()}
        entries.append(entry | {"c2w": views.world_from_camera[0, k].tolist()})
    content = {"pixel_centre": 0.5, "depth_scale": 0.001, "frames": entries}
    (folder / "cameras.json").write_text(json.dumps(content))


@pytest.fixture
def here(material, tmp_path, monkeypatch) -> Path:
    """A folder of one's own with the material in it, and presets that run in a second."""
    for path in material.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "PRESETS", PRESETS)
    return tmp_path


def run(*arguments: str) -> None:
    cli.main(["train", *arguments, "-o", "run"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("smal", "no preset is called 'smal'; nearest are small"),
        ("small --steps 0", "--steps 0: expected more than 0"),
        ("small --seconds -1", "--seconds -1: expected more than 0"),
        ("small --lr 0", "--lr 0: expected more than 0"),
        ("small --lr nan", "--lr nan: expected more than 0"),
        ("small --accumulate 0", "--accumulate 0: expected more than 0"),
        ("small --validate --validate-every 0", "--validate-every 0: expected more than 0"),
        ("small --teacher classical", "--teacher classical without --videos: give the videos"),
        ("small --videos a.mp4", "--videos without --teacher and --labels: name a teacher"),
        ("small --videos a.mp4 --teacher oracle", "no teacher is called 'oracle'"),
        ("small --videos none.mp4 --teacher classical", "none.mp4: no such file or folder"),
        ("small --videos empty --teacher classical", "the folder holds no videos and no images"),
        ("small --labels nowhere", "nowhere: not a label store"),
        ("small --labels labels --videos b.mp4", "holds no labels of 1 of 1 videos (b)"),
        ("small --held-out 0.2", "--held-out without --labels"),
        ("small --labels labels --held-out 1.5", "--held-out 1.5: expected a share between 0 and 1"),
        ("small --labels labels --held-out 0.01", "has no pair there; hold out more"),
        ("no-flow --labels labels", "--labels for preset 'no-flow', which has no flow head"),
        ("no-flow --videos a.mp4 --teacher classical", "--videos for preset 'no-flow', which has no flow head"),
        ("labelled --labels labels", "--labels for preset 'labelled', which takes no step on unlabelled video"),
        ("small --static", "--static without --data"),
        ("small --data empty", "cameras.json"),
        ("small --best-by worlds/auc@30", "but nothing is measured: add --validate"),
        ("small --patience 3", "--patience 3 without --best-by"),
        ("small --patience 0", "--patience 0: expected more than 0"),
        ("small --validate-every 5", "but nothing is measured"),
        ("small --folder scene --best-by worlds/auc@30", "'worlds/auc@30' is not measured; expected scene, a slash"),
        ("small --folder scene --best-by scene/sampson", "'scene/sampson' is not measured; expected scene/ and one of"),
        ("small --folder empty", "cameras.json"),
        ("small --folder scene scene", "a second benchmark called 'scene'"),
        ("small --dry-run --seconds 5", "--dry-run with --seconds 5"),
        ("small --dry-run --wandb mine", "--dry-run with --wandb mine"),
        ("small --init-from none.safetensors", "none.safetensors: no such file"),
        ("small --device gpu", "device gpu: cannot be used here"),
    ],
)
def test_flags_that_contradict_each_other_are_named_and_nothing_is_written(arguments, said, here, capsys):
    (here / "empty").mkdir()
    before = sorted(here.rglob("*"))
    with pytest.raises(SystemExit) as exit_:
        run(*arguments.split())
    errors = capsys.readouterr().err
    assert exit_.value.code == 1
    assert errors.startswith("flow3r: ") and errors.count("\n") == 1 and said in errors
    assert sorted(here.rglob("*")) == before


def test_a_file_in_place_of_the_output_folder_is_named(here, capsys):
    (here / "run").write_text("")
    with pytest.raises(SystemExit):
        run("small")
    assert "run: is a file; expected a folder" in capsys.readouterr().err


def test_a_dry_run_tells_what_is_given_and_writes_nothing(here, capsys):
    before = sorted(here.rglob("*"))
    run("small", "--labels", "labels", "--data", "scene", "--accumulate", "3", "--dry-run", "--device", "cpu")
    said = capsys.readouterr().out
    assert "accumulate=3" in said and "2 steps on 1 process x 3 batches" in said
    assert "unlabelled 1 sequences, 50% of the steps" in said and "--data" in said
    assert sorted(here.rglob("*")) == before


def losses(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]


def test_a_run_on_a_store_is_measured_and_its_best_weights_are_kept(here, capsys):
    measured = "--labels labels --held-out 0.4 --folder scene --validate-every 1 --best-by clip/aepe --patience 5"
    run("small", *measured.split(), "--videos", "a.mp4", "--parallel", "shard")
    said = capsys.readouterr().out
    assert "2 steps" in said and "the best by clip/aepe, after step" in said
    assert load_model(here / "run" / "best.safetensors").config == SMALL.model
    names = {name for line in losses(here) for name in line}
    assert {"validation/clip/aepe", "validation/clip/sampson", "validation/scene/auc@30"} <= names
    assert json.loads((here / "run" / "config.json").read_text())["best_is"] == "lowest"


def test_videos_are_drawn_at_the_strides_of_the_preset(here):
    config = dataclasses.replace(SMALL, data=dataclasses.replace(SMALL.data, stride_seconds=(0.1, 0.3)))
    flags = training.TrainFlags("small", here / "run", videos=("a.mp4",), teacher="classical")
    taught, _ = training.clips_of(flags, config)
    assert taught.strides == (0.1, 0.3)


def test_a_run_on_own_scenes_and_videos_that_a_teacher_labels_as_they_are_drawn(here):
    given = "--videos a.mp4 b.mp4 --teacher classical --data scene --static --accumulate 2 --seed 4 --init-from start"
    save_model(Flow3r(SMALL.model), here / "start" / "model.safetensors")
    run("small", *given.split())
    kinds = {name.split("/")[0] for line in losses(here) for name in line}
    assert {"labelled", "unlabelled", "taught pairs"} <= kinds
