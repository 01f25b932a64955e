"""Sparse models written by pycolmap itself, in text and in binary, come back."""

from pathlib import Path

import numpy as np
import pytest
from synthetic_room import walk

from flow3r.data.datasets.colmap import read_model
from flow3r.errors import InputError

pycolmap = pytest.importorskip("pycolmap")

PARAMETERS = {
    "PINHOLE": [61.0, 62.0, 33.5, 23.25],
    "SIMPLE_RADIAL": [61.0, 33.5, 23.25, 0.02],
    "OPENCV": [61.0, 62.0, 33.5, 23.25, 0.1, -0.02, 0.001, -0.002],
    "OPENCV_FISHEYE": [61.0, 62.0, 33.5, 23.25, 0.1, -0.02, 0.001, -0.002],
}


def model(kind: str, poses: np.ndarray):
    reconstruction = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model=kind, width=64, height=48, params=PARAMETERS[kind], camera_id=7)
    reconstruction.add_camera_with_trivial_rig(camera)
    for number, pose in enumerate(poses):
        image = pycolmap.Image(name=f"b {len(poses) - number}.jpg", camera_id=7, image_id=number + 3)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D([1.0, 2.0])] * number)
        camera_from_world = pycolmap.Rigid3d(np.linalg.inv(pose)[:3])
        reconstruction.add_image_with_trivial_frame(image, camera_from_world)
    return reconstruction


@pytest.mark.parametrize("kind", PARAMETERS)
@pytest.mark.parametrize("form", ["text", "binary"])
def test_models_of_pycolmap_come_back_by_name(tmp_path: Path, kind: str, form: str):
    poses = walk(3)
    reconstruction = model(kind, poses)
    (reconstruction.write_text if form == "text" else reconstruction.write_binary)(tmp_path)
    images = read_model(tmp_path)
    assert [image.name for image in images] == ["b 1.jpg", "b 2.jpg", "b 3.jpg"]
    for image, pose in zip(images, poses[::-1]):
        assert image.camera.model == kind and image.camera.size == (48, 64)
        np.testing.assert_allclose(image.camera.intrinsics, reconstruction.cameras[7].calibration_matrix())
        one_focal = kind == "SIMPLE_RADIAL"
        assert list(image.camera.distortion) == PARAMETERS[kind][3 if one_focal else 4 :]
        np.testing.assert_allclose(image.world_from_camera, pose, atol=1e-12)


def test_a_folder_without_a_model_says_what_it_holds(tmp_path: Path):
    (tmp_path / "points3D.txt").write_text("")
    with pytest.raises(InputError, match=r"found points3D\.txt"):
        read_model(tmp_path)
    (tmp_path / "cameras.txt").write_text("1 FOV 64 48 1 2 3 4 5\n")
    (tmp_path / "images.txt").write_text("")
    with pytest.raises(InputError, match="camera FOV with 5"):
        read_model(tmp_path)


@pytest.mark.parametrize("form", ["text", "binary"])
def test_a_model_that_was_cut_short_is_named(tmp_path: Path, form: str):
    reconstruction = model("PINHOLE", walk(2))
    (reconstruction.write_text if form == "text" else reconstruction.write_binary)(tmp_path)
    cameras = tmp_path / ("cameras.txt" if form == "text" else "cameras.bin")
    cameras.write_bytes(cameras.read_bytes()[:-9])
    with pytest.raises(InputError, match="not a sparse model of COLMAP that can be read"):
        read_model(tmp_path)
