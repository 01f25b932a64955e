"""The index of a label store: a Parquet file with one row for every labelled pair, so that pairs are chosen unread.

It is made from the headers and can be made again at any time; a store is whole without it. pyarrow (flow3r[scale])
writes and reads it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int

from flow3r.data.labels import LabelStore, SegmentInfo
from flow3r.errors import InputError, LabelStoreError
from flow3r.files import atomic_path, list_files

INDEX = "index.parquet"
_BATCH = 4096  # segments whose rows are in memory at once
_TEXT = ("source", "source_sha256", "file")
_NUMBERS = {
    "offset": "int64",  # of the segment in its file, and its size: 0 and -1 where it is a file of its own
    "size": "int64",
    "row": "int32",  # of the pair in its segment
    "i": "int32",  # frames of the source
    "j": "int32",
    "seconds": "float32",  # from i to j; negative backwards
    "covisible": "float32",  # mean covisibility
    "flow": "float32",  # median length over the covisible part, in pixels of the label grid
    "height": "int16",  # of the label grid
    "width": "int16",
}


def write_pair_index(store: LabelStore) -> Path:
    """Write the index of a store in a folder, atomically, without copies (`LabelStore.distinct`).

    Raises InputError without pyarrow.
    """
    arrow, parquet = _pyarrow()
    schema = arrow.schema(
        [(name, arrow.dictionary(arrow.int32(), arrow.string())) for name in _TEXT]
        + [(name, getattr(arrow, kind)()) for name, kind in _NUMBERS.items()]
    )
    path = Path(store.folder) / INDEX
    segments, _ = store.distinct()
    with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for start in range(0, len(segments), _BATCH):
            rows = [row for segment in segments[start : start + _BATCH] for row in _rows(store, segment)]
            columns = {name: [row[name] for row in rows] for name in schema.names}
            writer.write_table(arrow.table(columns, schema=schema))
    return path


def has_index(folder: str | Path) -> bool:
    """Whether the store in a folder, or behind a URL, has an index."""
    return bool(list_files(folder, INDEX))


def _rows(store: LabelStore, segment: SegmentInfo) -> Iterator[dict[str, Any]]:
    place = store.place_of(segment)
    for row, (i, j) in enumerate(segment.pairs):
        yield {
            "source": segment.source,
            "source_sha256": segment.source_sha256,
            "file": place.path.rsplit("/", 1)[-1],
            "offset": place.offset,
            "size": -1 if place.size is None else place.size,
            "row": row,
            "i": segment.indices[i],
            "j": segment.indices[j],
            "seconds": segment.timestamps[j] - segment.timestamps[i],
            "covisible": segment.covisible_share[row],
            "flow": segment.median_flow[row],
            "height": segment.size[0],
            "width": segment.size[1],
        }


@dataclass(frozen=True)
class PairIndex:
    """Columns of an index, as numpy arrays of one length."""

    columns: dict[str, np.ndarray]

    @classmethod
    def read(cls, folder: str | Path, columns: Sequence[str] = tuple(_NUMBERS)) -> "PairIndex":
        """Of the store in a folder, or behind a URL. Raises LabelStoreError if it has none, InputError without
        pyarrow."""
        arrow, parquet = _pyarrow()
        path = f"{folder}/{INDEX}"
        try:
            if "://" in path:
                import fsspec

                with fsspec.open(path) as file:
                    table = parquet.read_table(file, columns=list(columns))
            else:
                table = parquet.read_table(path, columns=list(columns))
        except FileNotFoundError as error:
            raise LabelStoreError(f"{folder}: has no {INDEX}; write_pair_index() makes one") from error
        except (OSError, arrow.ArrowInvalid) as error:
            raise LabelStoreError(f"{path}: cannot be read ({error}); write_pair_index() makes a new one") from error
        return cls({name: table[name].to_numpy() for name in columns})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def where(
        self,
        covisible: tuple[float, float] = (0.0, 1.0),
        seconds: tuple[float, float] = (0.0, float("inf")),
        flow: tuple[float, float] = (0.0, float("inf")),
    ) -> Bool[np.ndarray, "R"]:
        """The pairs within these ranges; flow as a share of the grid's diagonal, seconds in either direction."""
        share = self.columns["flow"] / np.hypot(self.columns["height"], self.columns["width"])
        values = ((self.columns["covisible"], covisible), (np.abs(self.columns["seconds"]), seconds), (share, flow))
        return np.logical_and.reduce([(low <= value) & (value <= high) for value, (low, high) in values])


def draw_pairs_where(chosen: Bool[np.ndarray, "R"], count: int, generator: torch.Generator) -> Int[np.ndarray, "c"]:
    """Rows of an index, each chosen one as likely as the others, with repetition."""
    rows = np.flatnonzero(chosen)
    if not len(rows):
        raise LabelStoreError("no pair of the index lies within these ranges; widen them")
    return rows[torch.randint(len(rows), (count,), generator=generator).numpy()]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("the index of pairs needs pyarrow; install flow3r[scale]") from error
    return pyarrow, pyarrow.parquet
