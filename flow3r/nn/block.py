"""THE transformer block: pre-norm attention and MLP, each with an optional LayerScale."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from flow3r.nn.attention import Attention, attend
from flow3r.nn.memory import WHOLE, Memory
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

    def __init__(self, width: int, hidden: int, output: int | None = None):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, output or width)

    def forward(self, x: Float[Tensor, "*b D"]) -> Float[Tensor, "*b E"]:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x += scale1(attention(norm1 x)); x += scale2(mlp(norm2 x)).

    `compiled`: what runs in place of `plain` on the same arguments, and recomputes by itself; model/fast.py sets it.
    """

    compiled: Callable[..., Tensor] | None = None

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
        return self.plain(x, rope) if self.compiled is None else self.compiled(self, x, rope)

    def plain(self, x: Float[Tensor, "B T D"], rope: RotaryTable | None) -> Float[Tensor, "B T D"]:
        """The block, operation by operation."""
        return self.finish(x, attend(*self.attention.project(self.norm1(x), rope)))

    def finish(self, x: Float[Tensor, "B T D"], seen: Float[Tensor, "B heads T d"]) -> Float[Tensor, "B T D"]:
        """All that comes after what the tokens have seen: token by token."""
        x = x + self.scale1(self.attention.merge(seen))
        return x + self.scale2(self.mlp(self.norm2(x)))


def run_block(
    block: Block, x: Float[Tensor, "B T D"], rope: RotaryTable | None, memory: Memory = WHOLE
) -> Float[Tensor, "B T D"]:
    """A block on rows of tokens that see each other within their row: one view, or several on the table of one."""
    if memory.fits(x.shape[0] * x.shape[1]):
        return memory.recomputed(block, x, rope) if block.compiled is None else block(x, rope)
    tokens_of_view = x.shape[1] if rope is None else len(rope[0])
    return memory.by_rows(
        lambda rows: _view_by_view(block, rows, rope, memory.rows(x.shape[1] // tokens_of_view, tokens_of_view)),
        x,
        tokens_of_row=x.shape[1],
    )


def _view_by_view(
    block: Block, x: Float[Tensor, "B T D"], rope: RotaryTable | None, views: int
) -> Float[Tensor, "B T D"]:
    """A block of which all but the attention itself works on so many views at a time."""
    step = x.shape[1] if rope is None else views * len(rope[0])
    if step == x.shape[1]:
        return block(x, rope)
    parts = [slice(start, start + step) for start in range(0, x.shape[1], step)]
    qkv: list[Tensor] = []
    for part in parts:
        pieces = block.attention.project(block.norm1(x[:, part]), rope)
        qkv = qkv or [piece.new_empty(*piece.shape[:2], x.shape[1], piece.shape[3]) for piece in pieces]
        for whole, piece in zip(qkv, pieces, strict=True):
            whole[:, :, part] = piece
    seen = attend(*qkv)
    del qkv, whole, piece, pieces
    return torch.cat([block.finish(x[:, part], seen[:, :, part]) for part in parts], dim=1)
