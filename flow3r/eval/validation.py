"""What a model is measured on again and again while it learns: benchmarks by name, their data made ready once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from torch import nn

from flow3r.data.clips import LabelClips
from flow3r.errors import InputError
from flow3r.eval.report import COLUMNS, Report
from flow3r.eval.scenes import Scenes, evaluate_labels, folder, worlds

WORLDS, CLIP = "worlds", "clip"  # names of benchmarks; a folder is called as it is
FEW_WORLDS = 8  # ours: a validation takes seconds
FEW_PAIRS = 32  # ours: held-out pairs that are enough to follow a run by


@runtime_checkable
class Benchmark(Protocol):
    """What a model can be measured on. `groups`: of COLUMNS, those that are measured."""

    groups: tuple[str, ...]

    def evaluate(self, model: nn.Module, *, name: str = "model", trivial_rows: bool = True) -> Report:
        """The model's row, called `name`, and the trivial ones if asked for."""
        ...


@dataclass(frozen=True)
class HeldOutPairs:
    """At most `most` of the pairs of a label store that are kept from training, spread evenly over it."""

    clips: LabelClips
    most: int = FEW_PAIRS
    title: str = "held-out pairs"
    groups: tuple[str, ...] = ("flow", "epipolar")

    def evaluate(self, model: nn.Module, *, name: str = "model", trivial_rows: bool = True) -> Report:
        """Flow against the teacher's labels, and cameras against its matches."""
        pairs = self.clips.held_out_pairs(self.most)
        return evaluate_labels(model, pairs, name=name, title=self.title, trivial_rows=trivial_rows)


@dataclass(frozen=True)
class Validation:
    """Called with a model: the mean of every measure of every benchmark, by "benchmark/measure", as "worlds/auc@30"."""

    benchmarks: Mapping[str, Benchmark]

    def __call__(self, model: nn.Module) -> dict[str, float]:
        values: dict[str, float] = {}
        for name, benchmark in self.benchmarks.items():
            report = benchmark.evaluate(model, trivial_rows=False)
            values |= {f"{name}/{column}": report.mean("model", column) for column in report.columns}
        return values

    def better(self, measure: str) -> Literal["lowest", "highest"]:
        """Which values of a measure are the best. Raises InputError for a name that is not measured."""
        name, _, column = measure.rpartition("/")
        if name not in self.benchmarks:
            raise InputError(
                f"{measure!r} is not measured; expected {' or '.join(self.benchmarks)}, a slash, and a measure"
            )
        groups = self.benchmarks[name].groups
        known = [key for key, found in COLUMNS.items() if found.main and found.group in groups]
        if column not in known:
            raise InputError(f"{measure!r} is not measured; expected {name}/ and one of {', '.join(known)}")
        return "lowest" if COLUMNS[column].better == "lower" else "highest"


def held_out_worlds(tokens: tuple[int, int], patch: int, *, scenes: int = FEW_WORLDS) -> Scenes:
    """Held-out worlds in square images of the least size that a model is made for."""
    side = math.ceil(math.sqrt(tokens[0])) * patch
    return worlds(scenes=scenes, size=(side, side)).kept()


def validation(
    tokens: tuple[int, int],
    patch: int,
    *,
    scenes: int = 0,
    folders: Sequence[str | Path] = (),
    clips: LabelClips | None = None,
) -> Validation | None:
    """Held-out worlds, folders with `cameras.json` and the held-out pairs of a store; None without any of them.

    Raises InputError for a folder that cannot be measured, for two of one name, and if no pair is held out.
    """
    benchmarks: dict[str, Benchmark] = {}
    if scenes:
        benchmarks[WORLDS] = held_out_worlds(tokens, patch, scenes=scenes)
    if clips is not None:
        if not clips.held_out_count:
            raise InputError(f"{clips.store.folder}: no pair is held out; hold out more of every shot, or nothing")
        benchmarks[CLIP] = HeldOutPairs(clips)
    for path in folders:
        name = Path(path).resolve().name
        if name in {WORLDS, CLIP, *benchmarks}:
            raise InputError(f"{path}: a second benchmark called {name!r}; expected folders of different names")
        benchmarks[name] = folder(path, tokens=tokens)
    return Validation(benchmarks) if benchmarks else None
