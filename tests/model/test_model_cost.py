"""The closed forms against what is counted and held while models run, and against the sizes of the public ones."""

import dataclasses

import pytest
import torch
from live_memory import LiveMemory
from tiny_model import TINY, tiny_images
from torch.utils.flop_counter import FlopCounterMode

from flow3r.config import CameraHeadConfig, DenseHeadConfig, ModelConfig, MultiViewConfig, VggtConfig
from flow3r.model.cost import forward_flops, peak_bytes
from flow3r.model.flow3r import Flow3r
from flow3r.model.inputs import OUTPUTS
from flow3r.model.vggt import Vggt
from flow3r.nn.memory import Memory
from flow3r.nn.precision import lower_precision
from flow3r.presets import NANO_MODEL

TINY_VGGT = VggtConfig(
    TINY.encoder,
    MultiViewConfig(width=32, depth=8, heads=2, registers=2, camera_tokens=1, first_view=True, norm_eps=1e-5),
    levels=(0, 1, 2, 3),
    camera=CameraHeadConfig(depth=2, heads=2, iterations=3),
    dense=DenseHeadConfig(features=16, level_channels=(8, 12, 16, 16), output_channels=4),
    track=None,
    flow=TINY.flow,
)
FP32, BF16 = torch.float32, torch.bfloat16
KINDS = ("factored", "tracking", "projective", "projective+sceneflow")


def make(config: ModelConfig | VggtConfig) -> Flow3r | Vggt:
    return (Flow3r if isinstance(config, ModelConfig) else Vggt)(config).eval()


def with_flow(config: ModelConfig | VggtConfig, kind: str) -> ModelConfig | VggtConfig:
    return dataclasses.replace(config, flow=dataclasses.replace(config.flow, kind=kind))


def some_pairs(views: int, count: int) -> torch.Tensor | None:
    return torch.randint(views, (1, count, 2)) if count else None


def attention_flops(query: torch.Size, key: torch.Size, *args, **kwargs) -> int:
    """Of scores and mixture, which torch does not count on a CPU."""
    return 4 * query.numel() * key[-2]


@torch.no_grad()
def counted_flops(config: ModelConfig | VggtConfig, views: int, size: tuple[int, int], pairs: int, **options) -> int:
    model = make(config).requires_grad_(False)
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        model(tiny_images(1, views, *size), some_pairs(views, pairs), **options)
    return counter.get_total_flops()


@pytest.mark.parametrize("config", [TINY, NANO_MODEL, TINY_VGGT], ids=["tiny", "nano", "vggt"])
@pytest.mark.parametrize("kind", [None, *KINDS])
def test_operations_are_those_that_run(config, kind):
    views, size, pairs = 3, (42, 70), 5 if kind else 0
    config = with_flow(config, kind) if kind else config
    counted = counted_flops(config, views, size, pairs)
    rotations = counted - forward_flops(config, views, *size, pairs)  # products of 3 x 3 matrices are left out
    assert 0 <= rotations <= 60 * 27 * (views + pairs)


@pytest.mark.parametrize("config", [TINY, TINY_VGGT], ids=["flow3r", "vggt"])
@pytest.mark.parametrize("target", [{"target": "pose"}, {"camera_width": 5}], ids=["pose", "width"])
def test_operations_of_a_head_that_learns_less_of_its_target(config, target):
    config = dataclasses.replace(config, flow=dataclasses.replace(config.flow, **target))
    counted = counted_flops(config, 3, (42, 70), 5, outputs=())
    assert 0 <= counted - forward_flops(config, 3, 42, 70, 5, outputs=()) <= 60 * 27 * (3 + 5)
    measured = measured_bytes(config, 2, (56, 56), 12)
    assert 0.99 * measured < peak_bytes(config, 2, 56, 56, dtype=torch.float32, pairs=12) < 1.3 * measured


@pytest.mark.parametrize("config", [TINY, TINY_VGGT], ids=["flow3r", "vggt"])
@pytest.mark.parametrize("outputs", [(), *((output,) for output in OUTPUTS), OUTPUTS[1:]], ids="+".join)
@pytest.mark.parametrize("pairs", [0, 1])
def test_operations_of_what_is_asked_for(config, outputs, pairs):
    counted = counted_flops(config, 2, (28, 42), pairs, outputs=outputs)
    assert 0 <= counted - forward_flops(config, 2, 28, 42, pairs, outputs) <= 60 * 27 * 2


@pytest.mark.parametrize(
    ("views", "small", "large"), [(1, 0.52, 2.32), (2, 1.05, 4.80), (8, 4.44, 23.05), (16, 9.52, 56.3)]
)
def test_operations_of_the_public_model(views, small, large):
    """TFLOP counted apart from this code, layer by layer, for images of 224 x 224 and 392 x 518."""
    assert forward_flops(ModelConfig(), views, 224, 224) / 1e12 == pytest.approx(small, abs=0.006)
    assert forward_flops(ModelConfig(), views, 392, 518) / 1e12 == pytest.approx(large, rel=2e-3)


@pytest.mark.parametrize(("size", "public"), [((224, 224), 80.0), ((392, 518), 324.0)])
def test_a_flow_costs_less_than_in_the_public_code_by_what_is_not_done_twice(size, public):
    """That takes [c_i, c_j, g_i] through the first layer for every pair, and mixes channels after upsampling."""
    config, patches = ModelConfig(), size[0] * size[1] // 14**2
    first_layer = 4 * 2 * (patches * (3072 - 2048) - 1024) * 2048
    deepest = -(-size[0] // 28) * -(-size[1] // 28)
    mixtures = 2 * 256**2 * ((64 - 16 + 16 - 4 + 4 - 1) * patches + patches - deepest)
    ours = forward_flops(config, 2, *size, pairs=2) - forward_flops(config, 2, *size)
    assert (ours / 2 + first_layer + mixtures) / 1e9 == pytest.approx(public, rel=2e-3)


def measured_bytes(config, views, size, pairs, dtype=FP32, weights=FP32, tokens=None) -> int:
    """Weights, images and what lives at once in a forward pass, under autocast if its products are in another type."""
    model, images, chosen = make(config), tiny_images(1, views, *size), some_pairs(views, pairs)
    lower_precision(model, weights)
    model.memory = Memory(tokens=tokens)
    given = [*model.state_dict().values(), images]
    with torch.no_grad():
        model(images[:, :, :, :28, :28], chosen)  # fills the caches of small tables
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != weights), LiveMemory(*given) as live:
        model(images, chosen)
    return live.peak + sum(tensor.nbytes for tensor in given)


@pytest.mark.parametrize(
    ("pairs", "dtype", "weights", "tokens"),
    [(0, FP32, FP32, None), (0, FP32, FP32, 60), (12, FP32, FP32, 60), (12, BF16, FP32, None), (0, BF16, BF16, None)],
    ids=["plain", "chunks", "flow in chunks", "flow in autocast", "bf16 weights"],
)
@pytest.mark.parametrize("config", [TINY, NANO_MODEL, TINY_VGGT], ids=["tiny", "nano", "vggt"])
def test_memory_is_just_what_lives_at_once(config, pairs, dtype, weights, tokens):
    size = (84, 56)
    measured = measured_bytes(config, 4, size, pairs, dtype, weights, tokens)
    told = peak_bytes(config, 4, *size, dtype=dtype, pairs=pairs, chunk_tokens=tokens, weights=weights)
    assert 0.99 * measured < told < 1.15 * measured


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", [TINY, TINY_VGGT], ids=["flow3r", "vggt"])
def test_memory_of_every_flow_head(config, kind):
    config = with_flow(config, kind)
    measured = measured_bytes(config, 2, (56, 56), 12)
    assert 0.99 * measured < peak_bytes(config, 2, 56, 56, dtype=torch.float32, pairs=12) < 1.3 * measured


def test_memory_of_the_public_model():
    """Weights in bf16 are 2.0 GB; an image of 518 x 518 adds some tens of MB, and less where tokens go in chunks."""
    few, many = (peak_bytes(ModelConfig(), n, 518, 518, dtype=torch.bfloat16) for n in (2, 102))
    assert 2.0e9 < few < 2.3e9
    assert 40e6 < (many - few) / 100 < 60e6
    few, many = (peak_bytes(ModelConfig(), n, 518, 518, dtype=torch.bfloat16, chunk_tokens=16_000) for n in (20, 120))
    assert 15e6 < (many - few) / 100 < 30e6
    public = peak_bytes(ModelConfig(), 2, 518, 518, dtype=torch.bfloat16, weights=torch.float32)
    assert 5.5e9 < public < 6.5e9  # autocast keeps copies
