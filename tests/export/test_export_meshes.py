"""PLY and GLB, read back by plyfile and pygltflib."""

import numpy as np
import pytest
from synthetic_room import room_reconstruction

from flow3r.export.glb import write_glb
from flow3r.export.ply import write_ply
from flow3r.export.points import select_points

plyfile = pytest.importorskip("plyfile")
pygltflib = pytest.importorskip("pygltflib")
COMPONENTS = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
LANES = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}


def test_plyfile_reads_the_points_and_colours(tmp_path):
    points = select_points(room_reconstruction(fit="pad"))
    write_ply(points, tmp_path / "scene.ply")
    content = plyfile.PlyData.read(tmp_path / "scene.ply")
    assert not content.text and content.byte_order == "<"
    vertex = content["vertex"]
    np.testing.assert_array_equal(np.stack([vertex[axis] for axis in "xyz"], axis=-1), points.positions)
    np.testing.assert_array_equal(np.stack([vertex[c] for c in ("red", "green", "blue")], axis=-1), points.colours)


def accessor(glb, index):
    record = glb.accessors[index]
    view = glb.bufferViews[record.bufferView]
    start = (view.byteOffset or 0) + (record.byteOffset or 0)
    lanes, kind = LANES[record.type], COMPONENTS[record.componentType]
    return np.frombuffer(glb.binary_blob(), kind, record.count * lanes, start).reshape(record.count, lanes)


def world_matrices(glb):
    """Per node, the product of the matrices from the root of the scene down."""
    matrices = {}

    def visit(index, above):
        node = glb.nodes[index]
        own = np.eye(4) if node.matrix is None else np.array(node.matrix).reshape(4, 4).T
        matrices[index] = above @ own
        for child in node.children or []:
            visit(child, matrices[index])

    for root in glb.scenes[glb.scene].nodes:
        visit(root, np.eye(4))
    return matrices


def primitives(path):
    glb = pygltflib.GLTF2().load(str(path))
    found = {}
    for index, matrix in world_matrices(glb).items():
        node = glb.nodes[index]
        if node.mesh is not None:
            found[node.name] = (glb, glb.meshes[node.mesh].primitives[0], matrix)
    return found


def test_pygltflib_reads_points_with_colours_that_stand_upright(tmp_path):
    room = room_reconstruction()
    points = select_points(room)
    write_glb(room, points, tmp_path / "scene.glb")
    glb, primitive, matrix = primitives(tmp_path / "scene.glb")["points"]
    assert primitive.mode == pygltflib.POINTS
    positions, colours = accessor(glb, primitive.attributes.POSITION), accessor(glb, primitive.attributes.COLOR_0)
    np.testing.assert_array_equal(positions, points.positions)
    np.testing.assert_array_equal(colours[:, :3], points.colours)
    # glTF: +y is up, and what the first camera looked at lies along -z.
    upright = positions @ matrix[:3, :3].T + matrix[:3, 3]
    red = colours[:, 0] > colours[:, 2]
    assert upright[red, 1].min() > upright[~red, 1].max() - 0.1
    assert (upright[points.frames == 0, 2] < 0).all()
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1)
    np.testing.assert_allclose(matrix, np.diag([1, -1, -1, 1]), atol=1e-12)


def test_frusta_stand_at_the_cameras_and_open_towards_what_they_saw(tmp_path):
    room = room_reconstruction(count=2)
    write_glb(room, select_points(room), tmp_path / "scene.glb")
    glb, primitive, _ = primitives(tmp_path / "scene.glb")["cameras"]
    assert primitive.mode == pygltflib.LINES
    ends = accessor(glb, primitive.attributes.POSITION).reshape(2, 8, 2, 3)
    for frame, pose in enumerate(room.world_from_camera):
        rays = ends[frame, :4]
        np.testing.assert_allclose(rays[:, 0], np.tile(pose[:3, 3], (4, 1)), atol=1e-6)
        local = (rays[:, 1] - pose[:3, 3]) @ pose[:3, :3]
        assert (local[:, 2] > 0).all()
        k, (height, width) = room.original_intrinsics[frame], room.original_sizes[frame]
        pixels = local / local[:, 2:] @ k.T
        expected = np.array([[0, 0], [width, 0], [width, height], [0, height]])
        np.testing.assert_allclose(pixels[:, :2], expected, atol=1e-2)
