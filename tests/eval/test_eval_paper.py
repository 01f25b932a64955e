"""The paper's numbers are all there, in our units, each with the run that answers it and with what is odd about it."""

import json

import pytest

from flow3r.eval.benchmarks import BENCHMARKS
from flow3r.eval.report import COLUMNS
from flow3r.eval.tables.paper import METRICS, anomalies, general_remarks, paper_tables, printed
from flow3r.presets import PRESETS

OTHERS = {"dust3r", "cut3r", "vggt", "pi3"}  # methods that are no presets


@pytest.fixture(scope="module")
def packaged(repository) -> dict:
    return json.loads((repository / "flow3r" / "eval" / "tables" / "paper_tables.json").read_text(encoding="utf-8"))


def test_the_packaged_numbers_are_those_that_were_read_from_the_paper(packaged, shared) -> None:
    assert packaged == json.loads((shared / "spec" / "paper_tables.json").read_text(encoding="utf-8"))


def test_every_record_is_one_number(packaged) -> None:
    numbers = [number for table in paper_tables() for number in table.numbers]
    assert len(packaged["records"]) == len(numbers) == len(set(numbers)) == 670
    for record in packaged["records"]:
        number = printed(record["table"], record["dataset"], record["method"], record["metric"])
        assert number.value in (record["value"], record.get("value_percent"))
        assert COLUMNS[number.column].better == record["direction"]
        assert f"{number.value:.{number.digits}f}" == record["raw"] or "value_percent" in record
    with pytest.raises(KeyError):
        printed(2, "Sintel", "Flow3r", "AUC@30")


def test_shares_are_in_percent_and_f_scores_fractions_as_our_measures() -> None:
    for table in paper_tables():
        for number in table.numbers:
            if number.column in ("rra@30", "rta@30", "auc@30", "within_5px"):
                assert 20 < number.value <= 100
            if number.column in ("f@2", "f@5"):
                assert 0.1 < number.value < 1
    static = printed(1, "ScanNet++ (static ablation)", "flow-tracking", "RTA@30")
    assert (static.value, static.digits) == (70.21, 2)


def test_every_number_has_a_benchmark_and_a_run_of_ours() -> None:
    for table in paper_tables():
        for number in table.numbers:
            assert COLUMNS[number.column].group in BENCHMARKS[number.benchmark].measures
            assert BENCHMARKS[number.benchmark].profile == "flow3r"
            assert number.runs and set(number.runs) <= set(PRESETS) | OTHERS
    of_table_6 = {number.benchmark for number in paper_tables()[5].numbers}
    assert of_table_6 == {"omniworld", "spatialvid"}
    assert set(METRICS.values()) <= set(COLUMNS)


def test_rows_that_the_paper_prints_twice_are_answered_by_one_run() -> None:
    """Tables 1, 4, 6 and 7 share rows: where all four numbers are the same, so is the run."""
    runs: dict[tuple, list] = {}
    for table in (paper_tables()[k - 1] for k in (1, 4, 6, 7)):
        for dataset in table.datasets:
            for method in table.methods:
                row = [n for n in table.numbers if n.dataset == dataset and n.method == method]
                printed_row = tuple((n.metric, n.value) for n in row if n.column not in ("aepe", "within_5px"))
                runs.setdefault(printed_row, []).append({n.runs for n in row})
    shared_rows = [found for found in runs.values() if len(found) > 1]
    assert sorted(map(len, shared_rows)) == [2, 2, 2, 3, 4]  # of moving scenes
    assert all(len(set.union(*found)) == 1 for found in shared_rows)


def test_the_order_is_the_papers() -> None:
    table = paper_tables()[1]
    assert table.number == 2 and table.datasets == ("Kinetics700", "EPIC-KITCHENS", "Sintel", "Bonn")
    assert table.methods == ("DUSt3R", "CUT3R", "VGGT", "pi3", "Flow3r")
    assert table.metrics("Bonn") == ("RPE trans", "RPE rot", "MSE", "f-score@5%")


def test_every_anomaly_is_attached_to_numbers_to_tables_or_to_the_whole(packaged) -> None:
    numbers = [number for table in paper_tables() for number in table.numbers]
    remarks = [remark for table in paper_tables() for remark in table.remarks] + list(general_remarks())
    assert len(anomalies()) == len(packaged["anomalies_checked"]) + len(packaged["anomalies_manual"]) == 32
    for anomaly in anomalies():
        assert any(anomaly.marks(number) for number in numbers) != (anomaly.text in remarks), anomaly


def test_anomalies_mark_the_very_numbers_that_they_speak_of(packaged) -> None:
    def marked(kind: str, table: int) -> set[tuple[str, str]]:
        found = [a for a in anomalies() if kind in a.text and table in a.tables]
        return {(n.method, n.metric) for n in paper_tables()[table - 1].numbers if any(a.marks(n) for a in found)}

    assert marked("(Acc + Comp) / 2", 9) == {("pi3", "CD"), ("Flow3r", "CD")}
    assert marked("Table 3 prints", 3) == marked("Table 3 prints", 15) == {("DUSt3R", "RTA@30"), ("DUSt3R", "AUC@30")}
    assert marked("outlier", 9) == {("Flow3r", "f-score@2%")}
    for entry in packaged["anomalies_checked"]:
        if entry["kind"].startswith("identical"):
            values = {printed(entry["table"], entry["dataset"], m, entry["metric"]).value for m in entry["methods"]}
            assert values == {entry["value"]}
