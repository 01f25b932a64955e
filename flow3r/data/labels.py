"""Flow labels on disk: one file per labelled segment of a shot, each frame and each pair of it readable by itself.

A store is a folder, or a URL that fsspec knows, with `manifest.json`, which states what all of its labels were made
with, and the files of segments (flow3r.data.label_files): single ones, or members of tar shards (flow3r.data.shards),
which WebDataset reads too. Every file repeats what it was made with.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from flow3r.data.label_files import (
    SUFFIX,
    VERSION,
    LabelFile,
    decode_covisible,
    decode_flow,
    decode_image,
    encode_covisible,
    encode_file,
    encode_flow,
    encode_image,
)
from flow3r.data.shards import read_shard
from flow3r.errors import LabelStoreError
from flow3r.files import FilePart, is_url, list_files, sha256_of_json, write_bytes, write_json
from flow3r.types import Flow, Views

FORMAT = "flow3r-labels"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Refusal:
    """A pair that the teacher did not label, and why."""

    source: int
    target: int
    reason: str


@dataclass(frozen=True)
class SegmentInfo:
    """All of a labelled segment but its pixels. Pairs index its frames, 0..N-1."""

    source: str  # name of the video or list of images
    source_sha256: str
    shot: tuple[int, int]  # frame range of the shot in the source
    indices: tuple[int, ...]  # of its N frames in the source
    timestamps: tuple[float, ...]  # seconds
    names: tuple[str, ...]
    original_sizes: tuple[tuple[int, int], ...]  # (H, W) of the upright frames
    size: tuple[int, int]  # (H, W) of the stored frames and labels
    model_from_original: tuple[tuple[tuple[float, ...], ...], ...]  # 3 x 3 for every frame
    pairs: tuple[tuple[int, int], ...]  # accepted ordered pairs (i, j)
    covisible_share: tuple[float, ...]  # of every accepted pair: mean covisibility
    median_flow: tuple[float, ...]  # of every accepted pair: pixels, over its covisible part
    refusals: tuple[Refusal, ...]
    left_out: tuple[tuple[int, str], ...] = ()  # frames that no pair was tried for, and why
    masked: tuple[tuple[str, float], ...] = ()  # share of the pixels without labels by what hides the scene there


@dataclass(frozen=True)
class Segment:
    """A labelled segment as it is written: flow (B = 1) for its P accepted pairs; its frames, or none if P = 0."""

    info: SegmentInfo
    images: UInt8[np.ndarray, "N H W 3"]
    flow: Flow


class LabelStore:
    """A folder of labelled segments, or a URL of one, which can only be read.

    With `settings` (teacher, its parameters, grid) it is made, or reopened for writing if it was made with the same;
    without, it is opened for reading. Raises LabelStoreError if the folder is no store, of another version, or made
    with other settings; reading also where a file is damaged, naming file and block.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any] | None = None):
        self.folder = str(folder).rstrip("/") if is_url(folder) else Path(folder)
        manifest = f"{self.folder}/{MANIFEST}"
        if settings is not None and is_url(folder):
            raise LabelStoreError(f"{folder}: labels are written to a folder; copy it to the URL when it is whole")
        if settings is not None and not Path(manifest).exists():
            write_json(manifest, {"format": FORMAT, "version": VERSION, "settings": settings})
        self.settings = _read_manifest(manifest)
        if settings is not None and sha256_of_json(settings) != sha256_of_json(self.settings):
            changed = [key for key in {**settings, **self.settings} if settings.get(key) != self.settings.get(key)]
            raise LabelStoreError(
                f"{self.folder}: the labels here were made with other settings ({', '.join(sorted(changed))}); "
                "choose another folder, or delete this one"
            )
        self._packed: dict[str, FilePart] | None = None

    def path_of(self, source: str, source_sha256: str, indices: Sequence[int]) -> Path:
        """The file of a segment: its name says which frames of which content, so that a rerun finds what is done."""
        return Path(self.folder) / f"{_stem(source, source_sha256, indices)}{SUFFIX}"

    def segments(self) -> tuple[SegmentInfo, ...]:
        """All segments, sorted by name, each once. Reads headers only: of a shard, its first member."""
        found = {}
        for path in list_files(self.folder, SUFFIX):
            info = segment_of(LabelFile.open(FilePart(path)).header["segment"])
            found[_stem_of(info)] = info
        self._packed = {}
        for path in list_files(self.folder, ".tar"):
            for header, place in read_shard(path).segments:
                info = segment_of(header)
                self._packed[_stem_of(info)] = place
                found[_stem_of(info)] = info
        return tuple(found[stem] for stem in sorted(found))

    def distinct(self) -> tuple[tuple[SegmentInfo, ...], dict[str, str]]:
        """The segments to learn from, each content once; and of sources that are copies of others, of which.

        Two videos of the same bytes are labelled in two shards under two names: the one whose file comes first by name
        is kept, and which that is depends on the sources alone.
        """
        every = self.segments()
        first: dict[tuple[str, tuple[int, ...]], SegmentInfo] = {}
        for segment in sorted(every, key=lambda one: (place := self.place_of(one)).path + f":{place.offset:020d}"):
            first.setdefault((segment.source_sha256, segment.indices), segment)
        kept = tuple(one for one in every if first[one.source_sha256, one.indices] is one)
        copies = {one.source: first[one.source_sha256, one.indices].source for one in every}
        return kept, {copy: source for copy, source in copies.items() if copy != source}

    def find(self, source: str, source_sha256: str, indices: Sequence[int]) -> SegmentInfo | None:
        """A segment that is a file of its own, if it is there."""
        path = self.path_of(source, source_sha256, indices)
        return segment_of(LabelFile.open(FilePart(str(path))).header["segment"]) if path.exists() else None

    def write(self, segment: Segment, plain: bool = False) -> Path:
        """Write a segment, atomically; `plain`: so that torch and numpy alone read it."""
        info = segment.info
        blocks = [encode_image(image, plain) for image in segment.images]
        for displacement, covisible in zip(segment.flow.displacement[0], segment.flow.covisible[0]):
            blocks += [encode_flow(displacement, covisible, plain), encode_covisible(covisible, plain)]
        path = self.path_of(info.source, info.source_sha256, info.indices)
        header = {"format": FORMAT, "segment": asdict(info), "made_with": self.settings, "plain": plain}
        write_bytes(path, encode_file(header, blocks))
        return path

    def images(self, segment: SegmentInfo, frames: Sequence[int]) -> UInt8[np.ndarray, "N H W 3"]:
        """Stored frames of a segment, by their position in it."""
        return _images(self._open(segment), segment, frames)

    def flow(self, segment: SegmentInfo, rows: Sequence[int]) -> Flow:
        """Labels (B = 1) of accepted pairs of a segment, by their rows in `segment.pairs`."""
        return _flow(self._open(segment), segment, rows)

    def clip(
        self, segment: SegmentInfo, frames: Sequence[int], rows: Sequence[int], file: LabelFile | None = None
    ) -> Views:
        """A training clip (B = 1): frames of a segment, and labels of pairs among them, which then index the clip.

        `file` is the segment's own, if it is open already.
        """
        place = {int(frame): position for position, frame in enumerate(frames)}
        outside = [segment.pairs[int(row)] for row in rows if not set(segment.pairs[int(row)]) <= set(place)]
        if outside:
            raise ValueError(f"pairs {outside[:4]} reach beyond the clip's frames {list(place)}")
        file = file or self._open(segment)
        flow = _flow(file, segment, rows)
        pairs = torch.tensor([[place[i], place[j]] for i, j in flow.pairs[0].tolist()], dtype=torch.long)
        images = torch.from_numpy(_images(file, segment, frames)).movedim(-1, 1)[None].float() / 255
        names = (tuple(segment.names[int(frame)] for frame in frames),)
        return Views(images, flow=Flow(pairs.reshape(1, -1, 2), flow.displacement, flow.covisible), names=names)

    def made_with(self, segment: SegmentInfo) -> dict[str, Any]:
        """What the file of a segment says that it was made with; {} where it is older than this entry."""
        return self._open(segment).header.get("made_with", {})

    def place_of(self, segment: SegmentInfo) -> FilePart:
        """Where the file of a segment is."""
        if self._packed is None:
            path = self.path_of(segment.source, segment.source_sha256, segment.indices)
            if not is_url(self.folder) and path.exists():
                return FilePart(str(path))
            self.segments()
        loose = FilePart(f"{self.folder}/{_stem_of(segment)}{SUFFIX}")
        return (self._packed or {}).get(_stem_of(segment), loose)

    def _open(self, segment: SegmentInfo) -> LabelFile:
        return LabelFile.open(self.place_of(segment))


def segment_of(fields: dict[str, Any]) -> SegmentInfo:
    """The segment that the header of its file describes."""
    fields = dict(fields)
    refusals = tuple(Refusal(**refusal) for refusal in fields.pop("refusals"))
    return SegmentInfo(**{key: _tuples(value) for key, value in fields.items()}, refusals=refusals)


def _stem(source: str, source_sha256: str, indices: Sequence[int]) -> str:
    stem = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in source)[:60]
    return f"{stem}-{source_sha256[:12]}-{indices[0]:07d}-{indices[-1] + 1:07d}"


def _stem_of(segment: SegmentInfo) -> str:
    return _stem(segment.source, segment.source_sha256, segment.indices)


def _images(file: LabelFile, segment: SegmentInfo, frames: Sequence[int]) -> UInt8[np.ndarray, "N H W 3"]:
    blocks = file.read([int(frame) for frame in frames])
    return np.stack([decode_image(block, segment.size, file.plain) for block in blocks])


def _flow(file: LabelFile, segment: SegmentInfo, rows: Sequence[int]) -> Flow:
    first = len(file.blocks) - 2 * len(segment.pairs)
    blocks = file.read([first + 2 * int(row) + part for row in rows for part in (0, 1)])
    flows = [decode_flow(block, segment.size, file.plain) for block in blocks[::2]]
    covisible = [decode_covisible(block, segment.size, file.plain) for block in blocks[1::2]]
    pairs = torch.tensor([segment.pairs[int(row)] for row in rows], dtype=torch.long).reshape(1, -1, 2)
    displacement = torch.stack(flows)[None] if flows else torch.zeros(1, 0, *segment.size, 2)
    return Flow(pairs, displacement, torch.stack(covisible)[None] if flows else displacement[..., 0])


def _read_manifest(path: str) -> dict[str, Any]:
    try:
        manifest = json.loads(FilePart(path).read())
    except FileNotFoundError as error:
        folder = path.removesuffix(f"/{MANIFEST}")
        raise LabelStoreError(f"{folder}: not a label store ({MANIFEST} is missing); make one first") from error
    except (OSError, ValueError) as error:
        raise LabelStoreError(f"{path}: damaged ({error}); delete the folder and label again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "settings" not in manifest:
        raise LabelStoreError(f"{path}: not the manifest of a label store; choose another folder")
    if manifest.get("version") != VERSION:
        raise LabelStoreError(
            f"{path}: labels of version {manifest.get('version')}, this program reads version {VERSION}; label again"
        )
    return manifest["settings"]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
