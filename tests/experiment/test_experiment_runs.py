"""A whole small table, restarted, resumed and diverged: nothing is done twice, and every run leaves a result."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

import flow3r
from flow3r.data.mixture import StepBatches
from flow3r.errors import TrainingError
from flow3r.experiment import runs
from flow3r.experiment.arms import ARMS
from flow3r.experiment.chain import carry_out, forecast, jobs_of
from flow3r.experiment.provenance import program, read_json
from flow3r.experiment.result_files import read_runs
from flow3r.experiment.runs import Run, chosen_weight, sources_of, swept, write_sweep
from flow3r.experiment.schedule import SCHEDULES
from flow3r.experiment.stages import Experiment, Matching
from flow3r.files import sha256_of_file, write_json
from flow3r.train.loop import train

TOY = SCHEDULES["toy"]
WANTED = {"seeds": (0,), "arms": ("base", "3d-sup", "flow-factored"), "regimes": ("dynamic",)}
FACTORED = Run("vggt", "dynamic", "flow-factored", 0)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Table 1 in the `dynamic` regime of one seed, as far as three arms go."""
    whole = Experiment(tmp_path_factory.mktemp("experiments"), TOY, flow_weight=1.0)
    assert carry_out(whole, jobs_of(whole, "table1", **WANTED), 1, print) == {}
    return whole


@pytest.fixture
def copy(experiment: Experiment, tmp_path: Path) -> Experiment:
    """One to do harm to."""
    shutil.copytree(experiment.out, tmp_path / "copy")
    return dataclasses.replace(experiment, out=tmp_path / "copy")


def said_of(experiment: Experiment, run: Run) -> dict:
    return read_json(experiment.folder / run.key / "result.json")


def test_every_run_leaves_a_result_that_the_analysis_reads(experiment: Experiment):
    found = read_runs(experiment.out, "toy")
    assert set(found.by_arm) == {("vggt", "dynamic", arm) for arm in WANTED["arms"]}
    factored, without = (found.by_arm["vggt", "dynamic", arm][0] for arm in ("flow-factored", "3d-sup"))
    assert (factored.steps, factored.flow_weight, without.flow_weight, factored.diverged) == (2, 1.0, None, None)
    assert factored.parameters["flow_head"] > without.parameters["flow_head"] == 0
    assert factored.test.worlds == factored.train.worlds == 2 and "auc@30" in factored.validation
    assert "aepe" in factored.test.values and "aepe" not in without.test.values
    assert "aepe" not in factored.train.values
    assert found.trivial["vggt", "dynamic"]["oracle"].mean("auc@30") == 100


def test_what_is_done_is_not_done_again(experiment: Experiment):
    before = {path: path.stat().st_mtime_ns for path in experiment.folder.rglob("*") if path.is_file()}
    said: list[str] = []
    jobs = jobs_of(experiment, "table1", **WANTED)
    assert carry_out(experiment, jobs, 1, said.append) == {} and said == []
    assert before == {path: path.stat().st_mtime_ns for path in experiment.folder.rglob("*") if path.is_file()}
    assert list(forecast(experiment, jobs, 2)) == [
        f"0 of {len(jobs)} jobs to do, 0 of them runs; 0 steps, about 0 min of one process, 0 min of 2"
    ]


def test_a_run_that_was_stopped_goes_on_to_the_same_result(copy: Experiment):
    whole = said_of(copy, FACTORED)
    folder = copy.folder / FACTORED.key
    shutil.rmtree(folder)
    labelled, clips = sources_of(ARMS["flow-factored"], copy.regime("dynamic"), copy.stores)

    def stop(step: int, loss: float) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        config = FACTORED.config(copy, 1.0)
        train(config, folder, labelled=labelled, clips=clips, device="cpu", quiet=True, on_step=stop)
    assert not FACTORED.is_done(copy) and not (folder / "model.safetensors").exists()
    FACTORED.do(copy)
    again = said_of(copy, FACTORED)
    assert whole.pop("seconds") > 0 and again.pop("seconds") > 0
    assert again == whole


def test_a_run_that_diverged_is_a_row_and_is_not_tried_again(copy: Experiment, monkeypatch: pytest.MonkeyPatch):
    shutil.rmtree(copy.folder / FACTORED.key)
    wild = dataclasses.replace(copy, flow_weight=1e38)
    assert FACTORED.do(wild).startswith("diverged: step ")
    said = said_of(copy, FACTORED)
    assert said["test"] is said["train"] is said["validation"] is None and said["diverged"].startswith("step ")
    assert read_runs(copy.out, "toy").by_arm["vggt", "dynamic", "flow-factored"][0].diverged == said["diverged"]
    monkeypatch.setattr(runs, "train", lambda *_, **__: pytest.fail("trained again"))
    assert FACTORED.is_done(wild)
    (copy.folder / FACTORED.key / "result.json").unlink()  # as by a process that ended before it wrote this
    assert FACTORED.do(wild).startswith("diverged: step ")


def test_what_starts_from_a_base_that_diverged_is_a_row_too(copy: Experiment):
    shutil.rmtree(copy.folder / FACTORED.key)
    base = Run("vggt", "dynamic", "base", 0)
    write_json(copy.folder / base.key / "result.json", said_of(copy, base) | {"diverged": "step 7: the loss is nan"})
    FACTORED.do(copy)
    assert said_of(copy, FACTORED)["diverged"] == "its base diverged: step 7: the loss is nan"


def test_a_finished_run_of_other_settings_is_refused(copy: Experiment):
    longer = dataclasses.replace(copy, schedule=dataclasses.replace(TOY, fork=5))
    with pytest.raises(TrainingError, match=r"finished with other steps; choose another --out"):
        FACTORED.is_done(longer)
    assert Matching(0).is_done(longer)
    with pytest.raises(TrainingError, match=r"finished with other steps; choose another --out"):
        Matching(0).is_done(dataclasses.replace(copy, schedule=dataclasses.replace(TOY, matching=3)))


def test_a_setting_that_one_configuration_alone_has_is_another_unless_it_is_the_default(copy: Experiment):
    path = copy.folder / FACTORED.key / "config.json"
    whole = json.loads(path.read_text())
    for removed, refused in (
        (("ema",), False),
        (("model", "flow", "kind"), False),
        (("model", "flow", "features"), True),
    ):
        written = json.loads(path.read_text())
        part = written
        for name in removed[:-1]:
            part = part[name]
        del part[removed[-1]]
        write_json(path, written)
        if refused:
            with pytest.raises(TrainingError, match=r"finished with other model\.flow\.features;"):
                FACTORED.is_done(copy)
        else:
            assert FACTORED.is_done(copy)
        write_json(path, whole)
    write_json(path, whole | {"gone": 1})
    with pytest.raises(TrainingError, match="finished with other gone;"):
        FACTORED.is_done(copy)


def test_a_finished_run_of_another_flow_weight_than_it_would_have_now_is_refused(copy: Experiment):
    with pytest.raises(TrainingError, match=r"finished with other loss\.flow;"):
        FACTORED.is_done(dataclasses.replace(copy, flow_weight=0.3))
    swept_now = dataclasses.replace(copy, flow_weight=None)
    assert FACTORED.is_done(swept_now)  # while no sweep has chosen
    for best, refused in ((1.0, False), (3.0, True)):
        for run in swept("vggt", "factored"):
            found = {"validation": {"auc@30": 50.0 if run.tried == best else 40.0}, "diverged": None}
            write_json(copy.folder / run.key / "result.json", found)
        if refused:
            with pytest.raises(TrainingError, match=r"finished with other loss\.flow;"):
                FACTORED.is_done(swept_now)
        else:
            assert FACTORED.is_done(swept_now)


def test_a_fork_of_a_base_that_has_changed_is_refused(copy: Experiment):
    folder, base = copy.folder / FACTORED.key, copy.folder / Run("vggt", "dynamic", "base", 0).key
    assert said_of(copy, FACTORED)["start_sha256"] == sha256_of_file(base / "model.safetensors")
    shutil.copy(folder / "model.safetensors", base / "model.safetensors")
    with pytest.raises(TrainingError, match="started from other weights than"):
        FACTORED.is_done(copy)
    told = said_of(copy, FACTORED)
    del told["start_sha256"]  # as results from before this was kept
    write_json(folder / "result.json", told)
    assert FACTORED.is_done(copy)


def test_a_result_tells_the_program_and_lacks_a_commit_where_git_fails(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
):
    assert said_of(experiment, FACTORED)["program"]["version"] == flow3r.__version__
    monkeypatch.setenv("PATH", "")
    assert program.__wrapped__() == {"version": flow3r.__version__, "commit": None}


def test_a_base_serves_all_regimes_of_its_labelled_set(copy: Experiment):
    """Measured there on the tests of that regime."""
    assert copy.base_regime("dynamic-20") == "dynamic" and copy.base_regime("transfer") == "static"
    assert copy.base_regime("dynamic-4x-labelled") == "dynamic-4x-labelled"
    ten = Run("vggt", "dynamic-10", "base", 0)
    ten.do(copy)
    said, base = said_of(copy, ten), said_of(copy, Run("vggt", "dynamic", "base", 0))
    assert said["test"] == base["test"] and said["steps"] == base["steps"] and said["regime"] == "dynamic-10"
    assert not (copy.folder / ten.key / "model.safetensors").exists()


def test_arms_of_one_seed_see_the_same_scenes_and_pairs(experiment: Experiment):
    def batches(name: str) -> list:
        arm = ARMS[name]
        config = TOY.scaled(arm.config("vggt", steps=6, seed=0, flow_weight=1.0))
        labelled, clips = sources_of(arm, experiment.regime("dynamic"), experiment.stores)
        made = StepBatches(config, clips, labelled=labelled)
        return [made[step].views for step in range(6)]

    one = batches("flow-factored")
    assert {views.labelled for views in one} == {True, False}
    for name in ("flow-tracking", "flow-projective", "flow-factored-shared", "flow-factored-noise3"):
        for views, same in zip(one, batches(name), strict=True):
            assert views.names == same.names and torch.equal(views.images, same.images)
            if not views.labelled:
                assert torch.equal(views.flow.pairs, same.flow.pairs)
                exact = torch.equal(views.flow.displacement, same.flow.displacement)
                assert exact == (name != "flow-factored-noise3")
            assert views.labelled or views.depth is None


def test_the_weight_is_the_best_of_those_tried_whatever_diverged(tmp_path: Path):
    experiment = Experiment(tmp_path, TOY)
    for run, value in zip(swept("vggt", "tracking"), (30.0, 40.0, None, 35.0), strict=True):
        validation = None if value is None else {"auc@30": value}
        said = {"validation": validation, "diverged": None if validation else "step 3: the loss is nan"}
        write_json(experiment.folder / run.key / "result.json", said)
    assert chosen_weight(experiment, "vggt", "tracking") == 1.0
    assert Run("vggt", "static", "flow-tracking", 2).flow_weight(experiment) == 1.0
    assert Run("vggt", "static", "3d-sup", 2).flow_weight(experiment) is None
    write_sweep(experiment)
    said = json.loads((experiment.folder / "sweep.json").read_text())
    assert said["chosen"] == {"vggt": {"tracking": 1.0}}
    found = [(run["flow_weight"], run["auc@30"]) for run in said["runs"]]
    assert found == [(0.3, 30.0), (1.0, 40.0), (3.0, None), (10.0, 35.0)]
