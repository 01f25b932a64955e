"""Sparse models of COLMAP, in text or binary, as datasets release them: cameras and poses, without points.

After "Output Format" of COLMAP's documentation: poses are world-to-camera, quaternions wxyz, axes as in OpenCV; the
centre of the top left pixel is (0.5, 0.5), as in flow3r. A real model in text was read (docs/data.md).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from flow3r.data.datasets.encodings import pinhole
from flow3r.errors import InputError
from flow3r.geometry.se3 import rotation_from_quaternion

# The models of "Camera Models" in COLMAP's documentation, by their numbers: name and count of parameters.
MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    10: ("THIN_PRISM_FISHEYE", 12),
}
ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
COUNTS = dict(MODELS.values())


@dataclass(frozen=True)
class Camera:
    """A calibrated camera; `distortion` holds the coefficients of its model in their order, none for a pinhole."""

    model: str
    size: tuple[int, int]  # H, W
    intrinsics: Float[np.ndarray, "3 3"]  # half-integer pixel centres
    distortion: tuple[float, ...]


@dataclass(frozen=True)
class PosedCamera:
    """What a sparse model knows of one image."""

    name: str
    camera: Camera
    world_from_camera: Float[np.ndarray, "4 4"]


def read_model(folder: Path) -> list[PosedCamera]:
    """The images of the sparse model in a folder, by name. InputError if there is none, or of an unknown camera."""
    for suffix, cameras, images in ((".txt", _text_cameras, _text_images), (".bin", _cameras, _images)):
        if (folder / f"cameras{suffix}").is_file() and (folder / f"images{suffix}").is_file():
            try:
                known = dict(cameras(folder / f"cameras{suffix}"))
                posed = [PosedCamera(name, known[key], pose) for name, key, pose in images(folder / f"images{suffix}")]
            except (ValueError, KeyError, IndexError, struct.error) as error:
                raise InputError(f"{folder}: not a sparse model of COLMAP that can be read ({error!r})") from error
            return sorted(posed, key=lambda image: image.name)
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
    raise InputError(f"{folder}: no cameras and images (.txt or .bin) of a sparse model of COLMAP; found {found}")


def _camera(model: str, width: int, height: int, values: tuple[float, ...]) -> Camera:
    if model not in COUNTS or len(values) != COUNTS[model]:
        raise ValueError(f"camera {model} with {len(values)} parameters; known are {', '.join(COUNTS)}")
    focal = (values[0], *values) if model in ONE_FOCAL else values
    return Camera(model, (height, width), pinhole(*focal[:4]), tuple(focal[4:]))


def _pose(values: tuple[float, ...]) -> Float[np.ndarray, "4 4"]:
    """World from camera of COLMAP's qw qx qy qz tx ty tz."""
    camera_from_world = np.eye(4)
    camera_from_world[:3, :3] = rotation_from_quaternion(torch.tensor(values[:4], dtype=torch.float64)).numpy()
    camera_from_world[:3, 3] = values[4:]
    return np.linalg.inv(camera_from_world)


def _lines(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def _text_cameras(file: Path) -> Iterator[tuple[int, Camera]]:
    for line in filter(None, _lines(file)):
        key, model, width, height, *values = line.split()
        yield int(key), _camera(model, int(width), int(height), tuple(map(float, values)))


def _text_images(file: Path) -> Iterator[tuple[str, int, np.ndarray]]:
    for line in _lines(file)[::2]:  # every second line holds the observed points, and may be empty
        if line:
            values = line.split(maxsplit=9)
            yield values[9], int(values[8]), _pose(tuple(map(float, values[1:8])))


def _cameras(file: Path) -> Iterator[tuple[int, Camera]]:
    content, offset = file.read_bytes(), 8
    for _ in range(*struct.unpack_from("<Q", content)):
        key, number, width, height = struct.unpack_from("<iiQQ", content, offset)
        model, count = MODELS[number]
        yield key, _camera(model, width, height, struct.unpack_from(f"<{count}d", content, offset + 24))
        offset += 24 + 8 * count


def _images(file: Path) -> Iterator[tuple[str, int, np.ndarray]]:
    content, offset = file.read_bytes(), 8
    for _ in range(*struct.unpack_from("<Q", content)):
        _, *pose, key = struct.unpack_from("<i7di", content, offset)
        end = content.index(b"\0", offset + 64)
        yield content[offset + 64 : end].decode(), key, _pose(tuple(pose))
        offset = end + 9 + 24 * struct.unpack_from("<Q", content, end + 1)[0]  # x, y and the point's id, each 8 bytes
