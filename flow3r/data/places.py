"""Where stored bytes are: a local file, a part of one, or either behind a URL that fsspec knows (s3://, gs://, https://)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flow3r.errors import LabelStoreError


def is_url(folder: str | Path) -> bool:
    """Whether it names a file system other than the local one."""
    return "://" in str(folder)


@dataclass(frozen=True)
class Place:
    """A file, or the part of it from byte `offset` on that is `size` long (None: to its end)."""

    path: str
    offset: int = 0
    size: int | None = None

    def __str__(self) -> str:
        return self.path if self.size is None else f"{self.path} (bytes from {self.offset})"

    def read(self, *ranges: tuple[int, int]) -> list[bytes]:
        """The bytes (start, length) of every range, fewer where the file ends. Raises OSError if it cannot be read."""
        if is_url(self.path):
            return self._fetch(ranges)
        parts = []
        with open(self.path, "rb") as file:
            for start, length in ranges:
                file.seek(self.offset + start)
                parts.append(file.read(length))
        return parts

    def part(self, offset: int, size: int) -> "Place":
        return Place(self.path, self.offset + offset, size)

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


def read_whole(path: str) -> bytes:
    """Raises OSError if it cannot be read."""
    if not is_url(path):
        return Path(path).read_bytes()
    system, inner = _file_system(path)
    return system.cat_file(inner)


def _file_system(url: str) -> tuple[Any, str]:
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise LabelStoreError(
            f"{url}: reading it needs a package that is not installed ({error}); install flow3r[scale] and fsspec's "
            "package for this protocol (s3fs, gcsfs, ...)"
        ) from error
