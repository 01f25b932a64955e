"""Training clips of a label store by its index of pairs: no header is read until a clip is drawn."""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool

from flow3r.data.clips import LabelClips, crop_clip, stack_clips, with_pairs
from flow3r.data.label_files import LabelFile
from flow3r.data.labels import LabelStore, segment_of
from flow3r.data.mixture import Source, Wanted
from flow3r.data.pair_index import PairIndex, has_index
from flow3r.data.places import Place
from flow3r.data.sampling import draw_clip
from flow3r.errors import LabelStoreError
from flow3r.types import Views

TRIES = 100  # ours: segments that may be drawn for one clip; in most, the chosen pairs connect some frames
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
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        """The pairs that may be drawn."""
        return int(self._begin[-1])

    def fit(self, wanted: Wanted, generator: torch.Generator) -> Wanted:
        """Without `crop`, of the grid of a pair that is drawn."""
        if self.crop is not None:
            return wanted
        row = int(torch.randint(len(self), (), generator=generator))
        return replace(wanted, size=(int(self._columns["height"][row]), int(self._columns["width"][row])))

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        """Raises LabelStoreError where a file is damaged, and where TRIES segments in a row have no such clip."""
        return stack_clips([self._draw_one(wanted, generator) for _ in range(wanted.scenes)])

    def counts(self) -> Counter[str]:
        """Ordered pairs whose labels were read from the store."""
        return self._counts

    def _draw_one(self, wanted: Wanted, generator: torch.Generator) -> Views:
        for _ in range(TRIES):
            row = int(torch.randint(len(self), (), generator=generator))
            if self.crop is None and wanted.size != (self._columns["height"][row], self._columns["width"][row]):
                continue
            segment = int(np.searchsorted(self._begin, row, side="right")) - 1
            rows = np.arange(self._begin[segment], self._begin[segment + 1])
            pairs = torch.from_numpy(
                np.stack([self._columns[end][rows] for end in ("i", "j")], axis=1).astype(np.int64)
            )
            drawn = draw_clip(pairs, wanted.views, wanted.pairs, generator)
            if drawn is not None:
                return self._read(rows, *drawn, wanted, generator)
        raise LabelStoreError(
            f"{self.store.folder}: {TRIES} segments in a row have no clip of {wanted.views} connected frames of "
            f"{wanted.size}; ask for fewer views, or for the grid that fit() returns"
        )

    def _read(
        self, rows: np.ndarray, frames: torch.Tensor, drawn: torch.Tensor, wanted: Wanted, generator: torch.Generator
    ) -> Views:
        size = int(self._columns["size"][rows[0]])
        path = f"{self.store.folder}/{self._names[self._file[rows[0]]]}"
        file = LabelFile.open(Place(path, int(self._columns["offset"][rows[0]]), None if size < 0 else size))
        segment = segment_of(file.header["segment"])
        stored = list(dict.fromkeys(self._columns["row"][rows[drawn.numpy()]].tolist()))
        self._counts["stored pairs"] += len(stored)
        clip = self.store.clip(segment, [int(frame) - segment.indices[0] for frame in frames], stored, file)
        clip = with_pairs(clip, wanted.pairs)
        return clip if self.crop is None else crop_clip(clip, wanted.size, self.crop, generator)


def stored_clips(store: str | Path, *, crop: float | None = None, only: Collection[str] | None = None) -> Source:
    """The clips of a label store, or of the sources `only` in it: by its index where it has one, else by its headers.

    Raises LabelStoreError where there is no pair to train on.
    """
    if not has_index(store):
        return LabelClips(LabelStore(store), crop=crop, only=only)
    chosen = None
    if only is not None:
        chosen = np.isin(PairIndex.read(store, ("source",)).columns["source"].astype(str), sorted(only))
    return IndexedClips(store, chosen, crop=crop)
