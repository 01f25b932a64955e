"""What the runs on real clips say: every arm on every real sequence, with intervals, and the differences between arms.

Eight sequences or so are few: all intervals over them are too narrow to be trusted, and no claim is decided by them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flow3r.errors import InputError
from flow3r.eval.tables.intervals import RESAMPLES
from flow3r.eval.tables.result_tables import short
from flow3r.experiment.claims import FLOW, POINTS, POSE, Side
from flow3r.experiment.provenance import read_json
from flow3r.experiment.real_video import ARMS, OF_WORLDS, REGIME, TRANSDUCTIVE
from flow3r.experiment.result_files import MEASURES, RESULT, TRIVIAL, Run, Runs, Scores, read_runs
from flow3r.experiment.seed_intervals import SeedInterval, drawn_means, seed_interval
from flow3r.files import write_json, write_text

FAMILY = "vggt"
PRINTED = ("rra@30", "rta@30", "auc@30", "rotation", "mse", "abs_rel", "aepe")
# Chosen before any run: what is set against what, by which measures.
DIFFERENCES = (
    ("flow-factored", "3d-sup"),
    ("flow-factored", "flow-tracking"),
    ("flow-factored", "flow-projective"),
    ("flow-factored", OF_WORLDS),
    (TRANSDUCTIVE, "flow-factored"),
)
DIFFERED = (POSE, "rotation", POINTS, FLOW)


def report_real(results: Path, docs: Path) -> tuple[Path, ...]:
    """Write DOCS/experiments/real.json and DOCS/experiment_results_real.md of the runs in `results`, OUT/<schedule>."""
    told = analyse_real(read_runs(results.parent, results.name), results)
    data, page = docs / "experiments" / f"{REGIME}.json", docs / "experiment_results_real.md"
    write_json(data, told)
    write_text(page, as_page(told))
    return data, page


def analyse_real(runs: Runs, results: Path, resamples: int = RESAMPLES) -> dict[str, Any]:
    """All that is said, for JSON: means over sequences and seeds with intervals, single seeds and sequences."""
    by_arm = {arm: runs.of(Side(arm, REGIME, FAMILY)) for arm in ARMS}
    by_arm = {arm: found for arm, found in by_arm.items() if found}
    trivial = runs.trivial.get((FAMILY, REGIME), {})
    return {
        "table": REGIME,
        "schedule": runs.schedule,
        "sequences": _names(results),
        "rows": [_row(arm, found, resamples) for arm, found in by_arm.items()],
        "trivial": {name: _means(scores) | {"by_sequence": _by_sequence([scores])} for name, scores in trivial.items()},
        "differences": [one for pair in DIFFERENCES for one in _differences(*pair, by_arm, resamples)],
        "missing": [arm for arm in ARMS if arm not in by_arm],
    }


def _names(results: Path) -> list[str]:
    """Of the sequences that all runs and trivial rows were tested on. Raises InputError if they were not the same."""
    folder = results / FAMILY / REGIME
    paths = sorted((*folder.glob(f"*/seed*/{RESULT}"), *folder.glob(TRIVIAL)))
    found = {path: read_json(path) for path in paths}
    if len({one["tests"] for one in found.values()}) > 1:
        said = ", ".join(f"{path.parent.relative_to(folder)}: {one['tests'][:8]}" for path, one in found.items())
        raise InputError(f"{folder}: runs were tested on different frames ({said}); run all of them again on the same")
    return next((one["test"]["names"] for one in found.values() if one.get("test")), [])


def _row(arm: str, runs: Mapping[int, Run], resamples: int) -> dict[str, Any]:
    tested = [run.test for _, run in sorted(runs.items()) if run.test is not None]
    intervals = {name: found for name in MEASURES if (found := _interval(tested, name, resamples)) is not None}
    any_run = next(iter(runs.values()))
    return {
        "arm": arm,
        "steps": any_run.steps,
        "flow_weight": any_run.flow_weight,
        "seeds": sorted(runs),
        "diverged": {str(seed): run.diverged for seed, run in sorted(runs.items()) if run.diverged},
        "test": {name: _told(interval) for name, interval in intervals.items()},
        "by_seed": {str(seed): _means(run.test) for seed, run in sorted(runs.items()) if run.test is not None},
        "by_sequence": _by_sequence(tested),
        "worlds": {  # validation worlds, where what was learnt on the way is not lost
            name: short(float(np.mean(values)))
            for name in (POSE, POINTS)
            if (values := [run.validation[name] for run in runs.values() if name in run.validation])
        },
    }


def _interval(seeds: Sequence[Scores], name: str, resamples: int) -> SeedInterval | None:
    if not seeds or any(scores.mean(name) is None for scores in seeds):
        return None
    return seed_interval(drawn_means(np.stack([scores.values[name] for scores in seeds]), resamples))


def _told(interval: SeedInterval) -> dict[str, float | None]:
    return {key: short(getattr(interval, key)) for key in ("mean", "low", "high")}


def _means(scores: Scores) -> dict[str, Any]:
    return {name: short(mean) for name in MEASURES if (mean := scores.mean(name)) is not None}


def _by_sequence(seeds: Sequence[Scores]) -> dict[str, list[float | None]]:
    """Of every measure a value for each sequence: the mean over seeds."""
    names = [name for name in MEASURES if seeds and all(name in scores.values for scores in seeds)]
    return {name: [short(float(v)) for v in np.mean([s.values[name] for s in seeds], axis=0)] for name in names}


def _differences(one: str, other: str, by_arm: Mapping[str, Mapping[int, Run]], resamples: int) -> list[dict[str, Any]]:
    """One arm minus another, paired by seed and sequence; positive where `one` is better."""
    first, second = by_arm.get(one, {}), by_arm.get(other, {})
    pairs = [(first[s].test, second[s].test) for s in sorted(first.keys() & second.keys())]
    pairs = [(a, b) for a, b in pairs if a is not None and b is not None]
    found = []
    for name in DIFFERED:
        if not pairs or any(scores.mean(name) is None for pair in pairs for scores in pair):
            continue
        sign = 1 if MEASURES[name].better == "higher" else -1
        values = np.stack([sign * (a.values[name] - b.values[name]) for a, b in pairs])
        by_sequence = [short(float(value)) for value in values.mean(0)]
        interval = _told(seed_interval(drawn_means(values, resamples)))
        told = {"better": one, "worse": other, "measure": name, "seeds": len(pairs), **interval}
        found.append({**told, "by_sequence": by_sequence})
    return found


def as_page(told: Mapping[str, Any]) -> str:
    """The data as a page of tables."""
    names, rows = told["sequences"], told["rows"]
    lines = [
        "# Real clips as the unlabelled domain",
        "",
        f"Made by `flow3r experiment real` from runs of schedule `{told['schedule']}`; what they are: [experiments.md]"
        "(experiments.md#real-clips). Nothing was chosen by these numbers.",
        "",
        f"Mean over {len(names)} real sequences ({', '.join(f'`{name}`' for name in names)}) and over seeds, with the "
        "95 % bootstrap interval of both. So few sequences make every interval too narrow to be trusted.",
        "",
        *_table(["arm", "seeds", *(_head(name) for name in PRINTED)], [_cells(row) for row in rows] + _plain(told)),
    ]
    if told["missing"]:
        lines += ["", f"Not run: {', '.join(told['missing'])}."]
    lines += ["", "## Differences", "", "Paired by seed and sequence; positive where the first is better.", ""]
    lines += _table(["pair", *(_head(name, arrow=False) for name in DIFFERED)], _pairs(told))
    for name in ("rotation", POINTS):
        lines += ["", f"## {_head(name)}, by sequence", ""]
        lines += _table(["arm", *names], _listed(told, name))
    return "\n".join(lines) + "\n"


def _head(name: str, arrow: bool = True) -> str:
    column = MEASURES[name]
    return column.label + (" " + ("↑" if column.better == "higher" else "↓") if arrow else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _number(name: str, value: float | None) -> str:
    return "–" if value is None else f"{value:.{MEASURES[name].digits}f}"


def _with_interval(name: str, found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    return f"{_number(name, found['mean'])} [{_number(name, found['low'])}, {_number(name, found['high'])}]"


def _cells(row: Mapping[str, Any]) -> list[str]:
    seeds = str(len(row["by_seed"])) + (f", {len(row['diverged'])} diverged" if row["diverged"] else "")
    return [row["arm"], seeds, *(_with_interval(name, row["test"].get(name)) for name in PRINTED)]


def _plain(told: Mapping[str, Any]) -> list[list[str]]:
    return [
        [f"*{row}*", "", *(_number(name, values.get(name)) for name in PRINTED)]
        for row, values in told["trivial"].items()
    ]


def _pairs(told: Mapping[str, Any]) -> list[list[str]]:
    found: dict[str, dict[str, str]] = {}
    for one in told["differences"]:
        pair = f"{one['better']} over {one['worse']}"
        found.setdefault(pair, {})[one["measure"]] = _with_interval(one["measure"], one)
    return [[pair, *(cells.get(name, "–") for name in DIFFERED)] for pair, cells in found.items()]


def _listed(told: Mapping[str, Any], name: str) -> list[list[str]]:
    arms = [(row["arm"], row["by_sequence"]) for row in told["rows"]]
    rows = [*arms, *((f"*{row}*", values["by_sequence"]) for row, values in told["trivial"].items())]
    return [[label, *(_number(name, value) for value in values[name])] for label, values in rows if name in values]
