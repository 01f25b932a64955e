"""Which frames of a sequence one measurement sees: by strides, at random, every n-th, all; drawn from a hash alone."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SEED = "flow3r-eval-v1"  # ours; a change of any sampling below changes this name


class Lot:
    """The random numbers of one draw of one sequence: the same on every machine, whatever else is drawn.

    They are the words of PCG64, seeded with the first 8 bytes (big-endian) of SHA-256 of
    "flow3r-eval-v1|dataset|sequence|draw". Only raw words are used: those numpy promises never to change.
    """

    def __init__(self, dataset: str, sequence: str, draw: int):
        digest = hashlib.sha256(f"{SEED}|{dataset}|{sequence}|{draw}".encode()).digest()
        self._words = np.random.PCG64(int.from_bytes(digest[:8], "big"))

    def below(self, count: int) -> int:
        """One of 0..count-1, each as likely as the others to 2**-64: the upper half of word * count."""
        return int(self._words.random_raw()) * count >> 64


@dataclass(frozen=True)
class Strides:
    """`count` frames in order, evenly spaced: a stride, then a start, are drawn uniformly (paper A.3; start: ours).

    Strides that do not fit are left out; where none fits, it is the largest stride that does. Of fewer frames than
    `count`, but at least `fewest`, all are taken.
    """

    strides: tuple[int, ...]
    count: int = 8  # paper A.3
    fewest: int | None = None  # None: `count`
    drawn = True  # draws differ

    @property
    def least(self) -> int:
        """The fewest frames that a sequence must have."""
        return self.count if self.fewest is None else self.fewest

    def frames_of(self, n: int, lot: Lot, pairs: Sequence[tuple[int, int]] = ()) -> tuple[int, tuple[int, ...]]:
        """(stride, frames) of a sequence of `n` frames."""
        steps = min(self.count, n) - 1
        feasible = [stride for stride in self.strides if steps * stride < n] or [(n - 1) // steps]
        stride = feasible[lot.below(len(feasible))]
        start = lot.below(n - steps * stride)
        return stride, tuple(range(start, start + steps * stride + 1, stride))


@dataclass(frozen=True)
class RandomFrames:
    """`count` different frames, all sets equally likely, in order of time; stride 0. Shorter sequences are skipped."""

    count: int
    least: int  # frames that a sequence must have
    drawn = True

    def frames_of(self, n: int, lot: Lot, pairs: Sequence[tuple[int, int]] = ()) -> tuple[int, tuple[int, ...]]:
        """(0, frames) of a sequence of `n` frames."""
        order = list(range(n))
        for k in range(self.count):  # Fisher-Yates
            other = k + lot.below(n - k)
            order[k], order[other] = order[other], order[k]
        return 0, tuple(sorted(order[: self.count]))


@dataclass(frozen=True)
class EveryNth:
    """Every `stride`-th frame from the first on; with stride 1 the whole sequence. Nothing is drawn."""

    stride: int
    least: int = 1
    drawn = False

    def frames_of(self, n: int, lot: Lot, pairs: Sequence[tuple[int, int]] = ()) -> tuple[int, tuple[int, ...]]:
        """(stride, frames) of a sequence of `n` frames."""
        return self.stride, tuple(range(0, n, self.stride))


@dataclass(frozen=True)
class Connected:
    """At most `count` frames that labelled pairs connect, in order of time; stride 0. For flow from a label store.

    A pair is drawn, then one by one a frame that has a label with one of those there already.
    """

    count: int = 8
    least = 2
    drawn = True

    def frames_of(self, n: int, lot: Lot, pairs: Sequence[tuple[int, int]] = ()) -> tuple[int, tuple[int, ...]]:
        """(0, frames) of a sequence of `n` frames whose ordered pairs `pairs` are labelled; no frames without any."""
        if not pairs:
            return 0, ()
        found = set(pairs[lot.below(len(pairs))])
        while len(found) < self.count:
            beside = sorted({frame for pair in pairs if found & set(pair) for frame in pair} - found)
            if not beside:
                break
            found.add(beside[lot.below(len(beside))])
        return 0, tuple(sorted(found))


Sampling = Strides | RandomFrames | EveryNth | Connected
