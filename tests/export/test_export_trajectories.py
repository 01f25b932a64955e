"""The TUM trajectory and transforms.json, read back by a few lines that know the formats alone."""

import json

import numpy as np
import torch
from synthetic_room import room_reconstruction

from flow3r.export.nerfstudio import write_nerfstudio
from flow3r.export.tum import write_tum
from flow3r.geometry.se3 import rotation_from_quaternion


def test_tum_holds_time_position_and_quaternion_xyzw(tmp_path):
    room = room_reconstruction(count=5)
    write_tum(room, tmp_path / "trajectory.tum")
    table = np.loadtxt(tmp_path / "trajectory.tum")
    np.testing.assert_allclose(table[:, 0], room.timestamps)
    np.testing.assert_allclose(table[:, 1:4], room.world_from_camera[:, :3, 3], atol=1e-8)
    rotations = rotation_from_quaternion(torch.from_numpy(table[:, [7, 4, 5, 6]])).numpy()
    np.testing.assert_allclose(rotations, room.world_from_camera[:, :3, :3], atol=1e-8)


def test_transforms_are_opengl_cameras_of_the_original_images(tmp_path):
    room = room_reconstruction(count=3, fit="pad")
    write_nerfstudio(room, tmp_path / "transforms.json", images="images", ply="scene.ply")
    document = json.loads((tmp_path / "transforms.json").read_text())
    height, width = room.original_sizes[0]
    assert (document["w"], document["h"]) == (width, height)
    np.testing.assert_allclose([document[k] for k in ("fl_x", "fl_y", "cx", "cy")], [150, 150, width / 2, height / 2])
    assert [document[k] for k in ("k1", "k2", "p1", "p2")] == [0, 0, 0, 0]
    assert document["applied_transform"] == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert document["ply_file_path"] == "scene.ply"
    for index, frame in enumerate(document["frames"]):
        matrix = np.array(frame["transform_matrix"])
        # An OpenGL camera looks along -z with +y up: a point it sees lies at negative z.
        local = np.linalg.inv(matrix) @ np.append(room.points[index, 20, 30], 1)
        x = document["fl_x"] * local[0] / -local[2] + document["cx"]
        y = document["fl_y"] * -local[1] / -local[2] + document["cy"]
        expected = room.original_from_model[index] @ [30.5, 20.5, 1]
        np.testing.assert_allclose([x, y], expected[:2], atol=1e-3)
        assert frame["file_path"] == f"images/{index:06d}.jpg"


def test_frames_of_different_pinholes_carry_their_own(tmp_path):
    room = room_reconstruction(count=2, focals=(150.0, 170.0))
    write_nerfstudio(room, tmp_path / "transforms.json", images="images", ply="scene.ply")
    document = json.loads((tmp_path / "transforms.json").read_text())
    assert "fl_x" not in document
    np.testing.assert_allclose([frame["fl_x"] for frame in document["frames"]], [150, 170])
