"""Runs killed with SIGKILL at any moment, of one process and of two, end with the numbers of runs that were not."""

import dataclasses
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_distributed import LIMIT, environment, free_port, records
from test_train_loop import CONFIG, ShiftedClips, same_weights

from flow3r.model.checkpoints import load_model
from flow3r.train.loop import train

STEPS = 12
RUN = (
    "import dataclasses, sys, torch\n"
    "torch.set_num_threads(1)\n"
    "from test_train_loop import CONFIG, ShiftedClips, train\n"
    "config = dataclasses.replace(CONFIG, steps=int(sys.argv[2]), checkpoint_every=int(sys.argv[3]))\n"
    "train(config, sys.argv[1], clips=ShiftedClips(), device='cpu', quiet=True)\n"
)


def start(folder: Path, steps: int, every: int, **variables: str) -> subprocess.Popen:
    command = [sys.executable, "-c", RUN, str(folder), str(steps), str(every)]
    return subprocess.Popen(command, env=environment(**variables), stderr=subprocess.PIPE)


def start_two(folder: Path, steps: int, every: int) -> list[subprocess.Popen]:
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [start(folder, steps, every, RANK=rank, **shared) for rank in ("0", "1")]


def wait_for_step(folder: Path, step: int, process: subprocess.Popen) -> None:
    """Until the log tells of `step`; a random moment of the step after it is then at hand."""
    log, deadline = folder / "log.jsonl", time.monotonic() + LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_text().count("\n") >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step}: {process.communicate()[1].decode()}")


def ended(processes: list[subprocess.Popen]) -> list[str]:
    """What they wrote to their ends, which they come to by themselves."""
    try:
        return [process.communicate(timeout=LIMIT)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()


CONFIG_OF_RUN = dataclasses.replace(CONFIG, steps=STEPS, checkpoint_every=4)


@pytest.fixture
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
def test_a_process_killed_at_a_random_step_goes_on_to_the_same_losses(tmp_path):
    whole = train(CONFIG_OF_RUN, tmp_path / "whole", clips=ShiftedClips(), device="cpu", quiet=True)
    killed = start(tmp_path / "killed", STEPS, 4)
    wait_for_step(tmp_path / "killed", random.Random().randint(1, STEPS - 1), killed)
    killed.kill()
    ended([killed])
    went_on = train(CONFIG_OF_RUN, tmp_path / "killed", clips=ShiftedClips(), device="cpu", quiet=True)
    assert records(tmp_path / "killed") == records(tmp_path / "whole")
    assert same_weights(went_on.model, whole.model)


def test_where_one_of_two_is_killed_the_other_ends_and_both_go_on_to_the_same_losses(tmp_path):
    whole = start_two(tmp_path / "whole", STEPS, 4)
    errors = ended(whole)
    assert [rank.returncode for rank in whole] == [0, 0], errors
    ranks = start_two(tmp_path / "killed", STEPS, 4)
    wait_for_step(tmp_path / "killed", random.Random().randint(1, STEPS - 2), ranks[0])
    killed = random.Random().choice((0, 1))
    ranks[killed].kill()
    errors = ended(ranks)
    assert ranks[killed].returncode == -signal.SIGKILL
    assert ranks[1 - killed].returncode == 1 and "TrainingError: a rank has ended" in errors[1 - killed]
    again = start_two(tmp_path / "killed", STEPS, 4)
    errors = ended(again)
    assert [rank.returncode for rank in again] == [0, 0], errors
    assert records(tmp_path / "killed") == records(tmp_path / "whole")
    assert same_weights(*(load_model(tmp_path / name / "model.safetensors") for name in ("killed", "whole")))


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path):
    """Every step is saved, and the process killed where a checkpoint is begun but not there yet."""
    folder, left = tmp_path / "run", set()
    for _ in range(5):
        logged = len(records(folder)) if (folder / "log.jsonl").exists() else 0
        process = start(folder, 10**6, 1)
        wait_for_step(folder, logged + 2, process)
        deadline = time.monotonic() + LIMIT
        while not (begun(folder) - left) and time.monotonic() < deadline:
            pass
        time.sleep(random.Random().uniform(0, 0.01))
        process.kill()
        ended([process])
        if begun(folder) - left:  # it was not yet whole
            left = begun(folder)
            break
    assert left, "every checkpoint was whole before its process was killed"
    last = max(int(path.name.removeprefix("step_")) for path in folder.glob("checkpoints/step_*"))
    seen: list[int] = []
    longer = dataclasses.replace(CONFIG, steps=last + 2, checkpoint_every=1)
    train(longer, folder, clips=ShiftedClips(), device="cpu", quiet=True, on_step=lambda step, loss: seen.append(step))
    assert seen == [last + 1, last + 2]
    assert [record["step"] for record in records(folder)] == list(range(1, last + 3))


def begun(folder: Path) -> set[Path]:
    """Checkpoints that are being written, or were when their process was killed: under names of their own."""
    return {path for path in folder.glob("checkpoints/*") if not path.name.startswith("step_")}
