"""A small copy of a label store for machines without video libraries: its frames and labels, read by torch and numpy
alone."""

from dataclasses import dataclass
from pathlib import Path

from flow3r.data.labels import MANIFEST, LabelStore, Segment, SegmentInfo
from flow3r.errors import InputError
from flow3r.files import atomic_path, sha256_of_bytes

MOST_BYTES = 50_000_000  # ours: what is soon copied to a machine with a GPU
_MISSES = 8  # segments in a row that found no room; others are not tried then


@dataclass(frozen=True)
class Predecoded:
    """What a copy holds, and what of its store it does not."""

    segments: int
    frames: int
    pairs: int
    size_bytes: int
    segments_left: int  # for want of room
    pairs_left: int  # of these segments

    def lines(self) -> list[str]:
        """For people."""
        held = f"{self.segments} segments, {self.frames} frames, {self.pairs} pairs in {self.size_bytes / 1e6:.1f} MB"
        if not self.segments_left:
            return [held]
        return [held, f"left out for want of room: {self.segments_left} segments, {self.pairs_left} pairs"]


def predecode(store: str | Path, out: str | Path, most_bytes: int = MOST_BYTES) -> Predecoded:
    """Copy a label store (folder or URL) to the new folder `out`, in files that need no package to be unpacked.

    The copy is a label store, from which the same clips are drawn, to the bit. It holds what there is to learn from:
    segments with labelled pairs, each content once. Where they exceed `most_bytes` in all, the first in an order by
    hash that have room. Raises InputError if `out` exists or nothing fits, LabelStoreError if the store is damaged.
    """
    if Path(out).exists():
        raise InputError(f"{out}: exists already; choose a new folder")
    source = LabelStore(store)
    chosen = sorted((one for one in source.distinct()[0] if one.pairs), key=_place)
    if not chosen:
        raise InputError(f"{store}: no accepted pair to learn from; label other footage, or more of it")
    kept: list[SegmentInfo] = []
    missed: list[int] = []  # bytes, since the last that found room
    with atomic_path(out) as folder:
        copy = LabelStore(folder, source.settings)
        size = (folder / MANIFEST).stat().st_size
        for info in chosen:
            path = copy.write(_segment(source, info), plain=True)
            found = path.stat().st_size
            if size + found <= most_bytes:
                kept.append(info)
                size, missed = size + found, []
                continue
            path.unlink()
            missed.append(found)
            if len(missed) == _MISSES:
                break
        if not kept:
            raise InputError(
                f"{store}: its segments take {min(missed) / 1e6:.1f} MB and more; expected one of at most "
                f"{most_bytes / 1e6:g} MB: allow for more, or label on a coarser grid"
            )
    pairs = sum(len(info.pairs) for info in kept)
    every = sum(len(info.pairs) for info in chosen)
    frames = sum(len(info.indices) for info in kept)
    return Predecoded(len(kept), frames, pairs, size, len(chosen) - len(kept), every - pairs)


def _segment(store: LabelStore, info: SegmentInfo) -> Segment:
    images = store.images(info, range(len(info.indices)))
    return Segment(info, images, store.flow(info, range(len(info.pairs))))


def _place(info: SegmentInfo) -> str:
    """Where a segment stands in an order that is none of its video's."""
    return sha256_of_bytes(f"{info.source_sha256} {info.indices}".encode())
