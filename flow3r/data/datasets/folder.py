"""Any folder with a `cameras.json`: posed images, with depth where it is known.

{
  "convention": "...",              free text; read for its pixel centres where `pixel_centre` is absent
  "pixel_centre": 0.5,              0 (integer, the default) or 0.5 (half-integer)
  "depth_scale": 0.001,             scene units of one step of the depth images
  "distortion_opencv_...": [...],   OpenCV coefficients; the images are then undistorted on reading
  "frames": [{"image": "a.png", "K": 3x3, "c2w": 4x4, "depth": "a_depth.png", "t": seconds}, ...]
}
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flow3r.data.frame import Frame, check_indices
from flow3r.data.images import read_image
from flow3r.data.transforms import undistort
from flow3r.errors import InputError

CAMERAS = "cameras.json"
STACKED_DEPTH = "condition.npz"  # all depth maps of a folder in one array `depths`, in scene units


@dataclass(frozen=True)
class CameraFolder:
    """A folder of posed images as a Sequence. Raises InputError, naming what is missing, when it is made or read."""

    path: Path

    def __post_init__(self) -> None:
        for number, entry in enumerate(self._entries):
            for key in ("image", "K", "c2w"):
                if key not in entry:
                    raise InputError(f"{self.path / CAMERAS}: frame {number} has no {key!r}")
            for file in [entry["image"], *([entry["depth"]] if "depth" in entry else [])]:
                if not (self.path / file).is_file():
                    raise InputError(f"{self.path / file}: missing, though frame {number} of {CAMERAS} names it")
        if any("depth" in entry for entry in self._entries) and "depth_scale" not in self._content:
            raise InputError(f"{self.path / CAMERAS}: frames have depth images but there is no 'depth_scale'")

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def files(self) -> tuple[Path, ...]:
        """The files whose content determines the frames."""
        depths = [self.path / entry["depth"] for entry in self._entries if "depth" in entry]
        stacked = [self.path / STACKED_DEPTH] if self._stacked_depth is not None else []
        return (self.path / CAMERAS, *(self.path / entry["image"] for entry in self._entries), *depths, *stacked)

    @property
    def has_depth(self) -> bool:
        """Whether every frame has depth."""
        return self._stacked_depth is not None or all("depth" in entry for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def timestamps(self) -> Float[np.ndarray, "N"]:
        """The frames' `t` in seconds, or their indices."""
        if all("t" in entry for entry in self._entries):
            return np.array([float(entry["t"]) for entry in self._entries])
        return np.arange(len(self), dtype=np.float64)

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """The frames at strictly ascending `indices`, with intrinsics, pose and, where known, depth; undistorted."""
        timestamps = self.timestamps()
        for index in check_indices(indices, len(self)):
            entry = self._entries[index]
            image = read_image(self.path / entry["image"])
            intrinsics = self._matrix(index, "K", 3)
            intrinsics[:2, 2] += 0.5 - self._pixel_centre
            depth = self._depth(index, image.shape[:2])
            if self._distortion is not None:
                image, depth = undistort(image, depth, intrinsics, self._distortion)
            pose = self._matrix(index, "c2w", 4)
            yield Frame(image, float(timestamps[index]), Path(entry["image"]).name, depth, intrinsics, pose)

    @cached_property
    def _content(self) -> dict[str, Any]:
        file = self.path / CAMERAS
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(
                f"{file}: missing; a folder of posed images has one, with 'frames' of 'image', 'K', 'c2w'"
            ) from error
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: not a JSON file that can be read ({error})") from error
        if not isinstance(content, dict):
            raise InputError(f"{file}: expected an object with 'frames', got {type(content).__name__}")
        return content

    @cached_property
    def _entries(self) -> list[dict[str, Any]]:
        frames = self._content.get("frames")
        if not isinstance(frames, list) or not frames:
            found = ", ".join(sorted(self._content)) or "nothing"
            raise InputError(f"{self.path / CAMERAS}: needs a list 'frames' of posed images; it has {found}")
        return frames

    @property
    def _pixel_centre(self) -> float:
        centre = self._content.get("pixel_centre")
        if centre is None:
            return 0.5 if "half-integer" in str(self._content.get("convention", "")) else 0.0
        if centre not in (0, 0.5):
            raise InputError(f"{self.path / CAMERAS}: 'pixel_centre' is 0 or 0.5, got {centre!r}")
        return float(centre)

    @property
    def _distortion(self) -> list[float] | None:
        return next((value for key, value in self._content.items() if key.startswith("distortion")), None)

    @cached_property
    def _stacked_depth(self) -> np.ndarray | None:
        file = self.path / STACKED_DEPTH
        if not file.is_file() or any("depth" in entry for entry in self._entries):
            return None
        with np.load(file, allow_pickle=False) as arrays:
            depths = arrays.get("depths")
        if depths is not None and len(depths) != len(self):
            raise InputError(f"{file}: {len(depths)} depth maps for {len(self)} frames of {CAMERAS}")
        return depths

    def _matrix(self, index: int, key: str, side: int) -> np.ndarray:
        matrix = np.array(self._entries[index][key], dtype=np.float64)
        if matrix.shape != (side, side) or not np.isfinite(matrix).all():
            raise InputError(f"{self.path / CAMERAS}: {key!r} of frame {index} is not a finite {side} x {side} matrix")
        return matrix

    def _depth(self, index: int, size: tuple[int, int]) -> np.ndarray | None:
        if self._stacked_depth is not None:
            depth, file = self._stacked_depth[index].astype(np.float32), self.path / STACKED_DEPTH
        elif "depth" in self._entries[index]:
            file = self.path / self._entries[index]["depth"]
            depth = _read_depth(file, self._content["depth_scale"])
        else:
            return None
        if depth.shape != size:
            raise InputError(f"{file}: depth of frame {index} is {depth.shape}, its image {size}")
        return np.where((depth > 0) & (depth < np.inf), depth, np.float32(0))  # neither for NaN


def _read_depth(file: Path, scale: float) -> np.ndarray:
    import cv2

    depth = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if depth is None or depth.ndim != 2:
        raise InputError(f"{file}: not a single-channel depth image")
    return depth.astype(np.float32) * np.float32(scale)
