"""A GLB of coloured points and camera frusta that stands upright in glTF viewers."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from flow3r.export.cameras import corner_rays, typical_depth
from flow3r.export.points import Points
from flow3r.types import Reconstruction

# glTF has +y up and cameras that look along -z; our world is the first camera's frame with +y down and +z forward. The
# root node turns the one into the other by half a turn about x; the vertices themselves stay in our world frame.
GLTF_FROM_WORLD = np.diag([1.0, -1.0, -1.0, 1.0])
ROOT_NODE = "opencv_world"
FRUSTUM_DEPTH = 0.08  # ours: length of a frustum as a share of the median depth
FRUSTUM_COLOUR = (255, 140, 40, 255)


def write_glb(reconstruction: Reconstruction, points: Points, path: Path) -> int:
    """Nodes `points` (POINTS with COLOR_0) and `cameras` (LINES) below a root node that holds `GLTF_FROM_WORLD`.

    Returns the number of points.
    """
    import trimesh

    cloud = trimesh.PointCloud(points.positions, colors=points.colours)
    ends = frustum_segments(reconstruction).reshape(-1, 3)
    lines = [trimesh.path.entities.Line(points=[k, k + 1]) for k in range(0, len(ends), 2)]
    # Unprocessed: trimesh would merge the ends of frusta that are small against its absolute tolerance.
    colours = np.tile(np.uint8(FRUSTUM_COLOUR), (len(lines), 1))
    cameras = trimesh.path.Path3D(entities=lines, vertices=ends, colors=colours, process=False)
    scene = trimesh.Scene()
    scene.graph.update(frame_to=ROOT_NODE, frame_from=scene.graph.base_frame, matrix=GLTF_FROM_WORLD)
    scene.add_geometry(cloud, geom_name="points", node_name="points", parent_node_name=ROOT_NODE)
    scene.add_geometry(cameras, geom_name="cameras", node_name="cameras", parent_node_name=ROOT_NODE)
    path.write_bytes(scene.export(file_type="glb"))
    return len(points)


def frustum_segments(reconstruction: Reconstruction) -> Float[np.ndarray, "N 8 2 3"]:
    """Per frame, the four rays to the corners of its original image and the four edges between them, in the world."""
    corners = FRUSTUM_DEPTH * typical_depth(reconstruction) * corner_rays(reconstruction)
    rotation, centre = reconstruction.world_from_camera[:, :3, :3], reconstruction.world_from_camera[:, None, :3, 3]
    corners = corners @ rotation.swapaxes(-1, -2) + centre
    rays = np.stack([np.broadcast_to(centre, corners.shape), corners], axis=2)
    edges = np.stack([corners, np.roll(corners, -1, axis=1)], axis=2)
    return np.concatenate([rays, edges], axis=1)
