"""Datasets packed into tar shards by `flow3r data pack`: sequences of frames, read in any order, also behind a URL.

The shards are WebDataset's and its loaders read them: a sample for each frame, <sequence>/<frame>.{json,png,depth.npz},
or for each video, <sequence>.{json,mp4,...}. `index.json` beside them names the sequences and says where in a shard
each member is, so that a frame costs no more than the bytes that it has.
"""

import io
import json
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as List
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from flow3r.data.datasets.dataset import Dataset
from flow3r.data.datasets.videos import ListedVideo
from flow3r.data.frame import Frame, Sequence, check_indices
from flow3r.errors import InputError
from flow3r.files import FilePart, is_url

INDEX, VERSION = "index.json", 2
LAYOUT = f"{INDEX} and tar shards, as flow3r data pack writes them"
CAMERA, IMAGE, DEPTH = "json", "png", "depth.npz"  # members of a frame
FACTS = ("title", "labels", "licence", "url", "citation", "dense", "rigid", "scale")  # kept of a packed dataset

Member = list[int]  # [number of the shard, offset, size]


@dataclass(frozen=True)
class PackedFrames:
    """Packed frames as a Sequence. Raises InputError, naming the shard, for what cannot be read."""

    name: str
    shards: tuple[str, ...]
    times: tuple[float, ...]
    members: tuple[dict[str, Member], ...]

    @property
    def files(self) -> tuple[Path | FilePart, ...]:
        """The parts of local shards whose content determines the frames."""
        found = [(kind, member) for frame in self.members for kind, member in frame.items()]
        return tuple(FilePart(self.shards[shard], offset, size, kind) for kind, (shard, offset, size) in found)

    def __len__(self) -> int:
        return len(self.times)

    def timestamps(self) -> Float[np.ndarray, "N"]:
        return np.array(self.times, dtype=np.float64)

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """The frames at strictly ascending `indices`, exactly as they were packed, read one at a time."""
        for index in check_indices(indices, len(self)):
            stored = {kind: self._read(*member) for kind, member in self.members[index].items()}
            try:
                camera, depth = json.loads(stored[CAMERA]), None
                if DEPTH in stored:
                    with np.load(io.BytesIO(stored[DEPTH]), allow_pickle=False) as arrays:
                        depth = arrays["depth"]
                image = _decode(stored[IMAGE])
            except (ValueError, KeyError, OSError, SyntaxError) as error:
                raise InputError(f"{self.name}: frame {index} is damaged in its shard ({error}); pack again") from error
            matrices = (
                None if camera[key] is None else np.array(camera[key]) for key in ("intrinsics", "world_from_camera")
            )
            yield Frame(image, camera["timestamp"], camera["name"], depth, *matrices)

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        try:
            content = FilePart(self.shards[shard], offset, size).read()
        except OSError as error:
            raise InputError(f"{self.shards[shard]}: cannot be read ({error})") from error
        if len(content) < size:
            raise InputError(f"{self.shards[shard]}: ends at {len(content)} of {size} bytes of a frame; copy it again")
        return content


def _decode(content: bytes) -> UInt8[np.ndarray, "H W 3"]:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return np.array(image)


def sequences(root: Path | str) -> List[Sequence]:
    """The sequences of a folder, or of a URL that fsspec knows."""
    index = _index(str(root))
    shards = tuple(f"{root}/{name}" for name in index["shards"])
    found: list[Sequence] = []
    for entry in index["sequences"]:
        if "video" in entry:
            shard, offset, size = entry["video"]
            if is_url(root):
                raise InputError(f"{root}: holds videos, which are read from local shards; copy them to a disk")
            part = FilePart(shards[shard], offset, size, entry["file"])
            found.append(ListedVideo(part, listed_as=entry["name"]))
        else:
            found.append(PackedFrames(entry["name"], shards, tuple(entry["times"]), tuple(entry["frames"])))
    return found


def is_packed(root: Path) -> bool:
    """Whether a folder holds packed sequences, by its index."""
    return (root / INDEX).is_file()


def described(root: Path | str) -> Dataset:
    """The reader, with what was said of the dataset that was packed there: what its labels are, its held-out part."""
    index = _index(str(root))
    facts = {fact: index["dataset"][fact] for fact in FACTS}
    return replace(PACKED, **facts, held_out=lambda root: _index(str(root))["held_out"])


def packed_dataset(root: Path | str) -> str:
    """The name of the dataset that was packed there."""
    return _index(str(root))["dataset"]["name"]


def _index(root: str) -> dict[str, Any]:
    where = f"{root}/{INDEX}"
    if not is_url(root) and not Path(where).is_file():
        there = ", ".join(sorted(path.name for path in Path(root).iterdir())[:8]) if Path(root).is_dir() else ""
        held = f"it holds {there or 'nothing'}" if Path(root).is_dir() else "no such folder"
        raise InputError(f"{root}: no {INDEX} of packed sequences ({LAYOUT}); {held}")
    return _parsed(where, 0 if is_url(root) else Path(where).stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _parsed(where: str, changed: int) -> dict[str, Any]:
    try:
        index = json.loads(FilePart(where).read())
        version, _ = index["packed"], index["sequences"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: not an index of packed sequences ({error!r})") from error
    if version != VERSION:
        raise InputError(f"{where}: is of version {version}; this flow3r reads {VERSION}: pack again")
    return index


PACKED = Dataset(
    name="packed",
    title="Packed sequences",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="that of the dataset that was packed",
    url="",
    citation="",
    scale="relative",
)
