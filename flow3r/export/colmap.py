"""COLMAP's text model: cameras.txt, images.txt, points3D.txt, in the pixels of the upright original images.

COLMAP's pixel centres lie at half-integers, as ours do. Every point has one observation, in the frame it came from.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from flow3r.export.cameras import one_camera
from flow3r.export.images import image_name
from flow3r.export.points import Points
from flow3r.geometry.se3 import invert, quaternion_from_rotation
from flow3r.types import Reconstruction


def write_colmap(reconstruction: Reconstruction, points: Points, folder: Path) -> int:
    """Write the three files into `folder` (sparse/0); image names refer to images/. Returns the number of points."""
    folder.mkdir(parents=True)
    camera_ids, cameras = _cameras(reconstruction)
    pixels = original_pixels(reconstruction, points)
    order = _first_rows(points, len(reconstruction.names))
    _write(folder / "cameras.txt", cameras)
    _write(folder / "images.txt", _images(reconstruction, camera_ids, pixels, order))
    _write(folder / "points3D.txt", _points(points, order))
    return len(points)


def original_pixels(reconstruction: Reconstruction, points: Points) -> Float[np.ndarray, "P 2"]:
    """Where each point was seen, in pixels (x, y) of its upright original image."""
    affine = reconstruction.original_from_model[points.frames]
    return (affine[:, :2, :2] @ points.pixels[:, :, None])[:, :, 0] + affine[:, :2, 2]


def _write(path: Path, lines: Iterable[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def _first_rows(points: Points, frames: int) -> np.ndarray:
    """Row of the first point of each frame, and the end: points are in order of their frames."""
    return np.searchsorted(points.frames, np.arange(frames + 1))


def _cameras(reconstruction: Reconstruction) -> tuple[list[int], list[str]]:
    """The camera of each image, and the lines of cameras.txt."""
    count = len(reconstruction.names)
    camera_ids = [1] * count if one_camera(reconstruction) else list(range(1, count + 1))
    lines = ["# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy"]
    for frame, k in enumerate(reconstruction.original_intrinsics[: max(camera_ids)]):
        height, width = reconstruction.original_sizes[frame].tolist()
        lines.append(f"{frame + 1} PINHOLE {width} {height} {k[0, 0]:.9g} {k[1, 1]:.9g} {k[0, 2]:.9g} {k[1, 2]:.9g}")
    return camera_ids, lines


def _images(
    reconstruction: Reconstruction, camera_ids: list[int], pixels: np.ndarray, order: np.ndarray
) -> Iterator[str]:
    camera_from_world = invert(torch.from_numpy(reconstruction.world_from_camera).double())
    wxyz = quaternion_from_rotation(camera_from_world[:, :3, :3])
    motions = torch.cat([wxyz, camera_from_world[:, :3, 3]], dim=-1)
    yield "# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
    yield "# POINTS2D[] as X Y POINT3D_ID"
    for frame, motion in enumerate(motions):
        numbers = " ".join(f"{value:.12g}" for value in motion.tolist())
        yield f"{frame + 1} {numbers} {camera_ids[frame]} {image_name(frame)}"
        rows = range(order[frame], order[frame + 1])
        seen = pixels[order[frame] : order[frame + 1]].tolist()
        yield " ".join(f"{x:.6f} {y:.6f} {row + 1}" for row, (x, y) in zip(rows, seen, strict=True))


def _points(points: Points, order: np.ndarray) -> Iterator[str]:
    yield "# POINT3D_ID X Y Z R G B ERROR TRACK[] as IMAGE_ID POINT2D_IDX"
    for row, frame in enumerate(points.frames.tolist()):
        (x, y, z), (r, g, b) = points.positions[row].tolist(), points.colours[row].tolist()
        # The error is 0 by construction: the point lies on the ray of its pixel.
        yield f"{row + 1} {x:.9g} {y:.9g} {z:.9g} {r} {g} {b} 0 {frame + 1} {row - order[frame]}"
