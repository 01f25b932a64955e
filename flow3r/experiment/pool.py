"""Many jobs in a few processes: each job in one of its own, after those that it needs; all of it restartable."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from flow3r.errors import Flow3rError
from flow3r.eval.parallel import one_thread
from flow3r.experiment.stages import Experiment, Job
from flow3r.teacher.leases import Lease

TAKEN = "another process is at it"
POLL = 2.0  # seconds; ours: how often it is asked whether another process has finished a job


def in_order(experiment: Experiment, wanted: Sequence[Job]) -> list[Job]:
    """The jobs and all that they need, each once and after what it needs, otherwise in the order given."""
    ordered: dict[str, Job] = {}

    def add(job: Job) -> None:
        if job.key not in ordered:
            for needed in job.needs(experiment):
                add(needed)
            ordered[job.key] = job

    for job in wanted:
        add(job)
    return list(ordered.values())


def work(experiment: Experiment, jobs: Sequence[Job], processes: int, tell: Callable[[str], None]) -> dict[str, str]:
    """Do all jobs, as `in_order` has them, `processes` at a time; of those that failed, why, by key.

    What needs a job that failed is not begun, and has failed too. After SIGTERM or ctrl-C the jobs at hand are told to
    end, which saves what they have, and KeyboardInterrupt, which says how many are left, is raised: the same call goes
    on. A single process does all jobs in this one, and after ctrl-C goes on from the last checkpoint.
    """
    crew = _Crew(experiment, jobs, tell)
    try:
        if processes == 1:
            _work_alone(crew)
        else:
            _work_together(crew, processes)
    except KeyboardInterrupt:
        left = crew.total - crew.finished - len(crew.failed)
        raise KeyboardInterrupt(f"stopped; {left} of {crew.total} jobs are left: the same command goes on") from None
    return crew.failed


def _work_alone(crew: "_Crew") -> None:
    with one_thread(), _handling(signal.default_int_handler):
        while crew.left:
            if (job := crew.next()) is None:
                crew.wait()
                continue
            try:
                crew.ended(job, _done_here(crew.experiment, job))
            except SystemExit:  # of training that was told to end, and has saved what it has
                raise KeyboardInterrupt from None


def _work_together(crew: "_Crew", processes: int) -> None:
    asked = threading.Event()
    with _handling(lambda *_: asked.set()):
        try:
            while crew.left:
                while len(crew.running) < processes and (job := crew.next()) is not None:
                    crew.start(job)
                crew.wait()
                if asked.is_set():
                    raise KeyboardInterrupt
        finally:
            crew.end()


class _Crew:
    """Who does what: jobs that wait, processes that run, and what has failed."""

    def __init__(self, experiment: Experiment, jobs: Sequence[Job], tell: Callable[[str], None]):
        self.experiment, self.tell = experiment, tell
        self.waiting = {job.key: job for job in jobs if not job.is_done(experiment)}
        self.total, self.finished = len(self.waiting), 0
        self.running: dict[str, tuple[Job, BaseProcess, Connection, float]] = {}
        self.taken: dict[str, Job] = {}
        self.failed: dict[str, str] = {}

    @property
    def left(self) -> bool:
        return bool(self.waiting or self.running or self.taken)

    def next(self) -> Job | None:
        """The first job that waits for no other."""
        for key, job in list(self.waiting.items()):
            needed = [other.key for other in job.needs(self.experiment)]
            broken = [other for other in needed if other in self.failed]
            if broken:
                del self.waiting[key]
                self.failed[key] = f"not begun, since {broken[0]} failed"
                self.tell(f"{key}: {self.failed[key]}")
            elif not any(other in table for other in needed for table in (self.waiting, self.running, self.taken)):
                return self.waiting.pop(key)
        return None

    def start(self, job: Job) -> None:
        """In a process of its own."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_in_process, args=(self.experiment, job, theirs))
        process.start()
        theirs.close()
        self.running[job.key] = (job, process, ours, time.monotonic())
        self.tell(f"{job.key}: begun")

    def wait(self) -> None:
        """Until a process ends, or for a moment; and look after jobs that others are at."""
        sentinels = [process.sentinel for _, process, _, _ in self.running.values()]
        if sentinels:
            multiprocessing.connection.wait(sentinels, timeout=POLL)
        elif self.taken:
            time.sleep(POLL)
        for key, (job, process, connection, _) in list(self.running.items()):
            if not process.is_alive():
                process.join()
                del self.running[key]
                self.ended(job, _answer(connection, process))
        for key, job in list(self.taken.items()):
            if job.is_done(self.experiment):
                del self.taken[key]
                self._count(key, "done by another process")
            elif (lease := Lease.take(_claim(self.experiment, job))) is not None:
                with lease:
                    pass  # whoever held it is gone
                self.waiting[key] = self.taken.pop(key)

    def ended(self, job: Job, said: tuple[bool, str]) -> None:
        """Record what a process said of its job."""
        well, text = said
        if well:
            self._count(job.key, text)
        elif text == TAKEN:
            self.taken[job.key] = job
            self.tell(f"{job.key}: {TAKEN}")
        else:
            self.failed[job.key] = text.strip().splitlines()[-1] if text.strip() else "ended without a word"
            self.tell(f"{job.key}: failed: {text}")

    def _count(self, key: str, text: str) -> None:
        self.finished += 1
        self.tell(f"{key}: {text} [{self.finished} of {self.total}]")

    def end(self) -> None:
        """Tell all processes to save what they have and to end, and wait until they have."""
        for _, process, _, _ in self.running.values():
            process.terminate()
        for _, process, _, _ in self.running.values():
            process.join()


def _in_process(experiment: Experiment, job: Job, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches all processes; the first one tells the others
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection.send(_done_here(experiment, job))


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)


def _done_here(experiment: Experiment, job: Job) -> tuple[bool, str]:
    """Whether a job was done in this process, and what came of it."""
    lease = Lease.take(_claim(experiment, job))
    if lease is None:
        return False, TAKEN
    with lease:
        if job.is_done(experiment):
            return True, "done by another process"
        try:
            return True, job.do(experiment)
        except Flow3rError as error:
            return False, str(error)
        except Exception:
            return False, traceback.format_exc()


def _claim(experiment: Experiment, job: Job) -> Path:
    return experiment.folder / "claims" / job.key


def _answer(connection: Connection, process: BaseProcess) -> tuple[bool, str]:
    try:
        return connection.recv() if connection.poll() else (False, f"its process ended with code {process.exitcode}")
    except EOFError:
        return False, f"its process ended with code {process.exitcode}"
    finally:
        connection.close()


@contextmanager
def _handling(answer: Callable[[int, Any], Any]) -> Iterator[None]:
    """Within, `answer` is what SIGTERM calls."""
    before = signal.signal(signal.SIGTERM, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
