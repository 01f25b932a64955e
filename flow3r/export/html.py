"""viewer.html: points, cameras and controls in one file that opens from disk, without a server or a network."""

import base64
import json
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flow3r.export.cameras import corner_rays, typical_depth
from flow3r.export.points import Points
from flow3r.types import Reconstruction

POINT_BUDGET = 200_000  # 2.4 MB, 3.2 MB as base64: small enough to mail
MOST_FRAMES = 2048  # the texture width that every WebGL 2 has
FURTHEST = 100.0  # ours: points this many median depths from their camera would take the precision of all others
POINT = np.dtype([("xyz", "<i2", 3), ("rgb", "u1", 3), ("confidence", "u1"), ("frame", "<u2")])
UNITS = {
    "relative": "relative units: all lengths share one unknown factor",
    "metric": "lengths in metres",
}


def write_html(reconstruction: Reconstruction, points: Points, path: Path) -> int:
    """Fill the template; returns the number of points that the file holds, at most POINT_BUDGET.

    Of more than MOST_FRAMES frames every second has a camera, or every third, ...; the others' points belong to the
    camera before them, and the page says so.
    """
    depth = typical_depth(reconstruction)
    reachable = within_reach(reconstruction, points, FURTHEST * depth)
    shown = reachable.at_most(POINT_BUDGET)
    step = -(-len(reconstruction.names) // MOST_FRAMES)
    packed, origin, unit = pack_points(replace(shown, frames=shown.frames // step))
    # A point stands for this many pixels that passed the thresholds.
    pixels_per_point = points.above / len(points) * len(reachable) / len(shown)
    scene = {
        "title": reconstruction.source or "reconstruction",
        "units": UNITS[reconstruction.scale] + (f"; one camera for every {step} frames" if step > 1 else ""),
        "origin": origin.tolist(),
        "unit": unit,
        "depth": depth,
        "left_out": points.known - len(shown),
        "frames": _frames(reconstruction, pixels_per_point, step),
    }
    parts = {
        "style": _part("viewer.css"),
        "script": _part("viewer.js"),
        "scene": embedded_json(scene),
        "points": base64.b64encode(packed.tobytes()).decode(),
    }
    page = re.sub(r"%%(\w+)%%", lambda match: parts[match[1]], _part("viewer.html"))
    path.write_text(page, encoding="utf-8")
    return len(shown)


def _part(name: str) -> str:
    return resources.files("flow3r.export").joinpath(name).read_text(encoding="utf-8")


def within_reach(reconstruction: Reconstruction, points: Points, reach: float) -> Points:
    """The points at most `reach` from the camera that saw them."""
    distance = np.linalg.norm(points.positions - reconstruction.world_from_camera[points.frames, :3, 3], axis=-1)
    return points.where(np.nonzero(distance <= reach)[0])


def pack_points(points: Points) -> tuple[np.ndarray, Float[np.ndarray, "3"], float]:
    """12 bytes a point, and (origin, unit): a position is origin + unit · xyz, off by at most unit / 2 per axis."""
    positions = points.positions.astype(np.float64)
    low, high = positions.min(axis=0), positions.max(axis=0)
    origin = (low + high) / 2
    unit = max(float((high - low).max()) / 65534, 1e-12)
    packed = np.empty(len(points), dtype=POINT)
    packed["xyz"] = np.rint((positions - origin) / unit)
    packed["rgb"] = points.colours
    packed["confidence"] = np.rint(255 * points.confidence)
    packed["frame"] = points.frames
    return packed, origin, unit


def embedded_json(value: object) -> str:
    """JSON that cannot end the script element that holds it, whatever its strings hold."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _frames(reconstruction: Reconstruction, pixels_per_point: float, step: int) -> list[dict]:
    # `pixel` is the side of a point at depth 1: a point stands for this many pixels, so that surfaces stay closed.
    pixel = np.sqrt(pixels_per_point) / reconstruction.intrinsics[:, 0, 0]
    has_clock = (reconstruction.timestamps != reconstruction.frame_indices).any()
    corners = corner_rays(reconstruction)
    return [
        {
            "name": reconstruction.names[frame],
            "time": round(float(reconstruction.timestamps[frame]), 6) if has_clock else None,
            "pose": reconstruction.world_from_camera[frame, :3].round(9).tolist(),
            "corners": corners[frame, :, :2].round(9).tolist(),
            "pixel": float(pixel[frame]),
        }
        for frame in range(0, len(reconstruction.names), step)
    ]
