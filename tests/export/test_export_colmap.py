"""COLMAP's text model, read back by pycolmap: points reproject, in the pixels of the original images."""

import dataclasses

import numpy as np
import pytest
from synthetic_room import original_images, room_reconstruction, walk

from flow3r.export.colmap import write_colmap
from flow3r.export.images import write_images
from flow3r.export.points import select_points

pycolmap = pytest.importorskip("pycolmap")


def read_back(room, tmp_path, **thresholds):
    points = select_points(room, **thresholds)
    assert write_colmap(room, points, tmp_path / "sparse" / "0") == len(points)
    return points, pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))


def pose_of(image):
    found = image.cam_from_world
    return (found() if callable(found) else found).matrix()


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("original", [(101, 187), (320, 240)])
def test_every_point_reprojects_to_its_observation_and_the_observation_is_its_pixel(tmp_path, fit, original):
    room = room_reconstruction(fit=fit, original=original)
    points, model = read_back(room, tmp_path, confidence_percentile=40)
    assert model.num_points3D() == len(points) and model.num_images() == len(room.names)
    worst = 0.0
    for image in model.images.values():
        camera = model.cameras[image.camera_id]
        assert (camera.height, camera.width) == original
        frame = image.image_id - 1
        seen = [point for point in image.points2D if point.has_point3D()]
        assert len(seen) == (points.frames == frame).sum()
        world = np.array([model.points3D[point.point3D_id].xyz for point in seen])
        pixels = np.array([point.xy for point in seen])
        local = world @ pose_of(image)[:, :3].T + pose_of(image)[:, 3]
        assert (local[:, 2] > 0).all()
        projected = local @ camera.calibration_matrix().T
        worst = max(worst, np.abs(projected[:, :2] / projected[:, 2:] - pixels).max())
        # The observation is the centre of the model's pixel, mapped to the original image.
        affine = room.original_from_model[frame]
        expected = points.pixels[points.frames == frame] @ affine[:2, :2].T + affine[:2, 2]
        np.testing.assert_allclose(pixels, expected, atol=1e-5)
        assert (pixels > 0).all() and (pixels < np.array(original)[::-1]).all()
    assert worst < 0.01


def test_the_pinhole_is_that_of_the_original_image(tmp_path):
    """The room was seen by a centred pinhole of focal length 150 in the original, whatever the crop."""
    for fit in ("crop", "pad"):
        room = room_reconstruction(fit=fit, original=(101, 187))
        _, model = read_back(room, tmp_path / fit)
        (camera,) = model.cameras.values()
        assert camera.model.name == "PINHOLE"
        np.testing.assert_allclose(camera.params, [150, 150, 187 / 2, 101 / 2], rtol=1e-7)


def test_frames_of_different_pinholes_have_a_camera_each(tmp_path):
    room = room_reconstruction(focals=(150.0, 160.0, 170.0))
    _, model = read_back(room, tmp_path)
    assert sorted(camera.params[0] for camera in model.cameras.values()) == pytest.approx([150, 160, 170])
    for image in model.images.values():
        assert model.cameras[image.camera_id].params[0] == pytest.approx(140 + 10 * image.image_id)


def test_poses_and_tracks_are_ours(tmp_path):
    room = room_reconstruction()
    points, model = read_back(room, tmp_path)
    for image in model.images.values():
        pose = np.vstack([pose_of(image), [0, 0, 0, 1]])
        np.testing.assert_allclose(np.linalg.inv(pose), room.world_from_camera[image.image_id - 1], atol=1e-9)
    for point_id, point in list(model.points3D.items())[::501]:
        (element,) = point.track.elements
        assert element.image_id == points.frames[point_id - 1] + 1
        assert model.images[element.image_id].points2D[element.point2D_idx].point3D_id == point_id
        np.testing.assert_array_equal(point.color, points.colours[point_id - 1])
        np.testing.assert_allclose(point.xyz, points.positions[point_id - 1], rtol=1e-7)


def test_the_images_are_the_originals_under_the_names_of_the_model(tmp_path):
    from PIL import Image

    room = room_reconstruction(original=(60, 90))
    _, model = read_back(room, tmp_path)
    originals = original_images(room)
    write_images(room, originals, tmp_path / "images")
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == sorted(
        i.name for i in model.images.values()
    )
    for image in model.images.values():
        with Image.open(tmp_path / "images" / image.name) as file:
            written = np.asarray(file).astype(int)
        assert np.abs(written - originals[image.image_id - 1]).mean() < 2


def test_a_frame_without_points_is_still_an_image(tmp_path):
    room = room_reconstruction()
    valid = room.valid.copy()
    valid[1] = False
    _, model = read_back(dataclasses.replace(room, valid=valid), tmp_path)
    assert [len(model.images[image].points2D) > 0 for image in (1, 2, 3)] == [True, False, True]
    np.testing.assert_allclose(
        np.linalg.inv(np.vstack([pose_of(model.images[3]), [0, 0, 0, 1]])), walk(3)[2], atol=1e-9
    )
