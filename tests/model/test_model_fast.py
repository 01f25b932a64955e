"""Every fast path against the plain model in fp32, within a stated tolerance."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_model import TINY, TINY_REFERENCE, TINY_VGGT, tiny_images, tiny_model

from flow3r.model.fast import CapturedEncoding, capture_encoding, lay_out_for_inference
from flow3r.types import Prediction

FAMILIES = pytest.mark.parametrize("config", [TINY, TINY_VGGT, TINY_REFERENCE], ids=["flow3r", "flow3r-vggt", "vggt"])


def tensors(prediction: Prediction) -> dict[str, torch.Tensor]:
    found = {f.name: getattr(prediction, f.name) for f in dataclasses.fields(prediction)}
    flow = found.pop("flow")
    return {k: v for k, v in found.items() if v is not None} | ({"flow": flow.displacement} if flow else {})


def pairs_for(config) -> torch.Tensor | None:
    return torch.tensor([[[0, 1], [2, 0]]]) if config.flow else None


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> dict[str, float]:
    """RMS difference in units of the RMS of the first, by output."""
    return {k: ((a[k] - b[k]).square().mean() / a[k].square().mean()).sqrt().item() for k in a}


@FAMILIES
@torch.inference_mode()
def test_weights_in_bf16_err_as_autocast_does(config):
    """To within twice the error of autocast, whose residuals are in fp32; outputs are fp32, and finite."""
    images, pairs = tiny_images(views=4), pairs_for(config)
    exact = tensors(tiny_model(config)(images, pairs))
    with torch.autocast("cpu", torch.bfloat16):
        autocast = distance(exact, tensors(tiny_model(config)(images, pairs)))
    model = tiny_model(config)
    lay_out_for_inference(model, torch.bfloat16)
    lower = tensors(model(images, pairs))
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in lower.values())
    for name, error in distance(exact, lower).items():
        assert 0 < error < max(2 * autocast[name], 0.01), name


@FAMILIES
def test_weights_in_bf16_are_half_as_large_but_for_the_heads_last_steps(config):
    model = tiny_model(config)
    lay_out_for_inference(model, torch.bfloat16)
    kept = {name.split(".")[0] for name, p in model.named_parameters() if p.dtype == torch.float32}
    assert kept <= {"point_head", "confidence_head", "camera_head", "depth_head", "flow_head", "track_head"}
    trunk = [p for name, p in model.named_parameters() if name.startswith(("encoder", "multiview"))]
    assert trunk and all(p.dtype == torch.bfloat16 for p in trunk)
    assert model.camera_head is not None and all(p.dtype == torch.float32 for p in model.camera_head.parameters())


@FAMILIES
@torch.inference_mode()
def test_channels_last_convolutions_are_the_plain_ones(config):
    images, pairs = tiny_images(), pairs_for(config)
    exact, model = tensors(tiny_model(config)(images, pairs)), tiny_model(config)
    lay_out_for_inference(model)
    assert model.encoder.patch_embed.weight.is_contiguous(memory_format=torch.channels_last)
    for name, value in tensors(model(images, pairs)).items():
        torch.testing.assert_close(value, exact[name], atol=2e-5, rtol=2e-5)


COMPILED = """
import dataclasses, torch
from tiny_model import TINY, tiny_images, tiny_model
from flow3r.model.fast import compile_blocks
config = dataclasses.replace(TINY, multiview=dataclasses.replace(TINY.multiview, depth=2), flow=None)
plain, model, images = tiny_model(config), tiny_model(config), tiny_images(views=1)
with torch.inference_mode():
    assert compile_blocks(model.multiview) == 2  # alike for one view, so that one compilation serves both
    print((model(images).world_points - plain(images).world_points).abs().max().item())
"""


def run_apart(script: str) -> subprocess.CompletedProcess:
    """In a process of its own: the checks of shapes that tests run under are not for the compiler."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_blocks_are_the_plain_ones():
    process = run_apart(COMPILED)
    assert process.returncode == 0, process.stderr
    assert float(process.stdout) < 2e-5


TRAINED = """
import torch
from torch._dynamo.utils import counters
from flow3r.model import fast
from flow3r.nn.block import Block, run_block
from flow3r.nn.memory import Memory
from flow3r.nn.rope import rotary_table
whole = torch.compile
fast.torch.compile = lambda f, mode, dynamic: whole(f, backend="aot_eager", dynamic=dynamic)  # all but its kernels
block, other = (Block(16, 2, 2, 1e-6, 1e-5, 1.0) for _ in range(2))
other.load_state_dict(block.state_dict())
fast.compile_blocks(torch.nn.Sequential(block), recompute="selective", any_size=True)
for scenes, views, rows, columns in [(2, 3, 4, 5), (4, 2, 3, 6), (3, 5, 2, 4), (6, 4, 5, 3)]:
    table = rotary_table(rows, columns, 1, 8, 100.0, torch.device("cpu"), torch.float32)
    x = torch.randn(scenes, views * (1 + rows * columns), 16)
    kept = []
    for module in (block, other):
        module.zero_grad()
        kept.append(0)
        def keep(saved):
            kept[-1] += saved.numel()
            return saved
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            y = run_block(module, x, table, Memory("selective" if module is block else "nothing"))
        y.square().mean().backward()
    error = max((a.grad - b.grad).norm() / b.grad.norm() for a, b in zip(block.parameters(), other.parameters()))
    assert error < 1e-5, error
    assert kept[0] < 0.8 * kept[1], kept
    print(counters["stats"]["unique_graphs"])
"""


def test_blocks_compiled_for_training_have_the_gradients_of_plain_ones_at_all_sizes_and_recompute():
    """What was compiled for the first two sizes serves all others."""
    process = run_apart(TRAINED)
    assert process.returncode == 0, process.stderr
    first, second, *others = map(int, process.stdout.split())
    assert first == 1 and others == [second, second] and second <= 2


def test_cuda_graphs_ask_for_a_cuda_device():
    with pytest.raises(ValueError, match="on cpu; CUDA graphs need a CUDA device"):
        capture_encoding(tiny_model())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
@FAMILIES
@torch.inference_mode()
def test_replayed_graphs_are_the_plain_model(config):
    model, plain = tiny_model(config).cuda(), tiny_model(config).cuda()
    captured = capture_encoding(model)
    assert isinstance(captured, CapturedEncoding)
    for views in (2, 3, 2):
        images = torch.rand(1, views, 3, 28, 42, device="cuda")
        exact = tensors(plain(images))
        for name, value in tensors(model(images)).items():
            torch.testing.assert_close(value, exact[name], atol=1e-4, rtol=1e-4)
    assert len(captured.graphs) == 2
