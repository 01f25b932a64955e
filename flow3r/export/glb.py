"""A GLB of coloured points and camera frusta that stands upright in glTF viewers."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from flow3r.export.cameras import corner_rays, frusta, typical_depth
from flow3r.export.points import Points
from flow3r.types import Reconstruction

# glTF has +y up and cameras that look along -z; our world is the first camera's frame with +y down and +z forward. The
# root node turns the one into the other by half a turn about x; the vertices themselves stay in our world frame.
GLTF_FROM_WORLD = np.diag([1.0, -1.0, -1.0, 1.0])
ROOT_NODE = "opencv_world"
FRUSTUM_DEPTH = 0.08  # ours: length of a frustum as a share of the median depth
FRUSTUM_COLOUR = (255, 140, 40, 255)
LINES = 1  # glTF's number of the primitive


def write_glb(reconstruction: Reconstruction, points: Points, path: Path) -> int:
    """Nodes `points` (POINTS with COLOR_0) and `cameras` (LINES) below a root node that holds `GLTF_FROM_WORLD`.

    Returns the number of points.
    """
    import trimesh

    ends = frustum_segments(reconstruction).reshape(-1, 3)
    clouds = {
        "points": trimesh.PointCloud(points.positions, colors=points.colours),
        "cameras": trimesh.PointCloud(ends, colors=np.tile(np.uint8(FRUSTUM_COLOUR), (len(ends), 1))),
    }
    scene = trimesh.Scene()
    scene.graph.update(frame_to=ROOT_NODE, frame_from=scene.graph.base_frame, matrix=GLTF_FROM_WORLD)
    for name, cloud in clouds.items():
        scene.add_geometry(cloud, geom_name=name, node_name=name, parent_node_name=ROOT_NODE)
    path.write_bytes(scene.export(file_type="glb", tree_postprocessor=_join_ends_of_frusta))
    return len(points)


def _join_ends_of_frusta(tree: dict) -> None:
    """Every two points of the cameras are a line. trimesh's own paths take an object for each."""
    for mesh in tree["meshes"]:
        if mesh["name"] == "cameras":
            mesh["primitives"][0]["mode"] = LINES


def frustum_segments(reconstruction: Reconstruction) -> Float[np.ndarray, "N 8 2 3"]:
    """Per frame, the four rays to the corners of its original image and the four edges between them, in the world."""
    corners = FRUSTUM_DEPTH * typical_depth(reconstruction) * corner_rays(reconstruction)
    return frusta(reconstruction.world_from_camera, corners)
