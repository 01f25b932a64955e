"""Which pixels of a reconstruction become points: thresholds, then a budget. Every export chooses them here."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, UInt8

from flow3r.errors import InputError
from flow3r.export.known import known_pixels, quantile_of_known
from flow3r.types import Reconstruction


@dataclass(frozen=True)
class Points:
    """Points of a reconstruction with the pixels that saw them, in order of frame, row, column."""

    positions: Float[np.ndarray, "P 3"]  # world
    colours: UInt8[np.ndarray, "P 3"]
    confidence: Float[np.ndarray, "P"]
    frames: Int[np.ndarray, "P"]
    pixels: Float[np.ndarray, "P 2"]  # (x, y) of the pixel centre on the model's grid
    lots: Float[np.ndarray, "P"]  # drawn evenly from [0, 1), the same in every run: a budget keeps the lowest
    above: int = 0  # pixels of the whole reconstruction that pass the thresholds
    known: int = 0  # pixels of the whole reconstruction that have a point

    def __len__(self) -> int:
        return len(self.positions)

    def at_most(self, budget: int) -> "Points":
        """An even random choice of `budget` points, the same in every run; a larger budget only adds to it."""
        if len(self) <= budget:
            return self
        return self.where(np.sort(np.argpartition(self.lots, budget)[:budget]))

    def where(self, kept: Int[np.ndarray, "Q"]) -> "Points":
        """The points at these positions of the list."""
        lists = {name: values for name, values in vars(self).items() if isinstance(values, np.ndarray)}
        return replace(self, **{name: values[kept] for name, values in lists.items()})


def select_points(
    reconstruction: Reconstruction,
    *,
    min_confidence: float = 0.0,
    confidence_percentile: float = 0.0,
    budget: int | None = None,
) -> Points:
    """The valid pixels with confidence at or above both thresholds; an even choice of them if there is a `budget`.

    `min_confidence` is an absolute confidence in [0, 1]; `confidence_percentile` in [0, 100) leaves out that share of
    the valid pixels, the least confident first. Frames are read one at a time, and no more than twice the budget and a
    frame are held. Raises InputError for thresholds out of range or that no pixel passes.
    """
    check_choice(min_confidence, confidence_percentile, 1 if budget is None else budget)
    lowest = _lowest_confidence(reconstruction, min_confidence, confidence_percentile)
    random = np.random.Generator(np.random.PCG64(0))
    chosen: list[Points] = []
    held, highest = 0, 1.0
    known, above, best = 0, 0, 0.0
    for frame in range(len(reconstruction.names)):
        mask, confidence = known_pixels(reconstruction, frame), reconstruction.confidence[frame]
        known += int(mask.sum())
        best = max(best, float(confidence[mask].max(initial=0)))
        rows, columns = np.nonzero(mask & (confidence >= lowest))
        above += len(rows)
        lots = random.random(len(rows))
        low = lots < highest
        if low.any():
            chosen.append(_points_at(reconstruction, frame, rows[low], columns[low], lots[low]))
            held += len(chosen[-1])
        if budget is not None and held > 2 * budget:
            chosen = [_joined(chosen).at_most(budget)]
            held, highest = budget, float(chosen[0].lots.max())
    if not known:
        raise InputError("the reconstruction has no valid point: every depth is unknown or behind its camera")
    if not above:
        raise InputError(f"no point has confidence >= {lowest:.3f} (the best has {best:.3f}): lower min_confidence")
    points = replace(_joined(chosen), above=above, known=known)
    return points if budget is None else points.at_most(budget)


def check_choice(min_confidence: float, confidence_percentile: float, max_points: int) -> None:
    """InputError for thresholds of confidence that are out of range, and for a budget without a point."""
    if max_points < 1:
        raise InputError(f"max_points is {max_points}; expected at least 1")
    if not 0 <= min_confidence <= 1:
        raise InputError(f"min_confidence is {min_confidence}; expected an absolute confidence in [0, 1]")
    if not 0 <= confidence_percentile < 100:
        raise InputError(f"confidence_percentile is {confidence_percentile}; expected a percentage in [0, 100)")


def _lowest_confidence(reconstruction: Reconstruction, min_confidence: float, confidence_percentile: float) -> float:
    if not confidence_percentile:
        return float(min_confidence)
    return max(min_confidence, quantile_of_known(reconstruction, "confidence", confidence_percentile / 100) or 0.0)


def _points_at(
    reconstruction: Reconstruction,
    frame: int,
    rows: Int[np.ndarray, "P"],
    columns: Int[np.ndarray, "P"],
    lots: Float[np.ndarray, "P"],
) -> Points:
    return Points(
        positions=reconstruction.points[frame][rows, columns],
        colours=reconstruction.colours[frame][rows, columns],
        confidence=reconstruction.confidence[frame][rows, columns],
        frames=np.full(len(rows), frame),
        pixels=np.stack([columns + 0.5, rows + 0.5], axis=-1),
        lots=lots,
    )


def _joined(parts: list[Points]) -> Points:
    lists = [name for name, values in vars(parts[0]).items() if isinstance(values, np.ndarray)]
    return Points(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in lists})
