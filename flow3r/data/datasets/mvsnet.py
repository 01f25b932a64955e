"""The files of MVSNet, which other multi-view datasets follow: cameras in text, depth as a portable float map.

After "File Formats" in its README: `extrinsic` is world-to-camera with OpenCV axes. Its own sampling of images (its
homography_warping) puts the centre of the top left pixel at (0.5, 0.5), as flow3r does.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from flow3r.errors import InputError


def read_camera(file: Path) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "4 4"]]:
    """Intrinsics and world-to-camera matrix of a `cam.txt`; they may be non-finite. InputError if it is none."""
    try:
        words = file.read_text(encoding="utf-8").split()
        if words[0] != "extrinsic" or words[17] != "intrinsic":
            raise ValueError("no 'extrinsic' and 'intrinsic' with 16 and 9 numbers")
        camera_from_world = np.array(words[1:17], dtype=np.float64).reshape(4, 4)
        return np.array(words[18:27], dtype=np.float64).reshape(3, 3), camera_from_world
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{file}: not a camera of MVSNet's format ({error})") from error


def read_pfm(file: Path) -> Float[np.ndarray, "H W"]:
    """A portable float map of one channel, from the top down. InputError if it is none."""
    try:
        with open(file, "rb") as content:
            kind = content.readline().strip()
            width, height = map(int, content.readline().split())
            little = float(content.readline()) < 0
            values = np.frombuffer(content.read(), dtype="<f4" if little else ">f4")
        if kind != b"Pf" or values.size != height * width:
            raise ValueError(f"{kind!r} with {values.size} values for {width} x {height}")
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a portable float map of one channel ({error})") from error
    return values.reshape(height, width)[::-1].astype(np.float32)
