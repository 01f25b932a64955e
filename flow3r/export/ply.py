"""A binary little-endian PLY of coloured points, in the world frame (OpenCV axes: +x right, +y down, +z forward)."""

from pathlib import Path

from flow3r.export.points import Points


def write_ply(points: Points, path: Path) -> int:
    """Float32 x y z, uint8 red green blue alpha. Returns the number of points."""
    import trimesh

    cloud = trimesh.PointCloud(points.positions, colors=points.colours)
    path.write_bytes(cloud.export(file_type="ply", encoding="binary"))
    return len(points)
