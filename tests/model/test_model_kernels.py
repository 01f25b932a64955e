"""What a forward pass asks of a device, counted at the public model's depth: few kernels, and never a wait.

A GPU runs the public model's kernels for two small images in less time than Python takes to launch thousands of them.
"""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flow3r.config import (
    BranchConfig,
    CameraHeadConfig,
    DenseHeadConfig,
    EncoderConfig,
    FlowHeadConfig,
    ModelConfig,
    MultiViewConfig,
    VggtConfig,
)
from flow3r.model.flow3r import Flow3r
from flow3r.model.vggt import Vggt
from flow3r.nn.precision import lower_precision

# The public depths at small widths: the number of kernels does not depend on widths.
NARROW_DPT = {"features": 8, "level_channels": (8, 8, 8, 8), "output_channels": 4}
DEEP = ModelConfig(
    EncoderConfig(width=16, heads=2, position_grid=3),
    MultiViewConfig(width=16, heads=2),
    BranchConfig(width=16, heads=2, camera_width=8),
    FlowHeadConfig(**NARROW_DPT),
)
DEEP_VGGT = VggtConfig(
    EncoderConfig(width=16, heads=2, position_grid=3),
    MultiViewConfig(width=16, depth=48, heads=2, registers=4, camera_tokens=1, first_view=True),
    camera=CameraHeadConfig(heads=2),
    dense=DenseHeadConfig(**NARROW_DPT),
    track=None,
)
# What reads a value, or makes a shape of values: `.item()`, `if x:`, `x[mask]`. Names without underscores around them.
WAITS = ("local_scalar_dense", "nonzero", "equal", "allclose", "masked_select", "unique")


class Calls(TorchDispatchMode):
    """Counts what is run, by name; views run nothing."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if name.strip("_") in ("index", "index_put") and any(i is not None and i.dtype == torch.bool for i in args[1]):
            name = "nonzero"  # a mask
        if not func.is_view:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def waits(self) -> dict[str, int]:
        return {name: count for name, count in self.counts.items() if name.strip("_").startswith(WAITS)}


def calls(model: torch.nn.Module, *inputs: torch.Tensor, autocast: bool) -> Calls:
    """Of a pass after another: tables are kept, and so are autocast's copies of the weights."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model(*inputs)
        with Calls() as counted:
            model(*inputs)
    return counted


@pytest.mark.parametrize(
    "waits",
    [lambda x: x.sum().item(), lambda x: bool((x > 0).all()), lambda x: x[x > 0], lambda x: x.unique(), torch.nonzero],
    ids=["item", "if", "mask", "unique", "nonzero"],
)
def test_a_wait_is_seen(waits):
    with Calls() as counted:
        waits(torch.ones(3))
    assert counted.waits


@pytest.mark.parametrize("precision", ["fp32", "bf16 autocast", "bf16 weights"])
@pytest.mark.parametrize(("config", "most"), [(DEEP, 1450), (DEEP_VGGT, 1900)], ids=["flow3r", "vggt"])
def test_a_pass_is_few_kernels_and_waits_for_none(config, most, precision):
    """Of the public code, 3,572 kernels and 102 waits were counted for Flow3r under autocast."""
    model = (Flow3r if isinstance(config, ModelConfig) else Vggt)(config).eval()
    if precision == "bf16 weights":
        lower_precision(model, torch.bfloat16)
    counted = calls(model, torch.rand(1, 2, 3, 28, 42), autocast=precision == "bf16 autocast")
    casts = 200 if precision == "bf16 autocast" else 0  # of activations
    assert 1000 < counted.counts.total() <= most + casts
    assert counted.waits == {}


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16 autocast"])
@pytest.mark.parametrize("config", [DEEP, DEEP_VGGT], ids=["flow3r", "vggt"])
def test_the_trunk_of_both_families_is_at_most_1600_kernels(config, autocast):
    """Encoder and multi-view transformer, two images."""
    model = (Flow3r if isinstance(config, ModelConfig) else Vggt)(config).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model.encode(images := torch.rand(1, 2, 3, 28, 42))
        with Calls() as counted:
            model.encode(images)
    assert 1000 < counted.counts.total() <= 1600
    assert counted.waits == {}


def test_kernels_do_not_grow_with_views_or_pixels():
    model = Flow3r(DEEP).eval()
    few, many = (calls(model, torch.rand(1, n, 3, *size), autocast=False) for n, size in ((1, (14, 28)), (3, (42, 28))))
    assert few.counts.total() <= many.counts.total() <= 1.02 * few.counts.total()


def test_flow_waits_for_nothing_either():
    model = Flow3r(DEEP).eval()
    images, pairs = torch.rand(1, 2, 3, 28, 42), torch.tensor([[[0, 1], [1, 0]]])
    alone, with_flow = calls(model, images, autocast=False), calls(model, images, pairs, autocast=False)
    assert with_flow.waits == {} and with_flow.counts.total() - alone.counts.total() < 200
