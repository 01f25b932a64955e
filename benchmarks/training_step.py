"""One training step of a preset beside a plain eager step in the habits of π³'s trainer, which take turns in one run.

    python -m benchmarks.training_step                        # nano
    python -m benchmarks.training_step --preset flow3r        # on a CPU: its shape at a hundredth of its size
    python -m benchmarks.training_step --preset flow3r --compile

A step is waiting for a batch, forward, objective, backward, clipping and AdamW. Batches are procedural worlds, made
ahead by a worker as in training. The plain step shares weights, batches and objective; it has rotary tables made anew
for each block, softmax(q k') v written out, all blocks of the trunk from the fifth on recomputed whole, AdamW one
parameter at a time, and a wait for the device for every logged term and every parameter's gradient norm.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from flow3r.config import BranchConfig, EncoderConfig, FlowHeadConfig, ModelConfig, MultiViewConfig, TrainConfig
from flow3r.data.mixture import iterate_batches
from flow3r.losses.objective import OBJECTIVES, Objective
from flow3r.model.checkpoints import MODEL_OF, Model
from flow3r.model.fast import compile_blocks
from flow3r.nn.block import Block
from flow3r.nn.memory import Memory
from flow3r.nn.precision import fast_dtype, product_dtype
from flow3r.nn.rope import rotary_table
from flow3r.presets import PRESETS
from flow3r.train.optim import make_optimizer
from flow3r.types import Views

FIRST_RECOMPUTED = 4  # π³: blocks of the trunk from this one on
SMALL = ModelConfig(  # ours: the depths' proportions of the public model, a tenth of its widths
    encoder=EncoderConfig(width=96, depth=6, heads=3, position_grid=8),
    multiview=MultiViewConfig(width=96, depth=12, heads=3),
    branch=BranchConfig(width=96, depth=5, heads=3, camera_width=48),
    flow=FlowHeadConfig(features=32, level_channels=(32, 64, 96, 96), output_channels=8),
    tokens=(64, 96),
)
Step = Callable[[Views], None]


def choose_config(name: str, device: torch.device) -> TrainConfig:
    """The preset on worlds; on a CPU the large π³ ones are cut to `SMALL`."""
    config = PRESETS[name]
    data = dataclasses.replace(config.data, labelled=(), unlabelled=(), small_steps=0, curriculum_steps=0)
    model = config.model
    if device.type == "cpu" and isinstance(model, ModelConfig) and model.encoder.width > SMALL.encoder.width * 4:
        model, data = SMALL, dataclasses.replace(data, tokens=SMALL.tokens, views=(2, 8), workers=1)
    return dataclasses.replace(config, model=model, data=data, steps=10_000)


def make_model(config: TrainConfig, device: torch.device) -> Model:
    torch.manual_seed(0)
    return MODEL_OF[type(config.model)](config.model).to(device).train()


def objective_of(model: Model, views: Views, config: TrainConfig) -> Objective:
    device = views.images.device
    with torch.autocast(device.type, torch.bfloat16, enabled=fast_dtype(device) == torch.bfloat16):
        prediction = model(views.images, views.flow.pairs if views.flow and config.model.flow else None)
    return OBJECTIVES[type(config.model)](prediction, views, config.loss)


def our_step(config: TrainConfig, device: torch.device, compiled: bool) -> Step:
    """As train/loop.py: nothing waits for the device but the check that loss and norm are finite."""
    model = make_model(config, device)
    model.memory = Memory(recompute=config.recompute)
    if compiled:
        compile_blocks(model, recompute=config.recompute, any_size=True)
    optimizer = make_optimizer(model, config.optim)

    def step(views: Views) -> None:
        objective = objective_of(model, views, config)
        objective.total.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        bool(torch.isfinite(objective.total) & torch.isfinite(norm))
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), config.optim.clip_norm, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def plain_step(config: TrainConfig, device: torch.device) -> Step:
    """The same with the habits that the module's text lists."""
    model = make_model(config, device)
    run_plainly(model)
    optimizer = torch.optim.AdamW(model.parameters(), config.optim.learning_rate, foreach=False, fused=False)

    def step(views: Views) -> None:
        objective = objective_of(model, views, config)
        [value.item() for value in (objective.terms | objective.records).values()]
        objective.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm, foreach=False)
        [p.grad.norm().item() for p in model.parameters() if p.grad is not None]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def run_plainly(model: Model) -> None:
    """Blocks of the trunk and the branches by plain attention, on tables of their own, the trunk's recomputed."""
    late = {id(block) for block in model.multiview.blocks[FIRST_RECOMPUTED:]}
    for block in (module for module in model.modules() if isinstance(module, Block)):
        block.compiled = recomputed_plain_block if id(block) in late else plain_block


def recomputed_plain_block(block: Block, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
    return checkpoint(plain_block, block, x, rope, use_reentrant=False)


def plain_block(block: Block, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
    """softmax(q k' / √d) v with all scores in memory, after a rotary table that is made for this call."""
    if rope is not None:
        tokens, width = rope[0].shape  # as many angles as the true table has, at other places: the work is the same
        rope = rotary_table.__wrapped__(1, tokens, 0, width, 100.0, x.device, product_dtype(x))
    q, k, v = block.attention.project(block.norm1(x), rope)
    return block.finish(x, ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1).to(v.dtype) @ v)


@contextmanager
def peak_of(device: torch.device) -> Iterator[list[float]]:
    """GB allocated at most on CUDA; nothing on a CPU."""
    peak: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield peak
    if device.type == "cuda":
        peak.append(torch.cuda.max_memory_allocated(device) / 1e9)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="nano", choices=PRESETS)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--recompute", choices=("nothing", "selective", "everything"), help="in place of the preset's")
    parser.add_argument("--compile", action="store_true", help="compile the blocks of our step")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = choose_config(arguments.preset, device)
    config = dataclasses.replace(config, recompute=arguments.recompute or config.recompute)
    steps = {"ours": our_step(config, device, arguments.compile), "plain": plain_step(config, device)}
    batches = iterate_batches(config, 0, None, device)
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in steps}
    for repeat in range(1 + arguments.repeats):  # the first is the warm-up
        begin = time.perf_counter()
        views = next(batches)
        waited = time.perf_counter() - begin
        for name, step in list(steps.items())[:: -1 if repeat % 2 else 1]:  # the next batch is made beside the first
            wait_for(device)
            wall, cpu = time.perf_counter(), time.process_time()
            with peak_of(device) as peak:
                step(views)
                wait_for(device)
            seconds = time.perf_counter() - wall, time.process_time() - cpu
            images = views.images.shape[0] * views.images.shape[1]
            rows[name].append((*seconds, images / seconds[0], waited / (waited + seconds[0]), *peak))
    Console(width=120).print(report(arguments, config, device, rows))


def report(
    arguments: argparse.Namespace, config: TrainConfig, device: torch.device, rows: dict[str, list[tuple[float, ...]]]
) -> Table:
    pairs = list(zip(rows["ours"], rows["plain"]))[1:]
    clock, cpu = (statistics.median(plain[k] / ours[k] for ours, plain in pairs) for k in range(2))
    cut = "" if config.model is PRESETS[arguments.preset].model else ", cut to a CPU's size"
    table = Table(
        title=f"{arguments.preset}{cut}: recompute={config.recompute}" + (", compiled" if arguments.compile else ""),
        caption=f"{device.type}, {torch.get_num_threads()} threads, torch {torch.__version__}, median of "
        f"{arguments.repeats}; plain / ours of the same batch: {clock:.2f} by the clock, {cpu:.2f} in CPU time",
    )
    for column in ("step", "s", "CPU s", "images/s", "waited for data", "peak GB"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for name, measured in rows.items():
        seconds, processor, images, waited, *peak = (statistics.median(values) for values in zip(*measured[1:]))
        shown = f"{peak[0]:.2f}" if peak else ""
        table.add_row(name, f"{seconds:.2f}", f"{processor:.2f}", f"{images:.1f}", f"{waited:.0%}", shown)
    return table


if __name__ == "__main__":
    main()
