"""Tables, plots and the page say what the results are, and no more."""

import json

import pytest
from synthetic_results import Truth, write_all, write_arm

from flow3r.errors import InputError
from flow3r.experiment.claims import TABLES, Side
from flow3r.experiment.comparisons import ONE_SEED
from flow3r.experiment.hypotheses import hypotheses
from flow3r.experiment.page import TITLES, page_with
from flow3r.experiment.paper_numbers import paper_row
from flow3r.experiment.readings import follow_ups
from flow3r.experiment.report import report, write_page
from flow3r.experiment.result_files import read_runs
from flow3r.experiment.table_analysis import analyse, sides_of

pytest.importorskip("matplotlib", reason="plots need matplotlib")
SMALL = Truth(worlds=24, between_worlds=3.0, within=1.0, between_seeds=0.2, area=20.0)
REPORTED = ("limits", "table1", "table4", "table6")
MAIN = [
    f"table1/{regime}/flow-factored over {rival}/{measure}"
    for regime in ("static", "dynamic", "transfer")
    for rival in ("3d-sup", "flow-projective", "flow-tracking")
    for measure in ("auc@30", "mse")
]


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """The tables of most kinds, of results in which everything is as the paper has it."""
    folder = tmp_path_factory.mktemp("reported")
    write_all(folder / "runs", dict.fromkeys(side for table in REPORTED for side in sides_of(table)), SMALL)
    for table in REPORTED:
        report(table, folder / "runs", folder / "docs", resamples=300)
    return folder


def analysis_of(folder, table):
    return json.loads((folder / "docs" / "experiments" / f"{table}.json").read_text())


@pytest.mark.parametrize("table", TABLES)
def test_every_arm_that_a_claim_names_is_run_for_its_table(table):
    named = {
        (side.family, side.regime, side.arm)
        for claim in hypotheses()
        if claim.table == table
        for side in (*claim.better, *claim.worse)
    }
    assert named <= {(side.family, side.regime, side.arm) for side in sides_of(table)}


def test_where_the_paper_is_right_its_main_claims_are_supported(reported):
    verdicts = {c["id"]: c["verdict"] for table in REPORTED for c in analysis_of(reported, table)["claims"]}
    assert {verdicts[id] for id in MAIN} == {"supported"}
    assert verdicts["table6/accurate flow is not what helps"] == "supported"
    assert "not run" not in verdicts.values()
    untrue = [id for id, verdict in verdicts.items() if verdict == "contradicted"]
    assert all(id.startswith("table1/bottleneck/narrow latents") for id in untrue)


def test_means_are_those_of_all_worlds_and_seeds(reported):
    runs = read_runs(reported / "runs", "cpu").of(Side("flow-factored", "static"))
    mean = sum(run.test.values["auc@30"].mean() for run in runs.values()) / 3
    rows = analysis_of(reported, "table1")["rows"]
    (row,) = [row for row in rows if (row["arm"], row["regime"]) == ("flow-factored", "static")]
    assert row["test"]["auc@30"]["mean"] == pytest.approx(mean, rel=1e-4)
    assert row["test"]["auc@30"]["low"] < mean < row["test"]["auc@30"]["high"]


def test_the_paper_stands_beside_the_arms_that_answer_it(reported):
    page = (reported / "docs" / "experiment_results.md").read_text()
    assert paper_row("table1", Side("flow-factored"))["paper RRA@30"] == "76.26"
    assert paper_row("table1", Side("flow-factored", "static"))["paper RTA@30"] == "73.66"
    assert paper_row("table4", Side("flow-factored", "dynamic-20"))["paper MSE"] == "0.532"
    assert paper_row("table6", Side("flow-tracking"))["paper AEPE"] == "18.82"
    assert paper_row("table7", Side("pseudo-3d"))["paper RRA@30"] == "75.99"
    assert paper_row("table5", Side("full", family="pi3"))["paper RPE rot, EPIC"] == "2.729"
    assert paper_row("table1", Side("flow-factored", "transfer")) == {}
    assert all(text in page for text in ("76.26", "73.66", "0.532", "18.82"))


def test_worlds_in_groups_of_as_much_motion_are_all_worlds(reported):
    curves = analysis_of(reported, "limits")["by_fact"]
    assert {curve["fact"] for curve in curves} == {"moving_objects", "moving_area"}
    for curve in curves:
        errors = [group["mean"] for group in curve["bins"]]
        assert errors[0] < errors[-1]
        if curve["fact"] == "moving_area":
            assert sum(group["worlds"] for group in curve["bins"]) == SMALL.worlds


def test_every_plot_is_a_picture_with_something_on_it_and_stands_on_the_page(reported):
    from PIL import Image

    page = (reported / "docs" / "experiment_results.md").read_text()
    plots = sorted((reported / "docs" / "experiments").glob("*.png"))
    for wanted in ("table4-scaling", "table6-flow-and-pose", "table1-gap", "table1-gradients", "limits-motion"):
        assert wanted in {plot.stem for plot in plots}
    for plot in plots:
        with Image.open(plot) as image:
            colours = image.convert("RGB").getcolors(1 << 24)
            assert min(image.size) > 150 and len(colours) > 50, plot.name
        assert f"(experiments/{plot.name})" in page


def test_what_people_write_between_the_generated_parts_stays(reported):
    path = reported / "docs" / "experiment_results.md"
    end = "<!-- table4: end -->"
    before = path.read_text()
    path.write_text(before.replace(end, f"{end}\n\nMore steps were tried by hand.\n"))
    write_page(reported / "docs", "table4")
    once = path.read_text()
    assert "More steps were tried by hand." in once
    assert once.replace("\n\nMore steps were tried by hand.\n", "") == before
    places = [once.index(f"<!-- {table}: generated") for table in TITLES]
    assert places == sorted(places)


def test_a_part_may_hold_what_a_pattern_would_take_for_a_reference():
    page = page_with("# Page\n", "x", r"\1 and \g<0>")
    assert r"\1 and \g<0>" in page_with(page, "x", r"\1 and \g<0>")


def test_before_any_run_the_page_says_so(tmp_path):
    report("table7", tmp_path / "runs", tmp_path / "docs", resamples=100)
    page = (tmp_path / "docs" / "experiment_results.md").read_text()
    assert "No claim of this table has been tested yet." in page and page.count("Not run yet.") == len(TABLES) - 1
    assert not list((tmp_path / "docs" / "experiments").glob("*.png"))
    with pytest.raises(InputError, match="no table is called 'table2'"):
        report("table2", tmp_path, tmp_path)


def test_partial_results_name_what_diverged_and_what_is_missing(tmp_path):
    write_arm(tmp_path / "runs", Side("flow-factored"), 12, SMALL, aepe=9.0)
    write_arm(tmp_path / "runs", Side("flow-tracking"), 5, SMALL, aepe=12.0)
    write_arm(tmp_path / "runs", Side("flow-projective"), 0, SMALL, aepe=24.0, diverged=[1])
    report("table6", tmp_path / "runs", tmp_path / "docs", resamples=300)
    page = (tmp_path / "docs" / "experiment_results.md").read_text()
    assert "Runs that diverged: dynamic flow-projective seed 1 (step 211: the loss is nan)." in page
    assert "vggt/static/flow-factored (seeds 0, 1, 2)" in page
    assert "our tracking head is" in page and "suspected first" in page
    assert "| flow-projective | 2 of 3 |" in page


def test_the_page_tells_weights_at_an_edge_failed_labels_and_where_real_clips_stand(tmp_path):
    write_arm(tmp_path, Side("pseudo-3d"), 7, SMALL)
    for path in tmp_path.rglob("result.json"):
        told = {"pseudo": {"solved": 230, "failed": {"COLMAP placed N of N frames": 60, "an impossible lens": 10}}}
        path.write_text(json.dumps(json.loads(path.read_text()) | told))
    tried = {"factored": (20.0, 30.0, 31.0), "tracking": (20.0, 30.0, None)}
    runs = [
        {"family": "vggt", "head": head, "flow_weight": weight, "auc@30": auc, "diverged": None if auc else "step 3"}
        for head, found in tried.items()
        for weight, auc in zip((0.3, 1.0, 3.0), found, strict=True)
    ]
    sweep = {"version": 1, "measure": "auc@30", "chosen": {"vggt": {"factored": 3.0, "tracking": 1.0}}, "runs": runs}
    (tmp_path / "cpu" / "sweep.json").write_text(json.dumps(sweep))
    for real in (False, True):
        if real:
            (tmp_path / "docs" / "experiment_results_real.md").write_text("# Real clips")
        report("table7", tmp_path, tmp_path / "docs", resamples=100)
        page = (tmp_path / "docs" / "experiment_results.md").read_text()
        assert ("(experiment_results_real.md)" in page) == real
    assert "230 solved, 70 failed (60 x COLMAP placed N of N frames; 10 x an impossible lens)" in page
    assert page.count("lies at the edge") == 1 and "weight 3 of vggt, factored" in page
    assert "0.3: 20.00, 1: 30.00, 3: 31.00" in page


def test_an_arm_whose_runs_all_diverged_has_a_row_without_numbers(tmp_path):
    write_arm(tmp_path, Side("flow-projective"), 0, SMALL, aepe=24.0, diverged=[0, 1, 2])
    (row,) = analyse("table1", read_runs(tmp_path, "cpu"), 100)["rows"]
    assert row["test"] == {} and set(row["by_seed"]) == {"0", "1", "2"}
    report("table1", tmp_path, tmp_path / "docs", resamples=100)
    assert "| flow-projective | 0 of 3 | – |" in (tmp_path / "docs" / "experiment_results.md").read_text()


def test_a_base_that_serves_two_regimes_is_counted_once(tmp_path):
    for regime in ("static", "transfer"):
        write_arm(tmp_path, Side("base", regime), 0, SMALL)
        write_arm(tmp_path, Side("3d-sup", regime), 0, SMALL)
    report("table1", tmp_path, tmp_path / "docs", resamples=100)
    hours = 9 * 350 / 3600  # of three bases and six arms
    assert f"; {hours:.1f} hours of training in all" in (tmp_path / "docs" / "experiment_results.md").read_text()


def test_a_claim_of_one_seed_asks_for_the_others_and_for_nothing_else():
    better = {"id": "table6/dynamic/flow-tracking over flow-factored/aepe", "verdict": "undecided"}
    (text,) = follow_ups([better | {"why": ONE_SEED}])
    assert "other seeds of 1 claims" in text
    (text,) = follow_ups([better | {"why": ""}])
    assert "tracking head" in text
    assert not list(follow_ups([better | {"verdict": "supported", "why": ""}]))
