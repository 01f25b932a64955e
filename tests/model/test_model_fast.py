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


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_blocks_are_the_plain_ones():
    """In a process of its own: the checks of shapes that tests run under are not for the compiler."""
    process = subprocess.run(
        [sys.executable, "-c", COMPILED],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )
    assert process.returncode == 0, process.stderr
    assert float(process.stdout) < 2e-5


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
