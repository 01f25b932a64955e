"""Training on several processes: what `torchrun` started, what they decide together, and the mean of their gradients.

Every rank computes the gradient of scenes of its own. The mean is taken by an all-reduce of ours after the backward
pass, not by DistributedDataParallel within it: whatever goes wrong on a rank until then is known to all before any of
them waits for its gradients, ranks may touch different parts of the model, and the model needs no wrapper. The price is
that communication does not hide behind the backward pass.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from flow3r.errors import Flow3rError, TrainingError
from flow3r.nn.precision import choose_device

TIMEOUT = timedelta(minutes=10)  # torch's default for NCCL: so long a rank waits for the others
BUCKET = 2**24  # ours: elements of gradients that travel at once, 64 MB


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run. One process alone is rank 0 of 1, and calls nothing of torch.distributed.

    All ranks must make the same calls in the same order. Each call raises TrainingError where another rank has ended or
    does not answer within TIMEOUT. Decisions travel on the CPU, so that a rank whose GPU fails can still say so.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one rank that writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.world == 1

    def highest(self, *values: float) -> list[float]:
        """Of each value the highest over all ranks; of a flag, whether any rank has raised it."""
        if self.alone:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        with _answered():
            dist.all_reduce(shared, dist.ReduceOp.MAX)
        return shared.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, by rank."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.world
        with _answered():
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self, where: str) -> Iterator[None]:
        """A context for what each rank does by itself, without a call to the others: if one fails, all stop.

        All raise the same TrainingError, naming the ranks, `where` and what was wrong, with two exceptions: what every
        rank raised alike is raised as it is, and so is, on its own rank, a mistake of the program.
        """
        failure = None
        try:
            yield
        except Exception as error:
            if self.alone:
                raise
            failure = error
        if self.highest(failure is not None) == [0]:
            return
        texts = self.gather(None if failure is None else _description(failure, where))
        if failure is not None and (len(set(texts)) == 1 or not isinstance(failure, Flow3rError)):
            raise failure
        told = "; ".join(f"rank {rank}: {text}" for rank, text in enumerate(texts) if text is not None)
        raise TrainingError(told) from failure

    def agree(self, module: nn.Module, first_step: int) -> None:
        """Give all ranks the parameters and buffers of rank 0, after the same number of finished steps.

        Raises TrainingError if that number differs: then they have not read the same checkpoint.
        """
        if self.alone:
            return
        found = self.gather(first_step)
        if len(set(found)) > 1:
            raise TrainingError(
                f"the ranks found checkpoints after different numbers of steps ({', '.join(map(str, found))}); "
                "expected an output folder that all machines share"
            )
        with _answered():
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.detach(), src=0)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over all ranks, 0 where a rank has none. None where none has one."""
        if self.alone:
            return
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        reached = self.highest(*(parameter.grad is not None for parameter in learning))
        for parameter, somewhere in zip(learning, reached, strict=True):
            if somewhere and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([parameter.grad for parameter in learning if parameter.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket]).div_(self.world)  # first: no overflow
            with _answered():
                dist.all_reduce(flat)
            for gradient, mean in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
                gradient.copy_(mean.view_as(gradient))


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[Ranks]:
    """The ranks that `torchrun` started, joined for as long as the context lasts; without it, a process alone.

    A process group that the caller has made is used and left as it is; it must carry tensors of the CPU too.
    """
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
        return
    if _started() == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def device_of_rank(device: torch.device | str | None) -> torch.device:
    """`device`, by default CUDA where there is one; of several GPUs, that of this rank on its machine.

    Raises InputError for a device that is not there, TrainingError if the machine has fewer GPUs than ranks.
    """
    wanted = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if wanted != "cuda" or _started() == 1:
        return choose_device(wanted)
    local, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= count:
        raise TrainingError(f"local rank {local} on a machine with {count} GPUs; start one process per GPU")
    return torch.device("cuda", local)


@contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM ends nothing: the function given says whether it has come.

    Python sets signal handlers in its main thread alone; in any other, SIGTERM does what it did.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _started() -> int:
    """How many processes the launcher says that it has started."""
    return int(os.environ.get("WORLD_SIZE", 1))


def _description(failure: Exception, where: str) -> str:
    return str(failure) if isinstance(failure, Flow3rError) else f"{where}: {type(failure).__name__}: {failure}"


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"a rank has ended, or did not answer within {TIMEOUT.total_seconds():g} s; what the other ranks printed "
            "says why. Start the run again to go on from its last checkpoint"
        ) from error


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """The gradients in their order, in groups of at most BUCKET elements, or of one tensor that is larger."""
    bucket, elements = [], 0
    for gradient in gradients:
        if bucket and elements + gradient.numel() > BUCKET:
            yield bucket
            bucket, elements = [], 0
        bucket.append(gradient)
        elements += gradient.numel()
    if bucket:
        yield bucket
