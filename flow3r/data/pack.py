"""Sequences packed into tar shards with WebDataset, on a disk or any file system that fsspec knows."""

import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from collections.abc import Sequence as List
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flow3r.data.datasets.dataset import Dataset
from flow3r.data.datasets.packed import CAMERA, DEPTH, FACTS, IMAGE, INDEX, VERSION
from flow3r.data.frame import Frame, Sequence
from flow3r.data.tar import tar_members
from flow3r.data.video import VideoFile
from flow3r.errors import InputError
from flow3r.files import FilePart, atomic_path, is_url, write_text

SHARD_BYTES = 512 * 2**20  # ours: large enough for object stores, small enough to shuffle


@dataclass
class Packed:
    """What was packed, and what was not."""

    sequences: int = 0
    frames: int = 0  # videos are packed whole, and their frames not counted
    shards: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # frames, by reason
    unreadable: dict[str, str] = field(default_factory=dict)  # sequences, and why

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.sequences} sequences, {self.frames} frames in {self.shards} shards"]
        lines += [f"left out: {count} frames, {reason}" for reason, count in self.left_out.most_common()]
        return lines + [f"not packed: {name}: {reason}" for name, reason in self.unreadable.items()]


def pack(
    dataset: Dataset,
    sequences: List[Sequence],
    out: Path | str,
    shard_bytes: int = SHARD_BYTES,
    held_out: Collection[str] = (),
) -> Packed:
    """Write sequences to `out`, a new folder or a URL, to be read by the dataset `packed`: exactly the same frames.

    What is said of the dataset goes with them, and which of the names `held_out` no run may learn from, so that a copy
    in the place of the original trains as that does. Images as PNG, depth as compressed float32, cameras as JSON;
    videos as the files that they are. A sequence that cannot be read is left out, and said to be; a folder is whole or
    absent. Raises InputError if `out` exists.
    """
    try:
        from webdataset import ShardWriter
    except ImportError as error:
        raise InputError("packing needs a package that is not installed: pip install 'flow3r[scale]'") from error
    result, entries, shards, places = Packed(), [], [], {}
    with _destination(out) as (folder, put):

        def finished(shard: str) -> None:
            for member in tar_members(Path(shard)):
                places[member.name] = [len(shards), member.offset, member.size]
            shards.append(Path(shard).name)
            put(Path(shard))

        options = {"encoder": False, "mtime": 0, "verbose": 0, "post": finished}
        with ShardWriter(str(folder / "%06d.tar"), maxcount=2**62, maxsize=shard_bytes, **options) as writer:
            for number, sequence in enumerate(sequences):
                try:
                    entries.append(_write(writer.write, f"{number:06d}", sequence, dataset.name))
                    result.left_out.update(getattr(sequence, "left_out", {}))
                except (InputError, OSError) as error:
                    result.unreadable[sequence.name] = str(error)
        if not entries:
            raise InputError(f"nothing to pack: {'; '.join(result.unreadable.values()) or 'no sequences'}")
        found = [_placed(entry, places) for entry in entries]
        facts = {fact: getattr(dataset, fact) for fact in ("name", *FACTS)}
        tests = sorted({entry["name"] for entry in entries} & set(held_out))
        index = {"packed": VERSION, "dataset": facts, "held_out": tests, "shards": shards, "sequences": found}
        write_text(folder / INDEX, json.dumps(index, separators=(",", ":"), allow_nan=False))
        put(folder / INDEX)
    result.sequences, result.shards = len(entries), len(shards)
    result.frames = sum(len(entry.get("times", ())) for entry in entries)
    return result


@contextmanager
def _destination(out: Path | str) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """A folder to write into, and what is to be done with a file that is finished there; the index comes last."""
    if is_url(out):
        import fsspec

        system, root = fsspec.core.url_to_fs(str(out))
        if system.exists(root) and system.ls(root):
            raise InputError(f"{out}: is not empty; expected a place for new shards")
        system.makedirs(root, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:

            def upload(file: Path) -> None:
                system.put_file(str(file), f"{root}/{file.name}")
                file.unlink()

            yield Path(folder), upload
        return
    if Path(out).exists():
        raise InputError(f"{out}: exists; expected a new folder for the shards")
    with atomic_path(out) as folder:
        folder.mkdir()
        yield folder, lambda file: None


def _write(write: Callable[[dict[str, Any]], Any], key: str, sequence: Sequence, dataset: str) -> dict[str, Any]:
    """Write the samples of a sequence; its entry of the index, with names of members where their places will stand."""
    about = {"sequence": sequence.name, "dataset": dataset}
    if isinstance(sequence, VideoFile):
        suffix, path = Path(getattr(sequence.path, "name", sequence.path)).suffix.lower().lstrip("."), sequence.path
        content = path.read() if isinstance(path, FilePart) else Path(path).read_bytes()
        write({"__key__": key, suffix: content, "json": json.dumps(about).encode()})
        return {"name": sequence.name, "file": f"{key}.{suffix}", "video": f"{key}.{suffix}"}
    times, frames = [], []
    for number, frame in enumerate(sequence.frames(range(len(sequence)))):
        members = _members(frame, about)
        write({"__key__": f"{key}/{number:06d}", **members})
        frames.append({kind: f"{key}/{number:06d}.{kind}" for kind in members})
        times.append(float(frame.timestamp))
    return {"name": sequence.name, "times": times, "frames": frames}


def _members(frame: Frame, about: dict[str, str]) -> dict[str, bytes]:
    from PIL import Image

    camera = about | {"name": frame.name, "timestamp": float(frame.timestamp)}
    for key in ("intrinsics", "world_from_camera"):
        camera[key] = None if getattr(frame, key) is None else getattr(frame, key).tolist()
    image = io.BytesIO()
    Image.fromarray(frame.image).save(image, format="PNG", compress_level=3)
    members = {CAMERA: json.dumps(camera, allow_nan=False).encode(), IMAGE: image.getvalue()}
    if frame.depth is not None:
        depth = io.BytesIO()
        np.savez_compressed(depth, depth=frame.depth)
        members[DEPTH] = depth.getvalue()
    return members


def _placed(entry: dict[str, Any], places: dict[str, list[int]]) -> dict[str, Any]:
    if "video" in entry:
        return entry | {"video": places[entry["video"]]}
    return entry | {"frames": [{kind: places[name] for kind, name in frame.items()} for frame in entry["frames"]]}
