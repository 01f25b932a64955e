"""Jobs in processes: in order, in spite of failures, and resumable after they were told to end."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from flow3r.errors import InputError
from flow3r.experiment.pool import in_order, work
from flow3r.experiment.schedule import SCHEDULES
from flow3r.experiment.stages import Experiment
from flow3r.teacher.leases import Lease


@dataclass(frozen=True)
class Note:
    """Writes its name, when those of others stand there."""

    key: str
    after: tuple["Note", ...] = ()
    fault: str = ""

    def needs(self, experiment: Experiment) -> tuple["Note", ...]:
        return self.after

    def steps(self, experiment: Experiment) -> int:
        return 0

    def is_done(self, experiment: Experiment) -> bool:
        return (experiment.folder / self.key).exists()

    def do(self, experiment: Experiment) -> str:
        if self.fault:
            raise InputError(self.fault)
        assert all(other.is_done(experiment) for other in self.after)
        (experiment.folder / self.key).write_text("done")
        return "written"


@dataclass(frozen=True)
class Patient(Note):
    """Waits until it is told to end, saves that it was, and is quick when it goes on."""

    def do(self, experiment: Experiment) -> str:
        saved = experiment.folder / f"{self.key}.saved"
        if saved.exists():
            return super().do(experiment)
        told = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: told.set())
        (experiment.folder / f"{self.key}.begun").write_text("")
        told.wait()
        saved.write_text("")
        raise SystemExit(0)


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    made = Experiment(tmp_path, SCHEDULES["toy"])
    made.folder.mkdir()
    return made


def test_jobs_come_after_what_they_need_and_once():
    a = Note("a")
    b, c = Note("b", (a,)), Note("c", (a,))
    d = Note("d", (b, c))
    order = [job.key for job in in_order(Experiment(Path("x"), SCHEDULES["toy"]), (d, c, a, Note("e")))]
    assert order == ["a", "b", "c", "d", "e"]


def test_what_needs_a_failed_job_is_not_begun_and_all_else_is_done(experiment: Experiment):
    broken = Note("broken", fault="no such clip")
    jobs = in_order(experiment, (Note("after", (Note("child", (broken,)),)), Note("other")))
    said: list[str] = []
    failed = work(experiment, jobs, 1, said.append)
    assert failed == {
        "broken": "no such clip",
        "child": "not begun, since broken failed",
        "after": "not begun, since child failed",
    }
    assert Note("other").is_done(experiment) and "other: written [1 of 4]" in said


def test_a_job_that_another_process_is_at_is_waited_for(experiment: Experiment, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("flow3r.experiment.pool.POLL", 0.01)
    a = Note("a")
    lease = Lease.take(experiment.folder / "claims" / "a")

    def other() -> None:
        with lease:
            time.sleep(0.1)
            a.do(experiment)

    said: list[str] = []
    thread = threading.Thread(target=other)
    thread.start()
    assert work(experiment, in_order(experiment, (Note("b", (a,)),)), 1, said.append) == {}
    thread.join()
    assert said == ["a: another process is at it", "a: done by another process [1 of 2]", "b: written [2 of 2]"]


@pytest.mark.parametrize("processes", [1, 2])
def test_what_was_told_to_end_is_saved_and_goes_on(experiment: Experiment, processes: int):
    """Also by the process itself, whose training ends with SystemExit(0) then."""
    job = Patient("slow")
    begun = experiment.folder / "slow.begun"

    def stop() -> None:
        while not begun.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="stopped; 2 of 2 jobs are left: the same command goes on"):
        work(experiment, [job, Note("after", (job,))], processes, print)
    assert signal.getsignal(signal.SIGTERM) == before
    assert (experiment.folder / "slow.saved").exists() and not job.is_done(experiment)
    said: list[str] = []
    assert work(experiment, [job, Note("quick")], 2, said.append) == {}
    assert sorted(said[:2]) == ["quick: begun", "slow: begun"] and len(said) == 4 and job.is_done(experiment)
