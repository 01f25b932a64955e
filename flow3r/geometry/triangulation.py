"""Depth of a view from where its pixels are seen in other views, whose cameras are known."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flow3r.geometry.camera import camera_rays, pixel_grid

_STEPS = 6  # ours: of reweighting, after which depths change by far less than the pixels' own errors
_NEAREST = 1e-6  # share of the source's depth below which a point lies behind a view


@dataclass(frozen=True)
class Triangulated:
    """What P views that see a pixel of a source view say of its depth."""

    depth: Float[Tensor, "H W"]  # z-depth in the source; 0 where no view sees the pixel, or its point is not in front
    parallax: Float[Tensor, "H W"]  # pixels: how far the agreeing views' pixels lie from those of a point at infinity
    seen: Int[Tensor, "H W"]  # views that see the pixel
    agreeing: Int[Tensor, "H W"]  # of them, those in which the point lies within the tolerance


def triangulate(
    displacement: Float[Tensor, "P H W 2"],
    covisible: Bool[Tensor, "P H W"],
    target_from_source: Float[Tensor, "P 4 4"],
    source_intrinsics: Float[Tensor, "3 3"],
    target_intrinsics: Float[Tensor, "P 3 3"],
    tolerance: float = 1.0,
) -> Triangulated:
    """The depth along each pixel's ray of least reprojection error in the views that see it.

    `displacement` is flow, in pixels, from one source view to P targets. The error is robust: a view in which the point
    lies `tolerance` pixels off counts a quarter of one that agrees (Geman and McClure's estimator). `parallax` is the
    root of the summed squares over agreeing views: an error of one pixel is one of 1 / parallax of the depth.
    """
    height, width = covisible.shape[-2:]
    rays = camera_rays(source_intrinsics, height, width)
    # In homogeneous pixels of a target, the point at inverse depth d lies at `far` + d `near`.
    far = torch.einsum("pxy,hwy->phwx", target_intrinsics @ target_from_source[:, :3, :3], rays)
    near = (target_intrinsics @ target_from_source[:, :3, 3:])[:, None, None, :, 0]
    place = pixel_grid(height, width, displacement.device, displacement.dtype) + displacement
    slope = near[..., :2] - place * near[..., 2:]
    offset = far[..., :2] - place * far[..., 2:]
    weight, z = covisible.to(rays), far[..., 2].clamp_min(_NEAREST)
    inverse, error = torch.zeros_like(rays[..., 0]), torch.zeros_like(weight)
    for _ in range(_STEPS):
        # Divided by z, the linear residual offset + d slope is one in pixels.
        share = (weight / z.square())[..., None]
        curvature = (share * slope.square()).sum((0, -1))
        inverse = -(share * slope * offset).sum((0, -1)) / torch.where(curvature > 0, curvature, 1.0)
        z = (far[..., 2] + inverse * near[..., 2]).clamp_min(_NEAREST)
        error = ((offset + inverse[..., None] * slope) / z[..., None]).norm(dim=-1)
        weight = covisible / (1 + (error / tolerance).square()).square()
    agrees = covisible & (error < tolerance) & (far[..., 2] + inverse * near[..., 2] > _NEAREST)
    moved = (inverse[..., None] * slope / far[..., 2:].clamp_min(_NEAREST)).norm(dim=-1)
    in_front = (inverse > 0) & covisible.any(0)
    return Triangulated(
        depth=torch.where(in_front, 1 / torch.where(in_front, inverse, 1.0), 0.0),
        parallax=(moved * agrees).square().sum(0).sqrt(),
        seen=covisible.sum(0),
        agreeing=agrees.sum(0),
    )
