"""What a run measures of itself: gradient norms of the model's parts, peak memory, pace, and waiting for data."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

# What wrappers put into the names of parameters: DistributedDataParallel, torch.compile, activation checkpointing.
WRAPPERS = {"module", "_orig_mod", "_checkpoint_wrapped_module"}
# Linux alone, and not every one: its peak is of this program, ru_maxrss also of what it was forked from.
STATUS = Path("/proc/self/status")


def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """The L2 norm of the gradients of each part of a model, its children and its own parameters, by name.

    Parts without a gradient are left out. The root of the sum of their squares is the norm of all gradients. Of sharded
    gradients (DTensor) the norm is that of the whole: then all ranks must call, with the same parts.
    """
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            part = next(word for word in name.split(".") if word not in WRAPPERS)
            parts.setdefault(part, []).append(parameter.grad.detach())
    return {part: _whole(nn.utils.get_total_norm(gradients)) for part, gradients in parts.items()}


def norms_and_cosine(first: list[Tensor], second: list[Tensor]) -> tuple[float, float, float]:
    """The L2 norms of two gradients of some parameters, and the cosine between them; 0 where one of them is zero."""
    norms = [nn.utils.get_total_norm(gradients).item() for gradients in (first, second)]
    product = sum(torch.dot(a.flatten().double(), b.flatten().double()) for a, b in zip(first, second, strict=True))
    return norms[0], norms[1], product.item() / (norms[0] * norms[1]) if all(norms) else 0.0


def _whole(norm: Tensor) -> Tensor:
    # By its method: importing DTensor takes a second, which one process alone need not spend.
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def peak_memory(device: torch.device) -> int:
    """Bytes at the peak, since the process began: allocated by torch on a CUDA device, else resident in main memory.

    0 where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes there, KiB elsewhere


class Stopwatch:
    """The pace of a loop, and the share of its wall time spent waiting for data, lap by lap.

    A device that computes asynchronously may be busy while the loop waits: the share is at most what it lost. End a lap
    after a value has been read from the device.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.began, self.waited = clock(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A context for what waits for data: `with watch.waiting(): batch = next(batches)`."""
        since = self.clock()
        try:
            yield
        finally:
            self.waited += self.clock() - since

    def lap(self, steps: int, images: int) -> dict[str, float]:
        """End a lap of so many steps and images: `steps/s`, `images/s`, and `data_wait` in [0, 1]."""
        now = self.clock()
        seconds = max(now - self.began, 1e-9)  # two readings of a coarse clock may be equal
        pace = {"steps/s": steps / seconds, "images/s": images / seconds, "data_wait": min(self.waited / seconds, 1.0)}
        self.began, self.waited = now, 0.0
        return pace
