"""The same function over many items: in this process, in others, or as tasks of a Ray cluster."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import Literal, TypeVar

from flow3r.errors import InputError

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

    `gpus`: of each task, on Ray. An exception of the function is raised here. Raises InputError for Ray that is not
    installed.
    """
    if where == "here":
        yield from map(function, items)
    elif where == "ray":
        yield from _on_ray(function, items, workers, gpus)
    else:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
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
