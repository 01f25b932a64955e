"""Files that are either whole or absent: atomic writes, content hashes. Parts of files, and arrays of many frames, that
are read where they lie; a part also behind a URL that fsspec knows (s3://, gs://, https://).
"""

import hashlib
import json
import math
import operator
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from flow3r.errors import InputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it into place, on failure remove it.

    The temporary path may be written as a file or made a folder. A reader sees the old content or the new, never half.
    The name keeps the suffixes of `path`, since several writers choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex[:12]}-{path.name}")
    replaced = temporary.with_name(f"{temporary.name}.old")
    try:
        yield temporary
        if temporary.is_file():
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        elif temporary.is_dir() and path.is_dir():
            os.replace(path, replaced)  # a folder can only be renamed onto an empty one
        os.replace(temporary, path)
    finally:
        if replaced.is_dir() and not path.exists():
            os.replace(replaced, path)
        for leftover in (temporary, replaced):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused, since they are not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def is_url(path: str | Path) -> bool:
    """Whether it names a file system other than the local one."""
    return "://" in str(path)


@dataclass(frozen=True)
class FilePart:
    """A run of bytes in a file, read where it lies: a member of a tar archive, or a whole file; `path` may be a URL."""

    path: str
    offset: int = 0  # bytes
    size: int | None = None  # None: to the end of the file
    name: str = ""  # what it is called within the file, such as clips/a.mp4

    def __str__(self) -> str:
        if self.name:
            return f"{self.path}/{self.name}"
        return self.path if self.size is None else f"{self.path} (bytes from {self.offset})"

    def read(self) -> bytes:
        """The content, fewer than `size` bytes where the file was cut short. Raises OSError if it cannot be read."""
        if not is_url(self.path):
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        system, path = _file_system(self.path)
        return system.cat_file(path, self.offset or None, None if self.size is None else self.offset + self.size)

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of every (start, length), counted from where the part begins, not held to where it ends.

        Fewer where the file ends. Raises OSError if it cannot be read.
        """
        if is_url(self.path):
            return self._fetch(ranges)
        parts = []
        with open(self.path, "rb") as file:
            for start, length in ranges:
                file.seek(self.offset + start)
                parts.append(file.read(length))
        return parts

    def part(self, offset: int, size: int) -> "FilePart":
        """A part of this part."""
        return FilePart(self.path, self.offset + offset, size)

    def _fetch(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """All ranges in one call, so that the requests of a clip travel side by side."""
        system, path = _file_system(self.path)
        starts = [self.offset + start for start, _ in ranges]
        ends = [start + length for start, (_, length) in zip(starts, ranges)]
        return system.cat_ranges([path] * len(ranges), starts, ends, on_error="raise")


def list_files(folder: str | Path, suffix: str) -> list[str]:
    """The files of a folder or URL whose names end so, sorted, hidden ones left out; paths or URLs."""
    if not is_url(folder):
        found = [str(file) for file in Path(folder).glob(f"*{suffix}") if not file.name.startswith(".")]
        return sorted(found)
    system, path = _file_system(str(folder))
    names = sorted(name for name in system.ls(path, detail=False) if name.endswith(suffix))
    return [system.unstrip_protocol(name) for name in names if not name.rsplit("/", 1)[-1].startswith(".")]


def _file_system(url: str) -> tuple[Any, str]:
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise InputError(
            f"{url}: reading it needs a package that is not installed ({error}); install flow3r[scale] and fsspec's "
            "package for this protocol (s3fs, gcsfs, ...)"
        ) from error


def sha256_of_file(path: str | Path | FilePart) -> str:
    """The SHA-256 of a file's content, in hex."""
    if isinstance(path, FilePart):
        return sha256_of_bytes(path.read())
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """The SHA-256 of `data`, in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_json(value: Any) -> str:
    """The SHA-256 of a value's canonical JSON, in hex: the same for equal values whatever the order of their keys."""
    return sha256_of_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


class FrameStack:
    """Arrays of one shape and dtype, one per frame, kept in one .npy file: as many as the disk holds.

    `stack[i]` is a frame and `stack[a:b]` some frames, copied into memory; `stack[i] = frame` and `stack[a:b] = frames`
    write them. Nothing is mapped into memory and no file stays open; any program that knows .npy may read the file.
    """

    def __init__(self, path: str | Path):
        """The stack in the file at `path`. Raises ValueError for a file that is no whole .npy of numbers."""
        self.path = Path(path).absolute()
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        with open(self.path, "rb") as file:
            try:
                self.shape, columns_first, self.dtype = readers[np.lib.format.read_magic(file)](file)
            except (ValueError, KeyError) as error:
                raise ValueError(f"{path}: is no .npy file of version 1.0 or 2.0 ({error}): save it again") from error
            self._start = file.tell()
        if columns_first or self.dtype.hasobject or not self.shape:
            raise ValueError(
                f"{path}: holds {self.dtype} {self.shape}; expected numbers, frame after frame, in C order"
            )
        expected, found = self._offset(len(self)), self.path.stat().st_size
        if found != expected:
            raise ValueError(f"{path}: has {found} bytes; expected {expected} for {self.dtype} {self.shape}")

    @classmethod
    def create(cls, path: str | Path, shape: tuple[int, ...], dtype: np.dtype | type | str) -> "FrameStack":
        """A file at `path`, replaced if there is one, for the N frames of `shape` (N, ...): 0 until they are set."""
        shape, dtype = tuple(operator.index(size) for size in shape), np.dtype(dtype)
        if not shape or min(shape) < 0 or dtype.hasobject:
            raise ValueError(f"a stack of {dtype} {shape}; expected numbers, and a shape (N, ...) of sizes >= 0")
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + math.prod(shape) * dtype.itemsize)
        return cls(path)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: SupportsIndex | slice) -> np.ndarray:
        first, shape = self._window(index)
        count = math.prod(shape)
        values = np.fromfile(self.path, self.dtype, count, offset=self._offset(first))
        if len(values) != count:
            raise OSError(
                f"{self.path}: ended within frame {first} of {self.dtype} {self.shape}; expected a whole file"
            )
        return values.reshape(shape)

    def __setitem__(self, index: SupportsIndex | slice, values: np.ndarray | np.generic) -> None:
        first, shape = self._window(index)
        if values.shape != shape or values.dtype != self.dtype:
            raise ValueError(f"{self.path}: got {values.dtype} {values.shape}; expected {self.dtype} {shape}")
        with open(self.path, "rb+") as file:
            file.seek(self._offset(first))
            file.write(np.ascontiguousarray(values).data)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __array__(self, dtype: np.dtype | type | str | None = None, copy: bool | None = None) -> np.ndarray:
        """All frames in memory."""
        if copy is False:
            raise ValueError(f"{self.path}: its frames are on disk; an array of them is always a copy")
        return self[:].astype(dtype or self.dtype, copy=False)

    def __repr__(self) -> str:
        return f"FrameStack({str(self.path)!r}, shape={self.shape}, dtype={self.dtype})"

    def _offset(self, frame: int) -> int:
        """The byte of the file at which a frame begins."""
        return self._start + frame * math.prod(self.shape[1:]) * self.dtype.itemsize

    def _window(self, index: SupportsIndex | slice) -> tuple[int, tuple[int, ...]]:
        """The first frame that `index` asks for, and the shape of what it asks for."""
        if isinstance(index, slice):
            first, end, step = index.indices(len(self))
            if step != 1:
                raise IndexError(f"frames are taken in steps of {step}; expected consecutive ones, stack[a:b]")
            return first, (max(end - first, 0), *self.shape[1:])
        frame = operator.index(index)
        if not -len(self) <= frame < len(self):
            raise IndexError(f"frame {frame} of {len(self)}; expected {-len(self)} to {len(self) - 1}")
        return frame % len(self), self.shape[1:]
