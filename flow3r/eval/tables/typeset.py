"""Text of tables: Markdown, LaTeX, the console. One layout for all of them; what differs is the decoration."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flow3r.eval.report import COLUMNS
from flow3r.eval.tables.result_tables import Block, Cell, Line, ResultTable

NOTHING = "–"
PARTIAL = "†"
LEGEND = (
    f"{NOTHING}: not measured. {PARTIAL}: partial, of fewer samples than the manifest has. Ours is the mean of the "
    "first draw of every sequence, failed samples with their worst scores; 95 % is the bootstrap interval of the mean "
    "of all draws, with the sequence as the cluster. Difference: ours minus the paper's. n: sequences. Raised numbers "
    "on the paper's values refer to the notes below a table."
)
_ARROWS = {"higher": "↑", "lower": "↓"}
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_LOWERED = {raised: plain for plain, raised in _RAISED.items()}
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", "–": "--", "−": "$-$",
    "°": r"$^{\circ}$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "†": r"$^{\dagger}$", "π": r"$\pi$", "δ": r"$\delta$",
    "×": r"$\times$", "✓": r"$\checkmark$", "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$",
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """Cells of text under one heading; None among the lines is a rule."""

    heading: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...] | None, ...]
    left: int = 1  # columns set flush left; numbers follow


@dataclass(frozen=True)
class Sheet:
    """A titled stack of grids and what is to be said below them."""

    title: str
    grids: tuple[Grid, ...]
    notes: tuple[str, ...] = ()


def sheet(table: ResultTable) -> Sheet:
    """The text of a table: under each method of the paper its numbers, ours, the difference and the interval."""
    notes = [f"{raised(str(k))} {text}" for k, text in enumerate(table.footnotes, 1)]
    grids = tuple(_grid(block) for block in table.blocks)
    return Sheet(f"{table.name}. {table.title}", grids, (*notes, *table.remarks))


def markdown(sheets: Sequence[Sheet]) -> str:
    """GitHub's tables, with the legend before them."""
    parts = [f"{LEGEND}\n"]
    for page in sheets:
        parts.append(f"## {page.title}\n")
        for grid in page.grids:
            parts.append(f"**{_plain(grid.heading)}**\n")
            rows = [grid.header, tuple("---" if k < grid.left else "--:" for k in range(len(grid.header)))]
            rows += [row or ("",) * len(grid.header) for row in grid.lines]
            parts.append("\n".join(f"| {' | '.join(map(_plain, row))} |" for row in rows) + "\n")
        parts += [f"* {_plain(note)}" for note in page.notes]
        parts += [""] if page.notes else []
    return "\n".join(parts)


def latex(sheets: Sequence[Sheet]) -> str:
    """Floats for \\input, set with booktabs and graphicx."""
    lines = ["% \\usepackage{booktabs,graphicx}", f"% {latex_escaped(LEGEND)}"]
    for number, page in enumerate(sheets, 1):
        if not page.grids:
            lines += [f"\\paragraph{{{latex_escaped(page.title)}}}", *(f"{latex_escaped(n)}\\par" for n in page.notes)]
            continue
        lines += ["\\begin{table*}[p]", "\\centering", f"\\caption{{{latex_escaped(page.title)}}}"]
        lines += [f"\\label{{tab:flow3r-{number}}}", "\\resizebox{\\linewidth}{!}{%"]
        widest = max(len(grid.header) for grid in page.grids)
        left = max(grid.left for grid in page.grids)
        lines += [f"\\begin{{tabular}}{{{'l' * left}{'r' * (widest - left)}}}", "\\toprule"]
        for k, grid in enumerate(page.grids):
            lines += ["\\midrule"] if k else []
            lines += [f"\\multicolumn{{{widest}}}{{l}}{{\\textbf{{{latex_escaped(grid.heading)}}}}} \\\\"]
            lines += [_latex_row(grid.header, widest), "\\midrule"]
            lines += ["\\midrule" if row is None else _latex_row(row, widest) for row in grid.lines]
        lines += ["\\bottomrule", "\\end{tabular}}"]
        if page.notes:
            lines += ["\\begin{flushleft}\\footnotesize"]
            lines += [f"{latex_escaped(note)}\\par" for note in page.notes] + ["\\end{flushleft}"]
        lines += ["\\end{table*}", ""]
    return "\n".join(lines)


def console(page: Sheet) -> Iterator[Table | Text]:
    """What rich prints: a table for each grid, then the notes."""
    for grid in page.grids:
        title = page.title if len(page.grids) == 1 else f"{page.title}: {grid.heading}"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column, name in enumerate(grid.header):
            left = column < grid.left
            table.add_column(name, justify="left" if left else "right", no_wrap=left, overflow="fold")
        for row in grid.lines:
            if row is None:
                table.add_section()
            else:
                table.add_row(*row)
        yield table
    yield Text("\n".join(page.notes if page.grids else (page.title, *page.notes)))


def latex_escaped(text: str) -> str:
    """Text that LaTeX sets as it reads."""
    raised_run = re.compile("[" + "".join(map(chr, _RAISED.values())) + "]+")
    parts, last = [], 0
    for found in raised_run.finditer(text):
        parts += [*(_LATEX.get(letter, letter) for letter in text[last : found.start()])]
        parts += [f"$^{{{found.group().translate(_LOWERED)}}}$"]
        last = found.end()
    parts += [*(_LATEX.get(letter, letter) for letter in text[last:])]
    return re.sub(r"(?<!\\)\$\$", "", "".join(parts))  # one formula where two touch


def raised(text: str) -> str:
    """Digits as superscripts."""
    return text.translate(_RAISED)


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """A number of so many decimals; a dash for None and NaN. What rounds to zero has no sign."""
    if value is None or value != value:
        return NOTHING
    text = f"{value:.{digits}f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    return f"+{text}" if sign and float(text) > 0 else text


def bounds(low: float | None, high: float | None, digits: int) -> str:
    """An interval; a dash where there is none."""
    none = low is None or low != low
    return NOTHING if none else f"[{number(low, digits)}, {number(high, digits)}]"


def arrow(column: str) -> str:
    """Which way is better."""
    return _ARROWS[COLUMNS[column].better]


def method_name(method: str) -> str:
    """The paper's spelling of pi3."""
    return re.sub(r"^pi3\b", "π³", method)


def _grid(block: Block) -> Grid:
    header = ("", "", "n", *(f"{cell.metric} {arrow(cell.column)}" for cell in block.columns))
    lines: list[tuple[str, ...] | None] = []
    for before, line in zip((None, *block.lines), block.lines):
        if before is not None and line.beyond != before.beyond:
            lines.append(None)
        lines += _method_lines(line)
    return Grid(block.heading, header, tuple(lines), left=2)


def _method_lines(line: Line) -> Iterator[tuple[str, ...]]:
    """The lines of one method. Where nothing was measured, one of dashes stands for ours."""
    rows = []
    if any(cell.paper for cell in line.cells):
        rows.append(("paper", "", *(_paper(cell) for cell in line.cells)))
    rows.append(("ours", _sequences(line), *(_ours(cell) for cell in line.cells)))
    if line.measured and any(cell.paper for cell in line.cells):
        rows.append(("difference", "", *(number(cell.difference, cell.digits, sign=True) for cell in line.cells)))
    if line.measured:
        rows.append(("95 %", "", *(_interval(cell) for cell in line.cells)))
    for k, row in enumerate(rows):
        yield (method_name(line.method) if k == 0 else "", *row)


def _paper(cell: Cell) -> str:
    if cell.paper is None:
        return NOTHING
    return number(cell.paper.value, cell.paper.digits) + raised(",".join(map(str, cell.paper.footnotes)))


def _ours(cell: Cell) -> str:
    partial = PARTIAL if cell.ours is not None and not cell.complete else ""
    return number(cell.ours, cell.digits) + partial


def _interval(cell: Cell) -> str:
    return NOTHING if cell.interval is None else bounds(cell.interval.low, cell.interval.high, cell.digits)


def _sequences(line: Line) -> str:
    """Over how many sequences, of how many where some are missing; by cell where they differ."""
    cells = [cell for cell in line.cells if cell.sequences] or [cell for cell in line.cells if cell.run]
    said = dict.fromkeys(
        f"{c.sequences}" if c.sequences == c.expected else f"{c.sequences} of {c.expected}" for c in cells
    )
    return ", ".join(said) or NOTHING


def _latex_row(row: Sequence[str], widest: int) -> str:
    return " & ".join(map(latex_escaped, (*row, *[""] * (widest - len(row))))) + " \\\\"


def _plain(text: str) -> str:
    """Markdown that reads as it stands, within a table too."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("_", "\\_").replace("<", "&lt;")
