"""Training steps of one process and of two on this machine's cores, over gloo, one thread each.

    python -m benchmarks.processes

"equal": in each step all ranks draw the same number of views and the same grid, as training does. "each its own": each
draws them by itself, so that one waits for the other. Waiting is measured at a barrier before the backward
pass. Images are counted over all processes; batches are drawn before the clock starts.
"""

import argparse
import dataclasses
import os
import socket
import time

import torch
import torch.distributed as dist
import torch.multiprocessing
from rich.console import Console
from rich.table import Table

from flow3r.config import (
    BranchConfig,
    DataConfig,
    EncoderConfig,
    FlowHeadConfig,
    ModelConfig,
    MultiViewConfig,
    TrainConfig,
)
from flow3r.data.mixture import iterate_batches
from flow3r.train.distributed import Ranks, share
from flow3r.train.learner import Learner, initial_model, needs_of
from flow3r.train.optim import make_optimizer

CONFIG = TrainConfig(
    name="processes",
    model=ModelConfig(
        EncoderConfig(width=96, depth=4, heads=3, position_grid=8),
        MultiViewConfig(width=96, depth=8, heads=3),
        BranchConfig(width=96, depth=4, heads=3, camera_width=48),
        FlowHeadConfig(features=16, level_channels=(16, 32, 48, 48), output_channels=8),
    ),
    data=DataConfig(views=(2, 8), images_per_batch=8, tokens=(16, 64), pairs_per_scene=2, workers=0, augment=False),
    precision="float32",
)
# How many processes, how they hold the model, and whether their batches have equal shapes.
CASES = [(1, "replicate", True), (2, "replicate", True), (2, "shard", True), (2, "replicate", False)]


def measure(rank: int, world: int, parallel: str, equal: bool, steps: int, port: int, results: dict) -> None:
    """On one rank: leaves seconds, seconds of waiting, and images of `steps` steps in `results`."""
    torch.set_num_threads(1)
    ranks = Ranks(rank, world)
    if not ranks.alone:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        dist.init_process_group("gloo", rank=rank, world_size=world)
    config = dataclasses.replace(CONFIG, parallel=parallel, steps=steps + 1, seed=0 if equal else rank)
    learner = share(Learner(initial_model(CONFIG).train(), config, reach_all=parallel == "shard"), parallel, ranks)
    optimizer = make_optimizer(learner, config.optim)
    batches = list(iterate_batches(config, 0, None, torch.device("cpu"), rank=rank))
    waited, images, begin = 0.0, 0, 0.0
    for number, views in enumerate(batches):
        if number == 1:  # the first is the warm-up
            waited, images, begin = 0.0, 0, time.perf_counter()
        total, _ = learner(views, needs_of(views, config), torch.Generator().manual_seed(0))
        if not ranks.alone:
            before = time.perf_counter()
            dist.barrier()
            waited += time.perf_counter() - before
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        images += views.images.shape[:2].numel()
    results[rank] = (time.perf_counter() - begin, waited, images)
    if not ranks.alone:
        dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    table = Table(title=f"{steps} steps, one thread a process", caption=f"torch {torch.__version__}, gloo")
    for column in ("processes", "model", "shapes", "s a step", "waiting", "images/s", "against one"):
        table.add_column(column, justify="right")
    alone = 0.0
    with torch.multiprocessing.Manager() as manager:
        for world, parallel, equal in CASES:
            results = manager.dict()
            arguments = (world, parallel, equal, steps, free_port(), results)
            torch.multiprocessing.spawn(measure, arguments, nprocs=world)
            seconds, waited, images = (list(column) for column in zip(*results.values()))
            rate = sum(images) / max(seconds)
            alone = alone or rate
            shapes = "" if world == 1 else "equal" if equal else "each its own"
            share_waited = sum(waited) / sum(seconds)
            numbers = (f"{max(seconds) / steps:.3f}", f"{share_waited:.0%}", f"{rate:.1f}", f"{rate / alone:.2f}")
            table.add_row(str(world), parallel if world > 1 else "", shapes, *numbers)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
