"""Two ranks on one machine, started once for all checks: two_ranks.py says what they do, and this what must be true."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from two_ranks import CONFIG, ShiftedClips

from flow3r.errors import TrainingError
from flow3r.train.distributed import Ranks, device_of_rank
from flow3r.train.loop import train

PACE = {"steps/s", "images/s", "data_wait", "memory_gb"}  # what no two runs have in common
HERE = Path(__file__).resolve().parent
LIMIT = 240  # seconds after which ranks that still run are hanging


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def environment(**variables: str) -> dict[str, str]:
    path = os.pathsep.join(map(str, (HERE.parent.parent, HERE.parent, HERE)))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks have run all checks."""
    folder = tmp_path_factory.mktemp("two_ranks")
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "SECOND_PORT": free_port()}
    command = [sys.executable, str(HERE / "two_ranks.py"), str(folder)]
    ranks = [
        subprocess.Popen(command, env=environment(RANK=rank, **shared), stderr=subprocess.PIPE) for rank in ("0", "1")
    ]
    try:
        errors = [rank.communicate(timeout=LIMIT)[1].decode() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> dict[str, tuple[Any, Any]]:
    """Of every check, what rank 0 and rank 1 saw."""
    first, second = (torch.load(folder / f"rank_{rank}.pt", weights_only=True) for rank in (0, 1))
    return {check: (first[check], second[check]) for check in first}


@pytest.fixture
def one_thread() -> Any:
    """As many as a rank has: sums are then made in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def records(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in PACE} for line in lines]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_one_rank_may_see_labels_alone_while_the_other_sees_none(folder, seen):
    first, second = seen["mixed kinds"]
    assert same(first["weights"], second["weights"])
    logged = records(folder / "mixed")
    for record, *losses in zip(logged, first["losses"], second["losses"], strict=True):
        assert {"labelled/points", "unlabelled/flow"} <= record.keys() and "labelled/flow" not in record
        assert record["unlabelled/flow"] == pytest.approx(losses[1])  # of the one rank that had it
        assert record["loss"] == pytest.approx(sum(losses) / 2)


def test_two_ranks_learn_what_one_learns_from_two_batches_a_step(tmp_path, folder, seen, one_thread):
    both = train(dataclasses.replace(CONFIG, accumulate=2), tmp_path, clips=ShiftedClips(), device="cpu", quiet=True)
    first, second = seen["whole"]
    assert same(first["weights"], second["weights"]) and first["losses"] != second["losses"]
    torch.testing.assert_close(both.model.state_dict(), first["weights"])
    for alone, shared in zip(records(tmp_path), records(folder / "whole"), strict=True):
        assert alone == pytest.approx(shared, rel=1e-4)


def test_a_resumed_run_of_two_ranks_equals_an_uninterrupted_one(folder, seen):
    assert seen["interrupted"][0] == {"ended": "TrainingError: rank 1: step 4: Interrupted: in the middle"}
    assert seen["interrupted"][1] == {"ended": "Interrupted: in the middle"}
    for rank in (0, 1):
        assert same(seen["whole"][rank]["weights"], seen["resumed"][rank]["weights"])
        assert len(seen["resumed"][rank]["losses"]) == 2
    assert records(folder / "whole") == records(folder / "cut")


def test_one_process_goes_on_with_what_two_ranks_began(folder, seen, one_thread):
    went_on = train(
        dataclasses.replace(CONFIG, accumulate=2), folder / "moved", clips=ShiftedClips(), device="cpu", quiet=True
    )
    torch.testing.assert_close(went_on.model.state_dict(), seen["whole"][0]["weights"])
    assert [record["step"] for record in records(folder / "moved")] == [1, 2, 3, 4, 5, 6]
    finished = train(CONFIG, folder / "whole", clips=ShiftedClips(), device="cpu", quiet=True)
    assert same(finished.model.state_dict(), seen["whole"][0]["weights"])  # bit for bit what two ranks wrote


def test_ranks_that_hold_the_model_in_parts_learn_what_whole_ones_learn(folder, seen):
    for rank in (0, 1):
        torch.testing.assert_close(seen["sharded"][rank]["losses"], seen["whole"][rank]["losses"], rtol=1e-5, atol=0)
        assert same(seen["sharded kinds"][0]["weights"], seen["sharded kinds"][1]["weights"])
        torch.testing.assert_close(
            seen["sharded kinds"][rank]["losses"], seen["mixed kinds"][rank]["losses"], rtol=1e-5, atol=0
        )
    logged = {record["step"]: record for record in records(folder / "sharded")}
    assert logged[3]["validation/aepe"] > 0 and (folder / "sharded" / "best.safetensors").exists()
    assert list((folder / "sharded" / "pictures").glob("step_00000003*"))


def test_a_resumed_run_in_parts_equals_an_uninterrupted_one(folder, seen):
    assert len(seen["sharded resumed"][0]["losses"]) == 2
    for rank in (0, 1):
        assert seen["sharded resumed"][rank]["losses"] == seen["sharded"][rank]["losses"][4:]


def test_one_process_goes_on_with_what_two_ranks_held_in_parts(folder, seen, one_thread):
    config = dataclasses.replace(CONFIG, accumulate=2, parallel="shard")
    losses: list[float] = []
    train(
        config,
        folder / "resharded",
        clips=ShiftedClips(),
        device="cpu",
        quiet=True,
        on_step=lambda step, loss: losses.append(loss),
    )
    both = zip(*(rank["losses"][4:] for rank in seen["sharded"]))
    assert losses == pytest.approx([sum(pair) / 2 for pair in both], rel=1e-5)


def test_a_non_finite_loss_on_one_rank_stops_both_and_keeps_its_batch(folder, seen):
    first, second = seen["non-finite"]
    path = folder / "nan" / "non_finite_step_2_rank_1.pt"
    assert first == second
    assert first["ended"].startswith("TrainingError: rank 1: step 2: the loss is nan") and str(path) in first["ended"]
    assert torch.load(path, weights_only=True)["flow.displacement"].isnan().all()
    assert [other.name for other in path.parent.glob("non_finite*")] == [path.name]


def test_a_worker_that_fails_on_one_rank_stops_both(seen):
    first, second = (rank["ended"] for rank in seen["one worker"])
    assert first.startswith("TrainingError: rank 1: step 1: KeyError") and "lost" in first
    assert second.startswith("KeyError") and "in draw" in second  # the trace of the mistake is not lost


def test_each_rank_tells_its_own_failure(seen):
    first, second = (rank["ended"] for rank in seen["both workers"])
    assert first.startswith("ZeroDivisionError") and second.startswith("KeyError")


def test_sigterm_on_one_rank_ends_both_after_the_same_step_with_all_saved(folder, seen):
    assert seen["terminated"] == ({"ended": "SystemExit: 0"}, {"ended": "SystemExit: 0"})
    for rank in (0, 1):
        assert same(seen["whole"][rank]["weights"], seen["requeued"][rank]["weights"])
        # The signal came after step 3 had been counted: step 4 was the last before the end.
        assert len(seen["requeued"][rank]["losses"]) == 2
    assert records(folder / "terminated") == records(folder / "whole")


def test_ranks_run_out_of_time_together(seen):
    assert [rank["steps"] for rank in seen["late"]] == [1, 1]
    assert same(*(rank["weights"] for rank in seen["late"]))


def test_ranks_that_do_not_share_their_folder_are_told(seen):
    first, second = (rank["ended"] for rank in seen["apart"])
    assert first == second and "different numbers of steps (2, 0)" in first and "all machines share" in first


def test_a_silent_rank_is_given_up_after_the_time_limit(seen):
    for rank in (0, 1):  # rank 1 wakes up to find that rank 0 has left
        assert seen["silent"][rank]["ended"].startswith("TrainingError: a rank has ended, or did not answer within 1 s")


def test_one_process_starts_no_group(monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", None)
    monkeypatch.setattr(torch.distributed, "all_gather_object", None)
    alone = Ranks()
    assert alone.highest(2.5, True) == [2.5, True] and alone.gather("x") == ["x"]
    with pytest.raises(KeyError), alone.together("anywhere"):
        raise KeyError


def test_a_machine_with_too_few_gpus_is_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(TrainingError, match="local rank 3 on a machine with 2 GPUs"):
        device_of_rank("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_of_rank("cuda") == torch.device("cuda:1") and device_of_rank("cpu") == torch.device("cpu")


@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]])
def test_sigterm_to_all_processes_of_a_run_leaves_a_checkpoint(tmp_path, launcher: list[str]):
    """As a scheduler sends it: to what the launcher started, and to workers that read data."""
    script, run = tmp_path / "run.py", tmp_path / "run"
    script.write_text(
        "import dataclasses, sys\n"
        "from two_ranks import CONFIG, ShiftedClips, train\n"
        "data = dataclasses.replace(CONFIG.data, workers=1)\n"
        "config = dataclasses.replace(CONFIG, data=data, steps=10**6, checkpoint_every=10**6)\n"
        "train(config, sys.argv[1], clips=ShiftedClips(), device='cpu', quiet=True)\n"
    )
    command = [sys.executable, *launcher, str(script), str(run)]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, start_new_session=True)
    log, deadline = run / "log.jsonl", time.monotonic() + LIMIT
    while time.monotonic() < deadline and process.poll() is None and not (log.exists() and log.read_text()):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    try:
        _, errors = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    saved = [json.loads((path / "run.json").read_text())["step"] for path in run.glob("checkpoints/step_*")]
    assert saved == [records(run)[-1]["step"]], errors.decode()
    assert launcher or process.returncode == 0  # torchrun itself reports the signal
