"""Training clips from a store of flow labels, and the part of it that training never sees."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from flow3r.data import frame
from flow3r.data.crops import crop_views, draw_window
from flow3r.data.labels import LabelStore, SegmentInfo
from flow3r.data.mixture import Source, Wanted
from flow3r.data.sampling import draw_clip, most_connected, spread_indices
from flow3r.data.video import content_sha256, open_source
from flow3r.errors import LabelStoreError
from flow3r.types import Flow, Views


@dataclass(frozen=True)
class Part:
    """The pairs of a segment that may be drawn."""

    segment: SegmentInfo
    rows: Int[Tensor, "P"]  # of `segment.pairs`

    @cached_property
    def connected(self) -> int:
        """The most frames that labelled pairs connect."""
        return most_connected(self.segment.pairs[row] for row in self.rows.tolist())


class Pool:
    """Parts, drawn in proportion to their numbers of pairs."""

    def __init__(self, parts: list[Part]):
        self.parts = parts
        self._until = torch.tensor([len(part.rows) for part in parts], dtype=torch.long).cumsum(0)

    def pick(self, generator: torch.Generator) -> Part:
        """One of them; there must be some."""
        place = torch.randint(int(self._until[-1]), (), generator=generator)
        return self.parts[int(torch.searchsorted(self._until, place, right=True))]


class LabelClips(Source):
    """Clips of labelled frames, drawn in proportion to the pairs that each segment has.

    Their grid is that of the store. With `crop`, the least share of a side that a crop keeps, they are cut to the grid
    that a step asks for instead, all frames of a clip at one random window, as one camera would see them. The last
    `held_out` of every shot's frames are kept from training; pairs that reach across belong to neither part. `only`:
    the sources, by name, that may be drawn. Raises LabelStoreError if the store has no pair to train on.
    """

    def __init__(
        self,
        store: LabelStore,
        held_out: float = 0.0,
        *,
        crop: float | None = None,
        only: Collection[str] | None = None,
    ):
        self.store, self.crop = store, crop
        self._counts: Counter[str] = Counter()
        self._pools: dict[tuple[tuple[int, int] | None, int], Pool] = {}
        segments = [segment for segment in store.distinct()[0] if only is None or segment.source in only]
        self._train, self._held_out = (parts_of(segments, held_out, late) for late in (False, True))
        if not self._train:
            raise LabelStoreError(f"{store.folder}: no accepted pair to train on; label other footage, or more of it")

    def fit(self, wanted: Wanted, generator: torch.Generator) -> Wanted:
        """With no more views than labelled pairs connect; without `crop`, of the grid of a clip that is drawn."""
        if self.crop is None:
            wanted = replace(wanted, size=self._pool(None, 0).pick(generator).segment.size)
        most = 0
        for part in self._pool(self._grid(wanted), 0).parts:
            most = max(most, part.connected)
            if most >= wanted.views:
                return wanted
        return replace(wanted, views=most)

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        """Clips of labelled pairs, of what `fit` returned."""
        pool = self._pool(self._grid(wanted), wanted.views)
        if not pool.parts:
            raise ValueError(f"{self.store.folder} has no clip of {wanted}; ask for what fit() returns")
        return stack_clips([self._draw_one(pool, wanted, generator) for _ in range(wanted.scenes)])

    def _grid(self, wanted: Wanted) -> tuple[int, int] | None:
        """The size (H, W) that stored images must have; None: any."""
        return wanted.size if self.crop is None else None

    def _pool(self, size: tuple[int, int] | None, views: int) -> "Pool":
        """The parts of images of a size, or of any, that connect so many views."""
        if (size, views) not in self._pools:
            self._pools[size, views] = Pool(_fitting(self._train, size, views))
        return self._pools[size, views]

    def _draw_one(self, pool: "Pool", wanted: Wanted, generator: torch.Generator) -> Views:
        clip = self.read(*draw_rows(pool, wanted, generator))
        return self.cut(with_pairs(clip, wanted.pairs), wanted, generator)

    def read(self, part: "Part", frames: list[int], rows: list[int]) -> Views:
        """A clip (B = 1) as it is stored."""
        self._counts["stored pairs"] += len(rows)
        return self.store.clip(part.segment, frames, rows)

    def cut(self, clip: Views, wanted: Wanted, generator: torch.Generator) -> Views:
        """A stored clip (B = 1) on the wanted grid."""
        return clip if self.crop is None else crop_clip(clip, wanted.size, self.crop, generator)

    def of_source(self, source_sha256: str, wanted: Wanted) -> "Pool":
        """What training may draw such clips from, of a source by the hash of its content."""
        return Pool(_fitting(self._of_source.get(source_sha256, []), self._grid(wanted), wanted.views))

    @cached_property
    def _of_source(self) -> dict[str, list["Part"]]:
        by_source: dict[str, list[Part]] = {}
        for part in self._train:
            by_source.setdefault(part.segment.source_sha256, []).append(part)
        return by_source

    def counts(self) -> Counter[str]:
        """Ordered pairs whose labels were read from the store."""
        return self._counts

    def held_out_pairs(self, most: int | None = None) -> Iterator[Views]:
        """Held-out pairs, each a clip of its own (B = 1, N = 2, P = 1), source frame first: all, or `most` spread
        evenly over them."""
        every = [(part.segment, row) for part in self._held_out for row in part.rows.tolist()]
        for k in range(len(every)) if most is None else spread_indices(len(every), most):
            segment, row = every[k]
            yield self.store.clip(segment, segment.pairs[row], [row])

    @property
    def training_count(self) -> int:
        """Ordered pairs to train on."""
        return sum(len(part.rows) for part in self._train)

    @property
    def held_out_count(self) -> int:
        """Ordered pairs held out."""
        return sum(len(part.rows) for part in self._held_out)


def parts_of(segments: Iterable[SegmentInfo], held_out: float = 0.0, late: bool = False) -> list[Part]:
    """The pairs of each segment whose frames both lie before, or both behind, the border of its shot, if there are any.

    The last `held_out` of a shot lies behind its border.
    """
    parts = []
    for segment in segments:
        start, stop = segment.shot
        border = stop - held_out * (stop - start)
        is_late = torch.tensor([index >= border for index in segment.indices])
        pairs = torch.tensor(segment.pairs, dtype=torch.long).reshape(-1, 2)
        rows = (is_late[pairs] == late).all(dim=1).nonzero()[:, 0]
        parts += [Part(segment, rows)] if len(rows) else []
    return parts


def _fitting(parts: list[Part], size: tuple[int, int] | None, views: int) -> list[Part]:
    return [part for part in parts if size in (None, part.segment.size) and (views < 2 or part.connected >= views)]


def draw_rows(pool: Pool, wanted: Wanted, generator: torch.Generator) -> tuple[Part, list[int], list[int]]:
    """A part of the pool, frames of its segment, and rows of its pairs among them, none twice."""
    drawn = None
    while drawn is None:  # a first pair may lie apart from the frames that are connected in sufficient number
        part = pool.pick(generator)
        drawn = draw_clip(torch.tensor(part.segment.pairs)[part.rows], wanted.views, wanted.pairs, generator)
    frames, rows = drawn
    return part, frames.tolist(), list(dict.fromkeys(part.rows[rows].tolist()))


def with_pairs(clip: Views, count: int) -> Views:
    """The clip (B = 1) with exactly `count` pairs, the first ones or all and some again; without flow if it is 0."""
    if count == 0:
        return replace(clip, flow=None)
    flow = clip.flow
    rows = torch.arange(count) % flow.pairs.shape[1]
    return replace(clip, flow=Flow(flow.pairs[:, rows], flow.displacement[:, rows], flow.covisible[:, rows]))


def crop_clip(clip: Views, size: tuple[int, int], least: float, generator: torch.Generator) -> Views:
    """The clip (B = 1) cut to `size` (H, W), all its views at one random window: `least` of the largest or more."""
    window = draw_window((clip.images.shape[3], clip.images.shape[4]), size, least, generator)
    return crop_views(clip, torch.tensor(window).expand(1, clip.images.shape[1], 4), size)


def stack_clips(clips: list[Views]) -> Views:
    """Clips (B = 1) of one shape as one batch."""
    flow = None
    if clips[0].flow is not None:
        keys = ("pairs", "displacement", "covisible")
        flow = Flow(*(torch.cat([getattr(clip.flow, key) for clip in clips]) for key in keys))
    return Views(torch.cat([clip.images for clip in clips]), flow=flow, names=tuple(clip.names[0] for clip in clips))


def check_store_matches(store: LabelStore, videos: Iterable[frame.Sequence | str | Path]) -> None:
    """Raises LabelStoreError, naming them, if videos are not in the store by the hash of their content."""
    known = {segment.source_sha256 for segment in store.segments()}
    missing, count = [], 0
    for video in videos:
        sequence = open_source(video) if isinstance(video, str | Path) else video
        count += 1
        if content_sha256(sequence) not in known:
            missing.append(sequence.name)
    if missing:
        named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise LabelStoreError(
            f"{store.folder}: holds no labels of {len(missing)} of {count} videos ({named}), by the SHA-256 of their "
            "content; label them into this store (flow3r label), choose the store that was made from them, or name a "
            "teacher for what is missing"
        )
