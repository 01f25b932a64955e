"""From a video to flow labels, a model that learns from them, a reconstruction and a measure: all real, all small."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import TINY

from flow3r import quickstart as quick
from flow3r.adapt import adapt
from flow3r.data.clips import LabelClips
from flow3r.data.labels import LabelStore
from flow3r.data.mixture import Wanted
from flow3r.data.worlds import render_worlds
from flow3r.errors import Flow3rError
from flow3r.export import load_reconstruction, write_reconstruction
from flow3r.model.checkpoints import load_model, save_model
from flow3r.model.flow3r import Flow3r
from flow3r.reconstruction import reconstruct

SMALL = dataclasses.replace(TINY, tokens=(40, 60))


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """A folder of 12 frames of a world, as photographs from a calm hand-held path, and a small model."""
    folder = tmp_path_factory.mktemp("footage")
    torch.manual_seed(0)
    save_model(Flow3r(SMALL), folder / "tiny.safetensors")
    worlds = render_worlds([3], 12, (168, 224), difficulty=0.0)
    (folder / "frames").mkdir()
    for k, image in enumerate(worlds.views.images[0]):
        pixels = (image.movedim(0, -1) * 255).round().byte().numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / "frames" / f"{k:03d}.png")
    return folder


def test_adapt_labels_trains_resumes_and_its_weights_reconstruct(footage, tmp_path):
    model, frames = footage / "tiny.safetensors", str(footage / "frames")
    losses: list[float] = []
    adapted = adapt(
        [frames], tmp_path, model=model, worlds=1, steps=2, quiet=True, on_step=lambda step, loss: losses.append(loss)
    )
    assert adapted.steps == 2 and len(losses) == 2
    store = LabelStore(tmp_path / "labels")
    assert sum(len(segment.pairs) for segment in store.segments()) > 0
    longer = adapt([frames], tmp_path, model=model, worlds=1, steps=3, quiet=True)
    assert longer.steps == 3

    scene = reconstruct(frames, longer.weights, max_frames=3)
    written = write_reconstruction(scene, tmp_path / "scene", source=frames)
    assert all(path.exists() for path in written.values())
    again = load_reconstruction(tmp_path / "scene")
    np.testing.assert_array_equal(again.points, scene.points)


def test_held_out_pairs_are_never_drawn(footage, tmp_path):
    adapt(
        [str(footage / "frames")],
        tmp_path,
        model=footage / "tiny.safetensors",
        worlds=1,
        steps=1,
        held_out=0.4,
        quiet=True,
    )
    clips = LabelClips(LabelStore(tmp_path / "labels"), 0.4)
    held_out = {name for clip in clips.held_out_pairs() for name in clip.names[0]}
    wanted = clips.fit(Wanted(step=0, scenes=2, views=2, size=(14, 14), pairs=1), torch.Generator())
    drawn = {
        name
        for seed in range(20)
        for scene in clips.draw(wanted, torch.Generator().manual_seed(seed)).names
        for name in scene
    }
    assert drawn and not drawn & held_out


def test_quickstart_measures_before_and_after_and_lists_what_it_wrote(footage, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quick, "WORLDS", 2)
    monkeypatch.setattr(quick, "FRAMES", 3)
    out = tmp_path / "quick"
    result = quick.quickstart(footage / "frames", out, seconds=1.0, model=footage / "tiny.safetensors")
    printed = capsys.readouterr().out
    for name in ("viewer.html", "labels.png", "reconstruction.npz", "model.safetensors", "motorcycle/viewer.html"):
        assert (out / name).is_file(), name
    for report in (result.labels, result.worlds, result.motorcycle):
        assert [row.name for row in report.rows[:2]] == ["nano", "adapted"]
        assert report.title in printed.replace("\n", " ")
    saved = json.loads((out / "held-out_worlds.json").read_text())
    assert [row["name"] for row in saved["rows"]][2:] == ["identity pose", "mean training pose", "ground truth"]
    assert load_model(result.folder / "model.safetensors").config == SMALL


def test_quickstart_refuses_a_missing_video(tmp_path):
    with pytest.raises(Flow3rError, match=r"nothing\.mp4"):
        quick.quickstart(tmp_path / "nothing.mp4", tmp_path / "out")


def test_public_surface():
    import flow3r

    assert flow3r.load_model is load_model and flow3r.reconstruct is reconstruct
    assert all(getattr(flow3r, name) is not None for name in flow3r.__all__)
    with pytest.raises(AttributeError, match="dream"):
        flow3r.dream  # noqa: B018
