"""Every number of the paper stands in the tables once, beside ours; nothing is mixed, and what is missing shows."""

import csv
import io
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from scored_rows import manifest, row, rows, scored, write_scores

from flow3r.errors import InputError
from flow3r.eval.report import COLUMNS
from flow3r.eval.tables import paper_sheets, write_tables
from flow3r.eval.tables.collect import Results, check_comparable, read_rows, read_scores, results_of
from flow3r.eval.tables.comparisons import comparison_sheet, comparisons, stride_buckets, stride_sheet
from flow3r.eval.tables.paper import anomalies, paper_tables
from flow3r.eval.tables.result_tables import further_tables, paper_and_ours, records
from flow3r.eval.tables.typeset import console, latex, latex_escaped, markdown, method_name, number, sheet

MEASURES = {"ate": 0.05, "rpe_translation": 0.06, "rpe_rotation": 1.0, "mse": 0.3, "f@5": 0.5}


def sintel(**changed) -> Results:
    return scored("flow3r", "sintel", MEASURES, **changed)


def line(text: str, after: str, what: str, skip: int = 0) -> list[str]:
    """The cells of the first Markdown line of a kind (paper, ours, ...) below a place in the text."""
    found = [row for row in text[text.index(after) :].splitlines() if row.startswith("|") and f"| {what} |" in row]
    return split(found[skip])


def cells_of(results: list[Results], table: int, run: str) -> list[dict]:
    return [cell for cell in records(paper_and_ours(results)[table - 1]) if cell["run"] == run]


def split(line: str) -> list[str]:
    """The cells of a line of Markdown; a bar that is escaped belongs to its cell."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_all_670_numbers_of_the_paper_stand_in_the_markdown_once() -> None:
    """Counted from the text alone: by table, heading, method and column."""
    text = markdown(paper_sheets([sintel()]))
    found: Counter = Counter()
    for part in re.split(r"^## Table ", text, flags=re.M)[1:]:
        for block in re.split(r"^\*\*", part.split("\n## ")[0], flags=re.M)[1:]:
            header, *body = [split(ln) for ln in block.splitlines() if ln.startswith("|")]
            place = int(part.split(".")[0]), block.split("**")[0]
            for cells in (cells for cells in body if cells[1] == "paper"):
                values = [re.sub("[⁰¹²³⁴-⁹,]", "", value) for value in cells[3:]]
                found.update((*place, cells[0], name[:-2], value) for name, value in zip(header[3:], values))
    numbers = [n for table in paper_tables() for n in table.numbers]
    assert found == Counter(
        (n.table, n.dataset, method_name(n.method), n.metric, f"{n.value:.{n.digits}f}") for n in numbers
    )
    assert sum(found.values()) == len(found) == 670


def test_all_670_numbers_of_the_paper_stand_in_the_csv_once(tmp_path: Path) -> None:
    write_tables([sintel()], tmp_path)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "tables.csv").read_text(encoding="utf-8"))))
    found = Counter((x["table"], x["heading"], x["method"], x["metric"], x["paper"]) for x in lines if x["paper"])
    numbers = [n for table in paper_tables() for n in table.numbers]
    assert found == Counter((f"Table {n.table}", n.dataset, n.method, n.metric, str(n.value)) for n in numbers)
    assert set(found.values()) == {1}


def test_ours_stands_below_the_papers_with_difference_and_interval() -> None:
    text = markdown(paper_sheets([sintel()]))
    assert line(text, "## Table 10", "paper", 4)[:6] == ["Flow3r", "paper", "", "0.048", "0.058", "0.920"]
    assert line(text, "## Table 10", "ours", 4)[1:6] == ["ours", "3", "0.060", "0.070", "1.010"]  # mean of draw 0
    assert line(text, "## Table 10", "difference")[3:6] == ["+0.012", "+0.012", "+0.090"]
    assert re.fullmatch(r"\[0\.05\d, 0\.07\d\]", line(text, "## Table 10", "95 %")[3])
    (cell,) = (c for c in cells_of([sintel()], 10, "flow3r") if c["column"] == "ate")
    assert cell["ours"] == pytest.approx(0.06) and cell["mean_of_all_draws"] == pytest.approx(0.0605)
    assert (cell["sequences"], cell["samples"]) == (3, 6)


def test_what_was_not_run_is_visibly_empty() -> None:
    text = markdown(paper_sheets([]))
    ours = [ln for ln in text.splitlines() if "| ours |" in ln]
    assert len(ours) == sum(len(t.datasets) * len(t.methods) for t in paper_tables())
    assert all(set(ln.split("| ours |")[1].replace("|", "").split()) == {"–"} for ln in ours)
    assert "–: not measured" in text and "Nothing was measured." in text and "95 % |" not in text


def test_rows_beyond_the_papers_stand_below_a_rule() -> None:
    results = [sintel(), scored("classical", "sintel", MEASURES), scored("table5-pi3-3d", "sintel", MEASURES)]
    (block,) = paper_and_ours(results)[9].blocks
    assert [ln.method for ln in block.lines if ln.beyond] == ["classical"]  # an ablation's run is left to its table
    (grid,) = paper_sheets(results)[9].grids
    rule = grid.lines.index(None)
    assert grid.lines[rule + 1][0] == "classical" and "classical" not in {ln[0] for ln in grid.lines[:rule]}


def test_training_variants_answer_their_rows() -> None:
    results = [
        scored("table1-static-3d-sup", "scannetpp", {"rra@30": 40.0}),
        scored("table1-static-3d-sup-exposures", "scannetpp", {"rra@30": 41.0}),
        scored("table1-dynamic-flow-factored", "omniworld", {"rra@30": 50.0}),
        scored("table1-dynamic-flow-factored", "spatialvid", {"aepe": 20.0}),
        scored("flow3r", "epic_kitchens", {"mse": 0.2}),
    ]
    answers = {
        table: {
            (c["method"], c["column"]) for c in records(paper_and_ours(results)[table - 1]) if c["ours"] is not None
        }
        for table in (1, 4, 5, 6, 7)
    }
    factored = "OmniWorld (1K) | unlabeled SpatialVID (3K)"
    assert answers[1] == {
        ("3d-sup", "rra@30"), ("table1-static-3d-sup-exposures", "rra@30"), ("flow-factored", "rra@30")
    }  # fmt: skip
    assert answers[4] == answers[7] == {(factored, "rra@30")}
    assert answers[6] == {("flow-factored", "rra@30"), ("flow-factored", "aepe")}
    assert answers[5] == {("pi3: 3D sup. + labeled + unlabeled flow (full)", "mse")}  # the same run as flow3r


def test_every_anomaly_is_printed_and_every_mark_leads_to_its_note() -> None:
    pages = paper_sheets([])
    notes = [note for page in pages for note in page.notes]
    for anomaly in anomalies():
        assert any(anomaly.text in note for note in notes), anomaly.text
    for table in paper_and_ours([]):
        used = {k for cell in records(table) if cell["footnotes"] for k in map(int, cell["footnotes"].split())}
        assert used == set(range(1, len(table.footnotes) + 1))
    assert "0.059¹" in markdown(pages)


def test_the_order_of_rows_and_files_changes_no_byte(tmp_path: Path) -> None:
    of = manifest("sintel")
    lines, others = rows(of, MEASURES), rows(of, {"ate": 0.04})
    assert results_of("flow3r", "flow3r", lines, of) == results_of("flow3r", "flow3r", lines[::-1], of)
    written = []
    for name, order in (("a", 1), ("b", -1)):
        methods = [("flow3r", lines[::order]), ("pi3", others[::order])][::order]
        results = [results_of(method, "flow3r", rows_, of) for method, rows_ in methods]
        written.append([path.read_bytes() for path in write_tables(results, tmp_path / name)])
    assert written[0] == written[1]


def test_profiles_definitions_and_manifests_are_never_mixed() -> None:
    of, longer = manifest("sintel"), manifest("sintel", sequences=4)
    good = rows(of, MEASURES)
    for changed, said in (
        ({"profile": "pi3"}, "profile.*1 rows of 'pi3'"),
        ({"definition": 2}, "definition.*rows of 1.*rows of 2"),
        ({"manifest_sha256": longer.sha256}, "manifest_sha256"),
        ({"benchmark": "bonn"}, "benchmark.*'bonn'"),
        ({"budget": 1000}, "budget.*1 rows of 1000"),
    ):
        with pytest.raises(InputError, match=said):
            results_of("flow3r", "flow3r", [*good[1:], good[0] | changed], of)
    with pytest.raises(InputError, match=r"definition.*sintel of 'flow3r': 1.*sintel of 'pi3': 2"):
        paper_and_ours([sintel(), scored("pi3", "sintel", MEASURES, definition=2)])
    with pytest.raises(InputError, match="budget of points"):
        paper_and_ours([sintel(), scored("pi3", "bonn", MEASURES, budget=1000)])
    with pytest.raises(InputError, match="manifest of sintel"):
        write_tables([sintel(), scored("pi3", "sintel", MEASURES, sequences=4)], "unused")
    check_comparable([sintel(), scored("flow3r", "bonn", MEASURES, sequences=4)])


def test_numbers_of_another_profile_stand_in_tables_of_their_own() -> None:
    results = [sintel(profile="pi3")]
    assert not any(cell["ours"] for table in paper_and_ours(results) for cell in records(table))
    (table,) = further_tables(results)
    assert table.profile == "pi3" and {cell["ours"] for cell in records(table)} != {None}


def test_a_newer_row_replaces_an_older_one() -> None:
    of = manifest("sintel")
    old, new = rows(of, {"ate": 1.0}), rows(of, {"ate": 2.0}, definition=2)
    results = results_of("flow3r", "flow3r", [*new[:3], *old, *new[3:]], of)
    assert results.definition == 2 and results.headline.mean("ate") > 2
    again = rows(of, {"ate": 3.0}, sample_sha256="cd")  # predicted again: the last written counts
    assert results_of("flow3r", "flow3r", [*old, *again], of).headline.mean("ate") > 3


def test_partial_results_are_marked_and_missing_rows_counted() -> None:
    of = manifest("sintel", sequences=4)
    kept = [line for line in rows(of, MEASURES) if line["sequence"] != "s3"]
    results = results_of("flow3r", "flow3r", kept, of)
    assert results.missing == (("s3", 0), ("s3", 1)) and not results.complete and results.expected == 4
    text = markdown(paper_sheets([results]))
    assert line(text, "## Table 10", "ours", 4)[2:4] == ["3 of 4", "0.060†"]
    assert "flow3r on Sintel: partial, 2 of 8 rows are missing." in text
    assert "†" not in line(markdown(paper_sheets([sintel()])), "## Table 10", "ours", 4)[3]


def test_failures_count_in_the_mean_and_are_said() -> None:
    of = manifest("sintel")
    bad = row(of.draws[0], of, {"ate": 9.0}, failed="not a number")
    results = results_of("flow3r", "flow3r", [bad, *rows(of, {"ate": 0.0})[1:]], of)
    assert results.headline.mean("ate") == pytest.approx((9.0 + 0.01 + 0.02) / 3)
    (table,) = further_tables([results])
    assert any("1 of 6 samples failed and have the worst scores: not a number (1)" in note for note in table.remarks)


def test_means_are_given_with_and_without_degenerate_sequences(tmp_path: Path) -> None:
    of = manifest("sintel")
    odd = row(of.draws[0], of, {"ate": 0.9, "mse": 0.1}, degenerate=True)
    results = results_of("flow3r", "flow3r", [odd, *rows(of, {"ate": 0.1, "mse": 0.1})[1:]], of)
    (table,) = further_tables([results])
    assert any("1 of 3 true trajectories are degenerate; without them: ATE 0.1150." in n for n in table.remarks)
    (summary,) = json.loads(write_tables([results], tmp_path)[3].read_text())["results"]
    assert summary["means"]["ate"] == pytest.approx((0.9 + 0.11 + 0.12) / 3, rel=1e-8)
    assert summary["means_without_degenerate"]["ate"] == pytest.approx(0.115) and summary["degenerate"] == 1


def test_few_sequences_carry_a_caveat() -> None:
    def said(sequences: int) -> bool:
        (table,) = further_tables([scored("flow3r", "bonn", MEASURES, sequences=sequences)])
        return any("too narrow to be trusted" in note for note in table.remarks)

    assert said(9) and not said(10)


def test_csv_and_json_hold_the_same_numbers(tmp_path: Path) -> None:
    paths = write_tables([sintel(), scored("pi3", "pi3_dtu", {"accuracy": 0.2}, profile="pi3")], tmp_path)
    cells = json.loads(paths[3].read_text())["cells"]
    lines = list(csv.DictReader(io.StringIO(paths[2].read_text(encoding="utf-8"))))
    assert len(cells) == len(lines) > 670
    for cell, text in zip(cells, lines):
        assert set(cell) == set(text)
        for key, value in cell.items():
            kind = float if isinstance(value, float) else str
            assert (text[key] == "") if value is None else (kind(text[key]) == kind(value))


def test_latex_is_balanced_and_escaped() -> None:
    results = [sintel(), scored("a_b&c", "sintel", MEASURES), scored("a_b&c", "pi3_dtu", MEASURES, profile="pi3")]
    text = latex([*paper_sheets(results), *map(sheet, further_tables(results))])
    assert text.isascii() and "a\\_b\\&c" in text and "$\\pi^{3}$" in text
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    plain = re.sub(r"\\[\\{}$%&_#]", lambda found: "" if found[0] != "\\\\" else "\\\\", text)
    assert plain.count("{") == plain.count("}") and plain.count("$") % 2 == 0
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, flags=re.S):
        body_rows = [ln for ln in body.splitlines() if ln.endswith("\\\\") and "multicolumn" not in ln]
        assert body_rows and {len(re.findall(r"(?<!\\)&", ln)) for ln in body_rows} == {len(columns) - 1}
    assert latex_escaped("50 % of $x_1$ ^ ~ \\ 0.1¹²") == (
        r"50 \% of \$x\_1\$ \textasciicircum{} \textasciitilde{} \textbackslash{} 0.1$^{12}$"
    )


def test_the_console_shows_every_number_of_a_table() -> None:
    stream = io.StringIO()
    screen = Console(file=stream, width=130, color_system=None)
    for page in paper_sheets([sintel()]):
        screen.print(*console(page), sep="\n")
    text = stream.getvalue()
    for of_paper in paper_tables()[9].numbers:
        assert f"{of_paper.value:.{of_paper.digits}f}" in text
    assert "+0.012" in text and "Table 15" in text and "On the whole" in text


def test_numbers_are_printed_without_a_negative_zero() -> None:
    assert number(-0.0004, 3, sign=True) == "0.000" and number(-0.0006, 3, sign=True) == "-0.001"
    assert number(None, 2) == number(float("nan"), 2) == "–" and number(1.0, 1, sign=True) == "+1.0"


def test_methods_are_compared_on_the_samples_that_both_have() -> None:
    of = manifest("sintel", sequences=12)
    results = [
        results_of("nano", "flow3r", rows(of, {"ate": 0.1})[:-2], of),
        results_of("classical", "flow3r", rows(of, {"ate": 0.3, "aepe": 1.0}), of),
    ]
    (found,) = comparisons(results)
    difference = found.differences["ate"]
    assert (found.method, found.other, set(found.differences)) == ("nano", "classical", {"ate"})
    assert difference.interval.mean == pytest.approx(-0.2) and (difference.wins, difference.losses) == (11, 0)
    assert difference.p == pytest.approx(2 / 2**11)
    (back,) = comparisons(results, reference="classical")
    assert back.differences["ate"].losses == 11 and comparisons(results, reference="vggt") == ()
    assert "nano − classical on Sintel" in markdown([comparison_sheet([found])])


def test_buckets_of_stride_part_the_draws() -> None:
    of = manifest("sintel", sequences=4, draws=3, strides=(1, 2, 6))
    lines = [row(d, of, {"ate": float(d.stride)}) for d in of.draws]
    buckets = stride_buckets([results_of("flow3r", "flow3r", lines, of)])
    assert [(b.stride, b.samples, b.means["ate"]) for b in buckets] == [
        (1, 4, 1.0),
        (2, 4, 2.0),
        (6, 4, 6.0),
    ]
    assert "| 6 | flow3r | 4 | 6.0000 |" in markdown([stride_sheet(buckets)])
    single = manifest("sintel", strides=(4,))
    assert stride_buckets([results_of("flow3r", "flow3r", rows(single, MEASURES), single)]) == ()


def test_score_files_are_read_against_their_manifests(tmp_path: Path) -> None:
    of = manifest("sintel")
    path = write_scores(tmp_path, "flow3r", of, rows(of, MEASURES))
    assert read_scores(tmp_path) == (results_of("flow3r", "flow3r", rows(of, MEASURES), of),)
    path.write_bytes(path.read_bytes()[:-20])  # killed within the last line
    (torn,) = read_scores(tmp_path)
    assert torn.missing == (("s2", 1),) and len(torn.measured) == 5


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"values": {"ate": float("nan")}}, "not a finite number"),
        ({"values": {"ate": "1"}}, "not a finite number"),
        ({"values": {"no such measure": 1.0}}, "no such measure"),
        ({"draw": "0"}, "draw of another type"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, damage: dict, said: str) -> None:
    of = manifest("sintel")
    good = rows(of, MEASURES)
    path = write_scores(tmp_path, "flow3r", of, [good[0], good[1] | damage, *good[2:]])
    with pytest.raises(InputError, match=f"line 2.*{said}"):
        read_rows(path)
    path.write_text("{\n" + json.dumps(good[0]) + "\n")
    with pytest.raises(InputError, match="line 1"):
        read_scores(tmp_path)


def test_all_measures_of_the_report_have_a_column() -> None:
    results = [scored("flow3r", "sintel", dict.fromkeys(COLUMNS, 1.0))]
    (table,) = further_tables(results, all_readings=True)
    assert [cell["column"] for cell in records(table)] == sorted(
        COLUMNS, key=lambda name: list(dict.fromkeys(c.group for c in COLUMNS.values())).index(COLUMNS[name].group)
    )
    assert all(cell["low"] is not None for cell in records(table) if cell["column"] != "sampson")


def test_other_readings_of_a_measure_are_kept_in_files_and_out_of_tables(tmp_path: Path) -> None:
    results = [scored("flow3r", "pi3_dtu", {"rta@30": 50.0, "rta_strict@30": 60.0}, profile="pi3")]
    paths = write_tables(results, tmp_path)
    for page in paths[:2]:
        text = page.read_text(encoding="utf-8")
        assert "RTA@30" in text and "50.0" in text and "strict" not in text
    for file in paths[2:]:
        assert "rta_strict@30" in file.read_text(encoding="utf-8")


def test_depth_is_also_given_as_the_references_weigh_it(tmp_path: Path) -> None:
    """Twice the pixels count twice; where a sequence's pixels are unknown, there is no such mean."""
    of = manifest("pi3_sintel_depth")
    pixels = {"s0": 100, "s1": 300, "s2": 600}
    lines = [row(d, of, {"abs_rel": float(d.sequence[1:]), "ate": 1.0}, facts={"true_depth_pixels": pixels[d.sequence]})
             for d in of.draws]  # fmt: skip
    results = results_of("flow3r", "flow3r", lines, of)
    assert results.means["abs_rel"] == 1.0 and results.means_by_pixels == {"abs_rel": pytest.approx(1.5)}
    (table,) = further_tables([results])
    assert any("weighted by their pixels of true depth" in note and "AbsRel 1.5000" in note for note in table.remarks)
    written = json.loads(write_tables([results], tmp_path)[3].read_text())
    assert written["results"][0]["means_by_pixels"] == {"abs_rel": 1.5}
    assert [c["weighted_by_pixels"] for c in written["cells"] if c["column"] == "abs_rel" and c["ours"]] == [1.5]
    unknown = results_of("flow3r", "flow3r", [lines[0] | {"facts": {}}, *lines[1:]], of)
    assert unknown.means_by_pixels == {}


def test_what_numbers_rest_on_is_in_the_json(tmp_path: Path) -> None:
    of = manifest("sintel")
    lines = rows(of, MEASURES, facts={"s": 2.0, "scale_ratio": 0.01, "pairs": 28})
    (summary,) = json.loads(write_tables([results_of("nano", "flow3r", lines, of)], tmp_path)[3].read_text())["results"]
    assert summary["facts"] == {name: {"pairs": 28, "s": 2.0, "scale_ratio": 0.01} for name in ("s0", "s1", "s2")}


def test_what_a_manifest_does_without_is_said(tmp_path: Path) -> None:
    of = replace(manifest("nrgbd"), skipped={"short": "3 frames; at least 8 are needed"}, missing=("kitchen",))
    write_scores(tmp_path, "nano", of, rows(of, MEASURES))
    (results,) = read_scores(tmp_path)
    (table,) = further_tables([results])
    assert any("without 2 sequences: kitchen (missing), short (3 frames" in note for note in table.remarks)
