"""The same function over many items: in this process, in others, or as tasks of a Ray cluster."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch

from flow3r.errors import Flow3rError, InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
Where = Literal["here", "processes", "ray"]

WAITING = 4  # ours: items handed out ahead of each worker


def in_parallel(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    where: Where = "processes",
    workers: int = 2,
    gpus: float = 0.0,
) -> Iterator[Result]:
    """Results as they come, in any order; `items` are drawn as workers become free, here.

    `gpus`: of each task, on Ray. An exception of the function is raised here, and what was not begun is given up.
    Raises InputError for Ray that is not installed, and Flow3rError for a process that was killed.
    """
    if where == "here":
        yield from map(function, items)
    elif where == "ray":
        yield from _on_ray(function, items, workers, gpus)
    else:
        yield from _in_processes(function, items, workers)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: the order of sums, and with it the last digits, would depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_processes(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent)
    try:
        running = set()
        for item in items:
            running.add(pool.submit(function, item))
            full = len(running) >= workers * WAITING
            done, running = wait(running, timeout=None if full else 0, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise Flow3rError(
            f"one of {workers} processes was killed, perhaps because memory was short: what is done is kept; go on "
            "with the same command, with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """So that a run that is killed leaves no process behind, waiting for work that never comes."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_ray(function: Callable[[Item], Result], items: Iterable[Item], workers: int, gpus: float) -> Iterator[Result]:
    try:
        import ray
    except ImportError as error:
        raise InputError("work on a cluster needs Ray, which is not installed: pip install 'flow3r[scale]'") from error
    ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=2)(function)
    running = []
    for item in items:
        running.append(task.remote(item))
        if len(running) >= workers * WAITING:
            done, running = ray.wait(running)
            yield from ray.get(done)
    while running:
        done, running = ray.wait(running)
        yield from ray.get(done)
