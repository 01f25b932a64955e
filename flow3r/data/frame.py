"""One image with what is known about it, and the protocol by which videos and datasets hand out images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8


@dataclass(frozen=True)
class Frame:
    """An upright image and its labels, at its original size. Conventions as in flow3r.types."""

    image: UInt8[np.ndarray, "H W 3"]  # RGB, rotation flags already applied
    timestamp: float  # seconds; the frame index where the source has no clock
    name: str
    depth: Float[np.ndarray, "H W"] | None = None  # z-depth, 0 = unknown
    intrinsics: Float[np.ndarray, "3 3"] | None = None  # pixels of this image, half-integer centres
    world_from_camera: Float[np.ndarray, "4 4"] | None = None


@runtime_checkable
class Sequence(Protocol):
    """Ordered frames of one source: a video, a list of images, a scene of a dataset.

    It may also have `sizes(indices)`, as `frame_sizes` below, if it knows them without reading whole frames.
    """

    name: str

    def __len__(self) -> int: ...

    def timestamps(self) -> Float[np.ndarray, "N"]:
        """Seconds, ascending; the frame index where the source has no clock."""
        ...

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """The frames at strictly ascending `indices`, one at a time: memory does not grow with their number."""
        ...


def check_indices(indices: Iterable[int], length: int) -> list[int]:
    """`indices` as a list; ValueError unless they ascend strictly within [0, length)."""
    checked = [int(index) for index in indices]
    if any(b <= a for a, b in pairwise(checked)) or (checked and not 0 <= checked[0] <= checked[-1] < length):
        raise ValueError(f"frame indices must ascend strictly within 0..{length - 1}, got {checked[:8]}")
    return checked


def frame_sizes(sequence: Sequence, indices: Iterable[int]) -> list[tuple[int, int]]:
    """(H, W) of the upright frames at strictly ascending `indices`; reads them all if the sequence has no `sizes`."""
    if hasattr(sequence, "sizes"):
        return sequence.sizes(indices)
    return [frame.image.shape[:2] for frame in sequence.frames(indices)]


@dataclass(frozen=True)
class Excerpt:
    """The frames start..stop-1 of a sequence as a sequence of their own, such as one shot of a video."""

    whole: Sequence
    start: int
    stop: int

    @property
    def name(self) -> str:
        return self.whole.name

    def __len__(self) -> int:
        return self.stop - self.start

    def timestamps(self) -> Float[np.ndarray, "N"]:
        return self.whole.timestamps()[self.start : self.stop]

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        return self.whole.frames([self.start + index for index in check_indices(indices, len(self))])

    def sizes(self, indices: Iterable[int]) -> list[tuple[int, int]]:
        """(H, W) of the frames at `indices`."""
        return frame_sizes(self.whole, [self.start + index for index in check_indices(indices, len(self))])
