"""Flow labels on disk: one file per labelled segment of a shot, each frame and each pair of it readable by itself.

A file is a 24-byte preamble (magic, version, length and CRC-32 of the header), a JSON header, then blocks: a PNG for
every frame, and for every accepted pair its flow and its covisibility. Flow is int16 in 1/8 px (rounding error 1/16 px,
reach 4096 px), planar, differences along x, bytes split into planes, zstandard; unknown flow is stored as 0.
Covisibility is uint8 / 255. The header holds each block's place and CRC-32. `manifest.json` states what the whole store
was made with.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from flow3r.errors import LabelStoreError
from flow3r.files import sha256_of_json, write_bytes, write_json
from flow3r.types import Flow, Views

FORMAT = "flow3r-labels"
VERSION = 1
MANIFEST = "manifest.json"
SUFFIX = ".labels"
FLOW_STEPS = 8  # per pixel

_PREAMBLE = struct.Struct("<8sIQI")  # magic, version, header bytes, header CRC-32
_MAGIC = b"FLOW3RLB"
_LEVEL = 3  # of zstandard


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


@dataclass(frozen=True)
class Segment:
    """A labelled segment as it is written: flow (B = 1) for its P accepted pairs; its frames, or none if P = 0."""

    info: SegmentInfo
    images: UInt8[np.ndarray, "N H W 3"]
    flow: Flow


class LabelStore:
    """A folder of labelled segments.

    With `settings` (teacher, its parameters, grid) it is made, or reopened for writing if it was made with the same;
    without, it is opened for reading. Raises LabelStoreError if the folder is no store, of another version, or made
    with other settings; reading also where a file is damaged, naming file and block.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any] | None = None):
        self.folder = Path(folder)
        manifest = self.folder / MANIFEST
        if settings is not None and not manifest.exists():
            write_json(manifest, {"format": FORMAT, "version": VERSION, "settings": settings})
        self.settings = _read_manifest(manifest)
        if settings is not None and sha256_of_json(settings) != sha256_of_json(self.settings):
            changed = [key for key in {**settings, **self.settings} if settings.get(key) != self.settings.get(key)]
            raise LabelStoreError(
                f"{self.folder}: the labels here were made with other settings ({', '.join(sorted(changed))}); "
                "choose another folder, or delete this one"
            )

    def path_of(self, source: str, source_sha256: str, indices: Sequence[int]) -> Path:
        """The file of a segment: its name says which frames of which content, so that a rerun finds what is done."""
        stem = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in source)[:60]
        return self.folder / f"{stem}-{source_sha256[:12]}-{indices[0]:07d}-{indices[-1] + 1:07d}{SUFFIX}"

    def segments(self) -> tuple[SegmentInfo, ...]:
        """All segments, sorted by file name. Reads headers only."""
        files = sorted(file for file in self.folder.glob(f"*{SUFFIX}") if not file.name.startswith("."))
        return tuple(_read_header(file)[0] for file in files)

    def write(self, segment: Segment) -> Path:
        """Write a segment, atomically."""
        info = segment.info
        blocks = [_encode_image(image) for image in segment.images]
        for displacement, covisible in zip(segment.flow.displacement[0], segment.flow.covisible[0]):
            blocks += [_encode_flow(displacement, covisible), _encode_covisible(covisible)]
        places = [[len(block), zlib.crc32(block)] for block in blocks]
        header = json.dumps({"format": FORMAT, "segment": asdict(info), "blocks": places}).encode()
        path = self.path_of(info.source, info.source_sha256, info.indices)
        write_bytes(path, _PREAMBLE.pack(_MAGIC, VERSION, len(header), zlib.crc32(header)) + header + b"".join(blocks))
        return path

    def images(self, segment: SegmentInfo, frames: Sequence[int]) -> UInt8[np.ndarray, "N H W 3"]:
        """Stored frames of a segment, by their position in it."""
        with _Blocks(self._path(segment)) as blocks:
            return np.stack([_decode_image(blocks.read(int(frame))) for frame in frames])

    def flow(self, segment: SegmentInfo, rows: Sequence[int]) -> Flow:
        """Labels (B = 1) of accepted pairs of a segment, by their rows in `segment.pairs`."""
        with _Blocks(self._path(segment)) as blocks:
            count = len(blocks) - 2 * len(segment.pairs)
            flows = [_decode_flow(blocks.read(count + 2 * int(row)), segment.size) for row in rows]
            covisible = [_decode_covisible(blocks.read(count + 2 * int(row) + 1), segment.size) for row in rows]
        pairs = torch.tensor([segment.pairs[int(row)] for row in rows], dtype=torch.long).reshape(1, -1, 2)
        height, width = segment.size
        displacement = torch.stack(flows)[None] if flows else torch.zeros(1, 0, height, width, 2)
        return Flow(pairs, displacement, torch.stack(covisible)[None] if flows else displacement[..., 0])

    def clip(self, segment: SegmentInfo, frames: Sequence[int], rows: Sequence[int]) -> Views:
        """A training clip (B = 1): frames of a segment, and labels of pairs among them, which then index the clip."""
        place = {int(frame): position for position, frame in enumerate(frames)}
        outside = [segment.pairs[int(row)] for row in rows if not set(segment.pairs[int(row)]) <= set(place)]
        if outside:
            raise ValueError(f"pairs {outside[:4]} reach beyond the clip's frames {list(place)}")
        flow = self.flow(segment, rows)
        pairs = torch.tensor([[place[i], place[j]] for i, j in flow.pairs[0].tolist()], dtype=torch.long)
        images = torch.from_numpy(self.images(segment, frames)).movedim(-1, 1)[None].float() / 255
        names = (tuple(segment.names[int(frame)] for frame in frames),)
        return Views(images, flow=Flow(pairs.reshape(1, -1, 2), flow.displacement, flow.covisible), names=names)

    def _path(self, segment: SegmentInfo) -> Path:
        return self.path_of(segment.source, segment.source_sha256, segment.indices)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LabelStoreError(f"{path.parent}: not a label store ({MANIFEST} is missing); make one first") from error
    except (OSError, ValueError) as error:
        raise LabelStoreError(f"{path}: damaged ({error}); delete the folder and label again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "settings" not in manifest:
        raise LabelStoreError(f"{path}: not the manifest of a label store; choose another folder")
    if manifest.get("version") != VERSION:
        raise LabelStoreError(
            f"{path}: labels of version {manifest.get('version')}, this program reads version {VERSION}; label again"
        )
    return manifest["settings"]


def _read_header(path: Path) -> tuple[SegmentInfo, list[tuple[int, int, int]]]:
    """What a file holds, and (offset, length, CRC-32) of its blocks."""
    try:
        with open(path, "rb") as file:
            preamble = file.read(_PREAMBLE.size)
            if len(preamble) < _PREAMBLE.size or preamble[:8] != _MAGIC:
                raise LabelStoreError(f"{path}: not a file of flow labels, or damaged in its preamble; label again")
            _, version, length, checksum = _PREAMBLE.unpack(preamble)
            header = file.read(min(length, path.stat().st_size))
    except OSError as error:
        raise LabelStoreError(f"{path}: cannot be read ({error})") from error
    if version != VERSION:
        raise LabelStoreError(f"{path}: labels of version {version}, this program reads version {VERSION}; label again")
    if zlib.crc32(header) != checksum:
        raise LabelStoreError(f"{path}: header is damaged (checksum differs); delete the file and label again")
    content = json.loads(header)
    offset, places = _PREAMBLE.size + length, []
    for size, block_checksum in content["blocks"]:
        places.append((offset, size, block_checksum))
        offset += size
    return _segment_from_json(content["segment"]), places


def _segment_from_json(fields: dict[str, Any]) -> SegmentInfo:
    refusals = tuple(Refusal(**refusal) for refusal in fields.pop("refusals"))
    return SegmentInfo(**{key: _tuples(value) for key, value in fields.items()}, refusals=refusals)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


class _Blocks:
    """An open label file."""

    def __init__(self, path: Path):
        self.path = path
        self._places = _read_header(path)[1]

    def __enter__(self) -> "_Blocks":
        self._file = open(self.path, "rb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def read(self, number: int) -> bytes:
        if not 0 <= number < len(self._places):
            raise IndexError(f"{self.path}: no block {number}, the file has {len(self._places)}")
        offset, length, checksum = self._places[number]
        self._file.seek(offset)
        block = self._file.read(length)
        if len(block) != length or zlib.crc32(block) != checksum:
            raise LabelStoreError(
                f"{self.path}: block {number} is damaged (checksum differs); delete the file and label again"
            )
        return block


def _encode_image(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    import cv2

    return cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes()


def _decode_image(block: bytes) -> UInt8[np.ndarray, "H W 3"]:
    import cv2

    return cv2.imdecode(np.frombuffer(block, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def _encode_flow(displacement: Float[Tensor, "H W 2"], covisible: Float[Tensor, "H W"]) -> bytes:
    import zstandard

    known = (covisible * 255).round() > 0
    steps = torch.where(known[..., None], displacement * FLOW_STEPS, 0.0).round().clamp(-32768, 32767)
    planes = steps.movedim(-1, 0).to(torch.int16).cpu().numpy()
    differences = np.diff(planes, axis=2, prepend=np.int16(0))  # wraps around, and back on reading
    shuffled = differences.astype("<i2").reshape(-1).view(np.uint8).reshape(-1, 2).T
    return zstandard.ZstdCompressor(_LEVEL).compress(shuffled.tobytes())


def _decode_flow(block: bytes, size: tuple[int, int]) -> Float[Tensor, "H W 2"]:
    import zstandard

    shuffled = np.frombuffer(zstandard.ZstdDecompressor().decompress(block), np.uint8).reshape(2, -1)
    differences = np.ascontiguousarray(shuffled.T).view("<i2").reshape(2, *size)
    planes = np.cumsum(differences, axis=2, dtype=np.int16)
    return torch.from_numpy(planes.astype(np.float32) / FLOW_STEPS).movedim(0, -1).contiguous()


def _encode_covisible(covisible: Float[Tensor, "H W"]) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(_LEVEL).compress((covisible * 255).round().byte().cpu().numpy().tobytes())


def _decode_covisible(block: bytes, size: tuple[int, int]) -> Float[Tensor, "H W"]:
    import zstandard

    values = np.frombuffer(zstandard.ZstdDecompressor().decompress(block), np.uint8).reshape(size)
    return torch.from_numpy(values.astype(np.float32) / 255)
