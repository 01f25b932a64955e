"""What a measurement found, sequence by sequence, and the tables and files that show it."""

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from flow3r.files import write_json


@dataclass(frozen=True)
class Column:
    """How one measure is printed, and which way is better."""

    group: str
    label: str
    better: Literal["higher", "lower"]
    digits: int
    over_sequences: Callable[[Sequence[float]], float] = mean
    main: bool = True  # False: another reading of a measure, kept in files and left out of short tables


def _parts(
    group: str, parts: Sequence[str], measures: Mapping[str, tuple[str, Literal["higher", "lower"], int]]
) -> dict[str, Column]:
    """The same measures of parts of a scene, or under other alignments: "mse_static" beside "mse"."""
    return {
        f"{name}_{part}": Column(group, f"{label}, {part.replace('_', ' & ')}", better, digits, main=False)
        for part in parts
        for name, (label, better, digits) in measures.items()
    }


COLUMNS = {
    "rra@5": Column("pose", "RRA@5° %", "higher", 1),
    "rra@10": Column("pose", "RRA@10° %", "higher", 1, main=False),
    "rra@15": Column("pose", "RRA@15° %", "higher", 1),
    "rra@30": Column("pose", "RRA@30° %", "higher", 1),
    "rta@5": Column("pose", "RTA@5° %", "higher", 1),
    "rta@10": Column("pose", "RTA@10° %", "higher", 1, main=False),
    "rta@15": Column("pose", "RTA@15° %", "higher", 1),
    "rta@30": Column("pose", "RTA@30° %", "higher", 1),
    "rta_signed@5": Column("pose", "RTA@5° signed %", "higher", 1, main=False),
    "rta_signed@10": Column("pose", "RTA@10° signed %", "higher", 1, main=False),
    "rta_signed@15": Column("pose", "RTA@15° signed %", "higher", 1, main=False),
    "rta_signed@30": Column("pose", "RTA@30° signed %", "higher", 1),
    "rta_strict@5": Column("pose", "RTA@5° strict %", "higher", 1, main=False),
    "rta_strict@10": Column("pose", "RTA@10° strict %", "higher", 1, main=False),
    "rta_strict@15": Column("pose", "RTA@15° strict %", "higher", 1, main=False),
    "rta_strict@30": Column("pose", "RTA@30° strict %", "higher", 1, main=False),
    "auc@5": Column("pose", "AUC@5° %", "higher", 1, main=False),
    "auc@15": Column("pose", "AUC@15° %", "higher", 1, main=False),
    "auc@30": Column("pose", "AUC@30° %", "higher", 1),
    "auc_strict@30": Column("pose", "AUC@30° strict %", "higher", 1, main=False),
    "auc_integral@30": Column("pose", "AUC@30° exact integral %", "higher", 1, main=False),
    "auc_histc@30": Column("pose", "AUC@30° 31 bins %", "higher", 1, main=False),
    "maa@30": Column("pose", "mAA@30° %", "higher", 1, main=False),
    "ate": Column("pose", "ATE", "lower", 4),
    "ate_of_s": Column("pose", "ATE / s", "lower", 4, main=False),
    "ate_ptscale": Column("pose", "ATE, points' scale", "lower", 4, main=False),
    "rpe_translation": Column("pose", "RPE translation", "lower", 4),
    "rpe_translation_of_s": Column("pose", "RPE translation / s", "lower", 4, main=False),
    "rpe_translation_ptscale": Column("pose", "RPE translation, points' scale", "lower", 4, main=False),
    "rpe_rotation": Column("pose", "RPE rotation °", "lower", 2),
    "mse": Column("points", "MSE / s", "lower", 4),
    "mse_sq": Column("points", "MSE squared / s²", "lower", 5, main=False),
    "rmse": Column("points", "RMSE / s", "lower", 4, main=False),
    "accuracy": Column("points", "Acc / s", "lower", 4),
    "accuracy_median": Column("points", "Acc median / s", "lower", 4, main=False),
    "completeness": Column("points", "Comp / s", "lower", 4),
    "completeness_median": Column("points", "Comp median / s", "lower", 4, main=False),
    "chamfer": Column("points", "CD / s", "lower", 4),
    "chamfer_sq": Column("points", "CD squared / s²", "lower", 5, main=False),
    "f@2": Column("points", "F@2 %", "higher", 3),
    "f@5": Column("points", "F@5 %", "higher", 3),
    "dropped": Column("points", "points dropped %", "lower", 2, main=False),
    **_parts("points", ("static", "dynamic"), {
        "mse": ("MSE / s", "lower", 4),
        "accuracy": ("Acc / s", "lower", 4),
        "completeness": ("Comp / s", "lower", 4),
        "chamfer": ("CD / s", "lower", 4),
        "f@2": ("F@2 %", "higher", 3),
        "f@5": ("F@5 %", "higher", 3),
    }),
    "nc1": Column("normals", "NC1", "higher", 3),
    "nc2": Column("normals", "NC2", "higher", 3),
    "nc": Column("normals", "NC", "higher", 3),
    "nc1_median": Column("normals", "NC1 median", "higher", 3, main=False),
    "nc2_median": Column("normals", "NC2 median", "higher", 3, main=False),
    "nc_median": Column("normals", "NC median", "higher", 3, main=False),
    "abs_rel": Column("depth", "AbsRel", "lower", 4),
    "sq_rel": Column("depth", "SqRel", "lower", 4, main=False),
    "depth_rmse": Column("depth", "RMSE", "lower", 4, main=False),
    "log_rmse": Column("depth", "log RMSE", "lower", 4, main=False),
    "delta": Column("depth", "δ < 1.25 %", "higher", 1),
    **_parts("depth", ("scale_shift", "metric", "median"), {
        "abs_rel": ("AbsRel", "lower", 4),
        "sq_rel": ("SqRel", "lower", 4),
        "depth_rmse": ("RMSE", "lower", 4),
        "log_rmse": ("log RMSE", "lower", 4),
        "delta": ("δ < 1.25 %", "higher", 1),
    }),
    "aepe": Column("flow", "AEPE px", "lower", 2),
    "aepe_of_diagonal": Column("flow", "AEPE % of diagonal", "lower", 2),
    "within_1px": Column("flow", "within 1 px %", "higher", 1),
    "within_3px": Column("flow", "within 3 px %", "higher", 1),
    "within_5px": Column("flow", "within 5 px %", "higher", 1),
    "within_1%": Column("flow", "within 1 % of width %", "higher", 1),
    "within_2%": Column("flow", "within 2 % of width %", "higher", 1),
    "within_5%": Column("flow", "within 5 % of width %", "higher", 1),
    **_parts("flow", ("static", "dynamic"), {
        "aepe": ("AEPE px", "lower", 2),
        "within_5px": ("within 5 px %", "higher", 1),
    }),
    "sampson": Column("epipolar", "Sampson px, median", "lower", 3, median),
}  # fmt: skip


def label_in(name: str, profile: str = "flow3r") -> str:
    """How a measure is printed: π³'s definitions have lengths and F's thresholds in the truth's own unit."""
    label = COLUMNS[name].label
    if profile != "pi3" or COLUMNS[name].group != "points":
        return label
    return label.replace(" / s²", "").replace(" / s", "").replace("F@2 %", "F@0.02").replace("F@5 %", "F@0.05")


@dataclass(frozen=True)
class Score:
    """One row's result on one sequence. A measure that the data do not allow is absent from `values`."""

    sequence: str
    values: dict[str, float]  # keys of COLUMNS
    notes: Mapping[str, int] = field(
        default_factory=dict
    )  # failures and oddities, and how many pairs or views they hit
    degenerate: bool = False  # the true trajectory is static or collinear: ATE and RPE say less
    # What the numbers rest on, by name: "s" in the truth's unit, "scale_ratio" (the trajectory's scale by that of the
    # points; near 0 where noise was scaled away), and how many pairs, points, depth_pixels and flow_pairs were scored.
    # "true_depth_pixels" are those of the original frames, whatever a prediction's grid is.
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """All sequences' results of one model, or of one of the rows that compare."""

    name: str
    scores: tuple[Score, ...]

    def mean(self, column: str, ordinary_only: bool = False) -> float | None:
        """The unweighted mean (median for Sampson) over the sequences that have the measure; None where none has."""
        scores = [score for score in self.scores if not (ordinary_only and score.degenerate)]
        values = [score.values[column] for score in scores if column in score.values]
        return COLUMNS[column].over_sequences(values) if values else None


@dataclass(frozen=True)
class Report:
    """One measurement: what was measured how, row by row. The first row is the model, the others compare."""

    title: str
    rows: tuple[Row, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()  # what could not be measured, and why

    def mean(self, row: str, column: str) -> float | None:
        """The mean of a named row. Raises KeyError for an unknown row."""
        by_name = {candidate.name: candidate for candidate in self.rows}
        return by_name[row].mean(column)

    @property
    def columns(self) -> tuple[str, ...]:
        """The main measures that at least one row has, in the order of COLUMNS."""
        return tuple(name for name in self.measures if COLUMNS[name].main)

    @property
    def measures(self) -> tuple[str, ...]:
        """All measures that at least one row has, in the order of COLUMNS."""
        return tuple(name for name in COLUMNS if any(row.mean(name) is not None for row in self.rows))


def compare(before: Report, after: Report, names: tuple[str, str] = ("before", "after")) -> Report:
    """One report with the models of two side by side, and the other rows of whichever has them.

    Raises ValueError if the two were measured differently.
    """
    if before.settings != after.settings or before.title != after.title:
        raise ValueError(f"'{before.title}' {before.settings} and '{after.title}' {after.settings} cannot be compared")
    models = replace(before.rows[0], name=names[0]), replace(after.rows[0], name=names[1])
    others = max(before.rows[1:], after.rows[1:], key=len)
    return replace(after, rows=models + others, remarks=tuple(dict.fromkeys(before.remarks + after.remarks)))


def table(report: Report) -> Table:
    """A rich table: one line per main measure, one column per row of the report, and what needs to be said below it."""
    sequences = max((sum(bool(score.values) for score in row.scores) for row in report.rows), default=0)
    result = Table(
        title=report.title, caption="\n".join(footnotes(report)), caption_justify="left", title_justify="left"
    )
    result.add_column(f"mean of {sequences}" if sequences != 1 else "one sequence", no_wrap=True)
    for row in report.rows:
        result.add_column(row.name, justify="right")
    previous = None
    for name in report.columns:
        column = COLUMNS[name]
        if previous not in (None, column.group):
            result.add_section()
        previous = column.group
        arrow = "↑" if column.better == "higher" else "↓"
        means = [row.mean(name) for row in report.rows]
        result.add_row(f"{column.label} {arrow}", *("–" if m is None else f"{m:.{column.digits}f}" for m in means))
    return result


def footnotes(report: Report) -> list[str]:
    """Remarks, then every note with how often and in how many sequences it holds, then means without odd sequences."""
    lines = list(report.remarks)
    counts = {row.name: _counted(row) for row in report.rows}
    common = set.intersection(*(set(notes) for notes in counts.values())) if len(counts) > 1 else set()
    lines += [f"all: {note}" for note in next(iter(counts.values()), []) if note in common]
    lines += [f"{name}: {note}" for name, notes in counts.items() for note in notes if note not in common]
    for row in report.rows:
        odd = sum(score.degenerate for score in row.scores)
        ate = row.mean("ate", ordinary_only=True)
        if odd and ate is not None:
            lines.append(f"{row.name}: ATE {ate:.4f} without the {odd} sequences of a degenerate true trajectory")
    return lines


def _counted(row: Row) -> list[str]:
    """The notes of a row's sequences with their numbers."""
    hits, sequences = Counter(), Counter()
    for score in row.scores:
        hits.update(score.notes)
        sequences.update(score.notes.keys())
    return [f"{note} ({hits[note]}, in {sequences[note]} of {len(row.scores)} sequences)" for note in hits]


def to_text(report: Report, width: int = 100) -> str:
    """The table as plain text."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(table(report))
    return stream.getvalue()


def as_json(report: Report) -> dict[str, Any]:
    """Means, every sequence's values, notes and settings."""
    rows = [
        {
            "name": row.name,
            "mean": {name: row.mean(name) for name in report.measures if row.mean(name) is not None},
            "sequences": [
                {"sequence": s.sequence, "values": s.values, "notes": dict(s.notes), "degenerate": s.degenerate}
                | ({"facts": dict(s.facts)} if s.facts else {})
                for s in row.scores
            ],
        }
        for row in report.rows
    ]
    remarks, notes = list(report.remarks), footnotes(report)
    return {"title": report.title, "settings": report.settings, "remarks": remarks, "notes": notes, "rows": rows}


def write_report(path: str | Path, report: Report) -> None:
    """Write a report as JSON, atomically."""
    write_json(path, as_json(report))
