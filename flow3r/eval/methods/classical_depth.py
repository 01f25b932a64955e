"""Depth of every pixel from a view's sparse points: between them, inverse depth is interpolated, from coarse to fine.

Nothing is learnt and nothing is matched densely, so that edges are smooth and small things are missed; plane sweeps
between the solved views were tried and gained little for ten times the work. Inverse depth, because a plane is linear
in it.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from flow3r.geometry.camera import inside_image, project
from flow3r.geometry.se3 import invert, transform_points

LEAST_DEPTH = 1e-6


def interpolated_depth(
    points: Float[Tensor, "n 3"],
    intrinsics: Float[Tensor, "3 3"],
    world_from_camera: Float[Tensor, "4 4"],
    size: tuple[int, int],
) -> Float[Tensor, "H W"]:
    """z-depth of a view of `size` (H, W) that sees `points` of the world; NaN if none of them lies inside it."""
    pixels, inverse = _seeds(points.double(), intrinsics.double(), world_from_camera.double(), size)
    return 1 / _fill(pixels, inverse, size) if len(inverse) else torch.full(size, torch.nan)


def _seeds(
    points: Tensor, intrinsics: Tensor, pose: Tensor, size: tuple[int, int]
) -> tuple[Int[Tensor, "n 2"], Float[Tensor, "n"]]:
    """Pixels (column, row) of the points before and inside the view, and their inverse depths."""
    local = transform_points(invert(pose), points)
    local = local[local[:, 2] > LEAST_DEPTH]
    pixels = project(local[None], intrinsics)[0] if len(local) else local[:, :2]
    inside = inside_image(pixels, *size)
    return pixels[inside].long(), (1 / local[inside, 2]).float()


def _fill(pixels: Int[Tensor, "n 2"], inverse: Float[Tensor, "n"], size: tuple[int, int]) -> Float[Tensor, "H W"]:
    """Known values where there are some, their mean in a pixel; elsewhere the next coarser level, bilinearly."""
    cell = pixels[:, 1] * size[1] + pixels[:, 0]
    value, weight = (
        torch.zeros(size[0] * size[1]).index_add(0, cell, part).view(1, 1, *size)
        for part in (inverse, torch.ones_like(inverse))
    )
    levels = [(value, weight)]
    while max(levels[-1][0].shape[-2:]) > 1:
        levels.append(tuple(F.avg_pool2d(part, 2, ceil_mode=True) for part in levels[-1]))
    filled = levels[-1][0] / levels[-1][1]
    for value, weight in reversed(levels[:-1]):
        coarse = F.interpolate(filled, value.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.where(weight > 0, value / weight.clamp_min(1e-12), coarse)
    return filled[0, 0]
