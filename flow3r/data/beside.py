"""What an accelerator makes for the next steps while it computes this one: in a thread, on a stream of its own.

Rendering is thousands of small kernels, between which the host reads how many rays go on: in the training step's own
thread and stream both would wait for each other.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from flow3r.types import OnDevice

AHEAD = 2  # ours: two batches are ready, so that one that takes long to make is not waited for
Made = TypeVar("Made", bound=OnDevice)


def made_beside(
    make: Callable[[int], Made], steps: Iterable[int], device: torch.device, idle: threading.Lock
) -> Iterator[Made]:
    """`make(step)` of some steps, in order, by a thread that is AHEAD of whoever takes them; its errors arrive there.

    Whoever holds `idle` finds the thread at rest, between two of them: no process should be forked otherwise.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def work(step: int) -> Made:
        with idle, torch.cuda.stream(stream):
            made = make(step)
            if stream is not None:
                stream.synchronize()  # here, not where it would stop the training step
        return made

    with ThreadPoolExecutor(1, "beside") as thread:
        begun: deque[Future[Made]] = deque()
        try:
            for step in steps:
                begun.append(thread.submit(work, step))
                if len(begun) > AHEAD:
                    yield _handed_over(begun.popleft().result())
            while begun:
                yield _handed_over(begun.popleft().result())
        finally:
            for future in begun:
                future.cancel()


def _handed_over(made: Made) -> Made:
    """For use on the current stream: its memory is not given to another batch before that has come to its end."""

    def known(tensor: Tensor) -> Tensor:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
        return tensor

    return made.apply(known)
