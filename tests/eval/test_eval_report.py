"""Reports: means, footnotes, side by side, and on disk."""

import json

import pytest

from flow3r.eval.report import COLUMNS, Report, Row, Score, compare, footnotes, to_text, write_report


def report(*aepe: float, name: str = "model", trivial: bool = True) -> Report:
    rows = [Row(name, tuple(Score(f"s{k}", {"aepe": value, "rra@30": 50.0}) for k, value in enumerate(aepe)))]
    if trivial:
        rows.append(Row("ground truth", tuple(Score(f"s{k}", {"aepe": 0.0, "rra@30": 100.0}) for k in range(2))))
    return Report("worlds", tuple(rows), {"scenes": 2}, ("something is missing",))


def test_means_are_over_the_sequences_that_have_the_measure() -> None:
    row = Row("m", (Score("a", {"ate": 1.0}), Score("b", {"ate": 3.0}, degenerate=True), Score("c", {"aepe": 7.0})))
    assert row.mean("ate") == 2.0 and row.mean("ate", ordinary_only=True) == 1.0
    assert row.mean("aepe") == 7.0 and row.mean("mse") is None
    assert Report("t", (row,)).columns == ("ate", "aepe")
    assert Report("t", (row,)).mean("m", "ate") == 2.0
    with pytest.raises(KeyError):
        Report("t", (row,)).mean("nobody", "ate")


def test_the_sampson_error_is_the_median_of_the_pairs_medians() -> None:
    row = Row("m", tuple(Score(str(k), {"sampson": value}) for k, value in enumerate((0.1, 0.3, 90.0))))
    assert row.mean("sampson") == pytest.approx(0.3)


def test_the_table_shows_every_measure_of_every_row_and_which_way_is_better() -> None:
    text = to_text(report(1.0, 2.0), width=80)
    assert "AEPE px ↓" in text and "RRA@30° % ↑" in text
    assert "1.50" in text and "100.0" in text and "ground truth" in text and "something is missing" in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "–" in to_text(Report("t", (Row("a", (Score("s", {"mse": 1.0}),)), Row("b", (Score("s", {}),)))))


def test_all_main_columns_and_five_rows_fit_a_terminal() -> None:
    values = dict.fromkeys(COLUMNS, 123.456)
    names = ("before", "after", "identity pose", "mean training pose", "ground truth")
    rows = tuple(Row(name, (Score("s", values),)) for name in names)
    lines = to_text(Report("t", rows), width=100).splitlines()
    for column in COLUMNS.values():
        assert any(
            line.startswith(f"│ {column.label} {'↑' if column.better == 'higher' else '↓'}") for line in lines
        ) == (column.main), column.label


def test_before_and_after_stand_side_by_side() -> None:
    both = compare(report(4.0, 6.0), report(1.0, 1.0, trivial=False))
    assert [row.name for row in both.rows] == ["before", "after", "ground truth"]
    assert both.mean("before", "aepe") == 5.0 and both.mean("after", "aepe") == 1.0
    assert both.remarks == ("something is missing",)
    other = Report("worlds", report(1.0).rows, {"scenes": 3})
    with pytest.raises(ValueError, match="cannot be compared"):
        compare(report(1.0), other)


def test_notes_are_counted_and_odd_sequences_set_apart() -> None:
    scores = (
        Score("a", {"ate": 1.0}, {"truth is static": 1}, degenerate=True),
        Score("b", {"ate": 2.0}),
        Score("c", {"ate": 3.0}, {"truth is static": 1}, degenerate=True),
    )
    lines = footnotes(Report("t", (Row("m", scores),)))
    assert "m: truth is static (2, in 2 of 3 sequences)" in lines
    assert any("ATE 2.0000 without the 2" in line for line in lines)


def test_what_holds_for_every_row_is_said_once() -> None:
    rows = tuple(Row(name, (Score("a", {"ate": 1.0}, {"pairs are left out": 5, name: 1}),)) for name in ("x", "y"))
    assert footnotes(Report("t", rows)) == [
        "all: pairs are left out (5, in 1 of 1 sequences)",
        "x: x (1, in 1 of 1 sequences)",
        "y: y (1, in 1 of 1 sequences)",
    ]


def test_a_report_on_disk_holds_every_sequence(tmp_path) -> None:
    write_report(tmp_path / "report.json", report(1.0, 2.0))
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["rows"][0]["mean"] == {"rra@30": 50.0, "aepe": 1.5}
    assert stored["rows"][0]["sequences"][1] == {
        "sequence": "s1", "values": {"aepe": 2.0, "rra@30": 50.0}, "notes": {}, "degenerate": False
    }  # fmt: skip
    assert stored["settings"] == {"scenes": 2} and stored["remarks"] == ["something is missing"]
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_other_readings_are_kept_in_files_and_out_of_tables(tmp_path) -> None:
    score = Score("s", {"auc@30": 50.0, "auc_histc@30": 49.0}, facts={"s": 2.5, "pairs": 6})
    short = Report("t", (Row("m", (score,)),))
    assert short.columns == ("auc@30",) and short.measures == ("auc@30", "auc_histc@30")
    assert "31 bins" not in to_text(short)
    write_report(tmp_path / "report.json", short)
    stored = json.loads((tmp_path / "report.json").read_text())["rows"][0]
    assert stored["mean"] == {"auc@30": 50.0, "auc_histc@30": 49.0}
    assert stored["sequences"][0]["facts"] == {"s": 2.5, "pairs": 6}
