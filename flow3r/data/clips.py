"""Training clips from a store of flow labels, and the part of it that training never sees."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from flow3r.data.labels import LabelStore, SegmentInfo
from flow3r.data.mixture import Source, Wanted
from flow3r.data.sampling import draw_clip
from flow3r.errors import LabelStoreError
from flow3r.types import Flow, Views


@dataclass(frozen=True)
class _Labelled:
    segment: SegmentInfo
    rows: Int[Tensor, "P"]  # of `segment.pairs`

    @cached_property
    def connected(self) -> int:
        """The most frames that labelled pairs connect."""
        groups: list[set[int]] = []
        for row in self.rows.tolist():
            joined = set(self.segment.pairs[row])
            apart = [group for group in groups if not group & joined]
            groups = [*apart, joined.union(*(group for group in groups if group & joined))]
        return max((len(group) for group in groups), default=0)


class LabelClips(Source):
    """Clips of labelled frames, drawn in proportion to the pairs that each segment has.

    The last `held_out` of every shot's frames are kept from training; pairs that reach across belong to neither part.
    Raises LabelStoreError if the store has no pair to train on.
    """

    def __init__(self, store: LabelStore, held_out: float = 0.0):
        self.store = store
        segments = store.segments()
        self._train = [part for segment in segments if len((part := _part(segment, held_out, False)).rows)]
        self._held_out = [part for segment in segments if len((part := _part(segment, held_out, True)).rows)]
        if not self._train:
            raise LabelStoreError(f"{store.folder}: no accepted pair to train on; label other footage, or more of it")

    def fit(self, wanted: Wanted, generator: torch.Generator) -> Wanted:
        """With the size of the stored images of a clip that is drawn, and no more views than labelled pairs connect."""
        size = _pick(self._train, generator).segment.size
        most = max(part.connected for part in self._train if part.segment.size == size)
        return replace(wanted, size=size, views=min(wanted.views, most))

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        """Clips of labelled pairs, of what `fit` returned."""
        size, views = wanted.size, wanted.views
        parts = [part for part in self._train if part.segment.size == size and part.connected >= views]
        if not parts:
            raise ValueError(f"{self.store.folder} has no clip of {views} frames of {size}; ask for what fit() returns")
        return _stack([self._draw_one(parts, wanted, generator) for _ in range(wanted.scenes)])

    def _draw_one(self, parts: list[_Labelled], wanted: Wanted, generator: torch.Generator) -> Views:
        drawn = None
        while drawn is None:  # a first pair may lie apart from the frames that are connected in sufficient number
            part = _pick(parts, generator)
            drawn = draw_clip(torch.tensor(part.segment.pairs)[part.rows], wanted.views, wanted.pairs, generator)
        frames, rows = drawn
        return self.store.clip(part.segment, frames.tolist(), part.rows[rows].tolist())

    def held_out_pairs(self) -> Iterator[Views]:
        """Every held-out pair as a clip of its own (B = 1, N = 2, P = 1), source frame first."""
        for part in self._held_out:
            for row in part.rows.tolist():
                yield self.store.clip(part.segment, part.segment.pairs[row], [row])

    @property
    def training_count(self) -> int:
        """Ordered pairs to train on."""
        return sum(len(part.rows) for part in self._train)

    @property
    def held_out_count(self) -> int:
        """Ordered pairs held out."""
        return sum(len(part.rows) for part in self._held_out)


def _pick(parts: list[_Labelled], generator: torch.Generator) -> _Labelled:
    weights = torch.tensor([float(len(part.rows)) for part in parts])
    return parts[int(torch.multinomial(weights, 1, generator=generator))]


def _part(segment: SegmentInfo, held_out: float, late: bool) -> _Labelled:
    """The pairs of a segment whose frames both lie before, or both behind, the border of its shot."""
    start, stop = segment.shot
    border = stop - held_out * (stop - start)
    is_late = torch.tensor([index >= border for index in segment.indices])
    pairs = torch.tensor(segment.pairs, dtype=torch.long).reshape(-1, 2)
    return _Labelled(segment, (is_late[pairs] == late).all(dim=1).nonzero()[:, 0])


def _stack(clips: list[Views]) -> Views:
    flow = Flow(
        *(torch.cat([getattr(clip.flow, key) for clip in clips]) for key in ("pairs", "displacement", "covisible"))
    )
    return Views(torch.cat([clip.images for clip in clips]), flow=flow, names=tuple(clip.names[0] for clip in clips))
