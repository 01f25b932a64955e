"""THE attention: scaled dot product over tokens, with optional rotary embedding and normalised queries and keys."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from flow3r.nn.rope import RotaryTable, rotate

MOST_PLAIN_TOKENS = 1024  # ours: at 1,500 tokens both ways take the same time, and the scores begin to weigh


class Attention(nn.Module):
    """Multi-head self-attention. `qk_norm_eps`: LayerNorm of every head's queries and keys, shared by the heads."""

    def __init__(self, width: int, heads: int, qk_norm_eps: float | None = None):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of the number of heads, {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        head_width = width // heads
        self.q_norm = nn.Identity() if qk_norm_eps is None else nn.LayerNorm(head_width, eps=qk_norm_eps)
        self.k_norm = nn.Identity() if qk_norm_eps is None else nn.LayerNorm(head_width, eps=qk_norm_eps)

    def forward(self, x: Float[Tensor, "B T D"], rope: RotaryTable | None = None) -> Float[Tensor, "B T D"]:
        return self.merge(attend(*self.project(x, rope)))

    def project(
        self, x: Float[Tensor, "B T D"], rope: RotaryTable | None = None
    ) -> tuple[Float[Tensor, "B heads T d"], Float[Tensor, "B heads T d"], Float[Tensor, "B heads T d"]]:
        """Queries, keys and values, in one type."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        return q.to(v.dtype), k.to(v.dtype), v

    def merge(self, seen: Float[Tensor, "B heads T d"]) -> Float[Tensor, "B T D"]:
        """What every head has seen, side by side, and the last linear map."""
        return self.proj(seen.transpose(1, 2).flatten(2))


def attend(
    q: Float[Tensor, "B heads T D"], k: Float[Tensor, "B heads T D"], v: Float[Tensor, "B heads T D"]
) -> Float[Tensor, "B heads T D"]:
    """softmax(q k' / √D) v.

    By plain products where bf16 is trained on a CPU and the scores are few: there the backward pass of the fused kernel
    takes two to four times as long.
    """
    trains = torch.is_grad_enabled() and q.requires_grad
    if trains and q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[-2] <= MOST_PLAIN_TOKENS:
        with torch.autocast("cpu", enabled=False):
            return ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)
