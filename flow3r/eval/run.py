"""predict -> score -> report: three stages with files between, each of which can be run again by itself.

OUT/manifests/<benchmark>.jsonl                         which frames are measured
OUT/samples/<method>/<benchmark>/<sequence>/<draw>.npz  stage 1 (samples.py)
OUT/scores/<method>/<benchmark>.<profile>.jsonl         stage 2 (score.py)
OUT/report                                              stage 3 (tables/, page/)
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from flow3r.data.frame import Sequence
from flow3r.errors import InputError
from flow3r.eval.benchmarks import BENCHMARKS, find_benchmark
from flow3r.eval.benchmarks.benchmark import Benchmark, Selection
from flow3r.eval.benchmarks.manifests import (
    DRAWS,
    Draw,
    Manifest,
    check_manifest,
    committed_manifest,
    make_manifest,
    read_manifest,
    write_manifest,
)
from flow3r.eval.methods import Method, method_called
from flow3r.eval.page import write_page
from flow3r.eval.page.pictures import Shown, read_shown
from flow3r.eval.parallel import Where, in_parallel
from flow3r.eval.predict import Predicted, predict, sample_path
from flow3r.eval.score import score
from flow3r.eval.tables import all_sheets, write_tables
from flow3r.eval.tables.collect import Measured, Results, read_rows, read_scores
from flow3r.model.sources import find_weights
from flow3r.nn.precision import choose_device

PER_SHARE = 4  # ours: draws that another process is given at once
FEW = 20  # ours: names or failures that are listed in a line
STAGES = ("predict", "score", "report")
BUILT_IN = ("identity", "classical")  # methods that have no weights
SAMPLES = "samples:"  # before the name of a method whose samples another program has written
PAPER = ("kinetics700", "epic_kitchens", "sintel", "bonn", "co3dv2", "scannet", "nrgbd", "7scenes")  # tables 2, 3, 8-15
ABLATION = ("scannetpp", "omniworld", "spatialvid")  # tables 1, 4, 6, 7
SETS: dict[str, Callable[[Benchmark], bool]] = {
    "paper": lambda benchmark: benchmark.name in PAPER,
    "ablation": lambda benchmark: benchmark.name in ABLATION,
    "pi3": lambda benchmark: benchmark.profile == "pi3",
    "all": lambda benchmark: True,
}


@dataclass(frozen=True)
class Line:
    """What is to be said of a benchmark, or of a method on one, for people."""

    text: str
    failures: int = 0  # samples with the worst scores
    missing: int = 0  # sequences that should be measured and are not there


@dataclass(frozen=True)
class Opened:
    """A benchmark with its data and its manifest."""

    benchmark: Benchmark
    manifest: Manifest
    sequences: Mapping[str, Sequence]
    missing: tuple[str, ...]  # of the manifest, and not there: all their samples fail

    def lines(self) -> Iterator[Line]:
        """What is not measured, and why."""
        name, manifest = self.benchmark.name, self.manifest
        if self.missing:
            yield Line(f"{name}: missing, so that their samples fail: {_few(self.missing)}")
        if manifest.missing:
            mend = "once they are there, or to leave them out: flow3r eval manifest"
            said = f"{name}: missing when its manifest was made, and not measured: {_few(manifest.missing)} ({mend})"
            yield Line(said, missing=len(manifest.missing))
        if manifest.skipped:
            yield Line(f"{name}: left out: {_few(f'{each}: {why}' for each, why in manifest.skipped.items())}")
        asked = {draw.sequence for draw in manifest.draws}
        further = sorted(set(self.sequences) - asked - set(manifest.skipped))
        if further:
            yield Line(f"{name}: there, but not in the manifest of this run: {_few(further)}")


def manifest_path(out: Path, benchmark: str) -> Path:
    """Where a run keeps the manifest of a benchmark."""
    return out / "manifests" / f"{benchmark}.jsonl"


def samples_folder(out: Path, method: str, benchmark: str) -> Path:
    """Where a run keeps the samples of a method."""
    return out / "samples" / method / benchmark


def scores_path(out: Path, method: str, benchmark: str, profile: str) -> Path:
    """Where a run keeps the scores of a method."""
    return out / "scores" / method / f"{benchmark}.{profile}.jsonl"


def benchmarks_called(names: str, root: Path) -> tuple[str, ...]:
    """Benchmarks by names separated by commas; of the sets `paper`, `ablation`, `pi3` and `all`, those with data there.

    Raises InputError for an unknown name, and where none of a set has data below `root`.
    """
    chosen: dict[str, None] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name not in SETS:
            chosen[find_benchmark(name).name] = None
            continue
        there = [each.name for each in BENCHMARKS.values() if SETS[name](each) and each.folder(root).is_dir()]
        if not there:
            folders = ", ".join(sorted({each.folder(root).name for each in BENCHMARKS.values() if SETS[name](each)}))
            raise InputError(f"{root}: none of the benchmarks of {name!r} has data there; expected some of {folders}")
        chosen |= dict.fromkeys(there)
    if not chosen:
        raise InputError(f"no benchmark given; expected names, or {', '.join(SETS)}")
    return tuple(chosen)


def fix_manifest(benchmark: Benchmark, selection: Selection, out: Path, draws: int = DRAWS) -> Manifest:
    """Write the manifest of what is there into the run `out`, in place of any other.

    Sequences that are missing are left out of it on purpose. Raises InputError where none can be measured.
    """
    made = _made(benchmark, selection, draws)
    absent = dict.fromkeys(made.missing, "not there")
    manifest = replace(made, skipped={**made.skipped, **absent}, missing=())
    write_manifest(manifest_path(out, benchmark.name), manifest)
    return manifest


def _made(benchmark: Benchmark, selection: Selection, draws: int) -> Manifest:
    manifest = make_manifest(benchmark, selection.sequences, draws)
    if not manifest.draws:
        reasons = (f"{name}: {reason}" for name, reason in manifest.skipped.items())
        raise InputError(f"{benchmark.name}: no sequence can be measured: {_few(reasons)}")
    return replace(manifest, missing=selection.missing)


def open_benchmark(name: str, root: Path, out: Path, draws: int = DRAWS) -> Opened:
    """The benchmark's data below `root`, with the manifest of the run `out`; writes nothing.

    A run that has no manifest yet gets the committed one where there is one, otherwise one of what is there. Raises
    InputError for an unknown name, data that are not there, and data that are not those of the manifest.
    """
    benchmark = find_benchmark(name)
    selection = benchmark.select(root)
    path, committed = manifest_path(out, name), committed_manifest(name)
    if path.is_file():
        manifest = read_manifest(path)
    elif committed is None:
        manifest = _made(benchmark, selection, draws)
    else:
        manifest = Manifest(name, tuple(draw for draw in committed.draws if draw.draw < draws))
    return Opened(benchmark, manifest, selection.sequences, check_manifest(manifest, selection.sequences))


def methods_called(names: str) -> tuple[str, ...]:
    """Methods by names separated by commas. Raises InputError for none."""
    methods = tuple(filter(None, (part.strip() for part in names.split(","))))
    if not methods:
        raise InputError("no method given; expected models, classical, identity, or samples:NAME")
    return methods


def check_labels(methods: Iterable[str]) -> None:
    """Raise InputError for methods that cannot be told apart, or whose names are no names of folders."""
    methods = tuple(methods)
    labels = [label_of(method) for method in methods]
    for method, label in zip(methods, labels):
        if label in ("", ".", "..") or Path(label).name != label:
            raise InputError(f"method {method!r}: would be called {label!r}; expected NAME=FILE with a plain name")
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise InputError(f"more than one method would be called {', '.join(twice)}: tell them apart by NAME=FILE")


def check_method(method: str, out: Path, device: str | None = None) -> None:
    """Raise a Flow3rError, before anything is measured, for a method that is not there."""
    if method.startswith(SAMPLES):
        folder = out / "samples" / label_of(method)
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; {method} needs samples there (docs/evaluation.md)")
    elif method in BUILT_IN:
        _ = method_called(method, device=device).fingerprint  # which asks for the packages that it needs
    else:
        find_weights(method.rpartition("=")[2])


@dataclass(frozen=True)
class Share:
    """Some draws of a benchmark for a method, as another process is told of them."""

    method: str  # as method_called has it
    device: str | None
    benchmark: str
    root: Path
    folder: Path
    draws: tuple[Draw, ...]


def predict_share(share: Share) -> list[Predicted]:
    """Stage 1 of a share, by a method and a benchmark that the process keeps."""
    sequences = _sequences(share.benchmark, share.root)
    return list(predict(_method(share.method, share.device), share.draws, sequences, share.folder))


@functools.lru_cache(maxsize=1)
def _method(name: str, device: str | None) -> Method:
    return method_called(name, device=device)


@functools.lru_cache(maxsize=1)
def _sequences(benchmark: str, root: Path) -> Mapping[str, Sequence]:
    return find_benchmark(benchmark).select(root).sequences


@dataclass(frozen=True)
class Run:
    """Methods, as `method_called` has them, on benchmarks whose data lie below `root`; everything is kept in `out`."""

    root: Path
    out: Path
    methods: tuple[str, ...]
    benchmarks: tuple[str, ...]
    draws: int = DRAWS
    profile: Literal["flow3r", "pi3"] | None = None  # of the points; None: each benchmark's own
    budget: int | None = None  # points whose neighbours are sought; None: all
    where: Where = "here"
    workers: int = 1
    gpus: float = 0.0
    device: str | None = None
    pictures: bool = True  # in the report

    def check(self, predicting: bool = True) -> None:
        """Raise a Flow3rError for settings that cannot be meant, and for methods that are not there."""
        least = {"draws": self.draws, "workers": self.workers, "budget": 1 if self.budget is None else self.budget}
        for name, value in least.items():
            if value < 1:
                raise InputError(f"{name} {value}: expected at least 1")
        if self.gpus < 0:
            raise InputError(f"gpus {self.gpus:g}: expected at least 0")
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out}: is a file; expected a folder to write into, existing or not")
        if predicting and self.where != "ray":
            choose_device(self.device)
        check_labels(self.methods)
        for method in self.methods:
            if predicting or method.startswith(SAMPLES):
                check_method(method, self.out, self.device)

    def measure(self, predicting: bool = True, scoring: bool = True) -> Iterator[Line]:
        """Stages 1 and 2, of what is not done yet. Each sample is scored while the next is predicted.

        Nothing is written before all settings, methods, data and manifests have been found to be usable.
        """
        self.check(predicting)
        opened = [open_benchmark(name, self.root, self.out, self.draws) for name in self.benchmarks]
        for each in opened:
            path = manifest_path(self.out, each.benchmark.name)
            if not path.is_file():
                write_manifest(path, each.manifest)
            yield from each.lines()
        for method in self.methods:
            for each in opened:
                yield self._measured(each, method, predicting, scoring)

    def _measured(self, opened: Opened, method: str, predicting: bool, scoring: bool) -> Line:
        benchmark, label = opened.benchmark, label_of(method)
        root, out = self.root.resolve(), self.out.resolve()  # other processes may start elsewhere
        samples, made, rows, reasons = samples_folder(out, label, benchmark.name), 0, 0, {}

        def arriving() -> Iterator[Draw]:
            nonlocal made
            for done in self._predicted(opened, method, samples):
                made += done.made and not done.reason
                if done.reason:
                    reasons[done.draw.sequence, done.draw.draw] = done.reason
                yield done.draw

        draws = arriving() if predicting and not method.startswith(SAMPLES) else iter(opened.manifest.draws)
        if scoring:
            file = scores_path(self.out, label, benchmark.name, self.profile or benchmark.profile)
            options = {"profile": self.profile, "budget": self.budget, "workers": self.workers}
            where = "ray" if self.where == "ray" else "processes"
            options |= {"sequences": opened.sequences, "draws": draws, "where": where}
            for _ in score(benchmark, opened.manifest, root, samples, file, **options):
                rows += 1
            reasons |= {(row["sequence"], row["draw"]): row["failed"] for row in read_rows(file) if row["failed"]}
        else:
            for _ in draws:
                pass
        said = [f"{label} on {benchmark.name}: {made} predicted, {rows} scored, of {len(opened.manifest.draws)}"]
        failed = [f"  failed: {sequence} {draw}: {reason}" for (sequence, draw), reason in sorted(reasons.items())]
        more = [f"  and {len(failed) - FEW} more"] if len(failed) > FEW else []
        return Line("\n".join(said + failed[:FEW] + more), len(reasons))

    def _predicted(self, opened: Opened, method: str, folder: Path) -> Iterator[Predicted]:
        """Stage 1 of one method on one benchmark, here, in other processes, or on Ray."""
        if self.where == "here":
            yield from predict(_method(method, self.device), opened.manifest.draws, opened.sequences, folder)
            return
        draws, root = opened.manifest.draws, self.root.resolve()
        shares = (
            Share(method, self.device, opened.benchmark.name, root, folder, draws[first : first + PER_SHARE])
            for first in range(0, len(draws), PER_SHARE)
        )
        for done in in_parallel(predict_share, shares, where=self.where, workers=self.workers, gpus=self.gpus):
            yield from done

    def report(self) -> tuple[Path, ...]:
        """Stage 3: tables in all formats and the page with pictures, of all that has been scored.

        Raises InputError where nothing has been.
        """
        results = self.results()
        if not results:
            raise InputError(f"{self.out}: nothing has been scored there; expected scores/<method>/<benchmark>.jsonl")
        written = write_tables(results, self.out / "report")
        if not self.pictures:
            return written
        return (*written, write_page(results, self.out / "report", self._show, sheets=all_sheets(results)))

    def results(self) -> tuple[Results, ...]:
        """All that has been scored, the methods in the order of this run."""
        order = {label_of(method): place for place, method in enumerate(self.methods)}
        return tuple(sorted(read_scores(self.out), key=lambda found: order.get(found.method, len(order))))

    def _show(self, results: Results, measured: Measured) -> Shown:
        """A draw for the page. Raises InputError where its data cannot be read."""
        sequence = _sequences(results.benchmark, self.root).get(measured.score.sequence)
        if sequence is None:
            raise InputError("the dataset lacks the sequence")
        folder = samples_folder(self.out, results.method, results.benchmark)
        draw = Draw(results.dataset, measured.score.sequence, measured.draw, measured.stride, measured.frames, 0)
        farthest = find_benchmark(results.benchmark).farthest
        return read_shown(sequence, measured.frames, sample_path(folder, draw), farthest)


def label_of(method: str) -> str:
    """What a method is called in files and tables: what stands before `=`, or the last part of its path."""
    label, _, weights = method.removeprefix(SAMPLES).rpartition("=")
    return label or Path(weights).name


def _few(names: Iterable[str]) -> str:
    """How many, and the first of them."""
    names = list(names)
    more = f", and {len(names) - FEW} more" if len(names) > FEW else ""
    return f"{len(names)}: {', '.join(names[:FEW])}{more}"
