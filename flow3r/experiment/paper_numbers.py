"""The paper's numbers that stand beside our arms: other data, another size, the same question."""

from dataclasses import dataclass

from flow3r.eval.tables.paper import TABLE_6, Printed, printed
from flow3r.experiment.claims import Side, Table

_STATIC, _DYNAMIC = "ScanNet++ (static ablation)", "OmniWorld (dynamic ablation)"
_EPIC, _SEVEN = "EPIC-KITCHENS", "7-Scenes"
_VARIANTS = ("3d-sup", "flow-projective", "flow-tracking", "flow-factored")
_UNLABELLED = "OmniWorld (1K) | unlabeled SpatialVID ({})"


@dataclass(frozen=True)
class PaperColumn:
    """A number of the paper: where it was measured, and how its column is headed."""

    dataset: str
    metric: str
    heading: str


def _columns(dataset: str, *metrics: str) -> tuple[PaperColumn, ...]:
    return tuple(PaperColumn(dataset, metric, f"paper {metric}") for metric in metrics)


_ABLATION = ("RRA@30", "RTA@30", "CD", "MSE")
_ROWS: dict[Table, dict[Side, str]] = {  # our arms -> the paper's rows
    "table1": {Side(arm, regime): arm for regime in ("static", "dynamic") for arm in _VARIANTS},
    "table4": {
        Side("3d-sup"): "OmniWorld (1K) | none",
        Side("flow-factored"): _UNLABELLED.format("3K"),
        Side("flow-factored", "dynamic-10"): _UNLABELLED.format("10K"),
        Side("flow-factored", "dynamic-20"): _UNLABELLED.format("20K"),
        Side("3d-sup", "dynamic-4x-labelled"): "OmniWorld (4K) | none",
    },
    "table5": {
        Side(arm, family=family): f"{name}: {row}"
        for family, name in (("vggt", "VGGT"), ("pi3", "pi3"))
        for arm, row in (
            ("base", "base model (no finetune)"),
            ("3d-sup", "3D sup. only"),
            ("labelled-flow", "3D sup. + labeled flow"),
            ("full", "3D sup. + labeled + unlabeled flow (full)"),
        )
    },
    "table6": {Side(arm): arm for arm in _VARIANTS[1:]},
    "table7": {
        Side("3d-sup"): "OmniWorld (1K) | none",
        Side("flow-factored-teacher"): _UNLABELLED.format("3K"),
        Side("pseudo-3d"): "OmniWorld (1K)+SpatialVID (3K) | none",
    },
    "limits": {},
}


def paper_columns(table: Table, regime: str) -> tuple[PaperColumn, ...]:
    """Of the paper's table that ours of this regime answers; none for regimes and tables of our own."""
    if table == "table1":
        dataset = {"static": _STATIC, "dynamic": _DYNAMIC}.get(regime)
        return _columns(dataset, *_ABLATION) if dataset else ()
    if table == "table5":
        rotation, points = (PaperColumn(_EPIC, metric, f"paper {metric}, EPIC") for metric in ("RPE rot", "MSE"))
        return (rotation, points, *_columns(_SEVEN, "RTA@30", "AUC@30"))
    if table == "table6":
        return _columns(TABLE_6, "RRA@30", "RTA@30", "AEPE", "EPE@5px") if regime == "dynamic" else ()
    return _columns(_DYNAMIC, *_ABLATION) if table in ("table4", "table7") else ()


def paper_row(table: Table, side: Side) -> dict[str, str]:
    """The paper's numbers for an arm, as printed, by the heading of their columns; none where it has no such row."""
    row = _ROWS[table].get(side)
    if row is None:
        return {}
    number = int(table.removeprefix("table"))
    return {
        column.heading: _text(printed(number, column.dataset, row, column.metric))
        for column in paper_columns(table, side.regime)
    }


def _text(number: Printed) -> str:
    return f"{number.value:.{number.digits}f}"
