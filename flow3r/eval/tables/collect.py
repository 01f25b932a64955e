"""Reads the score rows of a run and decides which of them may stand in one number."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from flow3r.errors import InputError
from flow3r.eval.benchmarks.manifests import Manifest, read_manifest
from flow3r.eval.report import COLUMNS, Row, Score
from flow3r.eval.tables.intervals import Interval, Values, mean_intervals

DEPTH, PIXELS = "depth", "true_depth_pixels"  # the group of columns, and the fact that its means may be weighted by
HEADLINE = 0  # the draw whose mean is printed; all draws feed the intervals
KINDS = {
    "benchmark": str, "dataset": str, "sequence": str, "draw": int, "stride": int, "frames": list, "profile": str,
    "sample_sha256": str, "manifest_sha256": str, "definition": int, "values": dict, "notes": dict, "facts": dict,
    "degenerate": bool, "failed": str, "budget": int | None, "truth": str,
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One draw of one sequence, scored. A failed one has the worst values, and the reason."""

    draw: int
    stride: int  # 0: not evenly spaced
    frames: tuple[int, ...]
    score: Score
    failed: str = ""


@dataclass(frozen=True)
class Results:
    """What one method achieved on one benchmark: rows of one profile, one definition and one manifest."""

    method: str
    benchmark: str
    dataset: str
    profile: str
    definition: int
    manifest_sha256: str
    measured: tuple[Measured, ...]  # by sequence, then draw
    budget: int | None = None  # points whose neighbours were sought; None: all
    missing: tuple[tuple[str, int], ...] = ()  # (sequence, draw) of the manifest without a row
    left_out: Mapping[str, str] = field(default_factory=dict)  # sequence that the manifest does without -> reason
    truth: str = ""  # who made the truth, where it is no measurement

    @cached_property
    def headline(self) -> Row:
        """Draw 0 of every sequence."""
        return Row(self.method, tuple(m.score for m in self.measured if m.draw == HEADLINE))

    @property
    def expected(self) -> int:
        """Sequences that the headline should be a mean of."""
        return len(self.headline.scores) + sum(draw == HEADLINE for _, draw in self.missing)

    @property
    def complete(self) -> bool:
        """Whether every row of the manifest is there."""
        return not self.missing

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The measures that some row has, in the order of COLUMNS."""
        present = {name for m in self.measured for name in m.score.values}
        return tuple(name for name in COLUMNS if name in present)

    @cached_property
    def means(self) -> dict[str, float]:
        """The headline's mean of every measure that it has."""
        return {c: value for c in self.columns if (value := self.headline.mean(c)) is not None}

    @cached_property
    def means_by_pixels(self) -> dict[str, float]:
        """The headline's mean of every measure of depth, each sequence weighted by its pixels of true depth.

        So the references of video depth take it (π³, CUT3R). Absent where the pixels of a sequence are not known.
        """
        found = {}
        for column in (c for c in self.means if COLUMNS[c].group == DEPTH):
            scores = [score for score in self.headline.scores if column in score.values]
            pixels = [score.facts.get(PIXELS, 0) for score in scores]
            if all(pixels):
                weighted = sum(score.values[column] * count for score, count in zip(scores, pixels))
                found[column] = weighted / sum(pixels)
        return found

    @property
    def failures(self) -> Mapping[str, int]:
        """Reason -> rows, of all draws."""
        return Counter(m.failed for m in self.measured if m.failed)

    def values(self, column: str) -> Values:
        """One measure of all draws: sequence -> draw -> value."""
        table: dict[str, dict[int, float]] = {}
        for m in self.measured:
            if column in m.score.values:
                table.setdefault(m.score.sequence, {})[m.draw] = m.score.values[column]
        return table

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """The bootstrap interval of every measure whose mean is taken, over all draws."""
        return mean_intervals({c: self.values(c) for c in self.columns if COLUMNS[c].over_sequences is mean})

    def by_stride(self) -> dict[int, Row]:
        """All draws of each stride, by rising stride; none for 0, which says that frames are not evenly spaced."""
        strides = sorted({m.stride for m in self.measured} - {0})
        return {k: Row(self.method, tuple(m.score for m in self.measured if m.stride == k)) for k in strides}


def read_scores(out: str | Path) -> tuple[Results, ...]:
    """All of OUT/scores/<method>/<benchmark>.<profile>.jsonl against OUT/manifests, by method and benchmark.

    A last line that was cut off is ignored: the row is missing. Raises InputError for rows that cannot be read, and for
    those that would mix profiles, budgets, definitions or manifests.
    """
    out, manifests, results = Path(out), {}, []
    for path in sorted((out / "scores").glob("*/*.jsonl")):
        benchmark, _, profile = path.stem.rpartition(".")
        if benchmark not in manifests:
            manifests[benchmark] = read_manifest(out / "manifests" / f"{benchmark}.jsonl")
        results.append(results_of(path.parent.name, profile, read_rows(path), manifests[benchmark]))
    check_comparable(results)
    return tuple(results)


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a score file, but for a last one that was cut off.

    Raises InputError, naming the line, for anything else that is no score row.
    """
    lines = Path(path).read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows += [_checked(json.loads(line))] if line.strip() else []
        except ValueError as error:
            if number == len(lines):  # no line end after it: the writer was killed
                break
            raise InputError(
                f"{path}: line {number} is no score row: {error}; score again into another file"
            ) from error
    return rows


def results_of(method: str, profile: str, rows: Sequence[Mapping[str, Any]], manifest: Manifest) -> Results:
    """The rows of one score file, which belong in one number.

    Of several rows of one draw that of this manifest counts, then the newest definition, then the last written. Raises
    InputError if the rest is of another benchmark or profile, or of several definitions or manifests.
    """
    name, sha256 = f"{manifest.benchmark} scored for {method!r}", manifest.sha256
    _same(name, "benchmark", rows, manifest.benchmark)
    _same(name, "profile", rows, profile)
    asked = {(draw.sequence, draw.draw): None for draw in manifest.draws}
    newest: dict[tuple[str, int], Mapping[str, Any]] = {}
    for row in rows:
        key = row["sequence"], row["draw"]
        if key in asked and (key not in newest or _rank(row, sha256) >= _rank(newest[key], sha256)):
            newest[key] = row
    kept = [newest[key] for key in sorted(newest)]
    _same(name, "manifest_sha256", kept, sha256)
    definition = _same(name, "definition", kept, kept[0]["definition"] if kept else 0)
    budget = _same(name, "budget", kept, kept[0]["budget"] if kept else None)
    return Results(
        method=method,
        benchmark=manifest.benchmark,
        dataset=manifest.draws[0].dataset,
        profile=profile,
        definition=definition,
        manifest_sha256=sha256,
        measured=tuple(_measured(row) for row in kept),
        budget=budget,
        missing=tuple(key for key in asked if key not in newest),
        left_out=manifest.left_out,
        truth=_same(name, "truth", kept, kept[0]["truth"] if kept else ""),
    )


def check_comparable(results: Iterable[Results]) -> None:
    """Raise InputError if numbers that would stand side by side are of several definitions or manifests."""
    results = [r for r in results if r.measured]
    _unanimous("definition", {f"{r.benchmark} of {r.method!r}": r.definition for r in results})
    _unanimous("budget of points", {f"{r.benchmark} of {r.method!r}": r.budget for r in results})
    for benchmark in sorted({r.benchmark for r in results}):
        shas = {f"{r.method!r}, profile {r.profile}": r.manifest_sha256 for r in results if r.benchmark == benchmark}
        _unanimous(f"manifest of {benchmark}", shas)
        makers = {f"{r.method!r}, profile {r.profile}": r.truth for r in results if r.benchmark == benchmark}
        _unanimous(f"pseudo truth of {benchmark}", makers)


def _unanimous(what: str, found: Mapping[str, Any]) -> None:
    if len(set(found.values())) > 1:
        listed = "; ".join(f"{where}: {value}" for where, value in sorted(found.items()))
        raise InputError(
            f"numbers of more than one {what} cannot stand in one table: {listed}: score again what differs"
        )


def _same(name: str, key: str, rows: Sequence[Mapping[str, Any]], expected: Any) -> Any:
    """`expected`, which all rows say. Raises InputError, with how many rows say what, if they do not."""
    found = Counter(row[key] for row in rows)
    if set(found) - {expected}:
        listed = ", ".join(f"{count} rows of {value!r}" for value, count in sorted(found.items(), key=str))
        raise InputError(
            f"{name}: rows of more than one {key} do not make one number: expected {expected!r}, got {listed}: run "
            "flow3r eval run --stages score again, which scores only what is out of date"
        )
    return expected


def _rank(row: Mapping[str, Any], manifest_sha256: str) -> tuple[bool, int]:
    return row["manifest_sha256"] == manifest_sha256, row["definition"]


def _checked(row: Any) -> dict[str, Any]:
    """Raises ValueError for anything but a score row."""
    if not isinstance(row, dict) or set(KINDS) - set(row):
        raise ValueError(f"expected the keys {', '.join(KINDS)}")
    wrong = [key for key, kind in KINDS.items() if not isinstance(row[key], kind)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} of another type")
    unknown = sorted(set(row["values"]) - set(COLUMNS))
    if unknown:
        raise ValueError(f"measures that are not known here: {', '.join(unknown)}")
    unfit = [k for k, v in row["values"].items() if type(v) not in (int, float) or not math.isfinite(v)]
    if unfit:
        raise ValueError(f"{', '.join(unfit)} is not a finite number")
    return row


def _measured(row: Mapping[str, Any]) -> Measured:
    score = Score(row["sequence"], dict(row["values"]), dict(row["notes"]), row["degenerate"], dict(row["facts"]))
    return Measured(row["draw"], row["stride"], tuple(row["frames"]), score, row["failed"])
