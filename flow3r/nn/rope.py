"""Two-dimensional rotary position embedding: the first half of a head turns with y, the second with x."""

from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from flow3r.nn.precision import product_dtype

RotaryTable = tuple[Float[Tensor, "t d"], Float[Tensor, "t d"]]  # tokens of one view x head width

# Where products are in bf16: "products" rounds cosines and sines to it and turns in it; "float32" turns in fp32, as the
# public VGGT code; "rounded" rounds the angles themselves, as the public Flow3r and π³ code. In fp32 all are one.
RopePrecision = Literal["products", "float32", "rounded"]


def rope_of(
    x: Tensor, grid: tuple[int, int], specials: int, head_width: int, base: float, precision: RopePrecision
) -> RotaryTable:
    """The table for tokens `x` of one or more views whose patches stand on `grid` (rows, columns)."""
    dtype = torch.float32 if precision == "float32" else product_dtype(x)
    return rotary_table(*grid, specials, head_width, base, x.device, dtype, precision == "rounded")


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a table first made in inference must serve training too
def rotary_table(
    rows: int,
    columns: int,
    specials: int,
    head_width: int,
    base: float,
    device: torch.device,
    dtype: torch.dtype,
    round_angles: bool = False,
) -> RotaryTable:
    """Cosines and signed sines for the tokens of one view: `specials` at (0, 0), then patches at (y + 1, x + 1).

    Within an axis of D/2 channels, channels k and k + D/4 are a pair that turns by position / base^(2k / (D/2)). The
    sine of a pair's first channel carries the minus sign of the rotation. Angles are in fp32, whatever `dtype` is,
    unless `round_angles` rounds them to it.
    """
    if head_width % 4:
        raise ValueError(f"heads are {head_width} wide; rotation in two axes needs a multiple of 4")
    y, x = torch.meshgrid(torch.arange(1, rows + 1), torch.arange(1, columns + 1), indexing="ij")
    positions = torch.cat([torch.zeros(specials, 2), torch.stack([y, x], dim=-1).flatten(0, 1).float()])
    half = head_width // 2
    frequency = base ** (-torch.arange(0, half, 2, dtype=torch.float32) / half)
    angle = positions[:, :, None] * frequency  # (T, axis, half / 2)
    if round_angles:
        angle = angle.to(dtype)
    cosine = torch.cat([angle.cos(), angle.cos()], dim=-1).flatten(1)
    sine = torch.cat([-angle.sin(), angle.sin()], dim=-1).flatten(1)
    return cosine.to(device, dtype), sine.to(device, dtype)


def rotate(x: Float[Tensor, "B heads NT D"], table: RotaryTable) -> Float[Tensor, "B heads NT D"]:
    """Apply the table of one view to the tokens of any number of views, stored view after view; in the table's type."""
    cosine, sine = table
    views = x.to(cosine.dtype).unflatten(-2, (-1, cosine.shape[0]))
    first, second, third, fourth = views.chunk(4, dim=-1)
    partners = torch.cat([second, first, fourth, third], dim=-1)
    return torch.addcmul(views * cosine, partners, sine).flatten(-3, -2)
