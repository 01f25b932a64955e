"""Seconds of one training step of `nano`: 16 scenes x 4 views at 112 px, with and without factored flow, per precision.

    python -m benchmarks.training_step

A step is forward, objective, backward, clipping and AdamW; rendering the batch is not part of it.
"""

import dataclasses
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table

from flow3r.config import TrainConfig
from flow3r.data.mixture import draw_pairs
from flow3r.data.worlds import render_worlds
from flow3r.losses.objective import pi3_objective
from flow3r.model.flow3r import Flow3r
from flow3r.nn.precision import fast_dtype
from flow3r.presets import PRESETS
from flow3r.train.optim import make_optimizer
from flow3r.types import Views

SCENES, VIEWS, SIDE, PAIRS, WARM_UP, REPEATS = 16, 4, 112, 4, 1, 3


def render_batch() -> Views:
    pairs = draw_pairs(SCENES, VIEWS, PAIRS, torch.Generator().manual_seed(0))
    return render_worlds(range(SCENES), VIEWS, (SIDE, SIDE), pairs=pairs).views


def time_steps(config: TrainConfig, views: Views, dtype: torch.dtype) -> tuple[list[float], list[float]]:
    """Wall seconds and CPU seconds of each step after the warm-up."""
    torch.manual_seed(0)
    model = Flow3r(config.model).to(views.images.device).train()
    optimizer = make_optimizer(model, config.optim)
    pairs = None if views.flow is None else views.flow.pairs
    wall, cpu = [], []
    for _ in range(WARM_UP + REPEATS):
        wall_begin, cpu_begin = time.perf_counter(), time.process_time()
        with torch.autocast(views.images.device.type, dtype, enabled=dtype != torch.float32):
            prediction = model(views.images, pairs)
        pi3_objective(prediction, views, config.loss).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm).item()  # waits for the device
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wall.append(time.perf_counter() - wall_begin)
        cpu.append(time.process_time() - cpu_begin)
    return wall[WARM_UP:], cpu[WARM_UP:]


def main() -> None:
    nano = PRESETS["nano"]
    without_flow = dataclasses.replace(nano, model=dataclasses.replace(nano.model, flow=None))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    views = render_batch().to(device)
    variants = {
        "3d-sup": (without_flow, dataclasses.replace(views, flow=None)),
        f"factored, {PAIRS} pairs a scene": (nano, views),
    }
    table = Table(
        title=f"nano: seconds of a training step, {SCENES} x {VIEWS} views at {SIDE} px",
        caption=f"{device.type}, {torch.get_num_threads()} threads, torch {torch.__version__}, median of {REPEATS}; "
        f"fast in {fast_dtype(device)}. CPU seconds below threads x wall: others had the cores",
    )
    for column in ("variant", "precision", "median s", "fastest s", "CPU s"):
        table.add_column(column, justify="left" if column in ("variant", "precision") else "right")
    for variant, (config, batch) in variants.items():
        for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16 autocast")):
            wall, cpu = time_steps(config, batch, dtype)
            times = (statistics.median(wall), min(wall), statistics.median(cpu))
            table.add_row(variant, name, *(f"{seconds:.2f}" for seconds in times))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
