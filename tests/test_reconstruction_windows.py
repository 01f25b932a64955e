"""Any length: windows of a model that knows the truth up to a similarity, stitched, are the truth up to one."""

import gc
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracle_walk import FOCAL, SIZE, TOKENS, Oracle, Walk, length_of, stroll
from synthetic_room import render

from flow3r.errors import CheckpointError, InputError
from flow3r.files import FrameStack
from flow3r.metrics.pose import trajectory_errors
from flow3r.reconstruction import reconstruct
from flow3r.reconstruction.windows import default_overlap, split


def ate(found, poses):
    truth = torch.from_numpy(poses[found.frame_indices])
    return trajectory_errors(torch.from_numpy(found.world_from_camera), truth).ate


def rebuilt(poses, model=None, **settings):
    return reconstruct(Walk(poses), model or Oracle(poses), **{"max_frames": None, "tokens": TOKENS, **settings})


@pytest.mark.parametrize("length", [1, 2, 7, 31, 32, 33, 100])
@pytest.mark.parametrize("views", [2, 3, 8, 32])
def test_windows_cover_every_frame_and_share_enough_with_the_next(length, views):
    overlap = default_overlap(views)
    windows = split(length, views, overlap)
    assert windows[0][0] == 0 and windows[-1][1] == length
    assert all(stop - start == min(views, length) for start, stop in windows)
    for (start, stop), (after, end) in pairwise(windows):
        assert start < after and stop < end and stop - after >= overlap
    assert len(windows) == 1 or len(windows) - 1 <= (length - views) / (views - overlap) + 1


def test_an_exact_model_is_stitched_exactly():
    poses = stroll(40)
    found = rebuilt(poses, views_per_window=8)
    first = np.linalg.inv(poses[0])
    scale = np.linalg.norm(found.world_from_camera[20, :3, 3]) / np.linalg.norm((first @ poses[20])[:3, 3])
    expected = first @ poses
    expected[:, :3, 3] *= scale
    np.testing.assert_allclose(found.world_from_camera, expected, atol=2e-3 * scale)
    np.testing.assert_allclose(found.shared_intrinsics[0, 0], FOCAL, rtol=1e-3)
    for frame in (0, 11, 39):
        depth, points, colours = render(poses[frame], found.intrinsics[frame], SIZE)
        np.testing.assert_allclose(found.depth[frame], scale * depth, rtol=5e-3)
        moved = scale * (points @ first[:3, :3].T + first[:3, 3])
        np.testing.assert_allclose(found.points[frame], moved, atol=0.02 * scale)
        np.testing.assert_allclose(found.raw_points[frame], moved, atol=0.02 * scale)
        assert (found.colours[frame][1:] == colours[1:]).mean() > 0.99


def test_windows_with_noise_are_stitched_to_half_a_percent_of_the_path():
    poses = stroll(80)
    for views in (8, 32):
        found = rebuilt(poses, Oracle(poses, noise=0.01), views_per_window=views)
        assert ate(found, poses) < 0.005 * length_of(poses), views


def test_every_frame_comes_out_once_and_in_order_and_is_read_once():
    poses = stroll(30)
    walk, model = Walk(poses), Oracle(poses)
    found = reconstruct(walk, model, max_frames=None, tokens=TOKENS, views_per_window=8, overlap=3)
    assert walk.asked == list(range(30)) == found.frame_indices.tolist()
    assert found.names == tuple(f"walk_{frame:04d}" for frame in range(30))
    np.testing.assert_allclose(found.timestamps, np.arange(30) / 10)
    assert [int(frame[0, 0, 1]) for frame in found.colours] == list(range(30))
    assert all(len(set(second) & set(first)) >= 3 for first, second in pairwise(model.windows))
    assert (found.depth[:].reshape(30, -1).min(axis=1) > 0).all()
    assert set(found.timings) == {"load", "read", "predict", "join", "geometry"} and found.notes == ()


def test_what_fits_one_window_is_one_pass_however_large_the_window_may_be():
    poses = stroll(9)
    models = [Oracle(poses, noise=0.01) for _ in range(3)]
    settings = [{}, {"views_per_window": 9}, {"views_per_window": 50, "overlap": 20}]
    first, *others = (rebuilt(poses, model, **extra) for model, extra in zip(models, settings))
    assert all(model.windows == [list(range(9))] for model in models)
    for other in others:
        for name in ("world_from_camera", "depth", "points", "raw_points", "intrinsics", "confidence", "colours"):
            np.testing.assert_array_equal(getattr(first, name), getattr(other, name))
    assert isinstance(first.depth, np.ndarray)


def test_out_of_memory_halves_the_windows_and_says_so():
    poses = stroll(40)
    model = Oracle(poses, most=6)
    found = rebuilt(poses, model, views_per_window=16)
    assert [len(window) for window in model.windows[:3]] == [16, 8, 4]
    assert all(len(window) == 4 for window in model.windows[2:])
    assert found.notes == (
        "out of memory in a window of 16 frames: windows of 8 from walk_0000 on",
        "out of memory in a window of 8 frames: windows of 4 from walk_0000 on",
    )
    assert ate(found, poses) < 0.005 * length_of(poses)


def test_memory_that_runs_out_on_the_way_loses_no_frame():
    class Shrinking(Oracle):
        def forward(self, images, *, outputs):
            self.most = 8 if len(self.windows) < 3 else 3
            return super().forward(images, outputs=outputs)

    poses = stroll(40)
    model = Shrinking(poses)
    found = rebuilt(poses, model, views_per_window=8)
    assert len(found.notes) == 2 and [len(window) for window in model.windows[:6]] == [8, 8, 8, 8, 4, 2]
    assert [int(frame[0, 0, 1]) for frame in found.colours] == list(range(40))
    assert ate(found, poses) < 0.01 * length_of(poses)


@pytest.mark.parametrize("error", [MemoryError("9 GiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_model_that_never_fits_is_refused_and_other_failures_are_not_taken_for_it(error):
    class Full(Oracle):
        def forward(self, images, *, outputs):
            raise error

    class Broken(Oracle):
        def forward(self, images, *, outputs):
            raise RuntimeError("shapes do not match")

    poses = stroll(12)
    with pytest.raises(InputError, match=r"Full: \d frames of 70 x 56 do not fit into the memory of cpu"):
        rebuilt(poses, Full(poses))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        rebuilt(poses, Broken(poses))


def test_nan_in_a_later_window_names_the_frame():
    class Breaking(Oracle):
        def forward(self, images, *, outputs):
            prediction = super().forward(images, outputs=outputs)
            if 17 in self.windows[-1]:
                prediction.local_points[0, self.windows[-1].index(17), 5, 5] = torch.nan
            return prediction

    poses = stroll(30)
    with pytest.raises(CheckpointError, match="NaN or infinite local_points for walk_0017"):
        rebuilt(poses, Breaking(poses), views_per_window=8)


def test_a_window_that_contradicts_the_one_before_is_told():
    class Contradicting(Oracle):
        def forward(self, images, *, outputs):
            prediction = super().forward(images, outputs=outputs)
            if len(self.windows) == 2:
                prediction.local_points[..., 2] *= 1 + torch.rand_like(prediction.local_points[..., 2])
            return prediction

    poses = stroll(20)
    found = rebuilt(poses, Contradicting(poses), views_per_window=8)
    assert "joined poorly at walk_0006 ... walk_0007: half of the points differ by more than" in found.notes[0]


@pytest.mark.parametrize(("views", "overlap"), [(1, None), (4, 4), (4, 0), (0, None)])
def test_windows_that_cannot_be_joined_are_refused(views, overlap):
    poses = stroll(12)
    with pytest.raises(InputError, match="expected at least 2 frames, and an overlap of at least 1"):
        rebuilt(poses, views_per_window=views, overlap=overlap)


def test_a_window_without_points_is_placed_by_its_cameras():
    class Blind(Oracle):
        def forward(self, images, *, outputs):
            prediction = super().forward(images, outputs=outputs)
            if 17 in self.windows[-1]:
                prediction.local_points.neg_()
            return prediction

    poses = stroll(24)
    found = rebuilt(poses, Blind(poses), views_per_window=8)
    assert np.isfinite(found.world_from_camera).all() and not found.valid[17].any()
    assert any(note.startswith("joined by cameras alone at walk_00") for note in found.notes)


def test_pixels_of_many_windows_are_on_disk_and_go_with_the_result(tmp_path):
    poses = stroll(20)
    found = rebuilt(poses, views_per_window=8)
    assert all(isinstance(getattr(found, name), FrameStack) for name in ("depth", "points", "colours", "valid"))
    folder = found.depth.path.parent
    kept, number = found.depth, len(list(folder.iterdir()))
    del found
    gc.collect()
    assert number == 6 and list(folder.iterdir()) == [kept.path]  # what is still used stays
    assert kept[3].shape == SIZE
    del kept
    gc.collect()
    assert not folder.exists()

    cached = rebuilt(poses, views_per_window=8, cache=tmp_path / "cache")
    whole = cached.points[:]
    del cached
    gc.collect()
    np.testing.assert_array_equal(FrameStack(tmp_path / "cache" / "points.npy")[:], whole)


def test_memory_does_not_grow_with_the_length_of_the_video():
    def peak(count):
        poses = stroll(count)
        tracemalloc.start()
        rebuilt(poses, Oracle(poses), views_per_window=8)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    short, long = peak(16), peak(48)
    frame = SIZE[0] * SIZE[1] * (4 + 12 + 12 + 4 + 3 + 1)
    assert long - short < 0.2 * 32 * frame


def test_the_shared_pinhole_is_found_from_a_part_of_the_pixels_of_many_frames(monkeypatch):
    poses = stroll(30)
    whole = rebuilt(poses, Oracle(poses, noise=0.01))
    monkeypatch.setattr("flow3r.reconstruction.record.FRAME_PIXELS", 500)
    monkeypatch.setattr("flow3r.reconstruction.record.SHARED_PIXELS", 4000)
    for views in (30, 8):
        part = rebuilt(poses, Oracle(poses, noise=0.01), views_per_window=views)
        np.testing.assert_allclose(part.shared_intrinsics, whole.shared_intrinsics, rtol=5e-3)
