"""Pinhole cameras: pixel grids, projection, intrinsics under crops and resizes, intrinsics from a pointmap.

Pixel centres lie at half-integers: the image spans [0, W] x [0, H], so that a resize is a pure scaling.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow3r.geometry.align import weighted_median_scale


def pixel_grid(
    height: int, width: int, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "H W 2"]:
    """The (x, y) centre of every pixel: (0.5, 0.5) at the top left."""
    y = torch.arange(height, device=device, dtype=dtype) + 0.5
    x = torch.arange(width, device=device, dtype=dtype) + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def intrinsics_from_focal(focal: Float[Tensor, "*b 2"], principal: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 3 3"]:
    """[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels."""
    zero, one = torch.zeros_like(focal[..., 0]), torch.ones_like(focal[..., 0])
    rows = [
        torch.stack([focal[..., 0], zero, principal[..., 0]], dim=-1),
        torch.stack([zero, focal[..., 1], principal[..., 1]], dim=-1),
        torch.stack([zero, zero, one], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def fields_of_view(intrinsics: Float[Tensor, "*b 3 3"], height: int, width: int) -> Float[Tensor, "*b 2"]:
    """Across and down, in radians, for an image of this size; principal points do not count."""
    return 2 * torch.atan2(intrinsics.new_tensor([width, height]), 2 * intrinsics[..., [0, 1], [0, 1]])


def project(
    points: Float[Tensor, "*b H W 3"], intrinsics: Float[Tensor, "*b 3 3"], nearest: float = 1e-6
) -> Float[Tensor, "*b H W 2"]:
    """The pixel (x, y) of points in the camera's frame. Points at z < `nearest` are projected as if at z = `nearest`:
    finite, and for the caller to mask by their z."""
    z = points[..., 2:].clamp_min(nearest)
    focal = intrinsics[..., [0, 1], [0, 1]][..., None, None, :]
    return focal * points[..., :2] / z + intrinsics[..., None, None, :2, 2]


def camera_rays(intrinsics: Float[Tensor, "*b 3 3"], height: int, width: int) -> Float[Tensor, "*b H W 3"]:
    """The ray through every pixel centre, in the camera's frame, with z = 1."""
    grid = pixel_grid(height, width, intrinsics.device, intrinsics.dtype)
    focal = intrinsics[..., [0, 1], [0, 1]][..., None, None, :]
    xy = (grid - intrinsics[..., None, None, :2, 2]) / focal
    return torch.cat([xy, torch.ones_like(xy[..., :1])], dim=-1)


def unproject(depth: Float[Tensor, "*b H W"], intrinsics: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b H W 3"]:
    """The pointmap, in the camera's frame, of a z-depth map. Unknown depth 0 gives the point 0."""
    return camera_rays(intrinsics, *depth.shape[-2:]) * depth[..., None]


def transform_intrinsics(
    intrinsics: Float[Tensor, "*b 3 3"], new_from_old: Float[Tensor, "*b 3 3"]
) -> Float[Tensor, "*b 3 3"]:
    """Intrinsics after an axis-aligned affine of the pixels (crop, pad, resize), a homogeneous 3 x 3 matrix."""
    return new_from_old @ intrinsics


def crop_and_resize_affine(
    crop: tuple[float, float, float, float], size: tuple[int, int], dtype: torch.dtype = torch.float64
) -> Float[Tensor, "3 3"]:
    """The map from pixels of an image to those of its crop (left, top, width, height) resized to `size` (H, W).

    A crop that reaches beyond the image pads it.
    """
    left, top, width, height = crop
    sx, sy = size[1] / width, size[0] / height
    return torch.tensor([[sx, 0.0, -sx * left], [0.0, sy, -sy * top], [0.0, 0.0, 1.0]], dtype=dtype)


def focal_from_points(points: Float[Tensor, "*b H W 3"], weight: Float[Tensor, "*b H W"]) -> Float[Tensor, "*b"]:
    """The focal length in pixels (square pixels, centred principal point) that best explains a pointmap.

    With u the offset of a pixel from the image centre and s = p_xy / p_z the slope of its ray, it minimises
    Σ w |û · s - ‖u‖ / f| exactly, by a weighted median: the pixels are known and the slopes err, so that up to half of
    the points may be arbitrarily wrong. `weight` >= 0; points at z <= 0 are left out. Where nothing is left, or less
    than half of the weight agrees with the answer to within its own size (as when all points project on one spot), the
    answer is the diagonal of the image, a normal lens.
    """
    radius, slope, weight = _radial_slopes(points, weight)
    return _focal_of_slopes(radius.flatten(-2), slope.flatten(-2), weight.flatten(-2), math.hypot(*points.shape[-3:-1]))


def shared_focal_from_points(
    points: Float[Tensor, "*b N H W 3"], weight: Float[Tensor, "*b N H W"]
) -> Float[Tensor, "*b"]:
    """The one focal length that best explains N pointmaps together; otherwise as `focal_from_points`."""
    radius, slope, weight = _radial_slopes(points, weight)
    return _focal_of_slopes(radius.flatten(-3), slope.flatten(-3), weight.flatten(-3), math.hypot(*points.shape[-3:-1]))


def least_squares_focal_from_points(points: Float[Tensor, "*b H W 3"]) -> Float[Tensor, "*b"]:
    """The focal length as `focal_from_points` finds it, with a gradient that all points share.

    Least squares over the pixels that agree with the median to a tenth; the gradient does not change which they are.
    """
    radius, slope, weight = (x.flatten(-2) for x in _radial_slopes(points, torch.ones_like(points[..., 0])))
    diagonal = math.hypot(*points.shape[-3:-1])
    with torch.no_grad():
        inverse = 1 / _focal_of_slopes(radius, slope, weight, diagonal)[..., None]
        weight = weight * ((slope - inverse * radius).abs() < 0.1 * inverse * radius)
        enough = (weight * radius).sum(-1) > 0
    fitted = (weight * radius * slope).sum(-1) / torch.where(enough, (weight * radius.square()).sum(-1), 1.0)
    return 1 / torch.where(enough, fitted, 1 / diagonal)


def _radial_slopes(points: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per pixel ‖u‖, û · s and the weight, 0 for points that are not in front."""
    height, width = points.shape[-3:-1]
    offset = pixel_grid(height, width, points.device, points.dtype) - points.new_tensor([width / 2, height / 2])
    radius = offset.norm(dim=-1)
    front = points[..., 2] > 1e-6
    slope = torch.where(front[..., None], points[..., :2] / points[..., 2:].clamp_min(1e-6), 0.0)
    along = (offset * slope).sum(-1) / radius.clamp_min(0.5)  # only the centre of odd sizes has a radius below 0.5: 0
    return radius.expand_as(along), along, torch.where(front, weight, 0.0)


def _focal_of_slopes(radius: Tensor, slope: Tensor, weight: Tensor, fallback: float) -> Tensor:
    inverse = weighted_median_scale(radius, slope, weight)
    mass = weight * radius
    agrees = (slope - inverse[..., None] * radius).abs() < inverse[..., None] * radius
    known = (mass * agrees).sum(-1) > 0.5 * mass.sum(-1)
    return torch.where(known, 1 / torch.where(known, inverse, 1.0), fallback)


def centred_intrinsics(focal: Float[Tensor, "*b"], height: int, width: int) -> Float[Tensor, "*b 3 3"]:
    """Intrinsics of square pixels and a centred principal point."""
    principal = focal.new_tensor([width / 2, height / 2]).expand(*focal.shape, 2)
    return intrinsics_from_focal(torch.stack([focal, focal], dim=-1), principal)


def inside_image(pixels: Float[Tensor, "*b 2"], height: int, width: int) -> Bool[Tensor, "*b"]:
    """Whether (x, y) lies on the image, [0, W) x [0, H)."""
    x, y = pixels.unbind(-1)
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)
