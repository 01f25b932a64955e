"""One door for everything that holds frames: files, a Sequence, or images in memory."""

from collections.abc import Iterator
from collections.abc import Sequence as List
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flow3r.data.frame import Frame, Sequence
from flow3r.data.video import open_source
from flow3r.errors import InputError

# A path, a glob, a list of paths or of images, (N H W 3) or (N 3 H W) images in memory, or a Sequence.
FrameSource = Any


@dataclass(frozen=True)
class ArraySequence:
    """Images in memory as a Sequence; they have no clock, so the timestamps are their indices."""

    images: tuple[np.ndarray, ...]  # each uint8 (H, W, 3)
    name: str = "images"

    def __len__(self) -> int:
        return len(self.images)

    def timestamps(self) -> Float[np.ndarray, "N"]:
        return np.arange(len(self.images), dtype=np.float64)

    def frames(self, indices: List[int]) -> Iterator[Frame]:
        for index in indices:
            yield Frame(image=self.images[index], timestamp=float(index), name=f"image {index}")

    def sizes(self, indices: List[int]) -> list[tuple[int, int]]:
        """(H, W) of the images at `indices`."""
        return [self.images[index].shape[:2] for index in indices]


def open_frames(source: FrameSource) -> Sequence:
    """The frames of a path, glob, list of paths, Sequence, list of images, or array of images.

    Images in memory: numpy uint8 (H W 3) or (N H W 3); torch (3 H W) or (N 3 H W), uint8 or floating in [0, 1].
    Raises InputError for anything else, and for a source without frames.
    """
    if isinstance(source, np.ndarray | Tensor):
        images = source if source.ndim == 4 else source[None]
        return _in_memory([images[index] for index in range(len(images))])
    if isinstance(source, list | tuple) and source and all(isinstance(item, np.ndarray | Tensor) for item in source):
        return _in_memory(source)
    sequence = source if hasattr(source, "frames") else open_source(source)
    if not len(sequence):
        raise InputError(f"{sequence.name}: has no frames; expected a video or images with at least one")
    return sequence


def _in_memory(images: List[np.ndarray | Tensor]) -> ArraySequence:
    if not len(images):
        raise InputError("the array of images is empty; expected at least one image")
    return ArraySequence(tuple(_pixels(image, index) for index, image in enumerate(images)))


def _pixels(image: np.ndarray | Tensor, index: int) -> np.ndarray:
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
            raise InputError(f"image {index} is {image.dtype} {image.shape}; expected a uint8 array (H, W, 3) in RGB")
        return image
    if image.ndim != 3 or image.shape[0] != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise InputError(
            f"image {index} is {image.dtype} {tuple(image.shape)}; expected a tensor (3, H, W), uint8 or in [0, 1]"
        )
    if image.is_floating_point():
        if not bool(((image >= 0) & (image <= 1)).all()):
            raise InputError(f"image {index} holds values outside [0, 1]; expected RGB in [0, 1], without NaN")
        image = (image * 255).round().to(torch.uint8)
    return image.permute(1, 2, 0).contiguous().cpu().numpy()
