"""Training clips from a store of flow labels, and the part of it that training never sees."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from flow3r.data.labels import LabelStore, SegmentInfo
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


class LabelClips:
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

    def draw(self, scenes: int, views: int, pairs: int, generator: torch.Generator) -> Views:
        """`scenes` clips of `views` frames with `pairs` labelled pairs each, of one grid; depends on `generator` alone.

        Where labelled pairs connect fewer frames, as in footage that the teacher could hardly follow, clips have those.
        """
        return self.of_one_grid(generator).draw(scenes, views, pairs, generator)

    def of_one_grid(self, generator: torch.Generator) -> "_OneGrid":
        """The clips whose images have one size, drawn like those of a batch."""
        first = _pick(self._train, generator).segment.size
        return _OneGrid(self.store, [part for part in self._train if part.segment.size == first])

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


@dataclass(frozen=True)
class _OneGrid:
    """Clips of images of one size."""

    store: LabelStore
    parts: list[_Labelled]

    def draw(self, scenes: int, views: int, pairs: int, generator: torch.Generator) -> Views:
        """As LabelClips.draw."""
        views = min(views, max(part.connected for part in self.parts))
        fitting = [part for part in self.parts if part.connected >= views]
        return _stack([self._draw_one(fitting, views, pairs, generator) for _ in range(scenes)])

    def _draw_one(self, parts: list[_Labelled], views: int, pairs: int, generator: torch.Generator) -> Views:
        drawn = None
        while drawn is None:  # a first pair may lie apart from the frames that are connected in sufficient number
            part = _pick(parts, generator)
            drawn = draw_clip(torch.tensor(part.segment.pairs)[part.rows], views, pairs, generator)
        frames, rows = drawn
        return self.store.clip(part.segment, frames.tolist(), part.rows[rows].tolist())


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
