"""Inference: `nano` from images to a Reconstruction, and one model beside what its arithmetic must take.

    python -m benchmarks.inference                                      # 1.0 B parameters: 2 views at 224 px
    python -m benchmarks.inference --cases 2x224x224 4x224x224 2x392x518
    python -m benchmarks.inference --cases 2x224x224 --against theirs.py
    python -m benchmarks.inference --against math                       # a stand-in, see `math_stand_in`

A case is views x height x width, and +P for flow of P pairs. The full model has random weights and takes about 5 GB.
Its products (linear layers, convolutions, attention) are recorded during one forward and replayed alone. The arithmetic
limit is the closed form of its operations at the rate of large matrix products measured here.

`--against PATH` names a Python file that defines `load(weights: Path | None, device: torch.device)` and returns a
callable of images (B N 3 H W, RGB in [0, 1]). `weights` is a safetensors file in the public layout with the weights of
our model. Both take turns in one process. If the callable returns a mapping or an object with `local_points`, the
largest difference from ours is printed, in units of the largest value.
"""

import argparse
import importlib.util
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from flow3r.config import ModelConfig
from flow3r.errors import CheckpointError
from flow3r.model.checkpoints import load_model
from flow3r.model.cost import forward_flops
from flow3r.model.flow3r import Flow3r
from flow3r.model.layouts import LAYOUTS
from flow3r.nn.block import Block
from flow3r.nn.precision import product_dtype, product_rate
from flow3r.nn.rope import rotary_table
from flow3r.presets import NANO_MODEL
from flow3r.reconstruction import reconstruct

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "convolution", "_scaled_dot_product")
STAND_IN = "math"
Forward = Callable[[Tensor], object]


@dataclass(frozen=True)
class Case:
    """What one row measures."""

    views: int
    height: int
    width: int
    pairs: int = 0

    def __str__(self) -> str:
        return f"{self.views}x{self.height}x{self.width}" + (f"+{self.pairs}" if self.pairs else "")

    @classmethod
    def parse(cls, text: str) -> "Case":
        """Read views x height x width, and + pairs."""
        match = re.fullmatch(r"(\d+)x(\d+)x(\d+)(?:\+(\d+))?", text)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text}: expected views x height x width, like 2x224x224 or 2x224x224+2")
        return cls(*(int(group or 0) for group in match.groups()))

    def inputs(self, device: torch.device) -> list[Tensor]:
        """Random images, and each view with the next as pairs."""
        views = torch.arange(self.pairs) % self.views
        pairs = torch.stack([views, (views + 1) % self.views], dim=-1)[None]
        images = torch.rand(1, self.views, 3, self.height, self.width)
        return [x.to(device) for x in ((images, pairs) if self.pairs else (images,))]


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
            extent = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride()))
            numbers = torch.randn(extent, dtype=value.dtype, device=value.device)
            self.buffers[key] = numbers.as_strided(value.shape, value.stride())
        return self.buffers[key]

    def replay(self) -> None:
        for func, args, kwargs in self.products:
            func(*args, **kwargs)


def time_in_turn(repeats: int, device: torch.device, *functions: Callable[[], object]) -> list[tuple[float, float]]:
    """Median wall and CPU seconds of each function; they take turns, so that a busy machine slows them alike."""
    times: list[list[tuple[float, float]]] = [[] for _ in functions]
    for repeat in range(1 + repeats):
        for function, seconds in zip(functions, times):
            wait(device)
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            wait(device)
            if repeat:  # the first is the warm-up
                seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
    return [(statistics.median(wall), statistics.median(cpu)) for wall, cpu in (zip(*each) for each in times)]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make_model(name: str, device: torch.device) -> Flow3r:
    """The packaged nano, or the public 1.0 B parameter layout with small uniform weights, which are quickly drawn."""
    if name == "nano":
        return nano_model()[0].to(device)
    with torch.device("meta"):
        model = Flow3r(ModelConfig())
    model.to_empty(device=device).eval()
    for parameter in model.parameters():
        parameter.data.uniform_(-0.03, 0.03)
    model.image_mean.fill_(0.5)
    model.image_std.fill_(0.25)
    return model


def nano_model() -> tuple[Flow3r, str]:
    try:
        return load_model("nano"), "packaged weights"
    except CheckpointError:
        return Flow3r(NANO_MODEL).eval(), "random weights: none are packaged"


def nano_table(repeats: int) -> Table:
    model, weights = nano_model()
    frames = np.random.default_rng(0).integers(0, 255, (8, 112, 112, 3), dtype=np.uint8)
    parts: list[dict[str, float]] = []

    def run() -> None:
        parts.append(dict(reconstruct(frames, model, device="cpu", tokens=(64, 64)).timings))

    ((seconds, _),) = time_in_turn(repeats, torch.device("cpu"), run)
    table = Table(title="nano: 8 views at 112 px to a Reconstruction", caption=f"{weights}; median of {repeats}")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for stage in parts[0]:
        table.add_row(stage, f"{statistics.median(part[stage] for part in parts[1:]):.3f}")
    table.add_row("all", f"{seconds:.3f}", style="bold")
    return table


def math_stand_in(model: Flow3r) -> Forward:
    """Our own model with two habits of the public code on a CPU, not that code itself: attention by the plain kernel
    that writes out all scores, and rotary tables made anew in every layer."""

    def forward(images: Tensor) -> object:
        patch, trunk = model.config.encoder.patch, model.config.multiview
        grid = (images.shape[-2] // patch, images.shape[-1] // patch)

        def with_new_table(block: Block, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            x, rope = inputs
            if rope is None:
                return inputs
            width = x.shape[-1] // block.attention.heads
            make = rotary_table.__wrapped__
            return x, make(*grid, trunk.registers, width, trunk.rope_base, x.device, product_dtype(x))

        hooks = [m.register_forward_pre_hook(with_new_table) for m in model.modules() if isinstance(m, Block)]
        try:
            with sdpa_kernel(SDPBackend.MATH):
                return model(images)
        finally:
            for hook in hooks:
                hook.remove()

    return forward


def load_other(path: str, model: Flow3r, device: torch.device) -> Forward:
    """The other implementation, with our weights; its file is gone once it has loaded them."""
    if path == STAND_IN:
        return math_stand_in(model)
    spec = importlib.util.spec_from_file_location("against", path)
    if spec is None or not Path(path).is_file():
        raise SystemExit(f"--against {path}: no Python file; expected one that defines load(weights, device)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with tempfile.TemporaryDirectory(prefix="flow3r-weights-") as folder:
        weights = Path(folder) / "flow3r.safetensors"
        public = LAYOUTS["flow3r"].from_ours(model.state_dict())
        save_file({key: value.cpu().contiguous() for key, value in public.items()}, weights)
        return module.load(weights, device)


def difference(ours: object, theirs: object) -> str:
    """Between the local points, where both give them."""
    if isinstance(theirs, dict):
        theirs = argparse.Namespace(**theirs)
    found = getattr(theirs, "local_points", None)
    if found is None:
        return "-"
    expected = ours.local_points.float().cpu()
    return f"{((found.float().cpu() - expected).abs().max() / expected.abs().max()).item():.1e}"


def peak_bytes_in_fresh_process(options: argparse.Namespace, case: Case) -> int:
    """What a process that makes the model and runs the case once needs at most."""
    command = [sys.executable, "-m", "benchmarks.inference", "--peak-of", str(case)]
    for name in ("model", "device", "dtype"):
        command += [f"--{name}", getattr(options, name)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_peak(options: argparse.Namespace) -> None:
    """Of CUDA what tensors took; of a host VmHWM, which belongs to this program alone."""
    device = torch.device(options.device)
    model, inputs = make_model(options.model, device), options.peak_of.inputs(device)
    with torch.no_grad(), autocast(options):
        model(*inputs)
    if device.type == "cuda":
        print(torch.cuda.max_memory_allocated(device))
    else:
        print(1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]))


def autocast(options: argparse.Namespace) -> torch.autocast:
    dtype = getattr(torch, options.dtype)
    return torch.autocast(torch.device(options.device).type, dtype, enabled=dtype != torch.float32)


def model_table(options: argparse.Namespace) -> Table:
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    peaks = [peak_bytes_in_fresh_process(options, case) for case in options.cases]  # before this process takes memory
    model = make_model(options.model, device)
    other = load_other(options.against, model, device) if options.against else None
    rate = product_rate(device, dtype)
    table = Table(
        title=f"{options.model}, {options.dtype}, {device.type}: a forward pass",
        caption=f"{torch.get_num_threads()} threads, torch {torch.__version__}, median of {options.repeats} taken in "
        f"turn. limit: operations at {rate / 1e9:,.0f} GFLOP/s of large matrix products. products: the model's own, "
        "alone. CPU s below threads x wall: others had the cores. syncs are calls of _local_scalar_dense. peak: of a "
        "fresh process" + f". against: {against_title(options.against)}" * (other is not None),
    )
    for column in ("case", "wall s", "CPU s", "limit s", "products s", "TFLOP", "kernels", "syncs", "peak GB"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for column in ("against s", "ratio", "difference") if other else ():
        table.add_column(column, justify="right")
    for case, peak in zip(options.cases, peaks):
        with torch.no_grad():
            table.add_row(str(case), *row(model, other, case, rate, peak, options))
    return table


def against_title(path: str) -> str:
    return "a stand-in, ours with plain attention and new tables in each layer" if path == STAND_IN else path


def row(
    model: Flow3r, other: Forward | None, case: Case, rate: float, peak: int, options: argparse.Namespace
) -> list[str]:
    device = torch.device(options.device)
    inputs = case.inputs(device)

    def run(forward: Callable[..., object], *inputs: Tensor) -> object:
        with autocast(options):  # its copies of weights are of one pass, as in reconstruct
            return forward(*inputs)

    with Recorder(model) as recorder:
        ours = run(model, *inputs)
    functions = [lambda: run(model, *inputs), recorder.replay]
    compared = other is not None and not case.pairs  # the other one is asked for no flow
    if compared:
        functions.append(lambda: run(other, inputs[0]))
    (wall, cpu), (products, _), *theirs = time_in_turn(options.repeats, device, *functions)
    flops = forward_flops(model.config, case.views, case.height, case.width, case.pairs)
    cells = [f"{value:.3g}" for value in (wall, cpu, flops / rate, products, flops / 1e12)]
    cells += [str(recorder.kernels), str(recorder.syncs), f"{peak / 1e9:.2f}"]
    if other is not None:
        gap = difference(ours, run(other, inputs[0])) if compared else "-"
        cells += [f"{theirs[0][0]:.3g}", f"{theirs[0][0] / wall:.2f}", gap] if compared else ["-", "-", gap]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("full", "nano"), default="full")
    parser.add_argument("--cases", nargs="+", type=Case.parse, default=[Case(2, 224, 224), Case(2, 224, 224, 2)])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of autocast")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", metavar="PATH", help=f"another implementation, or {STAND_IN}")
    parser.add_argument("--peak-of", type=Case.parse, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of is not None:
        return print_peak(options)
    console = Console(width=140)
    console.print(nano_table(options.repeats))
    console.print(model_table(options))
    return None


if __name__ == "__main__":
    main()
