"""DTU in the packing of Spann3R: MVSNet's cameras, millimetres, masks with a margin."""

from pathlib import Path

import numpy as np
import pytest
from dtu_on_disk import write_dtu
from rendered import check_frames, rendered_scene

from flow3r.data.datasets.dtu import DTU, EVALUATED
from flow3r.errors import InputError

# View 0 of MVSNet's DTU cameras, as a public description of the format prints it.
REAL = """extrinsic
0.970263 0.00747983 0.241939 -191.02
-0.0147429 0.999493 0.0282234 3.28832
-0.241605 -0.030951 0.969881 22.5401
0.0 0.0 0.0 1.0

intrinsic
361.54125 0.0 82.900625
0.0 360.3975 66.383875
0.0 0.0 1.0

425.0 2.5
"""


def test_a_scan_comes_back_in_metres(tmp_path: Path):
    truth = rendered_scene(3)
    write_dtu(tmp_path / "scan1", truth)
    (sequence,) = DTU.sequences(tmp_path)
    frames = list(sequence.frames(range(3)))
    check_frames(frames, truth)
    np.testing.assert_allclose(frames[2].world_from_camera, truth.world_from_camera[2], atol=1e-5)
    assert (frames[0].depth[:, :20] == 0).all() and frames[0].depth[5, 40] == 0  # the margin hides the wrong depth


def test_a_camera_of_the_release_is_read(tmp_path: Path):
    write_dtu(tmp_path / "scan1", rendered_scene(1))
    (tmp_path / "scan1/cams/00000000_cam.txt").write_text(REAL)
    (frame,) = DTU.sequences(tmp_path)[0].frames([0])
    assert np.allclose(frame.intrinsics, [[361.54125, 0, 82.900625], [0, 360.3975, 66.383875], [0, 0, 1]])
    camera_from_world = np.linalg.inv(frame.world_from_camera)
    np.testing.assert_allclose(camera_from_world[:3, 3], [-0.19102, 0.00328832, 0.0225401])
    np.testing.assert_allclose(camera_from_world[:3, :3] @ camera_from_world[:3, :3].T, np.eye(3), atol=1e-5)


def test_images_that_lack_a_file_are_counted(tmp_path: Path):
    write_dtu(tmp_path / "scan4", rendered_scene(3))
    (tmp_path / "scan4/depths/00000001.npy").unlink()
    (tmp_path / "scan4/binary_masks/00000002.png").unlink()
    text = (tmp_path / "scan4/cams/00000000_cam.txt").read_text().split()
    (tmp_path / "scan4/cams/00000000_cam.txt").write_text(" ".join([text[0], "nan", *text[2:]]))
    (sequence,) = DTU.sequences(tmp_path)
    reasons = {"no file in depths": 1, "no file in binary_masks": 1, "camera not finite": 1}
    assert len(sequence) == 0 and sequence.left_out == reasons


def test_what_cannot_be_read_is_named(tmp_path: Path):
    write_dtu(tmp_path / "scan4", rendered_scene(1))
    np.save(tmp_path / "scan4/depths/00000000.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"00000000.npy: not an array"):
        next(DTU.sequences(tmp_path)[0].frames([0]))
    (tmp_path / "scan4/cams/00000000_cam.txt").write_text("extrinsic 1 2 3")
    with pytest.raises(InputError, match=r"00000000_cam.txt: not a camera of MVSNet"):
        len(DTU.sequences(tmp_path)[0])
    with pytest.raises(InputError, match=r"no scan\*.*it holds binary_masks, cams"):
        DTU.sequences(tmp_path / "scan4")


def test_twenty_two_scans_are_evaluated():
    assert len(set(EVALUATED)) == 22
