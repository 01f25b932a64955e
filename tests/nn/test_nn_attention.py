import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flow3r.nn.attention import Attention, attend
from flow3r.nn.block import Block
from flow3r.nn.rope import rotary_table


def test_attention_is_torch_s_multi_head_attention():
    ours, theirs = Attention(24, 3), nn.MultiheadAttention(24, 3, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    x = torch.randn(2, 7, 24)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


def test_block_is_torch_s_pre_norm_encoder_layer():
    ours = Block(24, 3, mlp_ratio=2, norm_eps=1e-3)
    theirs = nn.TransformerEncoderLayer(24, 3, 48, 0.0, F.gelu, 1e-3, batch_first=True, norm_first=True)
    pairs = {"self_attn.in_proj_weight": ours.attention.qkv.weight, "self_attn.in_proj_bias": ours.attention.qkv.bias}
    for name, module in {
        "self_attn.out_proj": ours.attention.proj,
        "linear1": ours.mlp.fc1,
        "linear2": ours.mlp.fc2,
        "norm1": ours.norm1,
        "norm2": ours.norm2,
    }.items():
        pairs |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    theirs.load_state_dict(pairs)
    x = torch.randn(2, 7, 24)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.testing.assert_close(ours(a), theirs(b))
    ours(a).square().sum().backward()
    theirs(b).square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_layer_scale_of_zero_leaves_the_input():
    x = torch.randn(2, 5, 16)
    assert torch.equal(Block(16, 2, 4, 1e-6, layer_scale=0.0)(x), x)


def test_normalised_queries_and_keys_do_not_feel_their_scale():
    attention = Attention(16, 2, qk_norm_eps=1e-6)
    x, table = torch.randn(1, 6, 16), rotary_table(2, 3, 0, 8, 100.0, torch.device("cpu"), torch.float32)
    before = attention(x, table)
    with torch.no_grad():
        attention.qkv.weight[:32] *= 7.0
        attention.qkv.bias[:32] *= 7.0
    torch.testing.assert_close(attention(x, table), before, atol=1e-4, rtol=1e-4)


def test_attention_feels_relative_positions_alone():
    attention, x = Attention(16, 2), torch.randn(1, 6, 16)
    turns = [t.view(5, 7, 8) for t in rotary_table(5, 7, 0, 8, 100.0, torch.device("cpu"), torch.float32)]

    def at(row: int, column: int) -> torch.Tensor:
        """On a 2 x 3 window of the grid."""
        window = (slice(row, row + 2), slice(column, column + 3))
        return attention(x, tuple(t[window].flatten(0, 1) for t in turns))

    torch.testing.assert_close(at(3, 4), at(0, 0), atol=1e-5, rtol=1e-5)
    assert (at(0, 0) - attention(x)).abs().max() > 1e-3


def test_tokens_without_positions_are_a_set():
    attention, x, order = Attention(16, 2), torch.randn(1, 6, 16), torch.randperm(6)
    torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order])


def test_bf16_training_product_agrees_with_fp32():
    exact = [torch.randn(2, 3, 9, 16, requires_grad=True) for _ in range(3)]
    rounded = [t.detach().bfloat16().requires_grad_() for t in exact]
    weight = torch.randn(2, 3, 9, 16)
    expected, got = F.scaled_dot_product_attention(*exact), attend(*rounded)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, atol=3e-2, rtol=3e-2)
    (expected * weight).sum().backward()
    (got.float() * weight).sum().backward()
    for one, other in zip(rounded, exact):
        assert (one.grad.float() - other.grad).norm() < 0.03 * other.grad.norm()


def test_bf16_training_and_inference_products_agree():
    q, k, v = (torch.randn(1, 2, 8, 16).bfloat16().requires_grad_() for _ in range(3))
    with torch.no_grad():
        fused = attend(q, k, v)
    torch.testing.assert_close(attend(q, k, v), fused, atol=3e-2, rtol=3e-2)


def test_width_must_divide_into_heads():
    with pytest.raises(ValueError, match="width 10 is not a multiple of"):
        Attention(10, 4)
