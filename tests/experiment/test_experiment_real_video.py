"""The comparison on real clips: arms differ from those on worlds in their clips alone, and say what they learn from."""

import json
from pathlib import Path

import pytest
from made_media import texture, write_video
from posed_on_disk import write_posed

from flow3r import cli
from flow3r.data.labels import LabelStore
from flow3r.errors import InputError, TrainingError
from flow3r.experiment.arms import BASE
from flow3r.experiment.real_video import (
    ARMS,
    CLIPS,
    OF_WORLDS,
    TRANSDUCTIVE,
    Footage,
    LabelledClips,
    RealRun,
    RealTrivial,
    real_jobs,
    said_of_footage,
)
from flow3r.experiment.result_files import read_run
from flow3r.experiment.runs import RESULT, Run
from flow3r.experiment.schedule import SCHEDULES
from flow3r.experiment.stages import WEIGHTS, Experiment
from flow3r.files import write_json
from flow3r.model.checkpoints import MODEL_OF, save_model


def pan(path: Path, seed: int, count: int = 3) -> Path:
    canvas = texture(200, 240, seed, coarseness=2.5)
    return write_video(path, [canvas[4 * k : 4 * k + 160, 10 * k : 10 * k + 160] for k in range(count)])


@pytest.fixture(scope="module")
def footage(tmp_path_factory) -> Footage:
    """One clip that may teach, one that is called as an excluded one, and two sequences."""
    root = tmp_path_factory.mktemp("footage")
    (root / "videos").mkdir()
    pan(root / "videos" / "street.mp4", 1)
    pan(root / "videos" / "hololens_office_full.mp4", 2)
    write_posed(root / "sequences" / "long", 5)
    write_posed(root / "sequences" / "pair", 2)
    return Footage(root / "videos", root / "sequences", root / "labels")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    """With a base, and an arm on worlds, as if they had been trained."""
    experiment = Experiment(tmp_path_factory.mktemp("out"), SCHEDULES["toy"], "cpu", flow_weight=1.0)
    for arm in (BASE, "flow-factored"):
        run = Run("vggt", "dynamic", arm, 0)
        folder, config = experiment.folder / run.key, run.config(experiment, 1.0)
        folder.mkdir(parents=True)
        save_model(MODEL_OF[type(config.model)](config.model), folder / WEIGHTS)
        write_json(folder / RESULT, {"diverged": None, "flow_weight": None if arm == BASE else 1.0})
    return experiment


@pytest.fixture(scope="module")
def finished(experiment, footage) -> Path:
    """The folder of a run that learnt from the clip that may teach."""
    LabelledClips(footage, "labels").do(experiment)
    run = RealRun(footage, "flow-factored", 0)
    run.do(experiment)
    return experiment.folder / run.key


def test_an_arm_on_clips_is_configured_as_on_worlds(experiment, footage):
    for arm in ("flow-factored", "flow-tracking", "flow-projective"):
        ours, known = (
            kind.config(experiment, 0.3) for kind in (RealRun(footage, arm, 1), Run("vggt", "dynamic", arm, 1))
        )
        assert ours == known
    assert RealRun(footage, TRANSDUCTIVE, 1).config(experiment, 0.3) == RealRun(footage, "flow-factored", 1).config(
        experiment, 0.3
    )


def test_all_arms_come_after_their_labels_their_base_and_the_sweep(experiment, footage):
    swept = Experiment(experiment.out, experiment.schedule)
    keys = [job.key for job in real_jobs(swept, footage, seeds=(0, 1))]
    assert [key for key in keys if key.startswith("vggt/real/")] == [
        *(f"vggt/real/{arm}/seed{seed}" for arm in ARMS for seed in (0, 1)),
        "vggt/real/trivial",
    ]
    for first, second in (
        ("real/labels", "vggt/real/flow-factored/seed0"),
        ("vggt/dynamic/base/seed1", "vggt/real/flow-tracking/seed1"),
        ("vggt/dynamic/3d-sup/seed0", "vggt/real/3d-sup/seed0"),
        ("sweep/vggt/flow-projective/3/seed0", "vggt/real/flow-projective/seed0"),
        ("real/excluded", f"vggt/real/{TRANSDUCTIVE}/seed0"),
    ):
        assert keys.index(first) < keys.index(second)
    assert "real/excluded" not in [job.key for job in real_jobs(swept, footage, arms=("flow-factored",))]


def test_an_unknown_arm_is_refused(experiment, footage):
    with pytest.raises(InputError, match="real has no full"):
        real_jobs(experiment, footage, arms=("full",))


def test_people_are_told_what_is_excluded_and_how_much_is_labelled(finished, footage):
    said = "\n".join(said_of_footage(footage))
    assert "excluded: hololens_office_full" in said and "labels: street " in said


def test_labels_count_as_done_until_a_clip_changes(finished, experiment, footage, tmp_path):
    assert LabelledClips(footage, "labels").is_done(experiment)
    assert not LabelledClips(footage, "excluded").is_done(experiment)
    pan(tmp_path / "street.mp4", 3)
    assert not LabelledClips(Footage(tmp_path, footage.sequences, footage.labels), "labels").is_done(experiment)


def test_a_run_leaves_a_result_of_the_sequences_and_learns_from_no_excluded_clip(finished, footage):
    run = read_run(finished / RESULT)
    assert (run.regime, run.arm, run.steps, run.flow_weight, run.test.worlds) == ("real", "flow-factored", 2, 1.0, 2)
    assert json.loads((finished / RESULT).read_text())["test"]["names"] == ["long", "pair"]
    assert {"auc@30", "mse", "aepe"} <= set(run.test.values) and run.train is None and "auc@30" in run.validation
    assert json.loads((finished / CLIPS).read_text()) == footage.content["labels"]
    assert {one.source for one in LabelStore(footage.store("labels")).segments()} == {"street"}


def test_a_finished_run_is_not_done_again_unless_the_tests_are_others(finished, experiment, footage, tmp_path):
    assert RealRun(footage, "flow-factored", 0).is_done(experiment)
    write_posed(tmp_path / "other", 3)
    assert not RealRun(Footage(footage.videos, tmp_path, footage.labels), "flow-factored", 0).is_done(experiment)


def test_a_run_of_other_clips_is_refused(finished, experiment, footage, tmp_path):
    pan(tmp_path / "garden.mp4", 3)
    other = RealRun(Footage(tmp_path, footage.sequences, footage.labels), "flow-factored", 0)
    with pytest.raises(TrainingError, match="learns from other clips \\(garden, street\\)"):
        other.is_done(experiment)


def test_what_was_trained_on_worlds_is_measured_as_it_is(experiment, footage):
    run = RealRun(footage, OF_WORLDS, 0)
    assert run.steps(experiment) == 0
    run.do(experiment)
    folder = experiment.folder / run.key
    result = read_run(folder / RESULT)
    assert result.flow_weight == 1.0 and result.test.worlds == 2 and sorted(folder.iterdir()) == [folder / RESULT]
    assert run.is_done(experiment)


def test_an_arm_whose_base_diverged_says_so(experiment, footage, tmp_path):
    broken = Experiment(tmp_path, experiment.schedule, "cpu", 1.0)
    (broken.folder / "vggt/dynamic/base/seed0").mkdir(parents=True)
    write_json(broken.folder / "vggt/dynamic/base/seed0" / RESULT, {"diverged": "step 3: ...", "flow_weight": None})
    run = RealRun(footage, "flow-tracking", 0)
    run.do(broken)
    assert read_run(broken.folder / run.key / RESULT).diverged == "its base diverged: step 3: ..."


def test_rows_of_no_learning_stand_beside_them(experiment, footage):
    job = RealTrivial(footage)
    assert not job.is_done(experiment)
    job.do(experiment)
    rows = json.loads((experiment.folder / f"{job.key}.json").read_text())["rows"]
    assert set(rows) >= {"identity", "mean pose", "oracle"} and job.is_done(experiment)
    assert rows["oracle"]["measures"]["auc@30"] == [100, 100]


def test_the_command_says_what_it_would_run_and_what_is_excluded(footage, tmp_path, capsys):
    folders = ["--videos", str(footage.videos), "--sequences", str(footage.sequences)]
    cli.main(["experiment", "real", *folders, "-o", str(tmp_path), "--seeds", "0", "--schedule", "toy", "--dry-run"])
    said = capsys.readouterr().out
    assert all(f"vggt/real/{arm}/seed0" in said for arm in ARMS)
    assert "1 clips may teach: street" in said and "excluded: hololens_office_full" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "given", [["real"], ["table1", "--videos", "x"], ["real", "--videos", "x", "--sequences", "x"]]
)
def test_folders_belong_to_the_comparison_on_real_clips(given, capsys):
    regimes = ["--regimes", "dynamic"] if "--sequences" in given else []
    with pytest.raises(SystemExit):
        cli.main(["experiment", *given, *regimes, "--dry-run"])
    assert "--videos" in capsys.readouterr().err
