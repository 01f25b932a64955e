"""BlendedMVS and the formats of MVSNet are read as they are written; views that cannot be used are counted."""

import numpy as np
import pytest
from blendedmvs_on_disk import PID, camera_text, pfm_bytes, write_blendedmvs
from rendered import check_frames, rendered_scene

from flow3r.data.datasets.blendedmvs import BLENDEDMVS
from flow3r.data.datasets.mvsnet import read_camera, read_pfm
from flow3r.errors import InputError


def test_a_scene_comes_back(tmp_path):
    truth = rendered_scene()
    write_blendedmvs(tmp_path, truth)
    (scene,) = BLENDEDMVS.sequences(tmp_path)
    assert scene.name == PID and not scene.left_out
    frames = list(scene.frames(range(3)))
    check_frames(frames, truth)
    assert all((frame.depth[:, :3] == 0).all() for frame in frames)  # holes


@pytest.mark.parametrize("endian", ["<", ">"])
def test_float_maps_are_read_upright_in_both_orders_of_bytes(tmp_path, endian):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    (tmp_path / "a.pfm").write_bytes(pfm_bytes(values, endian))
    np.testing.assert_array_equal(read_pfm(tmp_path / "a.pfm"), values)


def test_a_camera_may_end_in_two_numbers_or_four(tmp_path):
    """Those of DTU have depth_min and depth_interval alone."""
    pinhole, matrix = np.diag([361.54, 360.39, 1.0]), np.eye(4)
    for name, text in (("four", camera_text(pinhole, matrix)), ("two", camera_text(pinhole, matrix)[:-9])):
        (tmp_path / name).write_text(text)
        np.testing.assert_array_equal(read_camera(tmp_path / name)[0], pinhole)


def test_views_that_cannot_be_used_are_counted(tmp_path):
    folder = write_blendedmvs(tmp_path, rendered_scene(5))
    (folder / "rendered_depth_maps" / "00000001.pfm").unlink()
    (folder / "blended_images" / "00000004.jpg").unlink()
    camera = folder / "cams" / "00000002_cam.txt"
    camera.write_text(camera_text(np.eye(3), np.full((4, 4), np.nan)))
    (scene,) = BLENDEDMVS.sequences(tmp_path)
    assert scene.timestamps().tolist() == [0, 3]
    assert scene.left_out == {"image or depth file missing": 2, "camera not finite": 1}


def test_bad_files_and_roots_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no such folder.*BlendedMVS"):
        BLENDEDMVS.sequences(tmp_path / "nowhere")
    (tmp_path / "dataset_low_res").mkdir()
    with pytest.raises(InputError, match=r"no \*/blended_images.*dataset_low_res"):
        BLENDEDMVS.sequences(tmp_path)
    folder = write_blendedmvs(tmp_path, rendered_scene(1))
    depth = folder / "rendered_depth_maps" / "00000000.pfm"
    depth.write_bytes(depth.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"00000000\.pfm.*3071 values"):
        list(BLENDEDMVS.sequences(tmp_path)[0].frames([0]))
    (folder / "cams" / "00000000_cam.txt").write_text("extrinsic\n1 0 0")
    with pytest.raises(InputError, match=r"00000000_cam\.txt.*MVSNet"):
        len(BLENDEDMVS.sequences(tmp_path)[0])
