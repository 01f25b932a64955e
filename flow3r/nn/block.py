"""THE transformer block: pre-norm attention and MLP, each with an optional LayerScale."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from flow3r.nn.attention import Attention
from flow3r.nn.rope import RotaryTable


class LayerScale(nn.Module):
    """A learned gain per channel."""

    def __init__(self, width: int, initial: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Float[Tensor, "*b D"]) -> Float[Tensor, "*b D"]:
        return x * self.gamma


class Mlp(nn.Module):
    """Linear, GELU (exact), Linear."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "*b D"]) -> Float[Tensor, "*b D"]:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x += scale1(attention(norm1 x)); x += scale2(mlp(norm2 x))."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: int,
        norm_eps: float,
        qk_norm_eps: float | None = None,
        layer_scale: float | None = None,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(width, heads, qk_norm_eps)
        self.scale1 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, mlp_ratio * width)
        self.scale2 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)

    def forward(self, x: Float[Tensor, "B T D"], rope: RotaryTable | None = None) -> Float[Tensor, "B T D"]:
        x = x + self.scale1(self.attention(self.norm1(x), rope))
        return x + self.scale2(self.mlp(self.norm2(x)))


def run_block(
    block: Block, x: Float[Tensor, "B T D"], rope: RotaryTable | None, save_memory: bool
) -> Float[Tensor, "B T D"]:
    """A block, recomputed in the backward pass where memory is to be saved."""
    if save_memory and torch.is_grad_enabled():
        return checkpoint(block, x, rope, use_reentrant=False)
    return block(x, rope)
