"""A budget of tokens changes what runs at once, recomputing what is kept, and neither changes a result."""

import dataclasses

import pytest
import torch
from live_memory import LiveMemory
from tiny_model import TINY, TINY_REFERENCE, TINY_VGGT, gradients, tiny_images, tiny_model
from torch.utils.flop_counter import FlopCounterMode

from flow3r.nn.attention import Attention
from flow3r.nn.block import Block, run_block
from flow3r.nn.memory import Memory
from flow3r.nn.rope import rotary_table, rotate
from flow3r.types import Prediction

PAIRS = torch.tensor([[[0, 1], [4, 2], [2, 3]], [[1, 0], [0, 3], [4, 1]]])


FAMILIES = pytest.mark.parametrize("config", [TINY, TINY_VGGT], ids=["flow3r", "flow3r-vggt"])
KINDS = pytest.mark.parametrize("kind", ["factored", "tracking", "projective", "projective+sceneflow"])


def tensors(prediction: Prediction) -> dict[str, torch.Tensor]:
    found = {f.name: getattr(prediction, f.name) for f in dataclasses.fields(prediction)}
    flow = found.pop("flow")
    return {k: v for k, v in found.items() if v is not None} | ({"flow": flow.displacement} if flow else {})


@pytest.mark.parametrize("tokens", [1, 20, 47, 10_000])
@pytest.mark.parametrize("config", [TINY, TINY_VGGT, TINY_REFERENCE], ids=["flow3r", "flow3r-vggt", "vggt"])
@torch.inference_mode()
def test_in_parts_is_at_once(config, tokens):
    model, images = tiny_model(config), tiny_images(scenes=2, views=5)
    pairs = PAIRS if config.flow else None
    at_once = tensors(model(images, pairs))
    model.memory = Memory(tokens=tokens)
    in_parts = tensors(model(images, pairs))
    assert at_once.keys() == in_parts.keys()
    for name, value in at_once.items():
        torch.testing.assert_close(in_parts[name], value, atol=2e-5, rtol=2e-5)


@torch.no_grad()
def test_no_layer_sees_more_tokens_than_the_budget_but_the_attention_itself():
    model, images, budget = tiny_model(), tiny_images(views=8), 2 * 9  # two views of 2 x 3 patches and 3 registers
    seen: list[int] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, x, __: seen.append(x[0].numel() // x[0].shape[-1]))
    model.memory = Memory(tokens=budget)
    model(images)
    assert max(seen) <= budget
    seen.clear()
    model.memory = Memory()
    model(images)
    assert max(seen) == 8 * 9


@torch.no_grad()
def test_the_budget_is_for_inference_alone():
    """With gradients everything is kept anyway."""
    model, calls = tiny_model(), []
    model.memory = Memory(tokens=1)
    model.multiview.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    with torch.enable_grad():
        model(tiny_images())
    assert len(calls) == 1


@pytest.mark.parametrize("views", [1, 4])
def test_a_block_view_by_view_has_the_whole_block_s_value(views):
    block = Block(16, 2, 2, 1e-6, 1e-5, 1.0)
    table = rotary_table(2, 3, 1, 8, 100.0, torch.device("cpu"), torch.float32)
    x = torch.randn(2, views * 7, 16)
    with torch.no_grad():
        torch.testing.assert_close(run_block(block, x, table, Memory(tokens=7)), block(x, table), atol=1e-6, rtol=1e-5)


def test_rope_precisions_are_one_in_fp32_and_three_in_bf16():
    """bf16 angles are the public π³ code's, fp32 turns the public VGGT code's, and ours lies nearest to the truth."""
    results = {}
    for precision in ("products", "float32", "rounded"):
        trunk = dataclasses.replace(TINY.multiview, rope_precision=precision)
        model = tiny_model(dataclasses.replace(TINY, multiview=trunk))
        with torch.no_grad():
            whole = model(tiny_images()).local_points
            with torch.autocast("cpu", torch.bfloat16):
                results[precision] = (whole, model(tiny_images()).local_points)
    exact = results["products"][0]
    assert all(torch.equal(whole, exact) for whole, _ in results.values())
    lower = [half for _, half in results.values()]
    assert not any(torch.equal(a, b) for a, b in ((lower[0], lower[1]), (lower[1], lower[2]), (lower[0], lower[2])))


def test_rounded_angles_are_those_of_the_public_code():
    """By its description: angle = position · frequency rounded to bf16, then cosine and sine, then bf16 products."""
    cpu, positions = torch.device("cpu"), torch.arange(1, 31, dtype=torch.float32)
    frequency = 100.0 ** (-torch.arange(16) / 16)
    angle = (positions[:, None] * frequency).bfloat16()
    cosine, sine = rotary_table(30, 1, 0, 64, 100.0, cpu, torch.bfloat16, round_angles=True)
    assert torch.equal(cosine[:, :16], angle.cos()) and torch.equal(sine[:, 16:32], angle.sin())
    exact, _ = rotary_table(30, 1, 0, 64, 100.0, cpu, torch.float32)
    ours, _ = rotary_table(30, 1, 0, 64, 100.0, cpu, torch.bfloat16)
    assert (ours - exact).abs().max() < 0.004 < (cosine - exact).abs().max()  # angles to 30 rad rounded to 1/16


def test_a_table_in_fp32_turns_fp32_queries_before_they_are_rounded():
    torch.manual_seed(3)
    attention, x = Attention(64, 1, qk_norm_eps=1e-5), torch.randn(1, 30, 64)
    exact, products = (rotary_table(30, 1, 0, 64, 100.0, x.device, t) for t in (torch.float32, torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        normed = attention.q_norm(attention.qkv(x)[..., None, :, :64])  # fp32, as norms are under autocast
        turned = [attention.project(x, table)[0] for table in (exact, products)]
    truth = rotate(normed, exact)
    assert turned[0].dtype == turned[1].dtype == torch.bfloat16
    assert torch.equal(turned[0], truth.bfloat16())
    assert (turned[1] - truth).abs().mean() > (turned[0] - truth).abs().mean()


def with_flow(config, kind: str):
    """Pairs are decoded in several chunks, which share weights."""
    return dataclasses.replace(config, flow=dataclasses.replace(config.flow, kind=kind, pairs_per_chunk=2))


def step(config, recompute: str, dtype: torch.dtype = torch.float32) -> tuple[dict, dict, int]:
    """Outputs, gradients, and the bytes that the forward pass left for the backward pass."""
    model, images = tiny_model(config).train(), tiny_images(scenes=2, views=5)
    model.memory = Memory(recompute=recompute)
    lower = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)
    with LiveMemory(images, *model.parameters()) as live, lower:
        outputs = tensors(model(images, PAIRS))
    kept = live.now
    sum(value.square().mean() for value in outputs.values()).backward()
    return outputs, gradients(model), kept


@FAMILIES
@KINDS
def test_recomputing_changes_neither_outputs_nor_gradients_but_what_is_kept(config, kind):
    """The same operations on the same numbers, so bit for bit."""
    outputs, slopes, all_kept = step(with_flow(config, kind), "nothing")
    kept = [all_kept]
    for recompute in ("selective", "everything"):
        again, slopes_again, bytes_kept = step(with_flow(config, kind), recompute)
        assert again.keys() == outputs.keys() and slopes_again.keys() == slopes.keys()
        assert all(torch.equal(again[name], outputs[name]) for name in outputs)
        assert [name for name in slopes if not torch.equal(slopes_again[name], slopes[name])] == []
        kept.append(bytes_kept)
    assert kept[0] > 1.1 * kept[1] > 1.1 * 1.1 * kept[2]


@FAMILIES
@KINDS
def test_recomputing_under_autocast_is_within_its_rounding(config, kind):
    """Autocast keeps the casts of weights that are used again, which recomputing must not find missing."""
    exact, slopes, _ = step(with_flow(config, kind), "nothing", torch.bfloat16)
    outputs, slopes_again, _ = step(with_flow(config, kind), "selective", torch.bfloat16)
    assert all(torch.equal(outputs[name], exact[name]) for name in exact)
    for name, slope in slopes.items():
        assert (slopes_again[name] - slope).norm() <= 2**-6 * slope.norm() + 1e-12, name


def test_products_and_attention_run_once_where_recomputing_is_selective():
    def counted(recompute: str) -> int:
        model = tiny_model()
        model.memory = Memory(recompute=recompute)
        scores = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, *_, **__: q.numel() * k[-2]}
        with FlopCounterMode(display=False, custom_mapping=scores) as counter:
            sum(value.square().mean() for value in tensors(model(tiny_images())).values()).backward()
        return counter.get_total_flops()

    nothing, selective, everything = (counted(name) for name in ("nothing", "selective", "everything"))
    assert nothing == selective < everything
