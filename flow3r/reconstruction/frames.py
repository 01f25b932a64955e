"""The frames of a source on the model's grid, read once and in order, those of one window at a time in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8

from flow3r.data.frame import Frame, Sequence
from flow3r.data.transforms import SMALLEST_SIDE, Fitted, fit_frame
from flow3r.errors import InputError


@dataclass(frozen=True)
class Pixels:
    """Consecutive frames on the model's grid."""

    names: tuple[str, ...]
    images: UInt8[np.ndarray, "N H W 3"]
    valid: Bool[np.ndarray, "N H W"]


class FrameReader:
    """Reads the frames `indices` of a sequence one after the other, and fits each to `grid` as soon as it is there.

    What is short stays for every frame that was read: `names`, `timestamps`, `sizes` (H, W) of the originals, and
    `original_from_model`. Pixels stay as long as a window may ask for them again.
    """

    def __init__(self, sequence: Sequence, indices: list[int], grid: tuple[int, int], fit: Literal["crop", "pad"]):
        self._source, self._count, self._grid, self._fit = sequence, len(indices), grid, fit
        self._coming: Iterator[Frame] = iter(sequence.frames(indices))
        self._first = 0  # position of the first frame whose pixels are kept
        self._kept: list[Fitted] = []
        self.names: list[str] = []
        self.timestamps = np.zeros(len(indices))
        self.sizes = np.zeros((len(indices), 2), dtype=np.int64)
        self.original_from_model = np.zeros((len(indices), 3, 3))

    def window(self, start: int, stop: int) -> Pixels:
        """The frames at positions start..stop-1 of `indices`; those before `start` are forgotten.

        Raises InputError for a frame smaller than a patch, and if the sequence ends before it said.
        """
        del self._kept[: start - self._first]
        self._first = start
        while len(self.names) < stop:
            self._read()
        fitted = self._kept[: stop - start]
        return Pixels(
            names=tuple(self.names[start:stop]),
            images=np.stack([frame.image for frame in fitted]),
            valid=np.stack([frame.valid for frame in fitted]),
        )

    def _read(self) -> None:
        frame = next(self._coming, None)
        if frame is None:
            raise InputError(f"{self._source.name}: gave {len(self.names)} frames; expected {self._count}")
        height, width = frame.image.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            raise InputError(f"{frame.name}: is {height}x{width}; expected at least {SMALLEST_SIDE} on both sides")
        fitted = fit_frame(frame.image, self._grid, self._fit)
        position = len(self.names)
        self._kept.append(fitted)
        self.names.append(frame.name)
        self.timestamps[position] = frame.timestamp
        self.sizes[position] = height, width
        self.original_from_model[position] = np.linalg.inv(fitted.model_from_original)
