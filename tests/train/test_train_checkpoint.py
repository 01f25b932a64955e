"""Checkpoints on disk: whole or absent, kept by policy, safe to read, and refused where they do not belong."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_train_loop import CONFIG, ShiftedClips, records, same_weights

from flow3r.config import TrainConfig
from flow3r.data.mixture import iterate_batches
from flow3r.errors import CheckpointError, TrainingError
from flow3r.model.checkpoints import load_model
from flow3r.train.distributed import Ranks
from flow3r.train.loop import train
from flow3r.train.optim import AveragedWeights
from flow3r.train.run import Run

WITH_AVERAGES = dataclasses.replace(CONFIG, ema=0.9)


def saved_steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (folder / "checkpoints").iterdir())


def run_of(config: TrainConfig, folder: Path) -> Run:
    return Run(config, folder, Ranks(), torch.device("cpu"))


def test_all_that_learns_comes_back_bit_for_bit(tmp_path):
    train(WITH_AVERAGES, tmp_path, clips=ShiftedClips(), quiet=True)
    first, second = (run_of(WITH_AVERAGES, tmp_path) for _ in range(2))
    assert first.first_step == 6
    ours, theirs = first._learning().tensors(), second._learning().tensors()
    assert {name.split(".")[0] for name in ours} == {"model", "optimizer", "averaged"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours) and ours.keys() == theirs.keys()
    fresh = run_of(WITH_AVERAGES, tmp_path / "fresh")._learning().tensors()
    assert any(not torch.equal(ours[name], fresh[name]) for name in fresh)


def test_a_parameter_that_was_never_reached_has_no_moments_after_a_resumption_either(tmp_path):
    data = dataclasses.replace(CONFIG.data, unlabelled_share=1.0)
    config = dataclasses.replace(CONFIG, data=data)
    run = run_of(config, tmp_path)
    views = next(iterate_batches(config, 0, ShiftedClips(), torch.device("cpu")))
    run.backward(views, 0, 0)
    run.update(views, 0)
    run.save(1, seconds=0.0)
    moved = {name for name, parameter in run.model.named_parameters() if run.optimizer.state.get(parameter)}
    resumed = run_of(config, tmp_path)
    again = {name for name, parameter in resumed.model.named_parameters() if resumed.optimizer.state.get(parameter)}
    assert again == moved and "point_head.proj.weight" not in moved and "flow_head.mlp.0.weight" in moved


def test_the_last_few_checkpoints_are_kept(tmp_path):
    train(CONFIG, tmp_path, quiet=True)
    assert saved_steps(tmp_path) == [4, 6]
    train(dataclasses.replace(CONFIG, steps=10, keep_checkpoints=1), tmp_path, quiet=True)
    assert saved_steps(tmp_path) == [10]


def test_a_damaged_checkpoint_can_be_deleted_to_go_on_from_the_one_before(tmp_path):
    whole = train(CONFIG, tmp_path / "whole", quiet=True)
    train(CONFIG, tmp_path / "run", quiet=True)
    last = tmp_path / "run" / "checkpoints" / "step_00000006"
    (last / ".metadata").unlink()
    with pytest.raises(CheckpointError, match=r"step_00000006.*the one before"):
        train(CONFIG, tmp_path / "run", quiet=True)
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    assert same_weights(train(CONFIG, tmp_path / "run", quiet=True).model, whole.model)


def test_an_index_that_would_run_something_is_refused_and_nothing_runs(tmp_path):
    train(dataclasses.replace(CONFIG, steps=2), tmp_path, quiet=True)
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(trap),)

    (tmp_path / "checkpoints" / "step_00000002" / ".metadata").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="describes no tensor"):
        train(CONFIG, tmp_path, quiet=True)
    assert not trap.exists()


def test_a_checkpoint_of_another_preset_or_format_is_named(tmp_path):
    train(dataclasses.replace(CONFIG, steps=2), tmp_path, quiet=True)
    with pytest.raises(TrainingError, match="of preset 'test', not 'other'"):
        train(dataclasses.replace(CONFIG, name="other"), tmp_path, quiet=True)
    run_file = tmp_path / "checkpoints" / "step_00000002" / "run.json"
    run_file.write_text(json.dumps(json.loads(run_file.read_text()) | {"format": "flow3r-training-9"}))
    with pytest.raises(CheckpointError, match=r"flow3r-training-9.*expected"):
        train(CONFIG, tmp_path, quiet=True)


def test_a_full_disk_is_named_and_the_last_checkpoint_stays_whole(tmp_path):
    """No file of the second run may grow beyond what the weights alone need."""
    train(dataclasses.replace(CONFIG, steps=2), tmp_path, quiet=True)
    limit = (tmp_path / "model.safetensors").stat().st_size
    script = (
        "import resource, sys; sys.path[:0] = sys.argv[1:3]\n"
        "import test_train_loop as t\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))\n"
        "try: t.train(t.CONFIG, sys.argv[3], quiet=True)\n"
        "except t.TrainingError as error: print(error)\n"
    )
    here = Path(__file__).parent
    command = [sys.executable, "-c", script, str(here), str(here.parent), str(tmp_path), str(limit)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "could not be saved" in said.stdout and "GB of its disk are free" in said.stdout, said.stderr
    assert "step_00000002 is whole: start again from it" in said.stdout
    assert saved_steps(tmp_path) == [2]
    assert train(CONFIG, tmp_path, quiet=True).steps == 6


def test_averaged_weights_are_the_recursion_that_they_claim_and_are_what_is_written(tmp_path):
    run = run_of(WITH_AVERAGES, tmp_path)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    averaged = AveragedWeights(run.model, 0.5)
    with torch.no_grad():
        for p in run.model.parameters():
            p.add_(1.0)
    averaged.update(1)  # early: decay (1 + 1) / (10 + 1)
    for name, p in run.model.named_parameters():
        expected = 2 / 11 * before[name] + 9 / 11 * (before[name] + 1)
        torch.testing.assert_close(averaged.tensors[name], expected)
        torch.testing.assert_close(p, before[name] + 1)
    with averaged.in_place():
        for name, p in run.model.named_parameters():
            torch.testing.assert_close(p, 2 / 11 * before[name] + 9 / 11 * (before[name] + 1))
    torch.testing.assert_close(dict(run.model.named_parameters()), {name: p + 1 for name, p in before.items()})

    result = train(WITH_AVERAGES, tmp_path / "run", clips=ShiftedClips(), quiet=True)
    again = run_of(WITH_AVERAGES, tmp_path / "run")
    written = dict(load_model(result.weights).named_parameters())
    assert all(torch.equal(written[name], average) for name, average in again.averaged.tensors.items())
    assert not same_weights(load_model(result.weights), again.model)


def test_averages_are_resumed_too(tmp_path):
    whole = train(WITH_AVERAGES, tmp_path / "whole", quiet=True)

    def stop_in_step_five(step: int, loss: float) -> None:
        if step == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(WITH_AVERAGES, tmp_path / "cut", quiet=True, on_step=stop_in_step_five)
    parts = train(WITH_AVERAGES, tmp_path / "cut", quiet=True)
    assert same_weights(load_model(whole.weights), load_model(parts.weights))
    assert records(tmp_path / "whole") == records(tmp_path / "cut")


def test_a_checkpoint_from_before_time_and_counts_were_saved_goes_on(tmp_path):
    train(dataclasses.replace(CONFIG, steps=2), tmp_path, quiet=True)
    file = tmp_path / "checkpoints" / "step_00000002" / "run.json"
    run = json.loads(file.read_text())
    del run["progress"]["seconds"]
    run["progress"]["tally"] = {"0": [70, 1]}
    file.write_text(json.dumps(run))
    resumed = run_of(CONFIG, tmp_path)
    assert resumed.seconds == 0 and resumed.tally.state() == (70, 1, {})
    assert train(CONFIG, tmp_path, seconds=1000.0, quiet=True).steps == 6


def test_a_checkpoint_from_before_a_field_goes_on_where_the_field_has_its_default(tmp_path):
    train(dataclasses.replace(CONFIG, steps=2), tmp_path, quiet=True)
    file = tmp_path / "checkpoints" / "step_00000002" / "run.json"
    run = json.loads(file.read_text())
    del run["config"]["probe_every"], run["config"]["model"]["flow"]["target"], run["config"]["ema"]
    file.write_text(json.dumps(run))
    with pytest.raises(TrainingError, match="made with other ema;"):
        train(dataclasses.replace(CONFIG, ema=0.9), tmp_path, quiet=True)
    assert train(dataclasses.replace(CONFIG, steps=3), tmp_path, quiet=True).steps == 3
