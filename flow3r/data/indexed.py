"""Training clips of a label store by its index of pairs: no header is read until a clip is drawn."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int

from flow3r.data.clips import LabelClips, crop_clip, stack_clips, with_pairs
from flow3r.data.label_files import LabelFile
from flow3r.data.labels import LabelStore, segment_of
from flow3r.data.mixture import Source, Wanted
from flow3r.data.pair_index import PairIndex, has_index
from flow3r.data.sampling import draw_clip, most_connected
from flow3r.errors import LabelStoreError
from flow3r.files import FilePart
from flow3r.types import Views

TRIES = 100  # ours: segments drawn for a clip before all are looked through; in most, pairs connect enough frames
_COLUMNS = ("file", "offset", "size", "row", "i", "j", "seconds", "covisible", "flow", "height", "width")


class IndexedClips(Source):
    """Clips of labelled frames, drawn in proportion to the pairs of each segment, as LabelClips draws them.

    Where that holds the headers of all segments, this holds some numbers for every pair, 40 bytes in all, and opens in
    one read. `chosen` (of `PairIndex.where`) leaves the other pairs out. With `crop`, the least share of a side that a
    crop keeps, clips are cut to the grid of a step; without, all of the store must have that grid. Raises
    LabelStoreError without an index, or without a pair that is chosen.
    """

    def __init__(self, store: str | Path, chosen: Bool[np.ndarray, "R"] | None = None, *, crop: float | None = None):
        self.store, self.crop = LabelStore(store), crop
        columns = PairIndex.read(self.store.folder, _COLUMNS).columns
        rows = np.flatnonzero(np.ones(len(columns["row"]), dtype=bool) if chosen is None else chosen)
        if not len(rows):
            raise LabelStoreError(f"{store}: no pair to train on is in its index; choose more, or label other footage")
        names, self._file = np.unique(columns["file"][rows].astype(str), return_inverse=True)
        self._names = names.tolist()
        self._columns = {name: columns[name][rows] for name in ("offset", "size", "row", "i", "j", "height", "width")}
        new = (np.diff(self._file) != 0) | (np.diff(self._columns["offset"]) != 0)
        self._begin = np.concatenate([[0], np.flatnonzero(new) + 1, [len(rows)]])  # of each segment's rows
        self._known: dict[tuple[int, int] | None, tuple[int, int]] = {}  # what _most_views has found
        self._fitting: dict[tuple[tuple[int, int] | None, int], np.ndarray] = {}
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        """The pairs that may be drawn."""
        return int(self._begin[-1])

    def fit(self, wanted: Wanted, generator: torch.Generator) -> Wanted:
        """With no more views than pairs connect; without `crop`, of the grid of a pair that is drawn."""
        if self.crop is None:
            row = int(torch.randint(len(self), (), generator=generator))
            wanted = replace(wanted, size=self._size(row))
        return replace(wanted, views=min(wanted.views, self._most_views(self._grid(wanted), wanted.views)))

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        """Raises LabelStoreError where a file is damaged, and where no segment has such a clip."""
        return stack_clips([self._draw_one(wanted, generator) for _ in range(wanted.scenes)])

    def counts(self) -> Counter[str]:
        """Ordered pairs whose labels were read from the store."""
        return self._counts

    def _draw_one(self, wanted: Wanted, generator: torch.Generator) -> Views:
        for segment in self._candidates(wanted, generator):
            drawn = draw_clip(self._pairs(segment), wanted.views, wanted.pairs, generator)
            if drawn is not None:
                return self._read(self._rows(segment), *drawn, wanted, generator)
        raise LabelStoreError(
            f"{self.store.folder}: no segment has a clip of {wanted.views} connected frames of {wanted.size}; ask for "
            "what fit() returns"
        )

    def _candidates(self, wanted: Wanted, generator: torch.Generator) -> Iterator[int]:
        """Segments, drawn in proportion to their pairs: some, which may not fit; then of those that do, without end."""
        size = self._grid(wanted)
        for _ in range(TRIES):
            row = int(torch.randint(len(self), (), generator=generator))
            if size in (None, self._size(row)):
                yield int(np.searchsorted(self._begin, row, side="right")) - 1
        if (size, wanted.views) not in self._fitting:
            every = range(len(self._begin) - 1)
            fits = [k for k in every if self._has(k, size) and most_connected(self._pairs(k).tolist()) >= wanted.views]
            self._fitting[size, wanted.views] = np.array(fits, dtype=np.int64)
        fitting = self._fitting[size, wanted.views]
        until = torch.from_numpy((self._begin[fitting + 1] - self._begin[fitting]).cumsum())
        while len(fitting):
            place = torch.randint(int(until[-1]), (), generator=generator)
            yield int(fitting[int(torch.searchsorted(until, place, right=True))])

    def _most_views(self, size: tuple[int, int] | None, enough: int) -> int:
        """The most frames that the pairs of a segment connect; segments are looked at until one has enough."""
        most, looked = self._known.get(size, (0, 0))
        while most < enough and looked < len(self._begin) - 1:
            if self._has(looked, size):
                most = max(most, most_connected(self._pairs(looked).tolist()))
            looked += 1
        self._known[size] = most, looked
        return most

    def _grid(self, wanted: Wanted) -> tuple[int, int] | None:
        """The size (H, W) that stored images must have; None: any."""
        return wanted.size if self.crop is None else None

    def _size(self, row: int) -> tuple[int, int]:
        return int(self._columns["height"][row]), int(self._columns["width"][row])

    def _has(self, segment: int, size: tuple[int, int] | None) -> bool:
        return size in (None, self._size(int(self._begin[segment])))

    def _rows(self, segment: int) -> np.ndarray:
        return np.arange(self._begin[segment], self._begin[segment + 1])

    def _pairs(self, segment: int) -> Int[torch.Tensor, "P 2"]:
        """Frames of the source, for each row of the segment."""
        rows = self._rows(segment)
        return torch.from_numpy(np.stack([self._columns[end][rows] for end in ("i", "j")], axis=1).astype(np.int64))

    def _read(
        self, rows: np.ndarray, frames: torch.Tensor, drawn: torch.Tensor, wanted: Wanted, generator: torch.Generator
    ) -> Views:
        size = int(self._columns["size"][rows[0]])
        path = f"{self.store.folder}/{self._names[self._file[rows[0]]]}"
        file = LabelFile.open(FilePart(path, int(self._columns["offset"][rows[0]]), None if size < 0 else size))
        segment = segment_of(file.header["segment"])
        stored = list(dict.fromkeys(self._columns["row"][rows[drawn.numpy()]].tolist()))
        self._counts["stored pairs"] += len(stored)
        clip = self.store.clip(segment, [int(frame) - segment.indices[0] for frame in frames], stored, file)
        clip = with_pairs(clip, wanted.pairs)
        return clip if self.crop is None else crop_clip(clip, wanted.size, self.crop, generator)


def stored_clips(
    store: str | Path, held_out: float = 0.0, *, crop: float | None = None, only: Collection[str] | None = None
) -> LabelClips | IndexedClips:
    """The clips of a label store, or of the sources `only` in it: by its index where it has one, else by its headers.

    Also by its headers where the last `held_out` of every shot is kept from training, since shots stand there alone.
    Raises LabelStoreError where there is no pair to train on.
    """
    if held_out or not has_index(store):
        return LabelClips(LabelStore(store), held_out, crop=crop, only=only)
    chosen = None
    if only is not None:
        chosen = np.isin(PairIndex.read(store, ("source",)).columns["source"].astype(str), sorted(only))
    return IndexedClips(store, chosen, crop=crop)
