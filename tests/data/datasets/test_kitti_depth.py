"""KITTI depth: sparse depth of 256 steps a metre beside the raw recordings' images and calibration; no poses."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from kitti_on_disk import DRIVE, write_kitti
from rendered import Rendered, rendered_scene

from flow3r.data.datasets.kitti_depth import KITTI_DEPTH
from flow3r.errors import InputError


@pytest.fixture
def truth() -> Rendered:
    return rendered_scene(3)


def test_a_drive_comes_back(truth: Rendered, tmp_path: Path):
    write_kitti(tmp_path, truth)
    (sequence,) = KITTI_DEPTH.sequences(tmp_path)
    assert sequence.name == f"val/{DRIVE}/image_02" and sequence.left_out == {"no depth file": 2}
    assert sequence.timestamps().tolist() == [5, 6, 7]
    for k, frame in enumerate(sequence.frames(range(3))):
        assert (frame.image == truth.images[k]).all() and frame.world_from_camera is None
        assert (frame.depth[1::3] == 0).all()
        np.testing.assert_allclose(frame.depth[::3], truth.depth[k][::3], atol=1 / 512 + 1e-6)
        half = [[721.5377, 0, 609.5593 + 0.5], [0, 721.5377, 172.854 + 0.5], [0, 0, 1]]
        np.testing.assert_allclose(frame.intrinsics, half)


def test_without_its_calibration_a_drive_has_no_intrinsics(truth: Rendered, tmp_path: Path):
    write_kitti(tmp_path, truth)
    calibration = tmp_path / "2011_09_26/calib_cam_to_cam.txt"
    calibration.write_text("P_rect_03: 1 2 3\n")
    with pytest.raises(InputError, match=r"calib_cam_to_cam.txt: no P_rect_02"):
        len(KITTI_DEPTH.sequences(tmp_path)[0])
    calibration.unlink()
    (frame,) = KITTI_DEPTH.sequences(tmp_path)[0].frames([0])
    assert frame.intrinsics is None and frame.depth.any()


def test_images_that_were_not_downloaded_are_counted(truth: Rendered, tmp_path: Path):
    write_kitti(tmp_path, truth)
    (tmp_path / f"2011_09_26/{DRIVE}/image_02/data/0000000006.png").unlink()
    (sequence,) = KITTI_DEPTH.sequences(tmp_path)
    assert len(sequence) == 2 and sequence.left_out == {"no depth file": 2, "no image file": 1}


def test_depth_of_eight_bits_is_refused(truth: Rendered, tmp_path: Path):
    write_kitti(tmp_path, truth)
    file = tmp_path / f"val/{DRIVE}/proj_depth/groundtruth/image_02/0000000005.png"
    cv2.imwrite(str(file), np.zeros((48, 64), dtype=np.uint8))
    with pytest.raises(InputError, match=r"0000000005.png: depth of uint8"):
        next(KITTI_DEPTH.sequences(tmp_path)[0].frames([0]))


def test_a_wrong_root_says_what_is_there(tmp_path: Path):
    (tmp_path / "2011_09_26").mkdir()
    with pytest.raises(InputError, match=r"proj_depth.*it holds 2011_09_26"):
        KITTI_DEPTH.sequences(tmp_path)
