"""The pixels of a reconstruction that have a point, one frame at a time: there may be more frames than memory holds."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from flow3r.types import Reconstruction

DIGIT = 16  # ours: the bits that one pass over all values settles; its counts take half a megabyte


def known_pixels(reconstruction: Reconstruction, frame: int) -> Bool[np.ndarray, "H W"]:
    """Where this frame has a point in front of its camera."""
    return reconstruction.valid[frame] & (reconstruction.depth[frame] > 0)


def known_values(reconstruction: Reconstruction, field: str) -> Iterator[Float[np.ndarray, "_"]]:
    """The values of `field`, depth or confidence, at the known pixels of each frame."""
    for frame in range(len(reconstruction.names)):
        yield getattr(reconstruction, field)[frame][known_pixels(reconstruction, frame)]


def quantile_of_known(reconstruction: Reconstruction, field: str, share: float) -> float | None:
    """The value below which this share of all known values of `field` lies, as np.quantile defines it.

    None where no pixel is known. The values must not be negative, so that their bits are in order as they are: the
    value of the wanted rank is found by counting, from the highest bits to the lowest.
    """
    dtype = getattr(reconstruction, field).dtype
    counts = _count_digits(reconstruction, field, prefix=0, shift=8 * dtype.itemsize - DIGIT)
    if not counts.any():
        return None
    position = (int(counts.sum()) - 1) * share
    digit, rank = _digit_of(int(position), counts)
    prefix = digit
    for shift in range(8 * dtype.itemsize - 2 * DIGIT, -1, -DIGIT):
        counts = _count_digits(reconstruction, field, prefix, shift)
        digit, rank = _digit_of(rank, counts)
        prefix = prefix << DIGIT | digit
    value = float(np.array(prefix, f"u{dtype.itemsize}").view(dtype))
    following = value
    if position % 1 and rank + 1 == counts[digit]:  # the next one up is another value
        following = min(values[values > value].min(initial=np.inf) for values in known_values(reconstruction, field))
    return float(dtype.type(value + position % 1 * (float(following) - value)))


def _count_digits(reconstruction: Reconstruction, field: str, prefix: int, shift: int) -> Int[np.ndarray, "digits"]:
    """How often each digit follows, at bit `shift`, upon the bits `prefix`."""
    counts = np.zeros(2**DIGIT, dtype=np.int64)
    for values in known_values(reconstruction, field):
        bits = values.view(f"u{values.itemsize}")
        following = bits[bits >> (shift + DIGIT) == prefix] >> shift
        counts += np.bincount(following & (2**DIGIT - 1), minlength=2**DIGIT)
    return counts


def _digit_of(rank: int, counts: Int[np.ndarray, "digits"]) -> tuple[int, int]:
    """The digit of the value of this rank, and the rank of the value among those of the same digit."""
    ends = counts.cumsum()
    digit = int(np.searchsorted(ends, rank, side="right"))
    return digit, rank - int(ends[digit] - counts[digit])
