"""Which pixels of a reconstruction become points: thresholds, then a budget. Every export chooses them here."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from flow3r.errors import InputError
from flow3r.types import Reconstruction


@dataclass(frozen=True)
class Points:
    """Points of a reconstruction with the pixels that saw them, in order of frame, row, column."""

    positions: Float[np.ndarray, "P 3"]  # world
    colours: UInt8[np.ndarray, "P 3"]
    confidence: Float[np.ndarray, "P"]
    frames: Int[np.ndarray, "P"]
    pixels: Float[np.ndarray, "P 2"]  # (x, y) of the pixel centre on the model's grid

    def __len__(self) -> int:
        return len(self.positions)

    def at_most(self, budget: int) -> "Points":
        """An even random choice of `budget` points, the same in every run."""
        if len(self) <= budget:
            return self
        kept = np.sort(np.random.Generator(np.random.PCG64(0)).permutation(len(self))[:budget])
        return self.where(kept)

    def where(self, kept: Int[np.ndarray, "Q"]) -> "Points":
        """The points at these positions of the list."""
        return Points(
            self.positions[kept], self.colours[kept], self.confidence[kept], self.frames[kept], self.pixels[kept]
        )


def select_points(
    reconstruction: Reconstruction, *, min_confidence: float = 0.0, confidence_percentile: float = 0.0
) -> Points:
    """The valid pixels with confidence at or above both thresholds.

    `min_confidence` is an absolute confidence in [0, 1]; `confidence_percentile` in [0, 100) leaves out that share of
    the valid pixels, the least confident first. Raises InputError for thresholds out of range or that no pixel passes.
    """
    if not 0 <= min_confidence <= 1:
        raise InputError(f"min_confidence is {min_confidence}; expected an absolute confidence in [0, 1]")
    if not 0 <= confidence_percentile < 100:
        raise InputError(f"confidence_percentile is {confidence_percentile}; expected a percentage in [0, 100)")
    valid = reconstruction.valid & (reconstruction.depth > 0)
    confidence = reconstruction.confidence
    if not valid.any():
        raise InputError("the reconstruction has no valid point: every depth is unknown or behind its camera")
    lowest = max(min_confidence, float(np.percentile(confidence[valid], confidence_percentile)))
    frames, rows, columns = np.nonzero(valid & (confidence >= lowest))
    if not len(frames):
        best = confidence[valid].max()
        raise InputError(f"no point has confidence >= {lowest:.3f} (the best has {best:.3f}): lower min_confidence")
    return Points(
        positions=reconstruction.points[frames, rows, columns],
        colours=reconstruction.colours[frames, rows, columns],
        confidence=confidence[frames, rows, columns],
        frames=frames,
        pixels=np.stack([columns + 0.5, rows + 0.5], axis=-1),
    )
