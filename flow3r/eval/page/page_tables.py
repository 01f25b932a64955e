"""Tables of the page, as HTML."""

import html
from collections.abc import Sequence

from flow3r.eval.report import COLUMNS, label_in
from flow3r.eval.tables.collect import HEADLINE, Measured, Results
from flow3r.eval.tables.typeset import Sheet, arrow, method_name, number

CHOSEN_BY = ("mse", "auc@30", "ate", "abs_rel", "aepe")  # the first measure that the first method has
BEST = ' class="best"'
DROPPED = "dropped"  # the column of points that are not finite


def headline(results: Results) -> dict[str, Measured]:
    """The first draw of every sequence, by its name."""
    return {measured.score.sequence: measured for measured in results.measured if measured.draw == HEADLINE}


def listed_measure(results: Sequence[Results]) -> str | None:
    """The measure by which sequences are chosen and listed."""
    for name in CHOSEN_BY:
        if any(name in measured.score.values for r in results[:1] for measured in r.measured):
            return name
    return None


def measures_table(results: list[Results]) -> str:
    """Measures by methods: means of the headline draws, other readings of a measure folded away.

    Points that a method does not give are left out of its MSE, so that their share stands beside it if there are any.
    """
    columns = [name for name in COLUMNS if any(name in r.columns for r in results)]
    shown = {name for name in columns if COLUMNS[name].main}
    shown |= {DROPPED} if any(r.headline.mean(DROPPED) for r in results) else set()
    counts = "".join(f"<td>{len(r.headline.scores)} of {r.expected}</td>" for r in results)
    fails = "".join(f"<td>{sum(bool(m.failed) for m in headline(r).values())}</td>" for r in results)
    said = f"profile {results[0].profile}, mean of the first draw of every sequence"
    counted = f"<tr><td>sequences</td>{counts}</tr><tr><td>of which failed</td>{fails}</tr>"
    table = _table(results, counted + _means(results, [c for c in columns if c in shown]), said)
    others = [c for c in columns if c not in shown]
    if others:
        folded = _table(results, _means(results, others), said)
        summary = f"{len(others)} further measures, profile {html.escape(results[0].profile)}"
        table += f"<details><summary>{summary}</summary>{folded}</details>"
    return table


def _means(results: list[Results], columns: list[str]) -> str:
    """Rows of a table: each measure's mean of every method, the best one marked if all are of the same sequences.

    Of how many stands beside a measure that not all sequences have: those whose labels allow it.
    """
    lines, previous = [], None
    for name in columns:
        column = COLUMNS[name]
        means = [r.headline.mean(name) for r in results]
        known = [m for m in means if m is not None and m == m]
        measured = [_measured(r, name) for r in results]
        comparable = len(known) > 1 and len(set(filter(None, measured))) == 1
        best = (min if column.better == "lower" else max)(known) if comparable else None
        marks = [BEST if best is not None and mean == best else "" for mean in means]
        cells = "".join(f"<td{mark}>{number(mean, column.digits)}</td>" for mark, mean in zip(marks, means))
        rule = "" if previous == column.group else ' class="rule"'
        previous = column.group
        label = f"{html.escape(label_in(name, results[0].profile))} {arrow(name)}"
        if any(len(of) != len(headline(r)) for of, r in zip(measured, results)):
            label += f" <small>n = {', '.join(dict.fromkeys(str(len(of)) for of in measured))}</small>"
        lines.append(f"<tr{rule}><td>{label}</td>{cells}</tr>")
    return "".join(lines)


def _measured(results: Results, name: str) -> frozenset[str]:
    """The sequences whose headline draw has a measure."""
    return frozenset(sequence for sequence, m in headline(results).items() if name in m.score.values)


def _table(results: list[Results], lines: str, said: str = "") -> str:
    """A table with a column for every method."""
    header = "".join(f"<th>{html.escape(method_name(r.method))}</th>" for r in results)
    return f"<table><tr><th><small>{html.escape(said)}</small></th>{header}</tr>{lines}</table>"


def sequences_table(results: list[Results]) -> str:
    """One measure of every sequence."""
    measure = listed_measure(results)
    found = sorted({sequence for r in results for sequence in headline(r)})
    if measure is None or not found:
        return ""
    lines = []
    for sequence in found:
        cells = "".join(_value(headline(r).get(sequence), measure) for r in results)
        lines.append(f"<tr><td>{html.escape(sequence)}</td>{cells}</tr>")
    label = html.escape(label_in(measure, results[0].profile))
    return (
        f"<details><summary>{label} {arrow(measure)} of all {len(found)} sequences</summary>"
        f"{_table(results, ''.join(lines))}</details>"
    )


def _value(measured: Measured | None, measure: str) -> str:
    value = None if measured is None else measured.score.values.get(measure)
    wrong = measured is not None and measured.failed
    said = f' class="wrong" title="{html.escape(measured.failed, quote=True)}"' if wrong else ""
    return f"<td{said}>{number(value, COLUMNS[measure].digits)}</td>"


def sheet_html(sheet: Sheet) -> str:
    """A sheet of the report's tables, folded away under its title."""
    parts = [f"<details><summary>{html.escape(sheet.title)}</summary>"]
    for grid in sheet.grids:
        header = "".join(f"<th>{html.escape(cell)}</th>" for cell in grid.header)
        lines = "".join(
            '<tr class="rule"></tr>'
            if row is None
            else f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in row)}</tr>"
            for row in grid.lines
        )
        parts.append(f"<p><b>{html.escape(grid.heading)}</b></p><table><tr>{header}</tr>{lines}</table>")
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in sheet.notes)
    return "".join(parts) + (f"<ul>{notes}</ul>" if notes else "") + "</details>"
