"""A binary little-endian PLY of coloured points, in the world frame (OpenCV axes: +x right, +y down, +z forward)."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from flow3r.errors import InputError
from flow3r.export.points import Points

GREY = 160  # ours: of points that have no colour


def write_ply(points: Points, path: Path) -> int:
    """Float32 x y z, uint8 red green blue alpha. Returns the number of points."""
    import trimesh

    cloud = trimesh.PointCloud(points.positions, colors=points.colours)
    path.write_bytes(cloud.export(file_type="ply", encoding="binary"))
    return len(points)


def read_ply(path: Path) -> tuple[Float[np.ndarray, "P 3"], UInt8[np.ndarray, "P 3"]]:
    """Positions and colours of the points, or of a mesh's vertices, of any PLY; grey where it has no colours.

    Points that are not finite are left out. Raises InputError for a file that is absent, not readable, or has none.
    """
    import trimesh

    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a .ply of points")
    try:
        loaded = trimesh.load(path, file_type="ply", process=False)
        positions = np.asarray(loaded.vertices, dtype=np.float64).reshape(-1, 3)
    except Exception as error:  # trimesh raises whatever its parser stumbles over
        raise InputError(f"{path}: not a readable .ply of points ({type(error).__name__}: {error})") from error
    colours = getattr(loaded, "colors", None)
    if colours is None and hasattr(loaded, "visual") and loaded.visual.kind == "vertex":
        colours = loaded.visual.vertex_colors
    if colours is None or np.shape(colours)[:1] != (len(positions),):
        colours = np.full((len(positions), 3), GREY)
    finite = np.isfinite(positions).all(axis=-1)
    if not finite.any():
        raise InputError(f"{path}: holds no point with finite coordinates")
    return positions[finite], np.asarray(colours)[finite, :3].astype(np.uint8)
