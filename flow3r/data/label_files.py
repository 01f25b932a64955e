"""The bytes of a file of flow labels: a preamble, a JSON header, and blocks that are each read and checked alone.

The preamble is 24 bytes: magic, version, length and CRC-32 of the header. Flow is int16 in 1/8 px (rounding error 1/16
px, reach 4096 px), planar, differences along x, bytes split into planes, zstandard; unknown flow is stored as 0.
Covisibility is uint8 / 255, frames are PNG. The header holds each block's place and CRC-32.

In a `plain` file, as its header says, everything is for the standard library to read: zlib in place of zstandard, and
of PNG differences along x, packed by zlib.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from flow3r.errors import LabelStoreError
from flow3r.files import FilePart

VERSION = 1
SUFFIX = ".labels"
FLOW_STEPS = 8  # per pixel

_PREAMBLE = struct.Struct("<8sIQI")  # magic, version, header bytes, header CRC-32
_MAGIC = b"FLOW3RLB"
_LEVEL = 3  # of zstandard
_HEADER = 2**16  # bytes that are read at once for a header; most are shorter


def encode_file(header: dict[str, Any], blocks: Sequence[bytes]) -> bytes:
    """A whole file: `header`, to which the places of the blocks are added, and the blocks."""
    places = [[len(block), zlib.crc32(block)] for block in blocks]
    text = json.dumps({**header, "blocks": places}).encode()
    return _PREAMBLE.pack(_MAGIC, VERSION, len(text), zlib.crc32(text)) + text + b"".join(blocks)


@dataclass(frozen=True)
class LabelFile:
    """An open file of labels: its header, and blocks that are read when they are asked for."""

    place: FilePart
    header: dict[str, Any]
    blocks: tuple[tuple[int, int, int], ...]  # (offset, length, CRC-32)

    @property
    def plain(self) -> bool:
        """Whether the standard library reads its blocks."""
        return bool(self.header.get("plain", False))

    @classmethod
    def open(cls, place: FilePart) -> "LabelFile":
        """Raises LabelStoreError, naming the file, if its header is damaged, of another version, or not there."""
        start = _read(place, (0, _HEADER))[0]
        if len(start) < _PREAMBLE.size or start[:8] != _MAGIC:
            raise LabelStoreError(f"{place}: not a file of flow labels, or damaged in its preamble; label again")
        _, version, length, checksum = _PREAMBLE.unpack(start[: _PREAMBLE.size])
        if version != VERSION:
            raise LabelStoreError(
                f"{place}: labels of version {version}, this program reads version {VERSION}; label again"
            )
        text = start[_PREAMBLE.size : _PREAMBLE.size + length]
        if len(text) < length:
            text += _read(place, (len(start), min(length - len(text), 2**31)))[0]
        if zlib.crc32(text) != checksum:
            raise LabelStoreError(f"{place}: header is damaged (checksum differs); delete the file and label again")
        header = json.loads(text)
        offset, blocks = _PREAMBLE.size + length, []
        for size, block_checksum in header.pop("blocks"):
            blocks.append((offset, size, block_checksum))
            offset += size
        return cls(place, header, tuple(blocks))

    def read(self, numbers: Sequence[int]) -> list[bytes]:
        """Blocks by their numbers. Raises LabelStoreError where one is damaged, IndexError where there is none."""
        for number in numbers:
            if not 0 <= number < len(self.blocks):
                raise IndexError(f"{self.place}: no block {number}, the file has {len(self.blocks)}")
        found = _read(self.place, *(self.blocks[number][:2] for number in numbers)) if numbers else []
        for number, block in zip(numbers, found, strict=True):
            _, length, checksum = self.blocks[number]
            if len(block) != length or zlib.crc32(block) != checksum:
                raise LabelStoreError(
                    f"{self.place}: block {number} is damaged (checksum differs); delete the file and label again"
                )
        return found


def _read(place: FilePart, *ranges: tuple[int, int]) -> list[bytes]:
    try:
        return place.read_ranges(ranges)
    except OSError as error:
        raise LabelStoreError(f"{place}: cannot be read ({error})") from error


def encode_image(image: UInt8[np.ndarray, "H W 3"], plain: bool = False) -> bytes:
    """An RGB frame as PNG, or plain."""
    if plain:
        return _packed(np.diff(image, axis=1, prepend=np.uint8(0)), plain)  # wraps around, and back on reading
    import cv2

    return cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes()


def decode_image(block: bytes, size: tuple[int, int], plain: bool = False) -> UInt8[np.ndarray, "H W 3"]:
    """The RGB frame of a block, of `size` (H, W)."""
    if plain:
        return np.cumsum(_unpacked(block, plain).reshape(*size, 3), axis=1, dtype=np.uint8)
    import cv2

    return cv2.imdecode(np.frombuffer(block, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def encode_flow(displacement: Float[Tensor, "H W 2"], covisible: Float[Tensor, "H W"], plain: bool = False) -> bytes:
    """Flow in pixels, to 1/8 px; 0 where nothing is covisible."""
    known = (covisible * 255).round() > 0
    steps = torch.where(known[..., None], displacement * FLOW_STEPS, 0.0).round().clamp(-32768, 32767)
    planes = steps.movedim(-1, 0).to(torch.int16).cpu().numpy()
    differences = np.diff(planes, axis=2, prepend=np.int16(0))  # wraps around, and back on reading
    return _packed(differences.astype("<i2").reshape(-1).view(np.uint8).reshape(-1, 2).T, plain)


def decode_flow(block: bytes, size: tuple[int, int], plain: bool = False) -> Float[Tensor, "H W 2"]:
    """Flow in pixels at `size` (H, W)."""
    shuffled = _unpacked(block, plain).reshape(2, -1)
    differences = np.ascontiguousarray(shuffled.T).view("<i2").reshape(2, *size)
    planes = np.cumsum(differences, axis=2, dtype=np.int16)
    return torch.from_numpy(planes.astype(np.float32) / FLOW_STEPS).movedim(0, -1).contiguous()


def encode_covisible(covisible: Float[Tensor, "H W"], plain: bool = False) -> bytes:
    """Covisibility in [0, 1], to 1/255."""
    return _packed((covisible * 255).round().byte().cpu().numpy(), plain)


def decode_covisible(block: bytes, size: tuple[int, int], plain: bool = False) -> Float[Tensor, "H W"]:
    """Covisibility in [0, 1] at `size` (H, W)."""
    return torch.from_numpy(_unpacked(block, plain).reshape(size).astype(np.float32) / 255)


def _packed(values: UInt8[np.ndarray, "..."], plain: bool) -> bytes:
    if plain:
        return zlib.compress(values.tobytes(), 9)
    import zstandard

    return zstandard.ZstdCompressor(_LEVEL).compress(values.tobytes())


def _unpacked(block: bytes, plain: bool) -> UInt8[np.ndarray, "n"]:
    if plain:
        return np.frombuffer(zlib.decompress(block), np.uint8)
    import zstandard

    return np.frombuffer(zstandard.ZstdDecompressor().decompress(block), np.uint8)
