"""Predict, score and report as one run: stopped anywhere it goes on to the same bytes, wherever its work is done."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_on_disk import HELD_OUT_CLIPS, SIZE, _write_segment, scene, write_nrgbd, write_sintel

from flow3r.data.labels import LabelStore
from flow3r.errors import Flow3rError, InputError
from flow3r.eval import run as stages
from flow3r.eval import score as scoring
from flow3r.eval.benchmarks import find_benchmark
from flow3r.eval.benchmarks.benchmark import Selection
from flow3r.eval.benchmarks.manifests import Manifest, committed_manifest, read_manifest
from flow3r.eval.methods import identity_method
from flow3r.eval.parallel import WAITING, in_parallel
from flow3r.eval.run import Run, fix_manifest, manifest_path, scores_path
from flow3r.eval.tables.collect import read_rows
from flow3r.files import sha256_of_file

BUDGET = 100  # points whose neighbours are sought
BOTH = ("sintel", "spatialvid")
TOTAL = 6  # draws of both benchmarks


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences of Sintel and of NRGBD, and a labelled clip of SpatialVID."""
    root, nothing = tmp_path_factory.mktemp("root"), np.zeros(SIZE, dtype=bool)
    for number, name in enumerate(("alley_2", "ambush_6")):
        write_sintel(root / "sintel" / "training", name, scene(number), nothing, nothing)
    for number, name in enumerate(("kitchen", "staircase")):
        write_nrgbd(root / "nrgbd" / name, scene(number, 8))
    store = LabelStore(root / "labels" / "spatialvid", {"teacher": "exact", "grid": list(SIZE)})
    _write_segment(store, f"group_0001/{HELD_OUT_CLIPS[0]}", scene(0, 10))
    return root


@dataclass
class Watched:
    """The identity on a coarse grid; it says what it does and may be stopped, or fail."""

    name: str = "watched"
    fingerprint: str = "1"
    events: list = field(default_factory=list)
    stop: str = ""  # the event at which the run is killed, such as "predicted 3"
    fails: tuple[int, ...] = ()  # calls

    def __call__(self, frames, pairs):
        self.tell("predicted")
        if self.events.count("predicted") in self.fails:
            raise RuntimeError("out of luck")
        return identity_method((6, 12))(frames, pairs)

    def tell(self, event: str) -> None:
        if f"{event} {self.events.count(event)}" == self.stop:
            raise KeyboardInterrupt
        self.events.append(event)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """What stands in the place of `identity`, and sees what is scored."""
    method, score_draw = Watched(), scoring.score_draw

    def seen(*arguments):
        method.tell("scored")
        return score_draw(*arguments)

    monkeypatch.setattr(stages, "method_called", lambda name, device=None: method)
    monkeypatch.setattr(scoring, "score_draw", seen)
    stages._method.cache_clear()
    yield method
    stages._method.cache_clear()


def fixed(root: Path, out: Path, benchmarks=BOTH, draws: int = 2, sequences: int = 2, **options) -> Run:
    """A run of manifests of what is there, or of the first sequences of it."""
    for name in benchmarks:
        there = find_benchmark(name).select(root).sequences
        fix_manifest(find_benchmark(name), Selection(dict(list(there.items())[:sequences]), ()), out, draws)
    return Run(root, out, ("identity",), tuple(benchmarks), **({"budget": BUDGET, "pictures": False} | options))


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(run: Run, benchmark: str = "sintel", method: str = "identity", profile: str = "flow3r") -> dict[tuple, dict]:
    """By sequence and draw, without the hash of the sample, which remembers the seconds that it took."""
    found = read_rows(scores_path(run.out, method, benchmark, profile))
    return {(row["sequence"], row["draw"]): {k: v for k, v in row.items() if k != "sample_sha256"} for row in found}


def test_every_sample_is_scored_before_the_next_is_predicted(root, tmp_path, watched):
    lines = list(fixed(root, tmp_path).measure())
    assert watched.events == ["predicted", "scored"] * TOTAL
    assert [line.text.split("\n")[0] for line in lines[-2:]] == [
        "identity on sintel: 4 predicted, 4 scored, of 4",
        "identity on spatialvid: 2 predicted, 2 scored, of 2",
    ]
    assert not any(line.failures or line.missing for line in lines)


def test_results_are_there_before_all_items_are_asked_for():
    drawn = []
    items = (drawn.append(k) or -k for k in range(WAITING + 3))
    results = in_parallel(abs, items, workers=1)
    assert next(results) in range(WAITING) and len(drawn) <= WAITING
    assert len([*results]) == WAITING + 2


def test_a_worker_that_is_killed_is_said():
    with pytest.raises(Flow3rError, match=r"one of 1 processes was killed.*what is done is kept"):
        list(in_parallel(os._exit, [9], workers=1))


@pytest.mark.parametrize(
    ("stop", "cut"),
    [("predicted 0", 0), ("predicted 3", 1), ("predicted 5", 60), ("scored 0", 0), ("scored 3", 60), ("scored 5", 0)],
)
def test_a_run_stopped_anywhere_goes_on_to_the_same_report(root, tmp_path_factory, whole, watched, stop, cut):
    out = tmp_path_factory.mktemp("stopped")
    run, watched.stop = fixed(root, out), stop
    with pytest.raises(KeyboardInterrupt):
        list(run.measure())
    torn = max((out / "scores").rglob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns, default=None)
    lost = torn is not None and cut > 0 and torn.stat().st_size > 0
    if lost:
        torn.write_bytes(torn.read_bytes()[:-cut])  # within its last line
    watched.stop = ""
    list(run.measure())
    run.report()
    assert watched.events.count("predicted") == TOTAL and watched.events.count("scored") == TOTAL + lost
    assert files(out / "report") == whole
    list(run.measure())
    assert len(watched.events) == 2 * TOTAL + lost


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The report of a run that was not stopped."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "method_called", lambda name, device=None: Watched())
        stages._method.cache_clear()
        run = fixed(root, out)
        list(run.measure())
        run.report()
        stages._method.cache_clear()
    return files(out / "report")


def test_a_run_in_other_processes_that_is_killed_goes_on_here_to_the_same_pages(root, tmp_path):
    """Nothing of the killed run is left behind; rows and all files are those of a run in one process."""
    one = {"benchmarks": ("sintel",), "draws": 5, "sequences": 1, "pictures": True}
    here, killed = (fixed(root, tmp_path / name, **one) for name in ("here", "killed"))
    list(here.measure())
    here.report()
    command = [sys.executable, "-m", "flow3r.cli", "eval", "run", root, "-o", killed.out, "--methods", "identity"]
    command += ["--benchmarks", "sintel", "--budget", BUDGET, "--where", "processes", "--workers", "2"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, start_new_session=True)
    first = scores_path(killed.out, "identity", "sintel", "flow3r")
    wait_until(lambda: first.is_file() or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not is_alive(process.pid))
    samples = {path: sha256_of_file(path) for path in killed.out.rglob("*.npz")}
    assert samples
    list(killed.measure())
    killed.report()
    assert {path: sha256_of_file(path) for path in samples} == samples
    assert rows(killed) == rows(here)
    assert files(killed.out / "report") == files(here.out / "report")
    assert any(name.startswith("pictures/") for name in files(here.out / "report"))


def wait_until(said) -> None:
    ends = time.monotonic() + 120
    while not said():
        assert time.monotonic() < ends
        time.sleep(0.02)


def is_alive(group: int) -> bool:
    """Whether a process of a group is."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_on_ray_rows_are_those_of_one_process(root, tmp_path):
    ray = pytest.importorskip("ray")
    here, cluster = (fixed(root, tmp_path / name, ("spatialvid",)) for name in ("here", "ray"))
    list(here.measure())
    try:
        list(replace(cluster, where="ray", workers=1).measure())
    finally:
        ray.shutdown()
    assert rows(cluster, "spatialvid") == rows(here, "spatialvid")


def write_answers(out: Path, method: str, benchmark: str = "sintel", spoil=lambda arrays, number: arrays) -> None:
    """Samples as a program that knows docs/evaluation.md alone writes them; None leaves one out."""
    lines = (out / "manifests" / f"{benchmark}.jsonl").read_text().splitlines()
    for number, line in enumerate(map(json.loads, lines)):
        count, size = len(line["frames"]), (6, 8)
        poses = np.tile(np.eye(4), (count, 1, 1))
        poses[:, 0, 3] = np.arange(count)
        arrays = {
            "format": np.array("flow3r-sample-1"),
            "frames": np.array(line["frames"]),
            "world_from_camera": poses,
            "grid_from_image": np.tile(np.diag([size[1] / SIZE[1], size[0] / SIZE[0], 1.0]), (count, 1, 1)),
            "depth": np.ones((count, *size), dtype=np.float32) + np.arange(size[1]),
            "intrinsics": np.tile(np.array([[8.0, 0, 4], [0, 8, 3], [0, 0, 1]]), (count, 1, 1)),
        }
        arrays = spoil(arrays, number)
        path = out / "samples" / method / benchmark / line["sequence"] / f"{line['draw']}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        if arrays is not None:
            np.savez(path, **arrays)


def test_a_method_of_another_program_stands_in_the_tables_beside_ours(root, tmp_path, watched):
    run = replace(fixed(root, tmp_path, ("sintel",)), methods=("samples:theirs", "identity"))
    write_answers(tmp_path, "theirs")
    theirs, ours = (line.text for line in list(run.measure())[-2:])
    assert theirs == "theirs on sintel: 0 predicted, 4 scored, of 4" and "4 predicted, 4 scored" in ours
    run.report()
    text = (tmp_path / "report" / "tables.md").read_text()
    table = text.split("## Table 10.")[1].split("\n## ")[0].splitlines()
    (line,) = (line for line in table if line.startswith("| theirs | ours |"))
    assert line.split("|")[3].strip() == "2" and "–" not in line
    assert [found.method for found in run.results()] == ["theirs", "identity"]


def test_failures_are_rows_with_reasons_and_are_said_every_time(root, tmp_path, watched):
    """One call raises, one sample is not finite and one is not there."""
    watched.fails = (2,)
    run = replace(fixed(root, tmp_path, ("sintel",)), methods=("identity", "samples:theirs"))

    def spoil(arrays, number):
        if number == 0:
            return None
        return arrays if number == 1 else {**arrays, "world_from_camera": arrays["world_from_camera"] * np.nan}

    write_answers(tmp_path, "theirs", spoil=spoil)
    first = list(run.measure())[-2:]
    assert [line.failures for line in first] == [1, 3]
    assert "alley_2 1: the method gave no sample: RuntimeError: out of luck" in first[0].text
    assert "alley_2 0: there is no sample" in first[1].text and "no predicted camera is finite" in first[1].text
    watched.fails = tuple(range(20))
    again = list(run.measure())[-2:]
    assert [line.failures for line in again] == [1, 3] and "0 predicted, 0 scored" in again[0].text
    assert [line.failures for line in list(run.measure(predicting=False))[-2:]] == [1, 3]
    assert all(len(rows(run, method=name)) == 4 for name in ("identity", "theirs"))


def test_another_profile_has_files_and_tables_of_its_own(root, tmp_path, watched):
    run = fixed(root, tmp_path, ("sintel",))
    list(run.measure())
    before = scores_path(tmp_path, "identity", "sintel", "flow3r").read_bytes()
    list(replace(run, profile="pi3").measure(predicting=False))
    assert watched.events.count("predicted") == 4 and watched.events.count("scored") == 8
    assert scores_path(tmp_path, "identity", "sintel", "flow3r").read_bytes() == before
    assert all("nc" in row["values"] and row["profile"] == "pi3" for row in rows(run, profile="pi3").values())
    assert sorted(found.profile for found in run.results()) == ["flow3r", "pi3"]
    run.report()
    cells = json.loads((tmp_path / "report" / "tables.json").read_text())["cells"]
    assert {cell["profile"] for cell in cells if cell["ours"] is not None and cell["table"].startswith("Table")} == {
        "flow3r"
    }
    assert {cell["profile"] for cell in cells if cell["column"] == "nc" and cell["ours"] is not None} == {"pi3"}


def test_sequences_of_a_committed_manifest_that_are_missing_fail(root, tmp_path, watched, monkeypatch):
    """Of the package's own list all sequences are asked for, those that are not there with the worst scores."""
    draws = (draw for draw in committed_manifest("sintel").draws if draw.draw == 0)
    known = Manifest("sintel", tuple(replace(d, n=16, frames=tuple(range(8))) for d in draws))
    monkeypatch.setattr(stages, "committed_manifest", lambda name: known)
    run = Run(root, tmp_path, ("identity",), ("sintel",), budget=BUDGET, pictures=False)
    said, measured = run.measure()
    assert said.text.startswith("sintel: missing, so that their samples fail: 12: ambush_4, ambush_5")
    assert measured.failures == 12 and measured.text.count("no such sequence") + measured.text.count("lacks") == 12
    (results,) = run.results()
    assert results.complete and results.expected == 14 and results.headline.mean("f@5") < 2 / 14


def test_sequences_that_a_made_manifest_lacks_are_missed_until_it_is_fixed_on_purpose(root, tmp_path, watched):
    run = Run(root, tmp_path, ("identity",), ("nrgbd",), draws=1, budget=BUDGET, pictures=False)
    for _ in range(2):  # a run that goes on does not forget
        lines = list(run.measure())
        assert [line.missing for line in lines] == [7, 0] and "breakfast_room" in lines[0].text
    run.report()
    assert "without 7 sequences: breakfast_room (missing)" in (tmp_path / "report" / "tables.json").read_text()
    before = read_manifest(manifest_path(tmp_path, "nrgbd"))
    assert fix_manifest(find_benchmark("nrgbd"), find_benchmark("nrgbd").select(root), tmp_path, 1) == before
    lines = list(run.measure())
    assert [line.missing for line in lines] == [0, 0] and "left out: 7: breakfast_room: not there" in lines[0].text
    run.report()
    assert "without 7 sequences: breakfast_room (not there)" in (tmp_path / "report" / "tables.json").read_text()
    assert watched.events.count("scored") == 2


def test_sequences_that_came_later_are_said(root, tmp_path, watched):
    run = fixed(root, tmp_path, ("sintel",))
    path = manifest_path(tmp_path, "sintel")
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "alley_2" in line))
    assert any(line.text == "sintel: there, but not in the manifest of this run: 1: ambush_6" for line in run.measure())


def test_nothing_is_written_before_everything_is_known_to_be_there(root, tmp_path):
    run = Run(root, tmp_path / "out", ("identity",), ("nrgbd", "bonn"))
    with pytest.raises(InputError, match="bonn: no such folder; bonn needs"):
        list(run.measure())
    with pytest.raises(InputError, match="nothing has been scored there"):
        run.report()
    assert not run.out.exists()
