"""The report's tables on disk: Markdown, LaTeX, CSV and JSON of the same numbers.

The same score rows, in whatever order they were written, make the same bytes.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flow3r.eval.collect import Results
from flow3r.eval.comparisons import (
    comparison_records,
    comparison_sheet,
    comparisons,
    stride_buckets,
    stride_records,
    stride_sheet,
)
from flow3r.eval.paper import general_remarks
from flow3r.eval.report import COLUMNS
from flow3r.eval.result_tables import ResultTable, further_tables, ordered, paper_and_ours, records, short
from flow3r.eval.typeset import Sheet, latex, markdown, sheet
from flow3r.files import write_json, write_text

FORMAT = "flow3r-tables-1"


def write_tables(results: Sequence[Results], folder: str | Path) -> tuple[Path, ...]:
    """Write tables.md, tables.tex, tables.csv and tables.json into `folder`, each atomically, and return their paths.

    Raises InputError for results that cannot stand side by side.
    """
    folder = Path(folder)
    tables = (*paper_and_ours(results), *further_tables(results))
    pages, flat = sheets(results, tables), [record for table in tables for record in records(table)]
    paths = tuple(folder / f"tables.{kind}" for kind in ("md", "tex", "csv", "json"))
    write_text(paths[0], markdown(pages))
    write_text(paths[1], latex(pages))
    write_text(paths[2], as_csv(flat))
    write_json(paths[3], as_json(results, tables, flat))
    return paths


def sheets(results: Sequence[Results], tables: Sequence[ResultTable]) -> tuple[Sheet, ...]:
    """Everything that is printed: the tables, methods compared, strides, and on what it all rests."""
    pages = [sheet(table) for table in tables]
    pages += [comparison_sheet(found)] if (found := comparisons(results)) else []
    pages += [stride_sheet(buckets)] if (buckets := stride_buckets(results)) else []
    return (*pages, Sheet("On the whole", (), (*general_remarks(), *_provenance(results))))


def as_csv(flat: Sequence[dict[str, Any]]) -> str:
    """One line for each number, its name in every column; empty where there is nothing."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return stream.getvalue()


def as_json(
    results: Sequence[Results], tables: Sequence[ResultTable], flat: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """All numbers, with what was measured, what failed and what is missing."""
    return {
        "format": FORMAT,
        "tables": [
            {"name": t.name, "title": t.title, "footnotes": list(t.footnotes), "remarks": list(t.remarks)}
            for t in tables
        ],
        "cells": list(flat),
        "comparisons": comparison_records(comparisons(results)),
        "strides": stride_records(stride_buckets(results)),
        "results": [_summary(r) for r in ordered(results)],
        "remarks": list(general_remarks()),
    }


def _summary(results: Results) -> dict[str, Any]:
    """One method on one benchmark: what its numbers rest on, and its means with and without degenerate sequences."""
    headline, columns = results.headline, [c for c in COLUMNS if results.headline.mean(c) is not None]
    ordinary = {c: headline.mean(c, ordinary_only=True) for c in columns}
    return {
        "method": results.method,
        "benchmark": results.benchmark,
        "profile": results.profile,
        "definition": results.definition,
        "manifest_sha256": results.manifest_sha256,
        "samples": len(results.measured),
        "missing": [list(key) for key in results.missing],
        "failures": dict(sorted(results.failures.items())),
        "degenerate": sum(score.degenerate for score in headline.scores),
        "means": {c: short(headline.mean(c)) for c in columns},
        "means_without_degenerate": {c: short(value) for c, value in ordinary.items() if value is not None},
    }


def _provenance(results: Sequence[Results]) -> list[str]:
    """Definition and manifests behind the numbers."""
    measured = [r for r in ordered(results) if r.measured]
    if not measured:
        return ["Nothing was measured."]
    manifests = {f"{r.benchmark} {r.manifest_sha256[:12]}": None for r in measured}
    units = "ATE and RPE translation are in the unit of each dataset's truth; the paper does not name its own."
    return [units, f"Definition {measured[0].definition} of the measures. Manifests (SHA-256): {', '.join(manifests)}."]
