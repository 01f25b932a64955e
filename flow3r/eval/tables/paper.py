"""The paper's Tables 1 to 15 as data: each printed number in the unit of our measures, which run of ours answers it,
and what is odd about it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from flow3r.eval.benchmarks.paper_rows import OMNIWORLD, PAPER_ROWS, SPATIALVID
from flow3r.eval.report import COLUMNS

METRICS = {  # the paper's names -> keys of report.COLUMNS
    "RRA@30": "rra@30",
    "RTA@30": "rta@30",
    "AUC@30": "auc@30",
    "ATE": "ate",
    "RPE trans": "rpe_translation",
    "RPE rot": "rpe_rotation",
    "Acc": "accuracy",
    "Comp": "completeness",
    "CD": "chamfer",
    "MSE": "mse",
    "f-score@2%": "f@2",
    "f-score@5%": "f@5",
    "AEPE": "aepe",
    "EPE@5px": "within_5px",  # a share of pixels, whatever its name says
}

# Table 6 prints two datasets under one heading: its flow is measured on one, its pose and geometry on the other.
TABLE_6 = "SpatialVID (flow) / OmniWorld (pose, geometry)"

BENCHMARK_OF = {row.title: row.name for row in PAPER_ROWS}

RUNS = {  # the paper's rows -> names of methods and presets; the first that was measured answers
    "DUSt3R": ("dust3r",),
    "CUT3R": ("cut3r",),
    "VGGT": ("vggt",),
    "pi3": ("pi3",),
    "Flow3r": ("flow3r",),
    "OmniWorld (1K) | none": ("table1-dynamic-3d-sup",),
    "OmniWorld (1K) | unlabeled SpatialVID (3K)": ("table1-dynamic-flow-factored",),
    "OmniWorld (1K) | unlabeled SpatialVID (10K)": ("table4-unlabelled-10k",),
    "OmniWorld (1K) | unlabeled SpatialVID (20K)": ("table4-unlabelled-20k",),
    "OmniWorld (4K) | none": ("table4-labelled-4k",),
    "OmniWorld (1K)+SpatialVID (3K) | none": ("table7-pseudo-labels",),
    "VGGT: base model (no finetune)": ("vggt",),
    "VGGT: 3D sup. only": ("table5-vggt-3d",),
    "VGGT: 3D sup. + labeled flow": ("table5-vggt-labelled-flow",),
    "VGGT: 3D sup. + labeled + unlabeled flow (full)": ("table5-vggt-full", "flow3r-vggt"),
    "pi3: base model (no finetune)": ("pi3",),
    "pi3: 3D sup. only": ("table5-pi3-3d",),
    "pi3: 3D sup. + labeled flow": ("table5-pi3-labelled-flow",),
    "pi3: 3D sup. + labeled + unlabeled flow (full)": ("table5-pi3-full", "flow3r"),
}


@dataclass(frozen=True)
class Printed:
    """One number of the paper. `dataset`, `method` and `metric` as in paper_tables.json."""

    table: int
    dataset: str
    method: str
    metric: str
    value: float  # in the unit of `column`
    digits: int  # decimals printed, in that unit
    benchmark: str  # ours
    column: str  # key of report.COLUMNS
    runs: tuple[str, ...]  # of ours; the first that was measured answers
    footnotes: tuple[int, ...] = ()  # to this number, counted from 1 in its table


@dataclass(frozen=True)
class Anomaly:
    """What is odd in the paper's own numbers. Without metrics it concerns the tables as a whole."""

    tables: tuple[int, ...]  # none: all of the paper
    text: str
    dataset: str | None = None
    methods: tuple[str, ...] = ()  # none: all
    metrics: tuple[str, ...] = ()

    def marks(self, number: Printed) -> bool:
        """Whether it concerns this very number."""
        return (
            number.table in self.tables
            and number.metric in self.metrics
            and self.dataset in (None, number.dataset)
            and (not self.methods or number.method in self.methods)
        )


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper: its numbers in the printed order, line by line."""

    number: int
    title: str
    numbers: tuple[Printed, ...]
    footnotes: tuple[str, ...]  # on single numbers
    remarks: tuple[str, ...]  # on the table as a whole

    @property
    def datasets(self) -> tuple[str, ...]:
        """In the paper's order."""
        return tuple(dict.fromkeys(number.dataset for number in self.numbers))

    @property
    def methods(self) -> tuple[str, ...]:
        """The rows, in the paper's order."""
        return tuple(dict.fromkeys(number.method for number in self.numbers))

    def metrics(self, dataset: str) -> tuple[str, ...]:
        """The columns under a dataset, in the paper's order."""
        return tuple(dict.fromkeys(number.metric for number in self.numbers if number.dataset == dataset))


@cache
def paper_tables() -> tuple[PaperTable, ...]:
    """Tables 1 to 15."""
    content = _content()
    tables = []
    for key, facts in content["tables"].items():
        table = int(key)
        numbers = [_printed(record) for record in content["records"] if record["table"] == table]
        marking = [anomaly for anomaly in anomalies() if any(map(anomaly.marks, numbers))]
        marked = tuple(
            replace(number, footnotes=tuple(k for k, anomaly in enumerate(marking, 1) if anomaly.marks(number)))
            for number in numbers
        )
        remarks = [facts["anomaly"]] if "anomaly" in facts else []
        remarks += [a.text for a in anomalies() if table in a.tables and not a.metrics]
        footnotes = tuple(anomaly.text for anomaly in marking)
        tables.append(PaperTable(table, facts["title"], marked, footnotes, tuple(remarks)))
    return tuple(tables)


@cache
def anomalies() -> tuple[Anomaly, ...]:
    """Those that a program found in the paper's numbers, then those that readers found."""
    content = _content()
    found = [_checked(entry) for entry in content["anomalies_checked"]]
    return (*found, *(_read(entry) for entry in content["anomalies_manual"]))


def general_remarks() -> tuple[str, ...]:
    """What is odd about the paper's tables as a whole."""
    return tuple(anomaly.text for anomaly in anomalies() if not anomaly.tables)


def printed(table: int, dataset: str, method: str, metric: str) -> Printed:
    """Look a number up by the names of paper_tables.json. Raises KeyError where the paper has none."""
    return _by_name()[table, dataset, method, metric]


@cache
def _by_name() -> dict[tuple[int, str, str, str], Printed]:
    return {(n.table, n.dataset, n.method, n.metric): n for table in paper_tables() for n in table.numbers}


@cache
def _content() -> dict[str, Any]:
    return json.loads(resources.files("flow3r.eval.tables").joinpath("paper_tables.json").read_text(encoding="utf-8"))


def _printed(record: dict[str, Any]) -> Printed:
    digits = len(record["raw"].partition(".")[2])
    column = METRICS[record["metric"]]
    if "value_percent" in record:  # Table 1 prints some shares as fractions
        record = record | {"value": record["value_percent"]}
        digits -= 2
    table, dataset, method = record["table"], record["dataset"], record["method"]
    measured_on = dataset
    if dataset == TABLE_6:
        measured_on = SPATIALVID.title if COLUMNS[column].group == "flow" else OMNIWORLD.title
    benchmark = BENCHMARK_OF[measured_on]
    return Printed(
        table, dataset, method, record["metric"], record["value"], digits, benchmark, column, _runs(dataset, method)
    )


def _runs(dataset: str, method: str) -> tuple[str, ...]:
    """Table 6 measures the runs of Table 1's moving scenes."""
    kind = "static" if dataset.startswith("ScanNet++") else "dynamic"
    return RUNS.get(method) or (f"table1-{kind}-{method}",)


def _checked(entry: dict[str, Any]) -> Anomaly:
    """One of anomalies_checked, in a sentence."""
    tables = tuple(entry[key] for key in ("table", "table_main", "table_appendix") if key in entry)
    methods = tuple(entry.get("methods", [entry.get("method")]))
    if entry["kind"] == "CD != (Acc+Comp)/2":
        text = f"CD is printed as {entry['cd_printed']}; (Acc + Comp) / 2 is {entry['cd_expected']}."
        return Anomaly(tables, text, entry["dataset"], methods, ("CD",))
    if entry["kind"] == "identical value across methods":
        text = f"{entry['metric']} is printed as {entry['value']} for {', '.join(methods)} alike."
    else:
        main, appendix = (f"Table {entry[f'table_{part}']} prints {entry[part]}" for part in ("main", "appendix"))
        text = f"{entry['method']}: {main}, {appendix}."
    return Anomaly(tables, text, entry["dataset"], methods, (entry["metric"],))


def _read(entry: dict[str, Any]) -> Anomaly:
    """One of anomalies_manual."""
    where = ", ".join(entry[key] for key in ("dataset", "method", "metric") if key in entry)
    text = f"{where}: {entry['kind']}: {entry['note']}." if where else f"{entry['kind']}: {entry['note']}."
    methods, metrics = (tuple(entry[key] for key in (name,) if key in entry) for name in ("method", "metric"))
    return Anomaly(tuple(_table_numbers(entry.get("table"))), text, entry.get("dataset"), methods, metrics)


def _table_numbers(said: int | str | None) -> Iterator[int]:
    """Tables as the file names them: 3, or "2,3,8-15", or null for all of the paper."""
    for part in str(said if said is not None else "").split(","):
        if part:
            first, _, last = part.partition("-")
            yield from range(int(first), int(last or first) + 1)
