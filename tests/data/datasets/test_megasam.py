"""Results of MegaSaM are read as its scripts write them, the consistent ones first, frame by frame."""

import tracemalloc

import numpy as np
import pytest
from megasam_on_disk import write_consistent, write_tracked
from rendered import check_frames, rendered_scene

from flow3r.data.datasets.megasam import MEGASAM
from flow3r.data.frame import Sequence
from flow3r.errors import InputError


def test_both_kinds_of_result_come_back(tmp_path):
    truth = rendered_scene()
    for kind, write, relative in (("a", write_tracked, 1e-5), ("b", write_consistent, 5e-4)):
        write(tmp_path / kind, truth)
        (clip,) = MEGASAM.sequences(tmp_path / kind)
        assert isinstance(clip, Sequence) and clip.name == "walk"
        frames = list(clip.frames(range(3)))
        check_frames(frames, truth, depth_step=1e-5, depth_relative=relative, colours=1e-9)
        assert all((frame.depth[0, :4] == 0).all() for frame in frames)


def test_depth_at_the_bounds_of_clipping_is_unknown(tmp_path):
    """In 16 bits the lower bound is 0.0010004: above 1e-3."""
    write_consistent(tmp_path, rendered_scene(1))
    (frame,) = MEGASAM.sequences(tmp_path)[0].frames([0])
    assert (frame.depth[0, :4] == 0).all() and (frame.depth[1, :4] == 0).all() and (frame.depth[2:] > 0).all()


def test_the_consistent_result_is_preferred(tmp_path):
    write_tracked(tmp_path, rendered_scene(2), "walk")
    write_tracked(tmp_path, rendered_scene(2), "only_tracked")
    write_consistent(tmp_path, rendered_scene(2), "walk")
    only, walk = MEGASAM.sequences(tmp_path)
    assert (only.name, walk.name) == ("only_tracked", "walk")
    assert [clip.files[0].parent.name for clip in (only, walk)] == ["outputs", "outputs_cvd"]


def test_frames_without_a_pose_are_counted_and_keep_their_numbers(tmp_path):
    truth = rendered_scene(3)
    truth.world_from_camera[1, 0, 3] = np.inf
    write_consistent(tmp_path, truth)
    (clip,) = MEGASAM.sequences(tmp_path)
    assert clip.timestamps().tolist() == [0, 2] and clip.left_out == {"pose not finite": 1}
    (frame,) = clip.frames([1])
    np.testing.assert_array_equal(frame.image, truth.images[2])
    assert frame.name == "walk_000002"


def test_memory_does_not_grow_with_the_clip(tmp_path):
    (tmp_path / "outputs_cvd").mkdir()
    arrays = {"images": np.zeros((200, 48, 64, 3), np.uint8), "depths": np.ones((200, 48, 64), np.float16)}
    poses = np.tile(np.eye(4), (200, 1, 1))
    np.savez(tmp_path / "outputs_cvd" / "a_sgd_cvd_hr.npz", **arrays, intrinsic=np.eye(3), cam_c2w=poses)
    (clip,) = MEGASAM.sequences(tmp_path)
    assert len(clip) == 200
    tracemalloc.start()
    assert sum(1 for _ in clip.frames(range(200))) == 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < arrays["images"].nbytes / 2


def test_bad_files_and_roots_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no such folder.*MegaSaM"):
        MEGASAM.sequences(tmp_path / "nowhere")
    (tmp_path / "reconstructions").mkdir()
    with pytest.raises(InputError, match="it holds reconstructions"):
        MEGASAM.sequences(tmp_path)
    file = write_consistent(tmp_path, rendered_scene(2))
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"walk_sgd_cvd_hr\.npz"):
        len(MEGASAM.sequences(tmp_path)[0])
    images = np.zeros((2, 4, 4, 3), np.uint8)
    np.savez(file, images=images, depths=np.ones((2, 4, 6)), intrinsic=np.eye(3), cam_c2w=np.tile(np.eye(4), (2, 1, 1)))
    with pytest.raises(InputError, match="expected one size"):
        len(MEGASAM.sequences(tmp_path)[0])
