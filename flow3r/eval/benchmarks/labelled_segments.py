"""Segments of a label store as sequences whose truth is a teacher's flow: the pseudo ground truth of Table 6."""

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as List
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from flow3r.data.frame import Frame, check_indices
from flow3r.data.labels import LabelStore, SegmentInfo
from flow3r.types import Flow


@runtime_checkable
class FlowLabelled(Protocol):
    """What a Sequence has beside its frames where the flow of some pairs is labelled."""

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]: ...

    def pairs_among(self, frames: List[int]) -> tuple[tuple[int, int], ...]: ...

    def flow_among(self, frames: List[int]) -> Flow: ...


@dataclass(frozen=True)
class LabelledSegment:
    """The stored frames of a segment, at the size of its labels, and the flow of some of their pairs."""

    store: LabelStore
    info: SegmentInfo

    @property
    def name(self) -> str:
        """The source, and the first frame of the segment in it."""
        return f"{self.info.source}/{self.info.indices[0]:07d}"

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The labelled ordered pairs of its frames."""
        return self.info.pairs

    def __len__(self) -> int:
        return len(self.info.indices)

    def timestamps(self) -> Float[np.ndarray, "N"]:
        """Seconds."""
        return np.array(self.info.timestamps, dtype=np.float64)

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """The stored images at strictly ascending `indices`; they have no labels but flow."""
        for index in check_indices(indices, len(self)):
            (image,) = self.store.images(self.info, [index])
            yield Frame(image, self.info.timestamps[index], self.info.names[index])

    def pairs_among(self, frames: List[int]) -> tuple[tuple[int, int], ...]:
        """The labelled pairs of the given frames, as positions in `frames`."""
        place = {frame: position for position, frame in enumerate(frames)}
        return tuple((place[i], place[j]) for i, j in self.pairs if i in place and j in place)

    def flow_among(self, frames: List[int]) -> Flow:
        """Labels (B = 1) of `pairs_among(frames)`, in pixels of the stored images."""
        rows = [row for row, pair in enumerate(self.pairs) if set(pair) <= set(frames)]
        return self.store.clip(self.info, frames, rows).flow


def labelled_segments(folder: Path) -> list[LabelledSegment]:
    """The segments of a store that have labelled pairs, by name. Raises LabelStoreError for what is no store."""
    store = LabelStore(folder)
    return [LabelledSegment(store, info) for info in store.segments() if info.pairs]
