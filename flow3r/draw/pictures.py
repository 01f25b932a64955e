"""Flow, depth and masks as colours, sheets of pictures, files. A picture is (3 H W) in [0, 1]."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from flow3r.files import atomic_path

# Anchors of a perceptual dark-blue to yellow ramp for depth, near to far reversed; ours.
DEPTH_RAMP = ((0.99, 0.91, 0.14), (0.48, 0.82, 0.32), (0.13, 0.57, 0.55), (0.23, 0.32, 0.55), (0.27, 0.0, 0.33))


def colourise_flow(
    displacement: Float[Tensor, "H W 2"], longest: float | None = None, mask: Float[Tensor, "H W"] | None = None
) -> Float[Tensor, "3 H W"]:
    """Direction as hue (right = red, down = yellow-green, going round), length as saturation up to `longest` pixels.

    `longest` defaults to the 95th percentile of the length; `mask` darkens what it does not cover.
    """
    length = displacement.norm(dim=-1)
    longest = longest or max(float(length.flatten().quantile(0.95)), 1e-6)
    hue = torch.atan2(displacement[..., 1], displacement[..., 0]) / (2 * math.pi)
    wheel = torch.stack([0.5 + 0.5 * torch.cos(2 * math.pi * (hue - third / 3)) for third in range(3)])
    colour = 1 - (length / longest).clamp(0, 1) * (1 - wheel)
    return colour if mask is None else colour * (0.15 + 0.85 * mask)


def colourise_depth(depth: Float[Tensor, "H W"], like: Float[Tensor, "H W"] | None = None) -> Float[Tensor, "3 H W"]:
    """Near yellow, far violet, by inverse depth between its 2nd and 98th percentile; unknown depth (<= 0) black.

    `like`: another depth of the same image, in whose colours this one is drawn, after one scale has made the median of
    their ratio 1.
    """
    known = depth > 0
    if not known.any():
        return depth.new_zeros(3, *depth.shape)
    inverse = reference = torch.where(known, 1 / depth.clamp_min(1e-9), 0.0)
    both = None if like is None else known & (like > 0)
    if both is not None and both.any():
        inverse, reference = inverse / (inverse * like)[both].median(), 1 / like.clamp_min(1e-9)
    low, high = (reference[known if like is None else like > 0].quantile(q) for q in (0.02, 0.98))
    place = (1 - (inverse - low) / (high - low).clamp_min(1e-9)).clamp(0, 1) * (len(DEPTH_RAMP) - 1)
    ramp = depth.new_tensor(DEPTH_RAMP)
    index = place.floor().long().clamp_max(len(DEPTH_RAMP) - 2)
    colour = torch.lerp(ramp[index], ramp[index + 1], (place - index)[..., None])
    return (colour * known[..., None]).movedim(-1, 0)


def colourise_mask(mask: Float[Tensor, "H W"]) -> Float[Tensor, "3 H W"]:
    """Grey: 1 white, 0 black."""
    return mask.clamp(0, 1).expand(3, *mask.shape)


def sheet(rows: Sequence[Sequence[Float[Tensor, "3 _ _"]]], gap: int = 2) -> Float[Tensor, "3 H W"]:
    """Pictures in rows, each row scaled to the height of its first picture, on white."""
    strips = []
    for row in rows:
        height = row[0].shape[1]
        scaled = [_to_height(picture, height) for picture in row]
        strips.append(torch.cat([F.pad(picture, (gap, gap, gap, gap), value=1.0) for picture in scaled], dim=2))
    width = max(strip.shape[2] for strip in strips)
    return torch.cat([F.pad(strip, (0, width - strip.shape[2]), value=1.0) for strip in strips], dim=1)


def _to_height(picture: Tensor, height: int) -> Tensor:
    if picture.shape[1] == height:
        return picture
    width = max(1, round(picture.shape[2] * height / picture.shape[1]))
    return F.interpolate(picture[None], (height, width), mode="nearest")[0]


def to_bytes(picture: Float[Tensor, "3 H W"]) -> UInt8[Tensor, "H W 3"]:
    """As 8-bit RGB."""
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).cpu()


def save_png(path: str | Path, picture: Float[Tensor, "3 H W"]) -> None:
    """Write a picture as PNG, atomically."""
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(to_bytes(picture).numpy()).save(temporary, format="PNG")
