"""Which frames, and which ordered pairs of them. Everything drawn depends on its seed or generator alone."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

NOMINAL_RATE = 25.0  # frames per second taken for sources without a clock


def spread_indices(count: int, maximum: int) -> list[int]:
    """At most `maximum` of the indices 0..count-1, evenly spread, the first and the last among them."""
    if count <= maximum:
        return list(range(count))
    if maximum == 1:
        return [count // 2]
    return [round(position) for position in np.linspace(0, count - 1, maximum)]


def ordered_pairs(count: int) -> list[tuple[int, int]]:
    """All (i, j), i != j, of `count` views, source by source."""
    return [(i, j) for i in range(count) for j in range(count) if i != j]


def split_shots(shots: Sequence[tuple[int, int]], longest: int) -> list[tuple[int, int]]:
    """Every shot (start, stop) in segments of at most `longest` frames, about equal; single frames are left out."""
    segments = []
    for start, stop in shots:
        parts = -(-(stop - start) // longest)
        bounds = [start + (stop - start) * part // max(parts, 1) for part in range(parts + 1)]
        segments += [(a, b) for a, b in pairwise(bounds) if b - a >= 2]
    return segments


def seconds_of(timestamps: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """The timestamps as a clock: frame indices (a source without one) are taken as `NOMINAL_RATE` frames a second."""
    without_clock = np.array_equal(timestamps, timestamps[0] + np.arange(len(timestamps)))
    return timestamps / NOMINAL_RATE if without_clock else timestamps


def label_pairs(
    timestamps: Float[np.ndarray, "N"],
    *,
    strides: tuple[float, float] = (0.04, 1.28),
    pairs_per_frame: float = 2.0,
    longest_chain: int = 32,
    seed: int = 0,
) -> Int[np.ndarray, "P 2"]:
    """Ordered pairs (i, j) to label among N consecutive frames of one shot, both directions of each, sorted.

    About `pairs_per_frame` unordered pairs for every frame, i spread over the segment, the stride drawn log-uniformly
    from `strides` seconds, at least one and at most `longest_chain` frames. Without a clock 25 frames make a second.
    """
    seconds = seconds_of(timestamps)
    count = len(seconds)
    generator = np.random.default_rng(seed)
    wanted = min(round(count * pairs_per_frame), count * (count - 1) // 2)
    chosen: set[tuple[int, int]] = set()
    for attempt in range(8 * wanted):  # draws repeat themselves, more so in short segments
        if len(chosen) == wanted:
            break
        i = int((attempt + generator.uniform()) / wanted % 1 * (count - 1))
        stride = np.exp(generator.uniform(*np.log(strides)))
        ahead = seconds[i + 1 : i + 1 + longest_chain] - seconds[i]
        step = int(np.abs(np.log(ahead / stride)).argmin())
        reaches_beyond = i + 1 + step == count - 1 and stride > 1.5 * ahead[-1]
        if step == 0 or not reaches_beyond:
            chosen.add((i, i + 1 + step))
    both = sorted(pair for i, j in chosen for pair in ((i, j), (j, i)))
    return np.array(both, dtype=np.int64).reshape(-1, 2)


def draw_clip(
    pairs: Int[Tensor, "P 2"], views: int, wanted: int, generator: torch.Generator
) -> tuple[Int[Tensor, "N"], Int[Tensor, "Q"]] | None:
    """A training clip from the labelled pairs of one segment: `views` frames and `wanted` rows of `pairs` among them.

    Frames are those of `draw_connected`. Rows are drawn without repetition while there are enough, and repeat beyond
    that. None where there are no such frames.
    """
    frames = draw_connected(pairs, views, generator)
    if frames is None:
        return None
    order = rows_among(pairs, frames, generator)
    return frames, order.repeat(-(-wanted // len(order)))[:wanted]


def draw_connected(pairs: Int[Tensor, "P 2"], views: int, generator: torch.Generator) -> Int[Tensor, "N"] | None:
    """`views` frames that grow from a random pair along random pairs, so that these connect them; ascending.

    None if the pair that was drawn is not connected to that many frames, or if `pairs` is empty.
    """
    if len(pairs) == 0:
        return None
    frames = pairs[_draw(len(pairs), generator)]
    while len(frames) < views:
        growing = torch.isin(pairs, frames).sum(dim=1) == 1
        if not growing.any():
            return None
        candidates = pairs[growing]
        frames = torch.cat([frames, candidates[_draw(len(candidates), generator)]]).unique()
    return frames.sort().values


def rows_among(pairs: Int[Tensor, "P 2"], frames: Int[Tensor, "N"], generator: torch.Generator) -> Int[Tensor, "Q"]:
    """The rows of the pairs whose frames are both among these, in random order."""
    inside = torch.isin(pairs, frames).all(dim=1).nonzero()[:, 0]
    return inside[torch.randperm(len(inside), generator=generator)]


def most_connected(pairs: Iterable[Sequence[int]]) -> int:
    """The most frames that pairs connect, directly or by way of others."""
    parent: dict[int, int] = {}

    def root(frame: int) -> int:
        while (above := parent.setdefault(frame, frame)) != frame:
            parent[frame] = parent[above]
            frame = above
        return frame

    for i, j in pairs:
        parent[root(i)] = root(j)
    return max(Counter(map(root, list(parent))).values(), default=0)


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
