"""Two-dimensional rotary position embedding: the first half of a head turns with y, the second with x."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

RotaryTable = tuple[Float[Tensor, "T D"], Float[Tensor, "T D"]]


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a table first made in inference must serve training too
def rotary_table(
    rows: int, columns: int, specials: int, head_width: int, base: float, device: torch.device
) -> RotaryTable:
    """Cosines and sines (fp32) for the tokens of one view: `specials` at (0, 0), then patches at (y + 1, x + 1).

    Within an axis of D/2 channels, channel k and k + D/4 share the frequency base^(-2k / (D/2)).
    """
    y, x = torch.meshgrid(torch.arange(1, rows + 1), torch.arange(1, columns + 1), indexing="ij")
    positions = torch.cat([torch.zeros(specials, 2), torch.stack([y, x], dim=-1).flatten(0, 1).float()])
    half = head_width // 2
    frequency = base ** (-torch.arange(0, half, 2, dtype=torch.float32) / half)
    angle = positions[:, :, None] * frequency  # (T, axis, half / 2)
    angle = torch.cat([angle, angle], dim=-1).flatten(1).to(device)
    return angle.cos(), angle.sin()


def rotate(x: Float[Tensor, "B heads NT D"], table: RotaryTable) -> Float[Tensor, "B heads NT D"]:
    """Apply the table of one view to the tokens of any number of views, stored view after view."""
    cosine, sine = (t.to(x.dtype) for t in table)
    views = x.unflatten(-2, (-1, cosine.shape[0]))
    first, second, third, fourth = views.chunk(4, dim=-1)
    turned = torch.cat([-second, first, -fourth, third], dim=-1)
    return (views * cosine + turned * sine).flatten(-3, -2)
