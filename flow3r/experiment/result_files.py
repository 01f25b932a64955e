"""The result files of runs: read, checked, and put beside each other by arm and seed."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from flow3r.errors import InputError
from flow3r.eval.report import COLUMNS, Column
from flow3r.experiment.claims import Side

VERSION, RESULT, TRIVIAL, SWEEP = 1, "result.json", "trivial.json", "sweep.json"
MEASURES = {  # of a world, and how each is printed; all but two as in evaluation
    **{name: COLUMNS[name] for name in ("rra@30", "rta@30", "auc@30", "rra@15", "rta@15", "rra@5", "rta@5", "auc@5")},
    "rotation": Column("pose", "mean rotation error °", "lower", 2),
    "mse": COLUMNS["mse"],
    "cd": COLUMNS["chamfer"],
    "abs_rel": COLUMNS["abs_rel"],
    "aepe": COLUMNS["aepe"],
    "5px": COLUMNS["within_5px"],
}
FACTS = ("moving_objects", "moving_area")  # of a world, whatever is predicted of it
_RUN = {
    "version": int, "schedule": str, "family": str, "regime": str, "arm": str, "seed": int, "steps": int,
    "flow_weight": float | int | None, "parameters": dict, "seconds": float | int, "diverged": str | None,
    "gradients": dict | None, "test": dict | None, "train": dict | None, "validation": dict | None,
}  # fmt: skip
Arm = tuple[str, str, str]  # family, regime, name


@dataclass(frozen=True)
class Scores:
    """Of every measure and fact, a value for each of W worlds; NaN where the measure does not exist for a world."""

    worlds: int
    values: Mapping[str, Float[np.ndarray, "W"]]

    def mean(self, name: str) -> float | None:
        """Over the worlds on which it exists; None without any."""
        known = self.values[name][~np.isnan(self.values[name])] if name in self.values else ()
        return float(np.mean(known)) if len(known) else None


@dataclass(frozen=True)
class Run:
    """One arm, trained from one seed. What diverged has no scores, whatever its file says."""

    schedule: str
    family: str
    regime: str
    arm: str
    seed: int
    steps: int
    flow_weight: float | None
    parameters: Mapping[str, int]
    seconds: float
    diverged: str | None
    gradients: Mapping[str, float] | None  # flow_norm, labelled_norm, cosine: means over probes; steps
    test: Scores | None
    train: Scores | None
    validation: Mapping[str, float]
    pseudo: Mapping[str, Any] | None = None  # of pseudo 3D labels: worlds "solved", and "failed" by reason

    def scores(self, split: Literal["test", "train"]) -> Scores | None:
        """Of the test worlds, or of labelled worlds that it learnt from."""
        return self.test if split == "test" else self.train


@dataclass(frozen=True)
class Runs:
    """All runs of a schedule that have finished."""

    schedule: str
    by_arm: Mapping[Arm, Mapping[int, Run]]  # by seed
    trivial: Mapping[tuple[str, str], Mapping[str, Scores]]  # (family, regime) -> row -> scores
    sweep: Mapping[str, Any] | None

    def of(self, side: Side) -> Mapping[int, Run]:
        """The runs of a side, by seed."""
        return self.by_arm.get((side.family, side.regime, side.arm), {})


def read_runs(out: str | Path, schedule: str) -> Runs:
    """Every OUT/<schedule>/<family>/<regime>/<arm>/seed<s>/result.json, the trivial rows beside them, and the sweep.

    Raises InputError for a file that cannot be read, that lies in the folder of another run, or whose test worlds are
    not as many as those of other runs of its regime, and for an arm whose seeds differ in steps or weight of the flow.
    """
    folder = Path(out) / schedule
    by_arm: dict[Arm, dict[int, Run]] = {}
    for path in sorted(folder.glob(f"*/*/*/seed*/{RESULT}")):
        run = read_run(path)
        place = (run.schedule, run.family, run.regime, run.arm, f"seed{run.seed}")
        if path.parts[-6:-1] != place:
            raise InputError(f"{path} is the result of {'/'.join(place)}: it was moved; put it back, or run again")
        by_arm.setdefault((run.family, run.regime, run.arm), {})[run.seed] = run
    for arm, seeds in by_arm.items():
        for what in ("steps", "flow_weight"):
            found = {seed: getattr(run, what) for seed, run in sorted(seeds.items())}
            if len(set(found.values())) > 1:
                said = ", ".join(f"seed {seed}: {value}" for seed, value in found.items())
                raise InputError(
                    f"{folder / '/'.join(arm)}: its seeds differ in {what} ({said}); expected one for all: run those "
                    "again that are not as wanted"
                )
    for regime in {arm[1] for arm in by_arm}:
        counts = {r.test.worlds for arm, seeds in by_arm.items() if arm[1] == regime for r in seeds.values() if r.test}
        if len(counts) > 1:
            raise InputError(
                f"runs of {regime} in {folder} were tested on {sorted(counts)} worlds; test all on as many"
            )
    return Runs(
        schedule=schedule,
        by_arm=by_arm,
        trivial={
            (path.parts[-3], path.parts[-2]): _trivial(_content(path), path)
            for path in sorted(folder.glob(f"*/*/{TRIVIAL}"))
        },
        sweep=_content(folder / SWEEP) if (folder / SWEEP).is_file() else None,
    )


def read_run(path: str | Path) -> Run:
    """One result.json. Raises InputError, naming the file and the place in it, for anything else."""
    path = Path(path)
    content = _content(path)
    for key, kind in _RUN.items():
        if key not in content:
            raise InputError(f"{path} is no result of a run: it has no {key!r}; run again")
        if not isinstance(content[key], kind) or isinstance(content[key], bool):
            raise InputError(f"{path}: {key!r} is {content[key]!r}; expected {_said(kind)}; run again")
    if content["version"] != VERSION:
        raise InputError(f"{path} is of version {content['version']}; expected {VERSION}; run again")
    diverged = content["diverged"]
    if content["test"] is None and diverged is None:
        raise InputError(f"{path} has no measures of test worlds, though the run did not diverge; run again")
    splits = {
        split: None if diverged or content[split] is None else _scores(content[split], f"{path}: {split!r}")
        for split in ("test", "train")
    }
    kept = {key: content[key] for key in _RUN if key not in ("version", "validation", *splits)}
    return Run(**kept, **splits, validation=content["validation"] or {}, pseudo=content.get("pseudo"))


def _trivial(content: Mapping[str, Any], path: Path) -> dict[str, Scores]:
    if not isinstance(content.get("rows"), dict):
        raise InputError(f"{path} has no rows; remove it and run again")
    return {row: _scores(value, f"{path}: {row!r}") for row, value in content["rows"].items()}


def _scores(content: Mapping[str, Any], where: str) -> Scores:
    worlds, measures = content.get("worlds"), content.get("measures")
    if not isinstance(worlds, int) or not isinstance(measures, dict):
        raise InputError(f"{where} has no number of worlds with measures of them; run again")
    for name, values in measures.items():
        if not isinstance(values, Sequence) or len(values) != worlds:
            count = len(values) if isinstance(values, Sequence) else "no"
            raise InputError(f"{where}, {name!r} has {count} values for {worlds} worlds; run again")
        if not all(value is None or (isinstance(value, int | float) and math.isfinite(value)) for value in values):
            raise InputError(f"{where}, {name!r} has values that are neither finite numbers nor null; run again")
    return Scores(worlds, {name: np.array(values, float) for name, values in measures.items()})


def _said(kind: Any) -> str:
    """A type, or a union of some, in words."""
    return " or ".join("null" if part is NoneType else part.__name__ for part in get_args(kind) or (kind,))


def _content(path: Path) -> Any:
    """Raises InputError for what is no JSON object; NaN and infinity are not JSON."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}; remove it and run again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; remove it and run again")
    return content
