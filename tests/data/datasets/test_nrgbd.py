"""NRGBD: OpenGL cameras, files in the order of their numbers, poses that are not numbers."""

from pathlib import Path

import numpy as np
import pytest
from nrgbd_on_disk import write_nrgbd
from rendered import Rendered, check_frames, rendered_scene

from flow3r.data.datasets.nrgbd import NRGBD
from flow3r.errors import InputError

SIZE = (48, 64)


@pytest.fixture(scope="module")
def truth() -> Rendered:
    focal = SIZE[1] / 2 / np.tan(np.radians(30))
    intrinsics = np.array([[focal, 0, SIZE[1] / 2], [0, focal, SIZE[0] / 2], [0, 0, 1]])
    return rendered_scene(11, SIZE, intrinsics)  # img10 follows img9, not img1


def test_a_scene_comes_back(truth: Rendered, tmp_path: Path):
    write_nrgbd(tmp_path / "breakfast_room", truth)
    (sequence,) = NRGBD.sequences(tmp_path)
    frames = list(sequence.frames(range(11)))
    check_frames(frames, truth)
    np.testing.assert_allclose(frames[4].world_from_camera, truth.world_from_camera[4], atol=1e-8)
    assert (frames[0].depth[:3, :5] == 0).all() and (frames[0].depth[-3:, :5] == 0).all()


def test_poses_that_are_not_numbers_and_missing_depth_are_counted(truth: Rendered, tmp_path: Path):
    write_nrgbd(tmp_path / "whiteroom", truth)
    lines = (tmp_path / "whiteroom/poses.txt").read_text().splitlines()
    lines[8:12] = ["nan nan nan nan"] * 4
    (tmp_path / "whiteroom/poses.txt").write_text("\n".join(lines))
    (tmp_path / "whiteroom/depth/depth7.png").unlink()
    (sequence,) = NRGBD.sequences(tmp_path)
    assert sequence.left_out == {"pose not finite": 1, "no depth file": 1}
    assert sequence.timestamps().tolist() == [0, 1, 3, 4, 5, 6, 8, 9, 10]
    (frame,) = sequence.frames([2])
    assert frame.name == "img3.png"
    np.testing.assert_allclose(frame.world_from_camera, truth.world_from_camera[3], atol=1e-8)


def test_poses_of_other_images_are_refused(truth: Rendered, tmp_path: Path):
    write_nrgbd(tmp_path / "kitchen", truth)
    (tmp_path / "kitchen/images/img5.png").unlink()
    with pytest.raises(InputError, match=r"poses.txt: 176 numbers; expected a 40 x 4 matrix"):
        len(NRGBD.sequences(tmp_path)[0])


def test_a_wrong_root_says_what_is_there(tmp_path: Path):
    with pytest.raises(InputError, match=r"no \*/images.*it holds nothing"):
        NRGBD.sequences(tmp_path)
