"""Inference: `nano` from images to a Reconstruction, and the full model beside its own matrix products.

    python -m benchmarks.inference

The full model has random weights and takes about 5 GB. Its products (linear layers, convolutions, attention) are
recorded during one forward and replayed alone, on the same weights, in turn with the whole forward.
"""

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from flow3r.config import ModelConfig
from flow3r.errors import CheckpointError
from flow3r.model.checkpoints import load_model
from flow3r.model.flow3r import Flow3r
from flow3r.presets import NANO_MODEL
from flow3r.reconstruction import reconstruct

REPEATS = 3
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "convolution", "_scaled_dot_product")


class Recorder(TorchDispatchMode):
    """Keeps every product with its arguments, counts kernels and host synchronisations.

    Weights are kept themselves; an activation is replaced by one buffer of random numbers per shape and strides, so
    that little memory is held.
    """

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self.buffers: dict[tuple[Any, ...], Tensor] = {}
        self.products: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []
        self.kernels = self.syncs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        result = func(*args, **(kwargs or {}))
        self.syncs += name == "_local_scalar_dense"
        self.kernels += not func.is_view
        if name.startswith(PRODUCTS):
            self.products.append((func, tree_map(self.stand_in, args), tree_map(self.stand_in, kwargs or {})))
        return result

    def stand_in(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.untyped_storage().data_ptr() in self.weights:
            return value
        key = (value.shape, value.stride(), value.dtype)
        if key not in self.buffers:
            self.buffers[key] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).normal_()
        return self.buffers[key]

    def replay(self) -> None:
        for func, args, kwargs in self.products:
            func(*args, **kwargs)


def time_in_turn(*functions: Callable[[], object]) -> list[tuple[float, float]]:
    """Median wall and CPU seconds of each function; they take turns, so that a busy machine slows them alike."""
    times: list[list[tuple[float, float]]] = [[] for _ in functions]
    for repeat in range(1 + REPEATS):
        for function, seconds in zip(functions, times):
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            if repeat:  # the first is the warm-up
                seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
    return [(statistics.median(wall), statistics.median(cpu)) for wall, cpu in (zip(*each) for each in times)]


def random_full_model() -> Flow3r:
    """The public 1.0 B parameter layout with small uniform weights, made without the slow initial distributions."""
    with torch.device("meta"):
        model = Flow3r(ModelConfig())
    model.to_empty(device="cpu").eval()
    for parameter in model.parameters():
        parameter.data.uniform_(-0.03, 0.03)
    model.image_mean.fill_(0.5)
    model.image_std.fill_(0.25)
    return model


def nano_table() -> Table:
    try:
        model, weights = load_model("nano"), "packaged weights"
    except CheckpointError:
        model, weights = Flow3r(NANO_MODEL).eval(), "random weights: none are packaged"
    frames = np.random.default_rng(0).integers(0, 255, (8, 112, 112, 3), dtype=np.uint8)
    parts: list[dict[str, float]] = []
    ((seconds, _),) = time_in_turn(lambda: parts.append(dict(reconstruct(frames, model, tokens=(64, 64)).timings)))
    table = Table(title="nano: 8 views at 112 px to a Reconstruction", caption=f"{weights}; median of {REPEATS}")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for stage in parts[0]:
        table.add_row(stage, f"{statistics.median(part[stage] for part in parts[1:]):.3f}")
    table.add_row("all", f"{seconds:.3f}", style="bold")
    return table


@torch.no_grad()
def full_table() -> Table:
    model = random_full_model()
    images = torch.rand(1, 2, 3, 224, 224)
    pairs = torch.tensor([[[0, 1], [1, 0]]])
    table = Table(
        title="flow3r (1.0 B parameters, random weights, fp32, CPU): 2 views at 224 px",
        caption=f"{torch.get_num_threads()} threads, torch {torch.__version__}, median of {REPEATS} taken in turn. "
        "CPU seconds below threads x wall: others had the cores. Host syncs are calls of _local_scalar_dense; with "
        "pairs it is the check of their range, made on the CPU alone",
    )
    columns = ("outputs", "wall s", "its products", "ratio", "CPU s", "its products", "ratio")
    for column in (*columns, "products", "kernels", "host syncs", "peak GiB"):
        table.add_column(column, justify="left" if column == "outputs" else "right")
    cases: dict[str, Callable[[], object]] = {
        "all but flow": lambda: model(images),
        "and 2 flows": lambda: model(images, pairs),
    }
    for name, forward in cases.items():
        with Recorder(model) as recorder:
            forward()
        whole, products = time_in_turn(forward, recorder.replay)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        times = (f"{value:.2f}" for a, b in zip(whole, products) for value in (a, b, a / b))
        counts = (len(recorder.products), recorder.kernels, recorder.syncs)
        table.add_row(name, *times, *map(str, counts), f"{peak:.2f}")
    return table


def main() -> None:
    console = Console(width=120)
    console.print(nano_table())
    console.print(full_table())


if __name__ == "__main__":
    main()
