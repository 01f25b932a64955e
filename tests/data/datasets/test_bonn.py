"""Bonn RGB-D Dynamic: a marker plate is tracked, the camera is read; streams meet by time; the lens is undone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rendered import Rendered, check_frames, rendered_scene
from scipy.linalg import polar
from synthetic_room import pose
from tum_on_disk import PERIOD, START, seen_through_lens, write_list, write_tum

from flow3r.data.datasets.bonn import BONN, world_from_camera
from flow3r.data.datasets.dataset import Listing, PosedImages
from flow3r.errors import InputError

# "rgbd-dynamic-dataset" page of the University of Bonn: calibration of the colour camera, and the marker's frame.
K = np.array([[542.822841, 0, 315.593520 + 0.5], [0, 542.576870, 237.756098 + 0.5], [0, 0, 1]])
DISTORTION = (0.039903, -0.099343, -0.000730, -0.000144, 0.0)
T_ROS = np.array([[-1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
PRINTED = np.array([[1.0157, 0.1828, -0.2389], [0.0009, -0.8431, -0.6413], [-0.3009, 0.6147, -0.8085]])
OFFSET = [0.0113, -0.0098, 0.0111]


def marker_from_camera() -> np.ndarray:
    """How the plate is mounted: T_ROS T_m, its rotation that of the polar decomposition of the printed one."""
    mounted = np.eye(4)
    mounted[:3, :3], mounted[:3, 3] = polar(PRINTED)[0], OFFSET
    return T_ROS @ mounted


@pytest.fixture(scope="module")
def truth() -> Rendered:
    poses = np.stack([pose(0.05 * k, (0.05 * k, -0.01 * k, 0.02 * k), 0.03 * k) for k in range(3)])
    return rendered_scene(size=(480, 640), intrinsics=K, poses=poses)


@pytest.fixture(scope="module")
def root(truth: Rendered, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bonn")
    tracked = truth.world_from_camera @ np.linalg.inv(marker_from_camera())
    write_tum(root / "rgbd_bonn_dataset/rgbd_bonn_balloon2", seen_through_lens(truth, DISTORTION), tracked)
    return root


def test_a_sequence_comes_back(root: Path, truth: Rendered):
    (sequence,) = BONN.sequences(root)
    assert sequence.name == "rgbd_bonn_balloon2"
    frames = list(sequence.frames(range(3)))
    check_frames(frames, truth, depth_relative=5e-3)
    np.testing.assert_allclose(sequence.timestamps(), START + PERIOD * np.arange(3), atol=1e-5)
    assert not sequence.left_out


def test_a_lens_left_in_would_show(root: Path, truth: Rendered):
    (sequence,) = BONN.sequences(root)
    distorted = Listing([replace(image, distortion=()) for image in sequence.listing.images])
    with pytest.raises(AssertionError):
        check_frames(list(PosedImages("distorted", lambda: distorted).frames(range(3))), truth, depth_relative=5e-3)


def test_the_marker_plate_is_not_the_camera(truth: Rendered):
    tracked = truth.world_from_camera @ np.linalg.inv(marker_from_camera())
    ours = np.stack([world_from_camera(pose) for pose in tracked])
    np.testing.assert_allclose(ours[:, :3, :3] @ ours[:, :3, :3].mT, np.broadcast_to(np.eye(3), (3, 3, 3)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.inv(ours[0]) @ ours[1], truth.world_from_camera[1], atol=1e-12)
    of_plate = np.linalg.inv(tracked[0]) @ tracked[1]
    assert np.abs(of_plate - truth.world_from_camera[1]).max() > 0.03


def test_images_without_depth_or_pose_nearby_are_left_out_and_counted(root: Path, tmp_path: Path):
    folder = tmp_path / "rgbd_bonn_gaps"
    source = root / "rgbd_bonn_dataset/rgbd_bonn_balloon2"
    folder.mkdir()
    for kind in ("rgb", "depth"):
        (folder / kind).symlink_to(source / kind)
    lines = {name: (source / f"{name}.txt").read_text().splitlines()[3:] for name in ("rgb", "depth", "groundtruth")}
    write_list(folder / "rgb.txt", "#", lines["rgb"])
    write_list(folder / "depth.txt", "#", lines["depth"][:-1])  # none for the last image
    track = lines["groundtruth"]
    track[1] = " ".join([*track[1].split()[:4], "nan nan nan nan"])
    write_list(folder / "groundtruth.txt", "#", track[:2] + track[4:])  # none for the second image
    (sequence,) = BONN.sequences(tmp_path)
    assert len(sequence) == 0
    assert sequence.left_out == {"no depth within 0.02 s": 1, "no pose within 0.02 s": 1, "pose not finite": 1}


def test_a_wrong_root_says_what_was_looked_for_and_what_is_there(tmp_path: Path):
    (tmp_path / "rgbd_dataset_freiburg3_walking_xyz").mkdir()
    with pytest.raises(InputError, match=r"no rgbd_bonn_\*.*it holds rgbd_dataset_freiburg3_walking_xyz"):
        BONN.sequences(tmp_path)


def test_a_damaged_track_is_named(root: Path, tmp_path: Path):
    folder = tmp_path / "rgbd_bonn_damaged"
    folder.mkdir()
    for name in ("rgb.txt", "depth.txt"):
        (folder / name).write_text("1.0 rgb/1.0.png\n")
    with pytest.raises(InputError, match=r"groundtruth.txt"):
        len(BONN.sequences(tmp_path)[0])
    (folder / "groundtruth.txt").write_text("1.0 0 0 0 0 0 1\n")
    with pytest.raises(InputError, match=r"groundtruth.txt: a line of 7 words"):
        len(BONN.sequences(tmp_path)[0])
