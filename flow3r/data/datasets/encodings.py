"""Encodings that several datasets share: single-channel images, matrices in text, JSON, pinholes."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from flow3r.errors import InputError


def read_values(file: Path) -> Shaped[np.ndarray, "H W"]:
    """The values of a single-channel image file as they are stored: 8, 16 or 32 bits. InputError if it is none."""
    import cv2

    values = cv2.imread(str(file), cv2.IMREAD_UNCHANGED) if file.is_file() else None
    if values is None or values.ndim != 2:
        found = "missing" if not file.is_file() else "unreadable" if values is None else f"of shape {values.shape}"
        raise InputError(f"{file}: {found}; expected an image of a single channel")
    return values


def read_depth(file: Path, scale: float) -> Float[np.ndarray, "H W"]:
    """A 16-bit depth image; `scale`: scene units of one step. InputError if it is not one."""
    values = read_values(file)
    if values.dtype != np.uint16:
        raise InputError(f"{file}: depth of {values.dtype}; expected 16 bits without sign")
    return values.astype(np.float32) * np.float32(scale)


def read_matrix(file: Path, rows: int, columns: int) -> Float[np.ndarray, "rows columns"]:
    """Numbers in text, split by white space, as a matrix; they may be non-finite. InputError if their count differs."""
    try:
        values = np.array(file.read_text(encoding="utf-8").split(), dtype=np.float64)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a matrix in text that can be read ({error})") from error
    if values.size != rows * columns:
        raise InputError(f"{file}: {values.size} numbers; expected a {rows} x {columns} matrix")
    return values.reshape(rows, columns)


def read_depth_array(file: Path) -> Float[np.ndarray, "H W"]:
    """Depth of a .npy file, as it is stored. InputError if it is not H x W floats."""
    try:
        depth = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: not an array that can be read ({error})") from error
    if depth.ndim != 2 or depth.dtype.kind != "f":
        raise InputError(f"{file}: {depth.dtype} of shape {depth.shape}; expected depth of H x W floats")
    return depth


def read_json(file: Path) -> Any:
    """The content of a JSON file, compressed by gzip or not. InputError if it cannot be read."""
    try:
        content = file.read_bytes()
        return json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{file}: not a JSON file that can be read ({error})") from error


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Float[np.ndarray, "3 3"]:
    """[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)
