"""7-Scenes: depth and poses are another camera's than colour; 65535 and 0 are no depth."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from rendered import Rendered, check_frames
from sevenscenes_on_disk import COLOUR_FROM_DEPTH, colour_views, write_sevenscenes

from flow3r.data.datasets.sevenscenes import SEVENSCENES, split
from flow3r.errors import InputError


@pytest.fixture(scope="module")
def truth() -> Rendered:
    return colour_views()


@pytest.mark.parametrize("projected", [True, False])
def test_the_colour_camera_comes_back(truth: Rendered, tmp_path: Path, projected: bool):
    write_sevenscenes(tmp_path / "chess/seq-03", truth, projected=projected)
    (sequence,) = SEVENSCENES.sequences(tmp_path)
    assert sequence.name == "chess/seq-03"
    frames = list(sequence.frames(range(len(sequence))))
    # Raw depth is that of a point somewhere in the pixel, within which the walls recede by up to 0.5 %.
    check_frames(frames, truth, depth_relative=1e-4 if projected else 5e-3)
    assert (frames[0].depth[:30, :10] == 0).all()
    np.testing.assert_allclose(frames[0].world_from_camera, truth.world_from_camera[0], atol=1e-6)


def test_depth_taken_as_it_is_would_be_another_cameras(truth: Rendered, tmp_path: Path):
    write_sevenscenes(tmp_path / "chess/seq-03", truth, projected=True)
    (sequence,) = SEVENSCENES.sequences(tmp_path)
    for file in (tmp_path / "chess/seq-03").glob("*.depth.png"):
        file.rename(str(file).replace(".depth.png", ".depth.proj.png"))
    with pytest.raises(AssertionError):
        check_frames(list(sequence.frames(range(len(sequence)))), truth, depth_relative=5e-3)


def test_the_released_pose_is_the_depth_cameras():
    offset = np.linalg.norm(COLOUR_FROM_DEPTH[:3, 3])
    angle = np.degrees(np.arccos((np.trace(COLOUR_FROM_DEPTH[:3, :3]) - 1) / 2))
    assert 0.025 < offset < 0.027 and 0.6 < angle < 0.7


def test_the_nearer_of_two_points_is_seen(tmp_path: Path, truth: Rendered):
    write_sevenscenes(tmp_path / "chess/seq-03", truth, projected=False)
    raw = np.full((480, 640), 4000, dtype=np.uint16)
    raw[200:280, 300:340] = 1000  # nearer: it moves further to the left of what the colour camera sees
    for file in (tmp_path / "chess/seq-03").glob("*.depth.png"):
        cv2.imwrite(str(file), raw)
    (frame,) = SEVENSCENES.sequences(tmp_path)[0].frames([0])
    near = (frame.depth > 0) & (frame.depth < 2)
    assert 0.9 < near.sum() / (80 * 40 * (525 / 585) ** 2) < 1.1
    assert set(np.round(frame.depth[near | (frame.depth > 2)])) == {1, 4}


def test_a_pose_of_the_release_is_read(truth: Rendered, tmp_path: Path):
    """As quoted by SimpleRecon's loader; its determinant is 0.9999."""
    write_sevenscenes(tmp_path / "chess/seq-01", truth, projected=True)
    (tmp_path / "chess/seq-01/frame-000000.pose.txt").write_text(
        "9.9935108e-001\t -1.5576084e-002\t  3.1508941e-002\t -1.2323361e-001\t\n"
        "9.2375092e-003\t  9.8130137e-001\t  1.9211653e-001\t -1.1206967e+000\t\n"
        "-3.3912845e-002\t -1.9170459e-001\t  9.8083067e-001\t -9.8870575e-001\t\n"
        "0.0000000e+000\t  0.0000000e+000\t  0.0000000e+000\t  1.0000000e+000\t\n"
    )
    (frame,) = SEVENSCENES.sequences(tmp_path)[0].frames([0])
    assert np.isclose(np.linalg.det(frame.world_from_camera[:3, :3]), 1, atol=1e-12)
    moved = np.linalg.norm(frame.world_from_camera[:3, 3] - [-0.12323361, -1.1206967, -0.98870575])
    assert np.isclose(moved, np.linalg.norm(COLOUR_FROM_DEPTH[:3, 3]), atol=1e-5)


def test_frames_that_miss_a_file_or_a_finite_pose_are_counted(truth: Rendered, tmp_path: Path):
    folder = tmp_path / "stairs/seq-01"
    write_sevenscenes(folder, truth, projected=True)
    (folder / "frame-000000.pose.txt").write_text("nan " * 16)
    (folder / "frame-000001.depth.proj.png").unlink()
    (folder / "frame-000001.depth.png").unlink()
    (sequence,) = SEVENSCENES.sequences(tmp_path)
    assert len(sequence) == 0 and sequence.left_out == {"pose not finite": 1, "no depth file": 1}
    (folder / "frame-000000.pose.txt").write_text("1 2 3")
    with pytest.raises(InputError, match=r"frame-000000.pose.txt.*4 x 4"):
        len(SEVENSCENES.sequences(tmp_path)[0])


def test_splits_are_named_as_sequences_are(tmp_path: Path):
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads/TestSplit.txt").write_bytes(b"sequence1\r\nsequence12\r\n")  # Windows lines, as released
    assert split(tmp_path / "heads", "Test") == ["heads/seq-01", "heads/seq-12"]


def test_a_wrong_root_says_what_is_there(tmp_path: Path):
    (tmp_path / "frame-000000.color.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"no \*/seq-\*.*frame-000000.color.png"):
        SEVENSCENES.sequences(tmp_path)
