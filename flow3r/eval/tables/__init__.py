"""The report's tables on disk: Markdown, LaTeX, CSV and JSON of the same numbers.

The same score rows, in whatever order they were written, make the same bytes.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flow3r.eval.tables.collect import Results
from flow3r.eval.tables.comparisons import (
    comparison_records,
    comparison_sheet,
    comparisons,
    stride_buckets,
    stride_records,
    stride_sheet,
)
from flow3r.eval.tables.paper import general_remarks
from flow3r.eval.tables.result_tables import ResultTable, further_tables, ordered, paper_and_ours, records, short
from flow3r.eval.tables.typeset import Sheet, latex, markdown, sheet
from flow3r.files import write_json, write_text

FORMAT = "flow3r-tables-1"


def write_tables(results: Sequence[Results], folder: str | Path) -> tuple[Path, ...]:
    """Write tables.md, tables.tex, tables.csv and tables.json into `folder`, each atomically, and return their paths.

    Raises InputError for results that cannot stand side by side.
    """
    folder, pages = Path(folder), all_sheets(results)
    tables = (*paper_and_ours(results), *further_tables(results, all_readings=True))
    flat = [record for table in tables for record in records(table)]
    paths = tuple(folder / f"tables.{kind}" for kind in ("md", "tex", "csv", "json"))
    write_text(paths[0], markdown(pages))
    write_text(paths[1], latex(pages))
    write_text(paths[2], as_csv(flat))
    content = {
        "format": FORMAT,
        "tables": [_said(table) for table in tables],
        "cells": flat,
        "comparisons": comparison_records(comparisons(results)),
        "strides": stride_records(stride_buckets(results)),
        "results": [_summary(r) for r in ordered(results)],
        "remarks": list(on_the_whole(results).notes),
    }
    write_json(paths[3], content)
    return paths


def all_sheets(results: Sequence[Results]) -> tuple[Sheet, ...]:
    """The paper's tables, main measures on each benchmark, methods compared, strides, and what concerns them all."""
    pairs, buckets = comparisons(results), stride_buckets(results)
    return (
        *map(sheet, (*paper_and_ours(results), *further_tables(results))),
        *([comparison_sheet(pairs)] if pairs else []),
        *([stride_sheet(buckets)] if buckets else []),
        on_the_whole(results),
    )


def paper_sheets(results: Sequence[Results]) -> tuple[Sheet, ...]:
    """Tables 1 to 15, ours beside the paper's, and what concerns them all: for typeset.console."""
    return (*map(sheet, paper_and_ours(results)), on_the_whole(results))


def as_csv(flat: Sequence[dict[str, Any]]) -> str:
    """One line for each number, its name in every column; empty where there is nothing."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return stream.getvalue()


def on_the_whole(results: Iterable[Results]) -> Sheet:
    """What concerns all tables: the paper's oddities, units, the definition and the manifests behind the numbers."""
    notes, measured = list(general_remarks()), [r for r in ordered(results) if r.measured]
    if not measured:
        return Sheet("On the whole", (), (*notes, "Nothing was measured."))
    manifests = ", ".join(dict.fromkeys(f"{r.benchmark} {r.manifest_sha256[:12]}" for r in measured))
    points = "all points" if measured[0].budget is None else f"{measured[0].budget} points of each cloud"
    notes += [
        "ATE and RPE translation are in the unit of each dataset's truth; the paper does not name its own.",
        f"Definition {measured[0].definition} of the measures, on {points}. Manifests (SHA-256): {manifests}.",
    ]
    return Sheet("On the whole", (), tuple(notes))


def _said(table: ResultTable) -> dict[str, Any]:
    """What stands above and below a table."""
    words = {"footnotes": list(table.footnotes), "remarks": list(table.remarks)}
    return {"name": table.name, "title": table.title, "profile": table.profile, **words}


def _summary(results: Results) -> dict[str, Any]:
    """One method on one benchmark: what its numbers rest on, sequence by sequence, and its means in every reading."""
    headline = results.headline
    ordinary = {c: headline.mean(c, ordinary_only=True) for c in results.means}
    return {
        "method": results.method,
        "benchmark": results.benchmark,
        "profile": results.profile,
        "definition": results.definition,
        "budget": results.budget,
        "manifest_sha256": results.manifest_sha256,
        "samples": len(results.measured),
        "missing": [list(key) for key in results.missing],
        "left_out": dict(sorted(results.left_out.items())),
        "failures": dict(sorted(results.failures.items())),
        "degenerate": sum(score.degenerate for score in headline.scores),
        "means": {c: short(value) for c, value in results.means.items()},
        "means_without_degenerate": {c: short(value) for c, value in ordinary.items() if value is not None},
        "means_by_pixels": {c: short(value) for c, value in results.means_by_pixels.items()},
        "facts": {
            score.sequence: {name: short(value) for name, value in sorted(score.facts.items())}
            for score in headline.scores
        },
    }
