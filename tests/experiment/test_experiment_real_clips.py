"""Real clips: what shares a scene with a test never teaches, by name or by content, and labels are of squares."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_media import texture, write_video
from posed_on_disk import write_posed

from flow3r.data.datasets.posed_folders import sequences
from flow3r.data.labels import LabelStore
from flow3r.data.mixture import Wanted
from flow3r.data.regimes import SIDE
from flow3r.data.video import content_sha256, open_source
from flow3r.errors import InputError, LabelStoreError
from flow3r.experiment import real_clips
from flow3r.experiment.real_clips import (
    Excluded,
    Squares,
    clips_of_folder,
    excluded_clips,
    hashes_of,
    label_clips,
    labels_by_clip,
    taught_by,
    together,
    why_excluded,
)
from flow3r.files import sha256_of_file


def pan(path: Path, seed: int, step: int = 10, count: int = 5) -> Path:
    """A camera that moves `step` pixels a frame to the right and down, 160 x 240."""
    canvas = texture(160 + 80, 240 + step * count, seed, coarseness=2.5)
    return write_video(path, [canvas[4 * k : 4 * k + 160, step * k : step * k + 240] for k in range(count)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two clips that may teach, one that is a folder of images, and one called as an excluded one."""
    folder = tmp_path_factory.mktemp("clips")
    pan(folder / "street.mp4", 1)
    pan(folder / "tum_fr1_rpy_full.mp4", 2)
    (folder / "walk").mkdir()
    canvas = texture(240, 400, 3, coarseness=2.5)
    for k in range(3):
        cv2.imwrite(str(folder / "walk" / f"{k}.png"), canvas[4 * k : 4 * k + 160, 10 * k : 10 * k + 240])
    (folder / "README.txt").write_text("no clip")
    return folder


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory) -> LabelStore:
    out = tmp_path_factory.mktemp("labels")
    label_clips(clips_of_folder(folder).allowed, out, progress=False)
    return LabelStore(out)


def test_the_committed_list_names_the_clips_that_share_a_scene_with_a_test():
    listed = {one.name: one for one in excluded_clips()}
    assert {"hololens_office_full", "tum_fr1_rpy_full", "sintel_alley_frames", "sintel_cave_mmflow_demo"} == set(listed)
    assert all(one.reason and all(len(digest) == 64 for digest in one.sha256) for one in listed.values())


def test_the_clips_of_the_list_are_refused_with_the_hashes_that_it_has(shared):
    found = clips_of_folder(shared / "data" / "videos")
    refused = {clip.name: frozenset(hashes_of(clip)) for clip, _ in found.excluded}
    assert refused == {one.name: one.sha256 for one in excluded_clips()}
    assert len(found.allowed) == 12


def test_a_clip_is_refused_by_its_name(folder):
    found = clips_of_folder(folder)
    assert [clip.name for clip in found.allowed] == ["street", "walk"]
    assert [clip.name for clip, _ in found.excluded] == ["tum_fr1_rpy_full"]
    assert "tum_fr1_rpy" in next(line for line in found.lines() if line.startswith("excluded"))


def test_a_clip_is_refused_by_its_content_under_any_name(folder, tmp_path, monkeypatch):
    digest = sha256_of_file(folder / "walk" / "2.png")
    monkeypatch.setattr(real_clips, "excluded_clips", lambda: (Excluded("other", frozenset({digest}), "a test"),))
    found = clips_of_folder(folder)
    assert [clip.name for clip, _ in found.excluded] == ["walk"]
    with pytest.raises(InputError, match="walk: must not teach: the content of other"):
        taught_by([Squares(open_source(folder / "walk"))], LabelStore(tmp_path, {}))


def test_a_clip_that_holds_a_file_of_a_test_is_refused(tmp_path):
    write_posed(tmp_path / "tests" / "room")
    (tmp_path / "clips" / "mine").mkdir(parents=True)
    shutil.copy(tmp_path / "tests" / "room" / "1.png", tmp_path / "clips" / "mine" / "renamed.png")
    pan(tmp_path / "clips" / "street.mp4", 1)
    found = clips_of_folder(tmp_path / "clips", sequences(tmp_path / "tests"))
    assert [(clip.name, why) for clip, why in found.excluded] == [("mine", "holds a file of a test sequence")]
    assert why_excluded("street", ["0" * 64]) == ""


def test_a_folder_without_a_clip_that_may_teach_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no videos"):
        clips_of_folder(tmp_path)
    pan(tmp_path / "hololens_office_full.mp4", 1, count=2)
    with pytest.raises(InputError, match="no clip that may teach"):
        clips_of_folder(tmp_path)


def test_squares_keep_where_a_pixel_looks(tmp_path):
    whole = sequences(write_posed(tmp_path / "room"))[0]
    (frame,), (square,) = whole.frames([1]), Squares(whole).frames([1])
    height, width = frame.image.shape[:2]
    left = (width - height) // 2
    assert square.image.shape == (height, height, 3) and Squares(whole).sizes([1]) == [(height, height)]
    assert np.array_equal(square.image, frame.image[:, left : left + height])
    assert np.array_equal(square.depth, frame.depth[:, left : left + height])
    rays = [np.linalg.inv(one.intrinsics) @ [x, 7.5, 1] for one, x in ((frame, left + 3.5), (square, 3.5))]
    np.testing.assert_allclose(*rays)
    assert np.array_equal(square.world_from_camera, frame.world_from_camera)


def test_labels_of_squares_are_the_motion_of_the_clip(store, folder):
    clips = taught_by(clips_of_folder(folder).allowed, store)
    wanted = clips.fit(Wanted(0, 4, 2, (SIDE, SIDE), 1), torch.Generator().manual_seed(0))
    views = clips.draw(wanted, torch.Generator().manual_seed(0))
    assert wanted.size == (SIDE, SIDE) == views.images.shape[-2:] and not views.labelled
    scale, frames = SIDE / 160, [[int(name.split("_")[-1].removesuffix(".png")) for name in n] for n in views.names]
    for scene, pair in enumerate(views.flow.pairs[:, 0].tolist()):
        steps = frames[scene][pair[1]] - frames[scene][pair[0]]
        seen = views.flow.covisible[scene, 0] > 0
        found = views.flow.displacement[scene, 0][seen].median(dim=0).values
        torch.testing.assert_close(found, torch.tensor([-10.0, -4.0]) * steps * scale, atol=0.5, rtol=0)


def test_labels_that_are_there_are_kept(store, folder):
    before = {path: path.stat().st_mtime_ns for path in Path(store.folder).glob("*.labels")}
    summary = label_clips(clips_of_folder(folder).allowed, store.folder, progress=False)
    assert summary.written == 0 and summary.kept == len(before) > 0
    assert before == {path: path.stat().st_mtime_ns for path in Path(store.folder).glob("*.labels")}


def test_a_store_is_drawn_from_only_as_far_as_its_clips_are_given(store, folder, tmp_path):
    street, walk = clips_of_folder(folder).allowed
    both, one = taught_by([street, walk], store), taught_by([walk], store)
    assert one.training_count == next(row.accepted for row in labels_by_clip(store) if row.name == "walk")
    assert both.training_count == sum(row.accepted for row in labels_by_clip(store)) > one.training_count
    assert [weight for _, weight in together(both, one)] == [both.training_count, one.training_count]
    pan(tmp_path / "street.mp4", 5)
    with pytest.raises(InputError, match="has street of another content"):
        taught_by([Squares(open_source(tmp_path / "street.mp4"))], store)
    with pytest.raises(InputError, match="has no labels of tum_fr1_rpy_full"):
        taught_by([Squares(open_source(folder / "tum_fr1_rpy_full.mp4"))], store, transductive=True)


def test_excluded_clips_teach_where_that_is_wanted(folder, tmp_path):
    ((clip, _),) = clips_of_folder(folder).excluded
    label_clips([clip], tmp_path, progress=False)
    with pytest.raises(InputError, match="must not teach"):
        taught_by([clip], LabelStore(tmp_path))
    taught = taught_by([clip], LabelStore(tmp_path), transductive=True)
    (row,) = labels_by_clip(LabelStore(tmp_path))
    assert taught.training_count == row.accepted > 0 and row.frames == 5 and row.shots == 1
    assert {one.source_sha256 for one in LabelStore(tmp_path).segments()} == {content_sha256(clip)}


def test_a_clip_that_stands_still_has_no_labels_and_says_why(tmp_path):
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "still.mp4", [texture(160, 160, 1)] * 6)
    clips = clips_of_folder(tmp_path / "clips").allowed
    label_clips(clips, tmp_path / "labels", progress=False)
    (row,) = labels_by_clip(LabelStore(tmp_path / "labels"))
    assert row.accepted == 0 and row.flow is None
    with pytest.raises(LabelStoreError, match="no accepted pair"):
        taught_by(clips, LabelStore(tmp_path / "labels"))
