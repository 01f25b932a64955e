"""Whoever labels, however often they are killed: the shards are the same."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import hard_media
import pytest
from fixed_teacher import FixedTeacher
from made_media import write_video

from flow3r.data.labels import LabelStore
from flow3r.errors import InputError, LabelStoreError
from flow3r.teacher.label import LabelSettings
from flow3r.teacher.runners import Patience, rank_and_world, run_local, run_rank

SETTINGS = LabelSettings(segment_frames=4, pairs_per_frame=1.0)
COUNT = 4

JOB = """
import sys
from pathlib import Path
from fixed_teacher import FixedTeacher
from flow3r.teacher.label import LabelSettings
from flow3r.teacher.runners import run_local, run_rank, run_ray
if __name__ == "__main__":
    kind, folder, out, delay = sys.argv[1:]
    sources = sorted(Path(folder).glob("*.mp4"))
    arguments = (sources, out, FixedTeacher(delay=float(delay)), LabelSettings(segment_frames=4, pairs_per_frame=1.0))
    if kind == "local":
        run_local(*arguments, processes=2, per_shard=2)
    elif kind == "rank":
        run_rank(*arguments, per_shard=2)
    else:
        run_ray(*arguments, actors=1, per_shard=2)
"""


@pytest.fixture(scope="module")
def footage(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("footage")
    for k in range(COUNT):
        write_video(folder / f"{k}.mp4", hard_media.pan(12, seed=k))
    return folder


@pytest.fixture(scope="module")
def truth(footage, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("truth")
    summary = run_local(sorted(footage.glob("*.mp4")), out, FixedTeacher(), SETTINGS, processes=1, per_shard=2)
    assert (summary.ok, summary.sources, summary.written, summary.kept) == (True, COUNT, 3 * COUNT, 0)
    return shards(out)


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("shard-*.tar")}


def start(kind: str, footage: Path, out: Path, delay: float, **environment: str) -> subprocess.Popen:
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent), str(Path(__file__).parent.parent.parent)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    command = [sys.executable, "-c", JOB, kind, str(footage), str(out), str(delay)]
    return subprocess.Popen(command, env=variables, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def wait_for(found, seconds: float = 240.0):
    """What `found` returns, as soon as it is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.02)
    raise AssertionError("nothing happened")


def holders(out: Path) -> list[int]:
    """The processes that hold a lease."""
    texts = [file.read_text() for file in out.glob("work/*/lease-*")]
    return [int(text.rstrip("]").split(",")[1]) for text in texts if text.endswith("]")]


def alive(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_run_that_was_killed_goes_on_to_the_same_shards(footage, truth, tmp_path):
    job = start("local", footage, tmp_path, 1.0)
    try:
        wait_for(lambda: len(list(tmp_path.glob("work/*/[!.]*.labels"))) >= 2)
        workers = holders(tmp_path)
    finally:
        job.send_signal(signal.SIGKILL)
        job.wait()
    wait_for(lambda: not any(alive(worker) for worker in workers), 60)  # they end with what started them
    assert len(shards(tmp_path)) < len(truth)
    assert list(tmp_path.glob("work/*/[!.]*.labels"))
    done = start("local", footage, tmp_path, 0.0)
    assert done.wait(240) == 0
    assert shards(tmp_path) == truth


def test_a_worker_that_is_killed_leaves_its_shard_to_the_others(footage, truth, tmp_path):
    job = start("local", footage, tmp_path, 0.5)
    try:
        victims = wait_for(lambda: holders(tmp_path) if list(tmp_path.glob("work/*/[!.]*.labels")) else [])
        os.kill(victims[0], signal.SIGKILL)
        assert job.wait(240) == 0
    finally:
        job.kill()
        job.wait()
    assert shards(tmp_path) == truth


def test_ranks_share_the_shards_and_need_only_the_folder(footage, truth, tmp_path):
    """SLURM's variables and torchrun's."""
    names = ({"RANK": "0", "WORLD_SIZE": "2"}, {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"})
    ranks = [start("rank", footage, tmp_path, 0.0, **environment) for environment in names]
    assert [rank.wait(240) for rank in ranks] == [0, 0]
    assert shards(tmp_path) == truth


def test_ranks_are_read_from_the_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert rank_and_world() == (0, 1)
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert rank_and_world() == (3, 8)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert rank_and_world() == (1, 2)


def test_a_second_run_finds_everything_done(footage, truth, tmp_path):
    for name, content in truth.items():
        (tmp_path / name).write_bytes(content)
    sources = sorted(footage.glob("*.mp4"))
    arguments = (tmp_path, FixedTeacher(), SETTINGS)
    with pytest.raises(InputError, match="no video given"):
        run_rank([], *arguments)
    summary = run_rank(sources, *arguments, per_shard=2, patience=Patience(timeout=1.0))
    assert (summary.written, summary.kept) == (0, 3 * COUNT)
    assert len(LabelStore(tmp_path).segments()) == 3 * COUNT
    with pytest.raises(LabelStoreError, match="other settings"):
        run_local(sources, tmp_path, FixedTeacher(reach=9), SETTINGS)


def test_a_ray_run_and_an_actor_that_are_killed_go_on_to_the_same_shards(footage, truth, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed (flow3r[scale])")
    quiet = {"RAY_AUTH_MODE": "disabled", "RAY_DEDUP_LOGS": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    job = start("ray", footage, tmp_path, 1.0, **quiet)
    try:
        (actor,) = wait_for(lambda: holders(tmp_path) if list(tmp_path.glob("work/*/[!.]*.labels")) else [])
        os.kill(actor, signal.SIGKILL)
        wait_for(lambda: [h for h in holders(tmp_path) if h != actor])  # Ray has started another
    finally:
        job.send_signal(signal.SIGKILL)
        job.wait()
    assert len(shards(tmp_path)) < len(truth)
    again = start("ray", footage, tmp_path, 0.0, **quiet)
    assert again.wait(300) == 0
    assert shards(tmp_path) == truth
