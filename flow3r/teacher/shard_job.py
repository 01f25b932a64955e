"""The unit of labelling at scale: some sources in, one tar shard out, the same whoever does it and how often."""

import json
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from flow3r.data.labels import LabelStore
from flow3r.data.shards import write_shard
from flow3r.errors import LabelStoreError
from flow3r.files import sha256_of_json, write_json
from flow3r.teacher.label import LabelSettings, Source
from flow3r.teacher.leases import LEASE, Lease
from flow3r.teacher.watch import SourceFailed, SourceLost, Watched
from flow3r.types import Teacher

PER_SHARD = 256  # ours: sources; some minutes on a GPU, some gigabytes
TIMEOUT = 600.0  # ours: seconds
MOST_DEATHS = 2  # of its process, before a source is skipped
_TELLING = 10  # failures of as many sources, and no success, are not the sources' fault
WORK = "work"


def cut_shards(sources: Sequence[Source], per_shard: int = PER_SHARD) -> list[list[str | list[str]]]:
    """The sources, in their order, in shards. More sources at the end leave all shards but the last as they were."""
    plain = [[str(p) for p in source] if _is_list(source) else str(source) for source in sources]
    return [plain[start : start + per_shard] for start in range(0, len(plain), per_shard)]


def shard_path(sources: Sequence[Source], out: str | Path) -> Path:
    """The shard of these sources: its name says which they are, by their paths."""
    return Path(out) / f"shard-{sha256_of_json(list(sources))[:16]}.tar"


def label_shard(
    sources: Sequence[Source],
    out: str | Path,
    teacher: Teacher,
    settings: LabelSettings,
    *,
    timeout: float = TIMEOUT,
    lease_seconds: float = LEASE,
    child: Watched | None = None,
) -> Path | None:
    """Label sources into one tar shard of the store `out`; None while another worker holds its lease.

    The shard depends on the sources' content, the teacher and the settings alone, byte for byte on machines of one
    kind. A shard that is there is left as it is; one that was begun is gone on with, from its last finished segment. A
    source that fails costs itself alone: why stands in the shard's report, beside content that came before. One that
    ended its process MOST_DEATHS times, or was silent for `timeout` seconds as often, is skipped. A worker of many
    shards gives them the same `child`, to start it once. Raises LabelStoreError if `out` has other settings, or if many
    sources fail and none succeeds; InputError if the teacher cannot be used.
    """
    path = shard_path(sources, out)
    if path.exists():
        return path
    LabelStore(out, settings.with_teacher(teacher))
    work = Path(out) / WORK / path.stem
    lease = Lease.take(work, lease_seconds)
    if lease is None:
        return path if path.exists() else None
    with lease:
        if not path.exists():
            with nullcontext(child) if child else Watched(teacher, settings, timeout) as child:
                report, names = _label_all(sources, work, child)
            write_shard(path, report, [work / name for name in names])
    shutil.rmtree(work, ignore_errors=True)
    return path


def _label_all(sources: Sequence[Source], work: Path, child: Watched) -> tuple[dict[str, Any], list[str]]:
    """The report of a shard, and the names of the files that it is to hold."""
    attempts = _Attempts(work)
    failures, skipped, names = [], [], []
    known: dict[str, str] = {}
    for source in sources:
        try:
            digest, files = _label_one(source, work, known, child, attempts)
        except SourceFailed as error:
            failures.append([_name(source), str(error)])
            continue
        if digest in known:
            skipped.append([_name(source), f"the same content as {known[digest]}"])
            continue
        known[digest] = _name(source)
        names += files
    if len(failures) == len(sources) >= _TELLING:
        raise LabelStoreError(
            f"none of {len(sources)} sources could be labelled ({failures[0][1]}): if they are readable on this "
            "machine, look for what they have in common; nothing was stored, and the same command tries again"
        )
    report = {"sources": [_name(source) for source in sources], "failures": failures, "skipped": skipped}
    return report, names


def _label_one(
    source: Source, work: Path, known: dict[str, str], child: Watched, attempts: "_Attempts"
) -> tuple[str, list[str]]:
    name = _name(source)
    while attempts.of(name) < MOST_DEATHS:
        attempts.begin(name)
        try:
            answer = child.label(source, work, known)
        except SourceLost as error:
            attempts.explain(name, str(error))
            continue
        except BaseException:
            attempts.end(name)
            raise
        attempts.end(name)
        return answer
    raise SourceFailed(f"{name}: skipped after {MOST_DEATHS} attempts: {attempts.reason(name)}")


class _Attempts:
    """Which sources were begun and not ended, in a file that outlives the worker; progress clears a source."""

    def __init__(self, work: Path):
        self.work, self.path = work, work / "attempts.json"
        try:
            self._begun = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            self._begun = {}

    def of(self, name: str) -> int:
        entry = self._begun.get(name)
        return 0 if entry is None or self._segments() > entry["segments"] else entry["deaths"]

    def begin(self, name: str) -> None:
        entry = {"deaths": self.of(name) + 1, "segments": self._segments(), "reason": "its worker died"}
        self._write({**self._begun, name: entry})

    def explain(self, name: str, reason: str) -> None:
        self._write({**self._begun, name: {**self._begun[name], "reason": reason}})

    def end(self, name: str) -> None:
        self._write({key: entry for key, entry in self._begun.items() if key != name})

    def reason(self, name: str) -> str:
        return self._begun[name]["reason"]

    def _segments(self) -> int:
        return sum(1 for _ in self.work.glob("[!.]*.labels"))

    def _write(self, begun: dict[str, Any]) -> None:
        self._begun = begun
        write_json(self.path, begun)


def _is_list(source: Source) -> bool:
    return not isinstance(source, str | Path)


def _name(source: Source) -> str:
    return f"{source[0]} and {len(source) - 1} more" if _is_list(source) else str(source)
