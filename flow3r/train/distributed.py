"""Training on several processes: what `torchrun` started, what they decide together, and how they share a model.

Every rank computes the gradient of scenes of its own; PyTorch's DistributedDataParallel or FSDP2 takes the mean.
"""

import inspect
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from flow3r.errors import Flow3rError, TrainingError
from flow3r.nn.block import Block
from flow3r.nn.precision import choose_device

TIMEOUT = timedelta(minutes=10)  # torch's default for NCCL: so long a rank waits for the others


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
        with answered():
            dist.all_reduce(shared, dist.ReduceOp.MAX)
        return shared.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, by rank."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.world
        with answered():
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


def share(module: nn.Module, parallel: Literal["replicate", "shard"], ranks: Ranks) -> nn.Module:
    """The module as all ranks train it together; one process alone has it for itself.

    `replicate`: every rank holds all of it, and may use other parts of it than the others do. `shard`: every rank holds
    a part of each parameter, gathers a transformer block when it comes to it and all the rest at the beginning; every
    rank must run the same blocks and reach the same parameters.
    """
    if ranks.alone:
        return module
    if parallel == "replicate":
        # Buffers never change: no rank shall wait for them in its forward pass. Torch has renamed the argument.
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        return DistributedDataParallel(module, find_unused_parameters=True, **{buffers: False})
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(module.parameters()).device.type, (ranks.world,))
    for block in [part for part in module.modules() if isinstance(part, Block)]:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


@contextmanager
def in_parts(module: nn.Module) -> Iterator[None]:
    """A context in which parts of a module that is `share`d may be called by themselves, by all ranks alike."""
    if not hasattr(module, "unshard"):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module that the ranks hold in parts, on the first rank and the CPU; {} on the others."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    with answered():
        return get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


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


def use_device_of_rank(device: torch.device | str | None) -> torch.device:
    """The device of this rank, which on CUDA is from now on what "cuda" means to this process."""
    chosen = device_of_rank(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return chosen


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
def answered() -> Iterator[None]:
    """A context for calls that wait for other ranks: TrainingError where one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"a rank has ended, or did not answer within {TIMEOUT.total_seconds():g} s; what the other ranks printed "
            "says why. Start the run again to go on from its last checkpoint"
        ) from error
