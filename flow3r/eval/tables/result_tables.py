"""The paper's tables with our numbers in them, and tables of everything else that was measured.

A table holds numbers; typeset.py makes text of it, `write_tables` the files.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flow3r.eval.benchmarks import BENCHMARKS
from flow3r.eval.report import COLUMNS, label_in
from flow3r.eval.tables.collect import Results, check_comparable
from flow3r.eval.tables.intervals import FEW, Interval
from flow3r.eval.tables.paper import PaperTable, Printed, paper_tables

PAPER_PROFILE = "flow3r"  # what the paper's tables mean, as docs/evaluation.md reads them
TRAJECTORY = ("ate", "rpe_translation", "rpe_rotation")  # say little where the true trajectory is degenerate
LISTED = 10  # ours: sequences that are named in a note
WIDEST = 9  # measures side by side, as many as in Tables 8 to 15


@dataclass(frozen=True)
class Cell:
    """One measure of one method on one benchmark, the paper's and ours, in the unit of `column`."""

    benchmark: str
    metric: str  # as printed above it
    column: str  # key of COLUMNS
    digits: int
    paper: Printed | None = None
    run: str = ""  # the method of ours that answers; "" where none was measured
    ours: float | None = None  # mean of draw 0
    interval: Interval | None = None  # over all draws
    sequences: int = 0  # of which `ours` is the mean
    expected: int = 0  # of which it should be
    complete: bool = True  # no row of the manifest is missing, in any draw
    by_pixels: float | None = None  # as `ours`, sequences weighted by their pixels of true depth

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.ours is None or self.paper is None else self.ours - self.paper.value


@dataclass(frozen=True)
class Line:
    """One method. `beyond`: not among the paper's rows, below the rule."""

    method: str
    cells: tuple[Cell, ...]
    beyond: bool = False

    @property
    def measured(self) -> bool:
        """Whether a cell has a number of ours."""
        return any(cell.ours is not None for cell in self.cells)


@dataclass(frozen=True)
class Block:
    """The part of a table under one heading, such as a dataset. All lines have the same columns."""

    heading: str
    lines: tuple[Line, ...]

    @property
    def columns(self) -> tuple[Cell, ...]:
        """The cells of the first line, for what stands above all of them."""
        return self.lines[0].cells


@dataclass(frozen=True)
class ResultTable:
    """One table. `footnotes` are numbered from 1; `remarks` concern the table as a whole."""

    name: str  # such as "Table 2"
    title: str
    profile: str
    blocks: tuple[Block, ...]
    footnotes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def paper_and_ours(results: Iterable[Results]) -> tuple[ResultTable, ...]:
    """Tables 1 to 15 in the paper's order, ours beside. What was not measured is empty.

    Raises InputError for results that cannot stand side by side.
    """
    results = ordered(results)
    own = {(r.method, r.benchmark): r for r in results if r.profile == PAPER_PROFILE}
    return tuple(_paper_table(table, own) for table in paper_tables())


def further_tables(results: Iterable[Results], all_readings: bool = False) -> tuple[ResultTable, ...]:
    """The measures of all methods, one table for each benchmark and profile. Those of profile pi3 stand here alone.

    `all_readings`: not only the main measures, but other readings of them too.
    """
    results = ordered(results)
    keys = sorted({(r.profile, r.benchmark) for r in results})
    return tuple(_measures_table([r for r in results if (r.profile, r.benchmark) == k], all_readings) for k in keys)


def title_of(benchmark: str) -> str:
    """How tables call a benchmark."""
    return BENCHMARKS[benchmark].title if benchmark in BENCHMARKS else benchmark


def records(table: ResultTable) -> list[dict[str, Any]]:
    """One flat record for each cell, the same for CSV and JSON; None where there is nothing."""
    return [
        {
            "table": table.name,
            "heading": block.heading,
            "benchmark": cell.benchmark,
            "profile": table.profile,
            "method": line.method,
            "run": cell.run or None,
            "beyond_the_paper": line.beyond,
            "metric": cell.metric,
            "column": cell.column,
            "better": COLUMNS[cell.column].better,
            "paper": None if cell.paper is None else cell.paper.value,
            "ours": short(cell.ours),
            "difference": short(cell.difference),
            "mean_of_all_draws": short(cell.interval and cell.interval.mean),
            "low": short(cell.interval and cell.interval.low),
            "high": short(cell.interval and cell.interval.high),
            "sequences": cell.sequences,
            "expected": cell.expected,
            "samples": cell.interval.samples if cell.interval else 0,
            "complete": cell.complete,
            "weighted_by_pixels": short(cell.by_pixels),
            "footnotes": " ".join(map(str, cell.paper.footnotes if cell.paper else ())) or None,
        }
        for block in table.blocks
        for line in block.lines
        for cell in line.cells
    ]


def short(value: float | None) -> float | None:
    """Nine digits, more than any of it is worth and the same on every machine; None for NaN."""
    return None if value is None or value != value else float(f"{value:.9g}")


def ordered(results: Iterable[Results]) -> list[Results]:
    """By profile, benchmark and method, so that no table depends on the order of rows or files."""
    results = list(results)
    check_comparable(results)
    return sorted(results, key=lambda r: (r.profile, r.benchmark, r.method))


def _paper_table(table: PaperTable, own: Mapping[tuple[str, str], Results]) -> ResultTable:
    blocks = tuple(_paper_block(table, dataset, own) for dataset in table.datasets)
    cells = [cell for block in blocks for line in block.lines for cell in line.cells if cell.run]
    shown = [own[key] for key in sorted({(cell.run, cell.benchmark) for cell in cells})]
    said = (*_answers(blocks), *notes_on(shown, {number.column for number in table.numbers}))
    return ResultTable(
        name=f"Table {table.number}",
        title=table.title,
        profile=PAPER_PROFILE,
        blocks=blocks,
        footnotes=table.footnotes,
        remarks=(*(f"On the paper's numbers: {remark}" for remark in table.remarks), *said),
    )


def _paper_block(table: PaperTable, dataset: str, own: Mapping[tuple[str, str], Results]) -> Block:
    by_method: dict[str, list[Printed]] = {}
    for number in table.numbers:
        if number.dataset == dataset:
            by_method.setdefault(number.method, []).append(number)
    columns = [
        Cell(of[0].benchmark, of[0].metric, of[0].column, max(number.digits for number in of))
        for of in zip(*by_method.values())
    ]
    lines = [
        Line(method, tuple(_cell(column, _answer(number, own), number) for column, number in zip(columns, numbers)))
        for method, numbers in by_method.items()
    ]
    return Block(dataset, (*lines, *_lines_beyond(table, columns, own)))


def _answer(number: Printed, own: Mapping[tuple[str, str], Results]) -> Results | None:
    """The first of its runs that was measured, or else that was to be."""
    found = [own[run, number.benchmark] for run in number.runs if (run, number.benchmark) in own]
    return min(found, key=lambda results: not results.measured, default=None)


def _lines_beyond(table: PaperTable, columns: Sequence[Cell], own: Mapping[tuple[str, str], Results]) -> list[Line]:
    """Methods that the paper's table does not have; a run of another table's ablation is left to that table."""
    answering = {run for number in table.numbers for run in number.runs}
    methods = sorted({method for method, benchmark in own if benchmark in {c.benchmark for c in columns}} - answering)
    further = (
        Line(method, tuple(_cell(column, own.get((method, column.benchmark))) for column in columns), beyond=True)
        for method in methods
        if not method.startswith("table") or method.startswith(f"table{table.number}-")
    )
    return [line for line in further if line.measured]


def _answers(blocks: Iterable[Block]) -> list[str]:
    """Which run of ours stands for which row of the paper, where the names do not say so."""
    pairs = {
        f"{line.method}: {cell.run}": None
        for block in blocks
        for line in block.lines
        for cell in line.cells
        if cell.run and not line.beyond and cell.run != line.method.lower()
    }
    return [f"Runs of ours: {'; '.join(pairs)}."] if pairs else []


def _measures_table(results: Sequence[Results], all_readings: bool) -> ResultTable:
    benchmark, profile = results[0].benchmark, results[0].profile
    listed = [name for name in COLUMNS if all_readings or COLUMNS[name].main]
    present = [name for name in listed if any(name in r.columns for r in results)]
    blocks = []
    for group in dict.fromkeys(COLUMNS[name].group for name in present):
        names = [name for name in present if COLUMNS[name].group == group]
        for start in range(0, len(names), WIDEST):
            part = names[start : start + WIDEST]
            columns = [Cell(benchmark, label_in(n, profile), n, COLUMNS[n].digits) for n in part]
            lines = (Line(r.method, tuple(_cell(c, r) for c in columns)) for r in results)
            blocks.append(Block(group, tuple(line for line in lines if line.measured)))
    blocks = [block for block in blocks if block.lines]
    return ResultTable(
        name=f"{benchmark}, profile {profile}",
        title=f"{'All measures' if all_readings else 'Measures'} on {title_of(benchmark)}",
        profile=profile,
        blocks=tuple(blocks),
        remarks=notes_on(results, present),
    )


def _cell(column: Cell, results: Results | None, number: Printed | None = None) -> Cell:
    """The cell below `column`."""
    place = {"benchmark": column.benchmark, "metric": column.metric, "column": column.column, "digits": column.digits}
    if results is None:
        return Cell(**place, paper=number)
    return Cell(
        **place,
        paper=number,
        run=results.method,
        ours=results.means.get(column.column),
        interval=results.intervals.get(column.column),
        sequences=sum(column.column in score.values for score in results.headline.scores),
        expected=results.expected,
        complete=results.complete,
        by_pixels=results.means_by_pixels.get(column.column),
    )


def notes_on(shown: Iterable[Results], columns: Collection[str]) -> tuple[str, ...]:
    """What needs to be said below a table of these results, each fact once for all methods that it holds for."""
    methods: dict[tuple[str, str], list[str]] = {}
    for results in shown:
        for fact in _facts(results, columns):
            methods.setdefault((results.benchmark, fact), []).append(results.method)
    return tuple(f"{', '.join(names)} on {title_of(where)}: {fact}." for (where, fact), names in methods.items())


def _facts(results: Results, columns: Collection[str]) -> Iterator[str]:
    """Missing rows and sequences, failures, other means, degenerate trajectories, few sequences."""
    rows, headline = len(results.measured), results.headline
    if results.truth:
        yield f"the truth is no measurement, but what {results.truth} made of the videos"
    if results.profile == "pi3" and "points" in {COLUMNS[c].group for c in columns}:
        yield "points after ICP; lengths and thresholds of F are in the unit of the dataset's reader, such as metres"
    grids = {f"{s.facts['width']:.0f} x {s.facts['height']:.0f}" for s in headline.scores if "width" in s.facts}
    if "aepe" in columns and grids:
        yield f"pixels of flow are those of its own grid: {', '.join(sorted(grids))}"
    if results.left_out:
        names = [f"{name} ({reason})" for name, reason in sorted(results.left_out.items())]
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        yield f"without {len(names)} sequences: {', '.join(names[:LISTED])}{more}"
    if results.missing:
        yield f"partial, {len(results.missing)} of {rows + len(results.missing)} rows are missing"
    if results.failures:
        reasons = "; ".join(f"{reason} ({n})" for reason, n in sorted(results.failures.items()))
        failed = sum(results.failures.values())
        yield f"{failed} of {rows} samples failed and have the worst scores: {reasons}"
    weighted = {c: m for c, m in results.means_by_pixels.items() if c in columns and COLUMNS[c].main}
    if weighted and len(headline.scores) > 1:
        said = ", ".join(f"{label_in(c, results.profile)} {m:.{COLUMNS[c].digits}f}" for c, m in weighted.items())
        yield f"sequences weighted by their pixels of true depth, as references of video depth do: {said}"
    odd = sum(score.degenerate for score in headline.scores)
    affected = [c for c in TRAJECTORY if c in columns]
    if odd and affected:
        means = {c: headline.mean(c, ordinary_only=True) for c in affected}
        there = {c: m for c, m in means.items() if m is not None}
        said = ", ".join(f"{label_in(c, results.profile)} {m:.{COLUMNS[c].digits}f}" for c, m in there.items())
        count = f"{odd} of {len(headline.scores)} true trajectories are degenerate"
        yield f"{count}; without them: {said or 'nothing is left'}"
    sequences = len({m.score.sequence for m in results.measured})
    if 0 < sequences < FEW:
        yield f"{sequences} sequences; an interval from fewer than {FEW} is too narrow to be trusted"
