"""Tar shards of a label store: many segments in one file, whose first member says where each of them is.

The first member, `index-<CRC-32>.json`, holds what the shard reports (sources, failures) and, for every further
member, what its header says of the segment. A reader lists a shard by one short read, and fetches frames and pairs by
their ranges.
Members have no times and no owners: the same segments make the same bytes.
"""

import io
import json
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flow3r.data.label_files import SUFFIX, LabelFile
from flow3r.errors import LabelStoreError
from flow3r.files import FilePart, atomic_path

_RECORD = 512  # bytes: tar's unit
_FIRST = 2**20  # bytes that are read at once for the first member


@dataclass(frozen=True)
class Shard:
    """What a shard holds: its report, and what the headers of its segments say, with their places."""

    report: dict[str, Any]
    segments: tuple[tuple[dict[str, Any], FilePart], ...]


def write_shard(path: str | Path, report: dict[str, Any], files: Sequence[Path]) -> None:
    """Pack the files of segments, in this order, into a shard at `path`, atomically."""
    entries, offset = [], 0
    for file in files:
        size = file.stat().st_size
        header = LabelFile.open(FilePart(str(file))).header
        entries.append({"offset": offset + _RECORD, "size": size, "segment": header["segment"]})
        offset += _RECORD + _padded(size)
    index = json.dumps({"report": report, "segments": entries}, separators=(",", ":")).encode()
    with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as shard:
        shard.addfile(_member(f"index-{zlib.crc32(index):08x}.json", len(index)), io.BytesIO(index))
        for number, file in enumerate(files):
            with open(file, "rb") as content:
                shard.addfile(_member(f"{number:06d}{SUFFIX}", file.stat().st_size), content)


def read_shard(path: str) -> Shard:
    """A shard of a folder or URL. Raises LabelStoreError if it is none, or damaged."""
    whole = FilePart(path)
    try:
        start = whole.read_ranges([(0, _FIRST)])[0]
        member = tarfile.TarInfo.frombuf(start[:_RECORD], "utf-8", "strict")
        index = start[_RECORD : _RECORD + member.size]
        if len(index) < member.size:
            index += whole.read_ranges([(len(start), member.size - len(index))])[0]
    except OSError as error:
        raise LabelStoreError(f"{path}: cannot be read ({error})") from error
    except tarfile.HeaderError as error:
        raise LabelStoreError(f"{path}: not a tar file, or damaged at its start; delete it and label again") from error
    if member.name != f"index-{zlib.crc32(index):08x}.json":
        raise LabelStoreError(f"{path}: not a shard of labels, or its index is damaged; delete it and label again")
    content = json.loads(index)
    base = _RECORD + _padded(member.size)
    segments = tuple((e["segment"], whole.part(base + e["offset"], e["size"])) for e in content["segments"])
    return Shard(content["report"], segments)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # of 1970, owned by nobody in particular
    member.size = size
    return member


def _padded(size: int) -> int:
    return -(-size // _RECORD) * _RECORD
