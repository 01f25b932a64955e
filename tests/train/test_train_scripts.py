"""The launch scripts hand on what they are given, to stand-ins for the programs that start processes."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent.parent / "examples"
STAND_INS = {
    "torchrun": 'printf "%s\\n" "$@"',
    "srun": 'SLURM_PROCID=3 SLURM_LOCALID=1 SLURM_NTASKS=4 exec "$@"',
    "python": 'printf "%s\\n" "$RANK/$WORLD_SIZE on $LOCAL_RANK at $MASTER_ADDR:$MASTER_PORT" "$@"; '
    'if [ -n "$WEIGHTS" ]; then sleep 0.05; touch "$WEIGHTS"; fi; exit "${CODE:-0}"',
    "scontrol": 'if [ "$1" = show ]; then printf "node4\\nnode5\\n"; else echo "$@"; fi',
}


def said(script: str, folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    for name, text in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **variables}
    command = ["bash", str(SCRIPTS / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", ["train_nodes.sh", "train_slurm.sh"])
def test_a_launch_script_is_bash_and_says_what_it_needs(tmp_path, script: str):
    subprocess.run(["bash", "-n", str(SCRIPTS / script)], check=True)
    ended = said(script, tmp_path)
    assert ended.returncode != 0 and "preset, such as" in ended.stderr


def test_every_machine_calls_torchrun_with_the_same_meeting_point(tmp_path):
    ended = said("train_nodes.sh", tmp_path, "nano", "/runs/a b", "--steps", "3", NODES="2", MAIN="node0")
    lines = ended.stdout.splitlines()
    assert lines[lines.index("--rdzv-endpoint") + 1] == "node0:29500" and lines[lines.index("--nnodes") + 1] == "2"
    assert lines[-8:] == ["-m", "flow3r.cli", "train", "nano", "-o", "/runs/a b", "--steps", "3"]
    assert "number of machines" in said("train_nodes.sh", tmp_path, "nano", "/runs/a").stderr


def test_a_job_is_queued_again_until_its_weights_are_there_and_not_where_it_failed(tmp_path):
    job = {"SLURM_JOB_NODELIST": "node[4-5]", "SLURM_JOB_ID": "17"}
    out = tmp_path / "a b"
    out.mkdir()
    ended = said("train_slurm.sh", tmp_path, "nano", str(out), "--steps", "3", **job)
    rank, *command, requeued = ended.stdout.splitlines()
    assert rank == "3/4 on 1 at node4:29500" and requeued == "requeue 17"
    assert command == ["-m", "flow3r.cli", "train", "nano", "-o", str(out), "--steps", "3"]
    failed = said("train_slurm.sh", tmp_path, "nano", str(out), CODE="1", **job)
    assert failed.returncode == 1 and "requeue" not in failed.stdout
    (out / "model.safetensors").touch()
    assert "requeue" in said("train_slurm.sh", tmp_path, "nano", str(out), **job).stdout  # of a shorter run before
    finished = said("train_slurm.sh", tmp_path, "nano", str(out), WEIGHTS=str(out / "model.safetensors"), **job)
    assert finished.returncode == 0 and "requeue" not in finished.stdout
