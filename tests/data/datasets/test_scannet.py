"""ScanNet: two pinholes and one pose, millimetres, lost poses, frames that are numbered with gaps, the packed form."""

from pathlib import Path

import numpy as np
import pytest
from rendered import check_frames, rendered_scene
from scannet_on_disk import lose_pose, pack, write_scan
from synthetic_room import pose

from flow3r.data.datasets import scannet
from flow3r.data.datasets.scannet import SCANNET
from flow3r.errors import InputError

DEPTH = np.array([[57.0, 0, 32.0], [0, 57.5, 24.0], [0, 0, 1]])
COLOUR = np.array([[2.03 * 57.0, 0, 65.4], [0, 2.02 * 57.5, 50.1], [0, 0, 1]])  # of 130 x 97 pixels: about twice


def scan(root: Path, count: int = 3, **options) -> tuple:
    """A scan on disk and what must come of it: the depth camera's view."""
    expected = rendered_scene(count=count, intrinsics=DEPTH)
    colour = rendered_scene(count=count, size=(97, 130), intrinsics=COLOUR)
    return write_scan(root, colour, expected, **options), expected


def test_a_written_scan_comes_back_on_the_grid_of_its_depth(tmp_path: Path):
    _, expected = scan(tmp_path)
    (sequence,) = SCANNET.sequences(tmp_path)
    assert sequence.name == "scene0707_00" and not sequence.left_out
    check_frames(list(sequence.frames(range(3))), expected, depth_step=6e-4, depth_relative=0, colours=3.0)


def test_edges_in_the_colour_image_lie_where_the_depth_camera_sees_them(tmp_path: Path):
    poses = np.stack([pose(0.1, (0.0, 0.0, 0.0), 0.3)])  # the border between red and blue crosses the image
    expected = rendered_scene(intrinsics=DEPTH, poses=poses)
    write_scan(tmp_path, rendered_scene(size=(97, 130), intrinsics=COLOUR, poses=poses), expected)
    (frame,) = SCANNET.sequences(tmp_path)[0].frames([0])

    def border(image: np.ndarray) -> np.ndarray:
        """Rows above each column's change from red to blue."""
        red = image[..., 0].astype(float)
        return ((red - 40) / (220 - 40)).sum(axis=0)

    sharp = border(expected.images[0])
    crossing = (sharp > 3) & (sharp < 45)
    shift = (border(frame.image) - sharp)[crossing].mean()
    assert crossing.sum() > 30 and abs(shift) < 0.2  # JPEG: 0.1; stretching the image whole: 0.9


def test_lost_poses_and_missing_files_are_counted_and_numbers_may_have_gaps(tmp_path: Path):
    folder, _ = scan(tmp_path, count=6, step=20)
    lose_pose(folder, 20)
    (folder / "depth" / "40.png").unlink()
    (folder / "pose" / "60.txt").unlink()
    (sequence,) = SCANNET.sequences(tmp_path)
    assert [file.name for file in sequence.files] == ["0.jpg", "80.jpg", "100.jpg"]  # not 0, 100, 80
    np.testing.assert_array_equal(sequence.timestamps(), [0, 80, 100])
    assert sequence.left_out == {"non-finite pose": 1, "missing depth file": 1, "missing pose file": 1}


def test_the_packed_form_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scannet, "PACKED", 4)
    folder, expected = scan(tmp_path, count=10)
    lose_pose(folder, 9)
    pack(folder, keep=4, every=3)
    (sequence,) = SCANNET.sequences(tmp_path)
    assert [file.name for file in sequence.files] == [f"frame_{k:04d}.jpg" for k in range(3)]
    assert sequence.left_out == {"non-finite pose": 1}
    kept = type(expected)(expected.images[:9:3], expected.depth[:9:3], DEPTH, expected.world_from_camera[:9:3])
    check_frames(list(sequence.frames(range(3))), kept, depth_step=6e-4, depth_relative=0, colours=3.0)


def test_a_damaged_pose_is_named(tmp_path: Path):
    folder, _ = scan(tmp_path)
    (folder / "pose" / "1.txt").write_text("1 0 0 0\n0 1 0")
    with pytest.raises(InputError, match=r"1\.txt: 7 numbers; expected a 4 x 4 matrix"):
        len(SCANNET.sequences(tmp_path)[0])


def test_a_wrong_root_says_what_was_looked_for_and_found(tmp_path: Path):
    (tmp_path / "tasks").mkdir()
    with pytest.raises(InputError, match=r"scans\*.*tasks"):
        SCANNET.sequences(tmp_path)
