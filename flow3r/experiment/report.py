"""From the results of runs to what the repository keeps of them: JSON, plots, and the page."""

import json
from pathlib import Path

from flow3r.errors import InputError
from flow3r.eval.tables.intervals import RESAMPLES
from flow3r.experiment.claims import TABLES
from flow3r.experiment.page import OVERVIEW, START, TITLES, has_part, page_with, section
from flow3r.experiment.plots import draw
from flow3r.experiment.result_files import read_runs
from flow3r.experiment.table_analysis import FORMAT, analyse
from flow3r.files import write_json, write_text

PAGE, REAL_PAGE, FOLDER = "experiment_results.md", "experiment_results_real.md", "experiments"
REAL_LINK = f"The same comparison with real clips as the unlabelled domain: [{REAL_PAGE}]({REAL_PAGE})."


def report(
    table: str, results: str | Path, docs: str | Path, *, schedule: str = "cpu", resamples: int = RESAMPLES
) -> tuple[Path, ...]:
    """Write DOCS/experiments/<table>.json and its plots, and this table's part of DOCS/experiment_results.md, from
    RESULTS/<schedule>; return their paths. What is not run yet is said to be.

    Raises InputError for a table that there is not and for results that cannot be used, Flow3rError without matplotlib.
    """
    if table not in TABLES:
        raise InputError(f"no table is called {table!r}; expected one of {', '.join(TABLES)}")
    docs = Path(docs)
    path = docs / FOLDER / f"{table}.json"
    write_json(path, analyse(table, read_runs(results, schedule), resamples))
    return (path, *write_page(docs, table))


def write_page(docs: str | Path, *tables: str) -> tuple[Path, ...]:
    """Plots and page again, of these tables or of all, from the JSON that is kept; return their paths.

    Raises InputError for a file of another format.
    """
    docs = Path(docs)
    page = docs / PAGE
    text = page.read_text(encoding="utf-8") if page.is_file() else START
    real = f"\n{REAL_LINK}\n" if (docs / REAL_PAGE).is_file() else ""
    text = page_with(text, "overview", OVERVIEW + real)
    for table, title in TITLES.items():  # so that parts stand in one order, whichever is run first
        text = text if has_part(text, table) else page_with(text, table, f"## {title}\n\nNot run yet.")
    written = []
    for table in TITLES:
        path = docs / FOLDER / f"{table}.json"
        if (tables and table not in tables) or not path.is_file():
            continue
        analysis = json.loads(path.read_text(encoding="utf-8"))
        if analysis.get("format") != FORMAT:
            raise InputError(f"{path} is of format {analysis.get('format')!r}; expected {FORMAT!r}: report again")
        plots = draw(analysis, docs / FOLDER)
        text = page_with(text, table, section(analysis, [plot.relative_to(docs) for plot in plots]))
        written += plots
    write_text(page, text)
    return (*written, page)
