"""Which sequences of a dataset a run may see: chosen by hash, so that everyone who has the dataset chooses the same.

The sequences are put in an order that depends on the seed and on their names alone. A subset is a stretch of it, so
that a smaller one lies in a larger one, and two stretches that do not overlap have no sequence in common.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flow3r.config import SourceConfig
from flow3r.errors import InputError
from flow3r.files import sha256_of_bytes, write_json


@dataclass(frozen=True)
class Subset:
    """The sequences `names`, in the order of their hashes, that a seed takes of a dataset after `skip` others."""

    dataset: str
    seed: int
    skip: int
    names: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of the names as sorted lines of UTF-8, in hex: what `LC_ALL=C sort | sha256sum` makes of a file."""
        return sha256_of_bytes("".join(f"{name}\n" for name in sorted(self.names)).encode())


def draw_subset(source: SourceConfig, names: Iterable[str], *, test: Collection[str] = (), seed: int = 0) -> Subset:
    """The sequences that `source` asks for among all `names` of its dataset, in whatever order they come.

    Those of `test` are never among them; a test sequence that the dataset lacks changes nothing. Raises InputError
    where there are fewer than asked for, where one name comes twice, and for a negative number.
    """
    every = list(names)
    if len(set(every)) != len(every):
        twice = [name for name, times in Counter(every).items() if times > 1]
        raise InputError(f"{source.dataset}: names come more than once: {', '.join(twice[:3])}; expected each once")
    if source.skip < 0 or (source.sequences or 0) < 0:
        raise InputError(f"{source.dataset}: skip {source.skip}, sequences {source.sequences}; expected 0 or more")
    excluded = set(test)
    usable = sorted((name for name in every if name not in excluded), key=lambda name: _place(seed, source, name))
    wanted = max(0, len(usable) - source.skip) if source.sequences is None else source.sequences
    if source.skip + wanted > len(usable):
        raise InputError(
            f"{source.dataset}: {source.skip + wanted} sequences were asked for ({wanted} after {source.skip} others), "
            f"but it has {len(usable)} besides those of the test ({len(every)} in all): ask for fewer, or get the rest"
        )
    return Subset(source.dataset, seed, source.skip, tuple(usable[source.skip : source.skip + wanted]))


def write_subset(path: str | Path, subset: Subset) -> None:
    """Write a subset as JSON, atomically: dataset, seed, skip, count, sha256 and names."""
    record = asdict(subset) | {"count": len(subset.names), "sha256": subset.sha256, "names": list(subset.names)}
    order = ("dataset", "seed", "skip", "count", "sha256", "names")
    write_json(path, {key: record[key] for key in order})


def read_subset(path: str | Path) -> Subset:
    """The subset that `write_subset` wrote. Raises InputError for a file that is none or whose names have changed."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of sequences ({error}): write it again") from error
    subset = _subset_of(path, record)
    if len(subset.names) != record["count"] or subset.sha256 != record["sha256"]:
        raise InputError(
            f"{path}: {len(subset.names)} names with sha256 {subset.sha256[:12]}...; expected {record['count']} with "
            f"{str(record['sha256'])[:12]}...: the list was changed after it was written; restore it, or write it again"
        )
    return subset


def _subset_of(path: str | Path, record: Any) -> Subset:
    kinds = {"dataset": str, "seed": int, "skip": int, "count": int, "sha256": str, "names": list}
    found = record if isinstance(record, dict) else {}
    wrong = [key for key, kind in kinds.items() if not isinstance(found.get(key), kind)]
    if wrong or not all(isinstance(name, str) for name in record["names"]):
        raise InputError(f"{path}: is no list of sequences: {', '.join(wrong or ['names'])} missing or of another type")
    return Subset(record["dataset"], record["seed"], record["skip"], tuple(record["names"]))


def _place(seed: int, source: SourceConfig, name: str) -> tuple[bytes, str]:
    """Where a sequence stands in the order: by hash, and by name should two hashes be equal."""
    return hashlib.sha256(f"{seed}/{source.dataset}/{name}".encode()).digest(), name
