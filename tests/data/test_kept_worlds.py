"""Kept worlds: what is read is what would be rendered, however the folder came about; anything else is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from flow3r.data import kept_worlds
from flow3r.data.kept_worlds import KeptSequences, KeptVideo, KeptWorlds, keep_worlds
from flow3r.data.mixture import Wanted, stream
from flow3r.data.regime_sources import Flaws, LabelledSequences, UnlabelledSequences
from flow3r.data.regimes import WorldSet
from flow3r.data.worlds import RENDERER
from flow3r.errors import InputError
from flow3r.types import Views

WORLDS, FRAMES = WorldSet("dynamic", "test", 3), (0, 4, 11)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> KeptWorlds:
    return keep_worlds(WORLDS, tmp_path_factory.mktemp("kept") / "test", frames=FRAMES, flow=True)


@pytest.fixture
def folder(kept: KeptWorlds, tmp_path: Path) -> Path:
    """A copy to do harm to."""
    return Path(shutil.copytree(kept.folder, tmp_path / "copy"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same_scenes(kept: Views, rendered: Views) -> None:
    """Images within the rounding to 8 bits, flow within that of float16, everything else to rounding of the renderer,
    which depends on what is rendered together."""
    assert kept.names == rendered.names
    assert (kept.images - rendered.images).abs().max() <= 0.5 / 255 + 1e-4
    for label in ("depth", "intrinsics", "world_from_camera", "dense"):
        if getattr(rendered, label) is None:
            assert getattr(kept, label) is None
            continue
        torch.testing.assert_close(getattr(kept, label), getattr(rendered, label), atol=1e-4, rtol=1e-4)
    if rendered.flow is None:
        assert kept.flow is None
        return
    assert torch.equal(kept.flow.pairs, rendered.flow.pairs)
    assert (kept.flow.covisible != rendered.flow.covisible).float().mean() < 1e-4
    seen = (kept.flow.covisible > 0) & (rendered.flow.covisible > 0)
    assert seen.float().mean() > 0.2
    torch.testing.assert_close(
        kept.flow.displacement[seen], rendered.flow.displacement[seen], atol=1e-3, rtol=torch.finfo(torch.half).eps
    )


def test_worlds_of_another_renderer_are_refused_and_those_from_before_there_were_several_are_not(folder: Path):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest.pop("renderer") == RENDERER
    if RENDERER == 1:
        (folder / "manifest.json").write_text(json.dumps(manifest))
        keep_worlds(WORLDS, folder, frames=FRAMES, flow=True)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"renderer": RENDERER + 1}))
    with pytest.raises(InputError, match=r"of other settings \(renderer\)"):
        keep_worlds(WORLDS, folder, frames=FRAMES, flow=True)


def test_views_are_those_that_are_rendered(kept: KeptWorlds):
    every = torch.tensor([[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]])
    rendered = WORLDS.render(range(3), torch.tensor(FRAMES).expand(3, -1), every.expand(3, -1, -1)).views
    views = kept.views(range(3))
    assert_same_scenes(views, rendered)
    for label in ("depth", "intrinsics", "world_from_camera"):
        assert torch.equal(getattr(views, label), getattr(rendered, label))  # rendered together, as they were kept


def test_some_frames_and_pairs_of_some_worlds_are_those_that_are_rendered(kept: KeptWorlds):
    frames, pairs = torch.tensor([[11, 0], [4, 11]]), torch.tensor([[[1, 0]], [[0, 1]]])
    assert_same_scenes(kept.views([2, 0], frames, pairs), WORLDS.render([2, 0], frames, pairs).views)
    assert kept.views([1], frames[:1]).flow.pairs.tolist() == [[[0, 1], [1, 0]]]


def test_a_flow_that_is_not_covisible_is_finite(kept: KeptWorlds):
    assert kept.views(range(3)).flow.displacement.isfinite().all()


def test_facts_are_what_counting_by_hand_finds(kept: KeptWorlds):
    for number in range(3):
        made = WORLDS.render([number], torch.tensor([FRAMES]))
        facts = kept.facts(number)
        assert facts.moving_objects == len(set(made.object_ids[made.moving].tolist()))
        assert facts.moving_area == pytest.approx(float(made.moving.float().mean()), abs=1e-4)
    assert any(kept.facts(number).moving_objects for number in range(3))


def test_a_set_that_was_interrupted_is_completed_to_the_same_files(kept: KeptWorlds, folder: Path):
    before = content(folder)
    (folder / "00001.npy").unlink()
    (folder / ".tmp-0123456789ab-00002.npy").write_bytes(b"half a world")
    (folder / "00002.npy").unlink()
    keep_worlds(WORLDS, folder, frames=FRAMES, flow=True)
    (folder / ".tmp-0123456789ab-00002.npy").unlink()
    assert content(folder) == before


def test_what_is_there_is_not_rendered_again(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept_worlds, "_rendered", lambda *_: pytest.fail("rendered"))
    found = keep_worlds(WORLDS, folder, frames=FRAMES, flow=True)
    assert found.views([2]).images.equal(keep_worlds(WORLDS, folder, frames=FRAMES, flow=True).views([2]).images)


def test_a_folder_serves_smaller_sets_and_grows_to_larger_ones(folder: Path):
    before = content(folder)
    small = keep_worlds(WorldSet("dynamic", "test", 2), folder, frames=FRAMES, flow=True)
    assert content(folder) == before
    with pytest.raises(InputError, match=r"worlds 0\.\.1; got 2"):
        small.views([2])
    large = keep_worlds(WorldSet("dynamic", "test", 4), folder, frames=FRAMES, flow=True)
    assert large.views([3]).names[0][0] == "dynamic/test/3 0"
    assert {name: data for name, data in content(folder).items() if name in before and name != "manifest.json"} == {
        name: data for name, data in before.items() if name != "manifest.json"
    }
    assert json.loads((folder / "manifest.json").read_text())["count"] == 4


def test_a_folder_of_other_settings_is_refused(folder: Path):
    for worlds, frames, flow, named in (
        (WorldSet("dynamic", "validation", 3), FRAMES, True, "set"),
        (WORLDS, (0, 4), True, "frames"),
        (WORLDS, FRAMES, False, "flow"),
        (WorldSet("static", "test", 3), FRAMES, True, "set, worlds_sha256"),
    ):
        with pytest.raises(InputError, match=rf"other settings \({named}\); choose another folder"):
            keep_worlds(worlds, folder, frames=frames, flow=flow)


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files, but no manifest"):
        keep_worlds(WORLDS, tmp_path, frames=FRAMES)
    assert content(tmp_path) == {"notes.txt": b"mine"}
    (tmp_path / "manifest.json").write_text('{"format": "flow3r-labels", "count": 3}')
    with pytest.raises(InputError, match="not the manifest of kept worlds"):
        keep_worlds(WORLDS, tmp_path, frames=FRAMES)
    (tmp_path / "manifest.json").write_text('{"format": "flow3r-kept')
    with pytest.raises(InputError, match="damaged"):
        keep_worlds(WORLDS, tmp_path, frames=FRAMES)


def test_worlds_of_another_version_are_refused(folder: Path):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": 2}))
    with pytest.raises(InputError, match="version 2, this program reads version 1"):
        keep_worlds(WORLDS, folder, frames=FRAMES, flow=True)


def test_a_file_that_was_cut_short_is_refused_when_the_folder_is_opened(folder: Path):
    whole = (folder / "00001.npy").read_bytes()
    (folder / "00001.npy").write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"00001\.npy: missing or damaged"):
        keep_worlds(WORLDS, folder, frames=FRAMES, flow=True)
    np.save(folder / "00001.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"00001\.npy: is no kept world"):
        keep_worlds(WORLDS, folder, frames=FRAMES, flow=True)


def test_a_changed_byte_is_found_when_the_world_is_read(folder: Path):
    data = bytearray((folder / "00001.npy").read_bytes())
    data[-1] ^= 1
    (folder / "00001.npy").write_bytes(data)
    found = keep_worlds(WORLDS, folder, frames=FRAMES, flow=True)
    assert found.views([0, 2]).images.isfinite().all()
    with pytest.raises(InputError, match=r"00001\.npy: damaged \(its checksum differs\)"):
        found.views([0, 1])


def test_what_is_not_kept_is_refused(kept: KeptWorlds, tmp_path: Path):
    with pytest.raises(InputError, match=r"keeps frames \[0, 4, 11\]; got \[0, 5\]"):
        kept.views([0], torch.tensor([[0, 5]]))
    with pytest.raises(InputError, match="from a frame to itself"):
        kept.views([0], torch.tensor([[4, 4]]), torch.tensor([[[0, 1]]]))
    without = keep_worlds(WorldSet("static", "test", 1), tmp_path / "one", frames=(2,))
    with pytest.raises(InputError, match="keeps no flow"):
        without.views([0], None, torch.tensor([[[0, 0]]]))
    for frames in ((), (4, 0), (0, 12), (3, 3)):
        with pytest.raises(InputError, match="expected ascending ones"):
            keep_worlds(WORLDS, tmp_path / "none", frames=frames)
    with pytest.raises(InputError, match="keep all 12"):
        KeptSequences(kept)


@pytest.mark.parametrize("flow", [True, False])
def test_sequences_are_drawn_as_they_are_when_they_are_rendered(tmp_path: Path, flow: bool):
    worlds = WorldSet("dynamic", "labelled", 2)
    rendered, kept = LabelledSequences(worlds), KeptSequences(keep_worlds(worlds, tmp_path, flow=flow))
    wanted = Wanted(step=0, scenes=2, views=3, size=(126, 112), pairs=2)
    fitted = kept.fit(wanted, stream(0, 0, "fit"))
    assert fitted == dataclasses.replace(rendered.fit(wanted, stream(0, 0, "fit")), pairs=2 if flow else 0)
    assert not kept.in_process
    for step in range(2):
        views = kept.draw(fitted, stream(0, step, "test"))
        assert_same_scenes(views, rendered.draw(fitted, stream(0, step, "test")))
    assert kept.counts() == rendered.counts() == {"scenes of dynamic/labelled": 4}
    with pytest.raises(ValueError, match="ask for what fit"):
        kept.draw(dataclasses.replace(fitted, size=(98, 98)), stream(0, 0, "test"))


def test_video_is_drawn_as_it_is_when_it_is_rendered_with_the_same_flaws_and_without_a_trace_of_3d(tmp_path: Path):
    worlds, flaws = WorldSet("elsewhere", "unlabelled", 2), Flaws(noise=1.0, wrong=0.5)
    rendered, kept = UnlabelledSequences(worlds, flaws), KeptVideo(keep_worlds(worlds, tmp_path, flow=True), flaws)
    fitted = kept.fit(Wanted(step=0, scenes=2, views=2, size=(112, 112), pairs=2), stream(0, 0, "fit"))
    views = kept.draw(fitted, stream(0, 0, "test"))
    assert_same_scenes(views, rendered.draw(fitted, stream(0, 0, "test")))
    assert views.depth is views.intrinsics is views.world_from_camera is None
