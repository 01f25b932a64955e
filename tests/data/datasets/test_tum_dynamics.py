"""TUM-dynamics: the tracked pose is the camera's; freiburg3 has no distortion left, freiburg1 has."""

from pathlib import Path

import numpy as np
import pytest
from rendered import check_frames, rendered_scene
from tum_on_disk import relay_freiburg1, write_tum

from flow3r.data.datasets.folder import CameraFolder
from flow3r.data.datasets.tum_dynamics import TUM_DYNAMICS
from flow3r.errors import InputError

# Calibration page of the benchmark, freiburg3, moved to half-integer pixel centres.
K = np.array([[535.4, 0, 320.6], [0, 539.2, 248.1], [0, 0, 1]])


def test_a_sequence_of_freiburg3_comes_back(tmp_path: Path):
    truth = rendered_scene(intrinsics=K)
    write_tum(tmp_path / "rgbd_dataset_freiburg3_walking_xyz", truth, truth.world_from_camera)
    (sequence,) = TUM_DYNAMICS.sequences(tmp_path)
    frames = list(sequence.frames(range(3)))
    check_frames(frames, truth, depth_step=2e-4)
    assert frames[0].depth[0, 0] == 0


def test_real_frames_of_freiburg1_agree_with_their_verified_cameras(shared: Path, tmp_path: Path):
    """The benchmark's files are made again from a verified copy of some of its frames, and its own full track."""
    source = shared / "data/sequences_with_gt/tum_fr1_rpy"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    entries = relay_freiburg1(source, tmp_path / "rgbd_dataset_freiburg1_rpy")
    (sequence,) = TUM_DYNAMICS.sequences(tmp_path)
    assert len(sequence) + sequence.left_out.total() == len(entries)
    ours, theirs = list(sequence.frames([3, 40])), list(CameraFolder(source).frames([3, 40]))
    for a, b in zip(ours, theirs):
        assert a.name == b.name
        np.testing.assert_allclose(a.intrinsics, b.intrinsics, atol=0.05)
        np.testing.assert_allclose(
            a.world_from_camera, b.world_from_camera, atol=0.02
        )  # theirs is interpolated in time
        assert np.abs(a.image.astype(int) - b.image).mean() < 2
        assert np.isclose(a.depth, b.depth).mean() > 0.98


def test_a_wrong_root_says_what_was_looked_for(tmp_path: Path):
    with pytest.raises(InputError, match=r"no rgbd_dataset_freiburg\[123\]_\*.*it holds nothing"):
        TUM_DYNAMICS.sequences(tmp_path)
