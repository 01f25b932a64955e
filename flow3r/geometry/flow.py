"""Flow: from depth and poses, covisibility, warping, resizing, and the public checkpoint's own coordinates."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from flow3r.geometry.camera import inside_image, pixel_grid, project, unproject
from flow3r.geometry.se3 import invert, transform_maps

# UnFlow (Meister et al. 2018): |f + b|² < ALPHA (|f|² + |b|²) + BETA, in pixels of the flow's own grid.
FORWARD_BACKWARD_ALPHA = 0.01
FORWARD_BACKWARD_BETA = 0.5


def sample(image: Float[Tensor, "b c H W"], pixels: Float[Tensor, "b h w 2"], mode: str = "bilinear") -> Tensor:
    """The values (b, c, h, w) of an image at pixel positions (x, y); beyond the image the nearest border value."""
    height, width = image.shape[-2:]
    normalised = 2 * pixels / pixels.new_tensor([width, height]) - 1
    return F.grid_sample(image, normalised, mode=mode, padding_mode="border", align_corners=False)


def warp(target: Float[Tensor, "b c H W"], displacement: Float[Tensor, "b H W 2"]) -> Float[Tensor, "b c H W"]:
    """The target image seen from the source: the target's value at u + displacement(u) for every source pixel u."""
    return sample(target, pixel_grid(*displacement.shape[1:3], displacement.device) + displacement)


def median_length(displacement: Float[Tensor, "H W 2"], covisible: Float[Tensor, "H W"]) -> float:
    """Of the flow where it is covisible, in pixels; 0 where it nowhere is."""
    length = displacement.norm(dim=-1)[covisible > 0]
    return float(length.median()) if length.numel() else 0.0


def project_flow(
    world_points: Float[Tensor, "*b H W 3"],
    target_from_world: Float[Tensor, "*b 4 4"],
    target_intrinsics: Float[Tensor, "*b 3 3"],
) -> tuple[Float[Tensor, "*b H W 2"], Float[Tensor, "*b H W"]]:
    """Eq. 5: displacement of static points into a target camera of the same H x W, and their depth there."""
    in_target = transform_maps(target_from_world, world_points)
    height, width = world_points.shape[-3:-1]
    grid = pixel_grid(height, width, world_points.device, world_points.dtype)
    return project(in_target, target_intrinsics) - grid, in_target[..., 2]


def flow_from_depth(
    depth: Float[Tensor, "b 2 H W"],
    intrinsics: Float[Tensor, "b 2 3 3"],
    world_from_camera: Float[Tensor, "b 2 4 4"],
    tolerance: float = 0.03,
) -> tuple[Float[Tensor, "b H W 2"], Bool[Tensor, "b H W"]]:
    """Flow of a static scene from view 0 to view 1, and the pixels of view 0 seen in view 1.

    A pixel is covisible if its depth is known, its point lies in front of and inside view 1, and one of the four depths
    of view 1 around the point agrees with it to `tolerance`, relative; one of four, so that no depth is interpolated.
    """
    world_points = transform_maps(world_from_camera[:, 0], unproject(depth[:, 0], intrinsics[:, 0]))
    displacement, z = project_flow(world_points, invert(world_from_camera[:, 1]), intrinsics[:, 1])
    height, width = z.shape[-2:]
    position = pixel_grid(height, width, z.device, z.dtype) + displacement
    corner = (position - 0.5).floor().long()
    agrees = torch.zeros_like(z, dtype=torch.bool)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x = (corner[..., 0] + dx).clamp(0, width - 1)
        y = (corner[..., 1] + dy).clamp(0, height - 1)
        there = depth[:, 1].flatten(1).gather(1, (y * width + x).flatten(1)).view_as(z)
        agrees |= (there > 0) & ((there - z).abs() < tolerance * z)
    covisible = (depth[:, 0] > 0) & (z > 1e-6) & inside_image(position, height, width) & agrees
    return torch.where(covisible[..., None], displacement, 0.0), covisible


def forward_backward_error(
    forward: Float[Tensor, "b H W 2"], backward: Float[Tensor, "b H W 2"]
) -> tuple[Float[Tensor, "b H W"], Bool[Tensor, "b H W"]]:
    """|f + b|² / (α (|f|² + |b|²) + β), b read at the end of f, and whether that end lies inside the target image.

    A pixel passes the check of UnFlow where the first is below 1 and the second holds. Flows are in pixels.
    """
    height, width = forward.shape[1:3]
    target = pixel_grid(height, width, forward.device, forward.dtype) + forward
    returned = sample(backward.movedim(-1, 1), target).movedim(1, -1)
    magnitude = forward.square().sum(-1) + returned.square().sum(-1)
    error = (forward + returned).square().sum(-1) / (FORWARD_BACKWARD_ALPHA * magnitude + FORWARD_BACKWARD_BETA)
    return error, inside_image(target, height, width)


def resize_flow(displacement: Float[Tensor, "b H W 2"], height: int, width: int) -> Float[Tensor, "b h w 2"]:
    """Flow on another grid: bilinear in space, and the vectors scaled with the image."""
    old_height, old_width = displacement.shape[1:3]
    resized = F.interpolate(displacement.movedim(-1, 1), (height, width), mode="bilinear", align_corners=False)
    return resized.movedim(1, -1) * displacement.new_tensor([width / old_width, height / old_height])


def pixels_from_ndc(coordinates: Float[Tensor, "*b H W 2"]) -> Float[Tensor, "*b H W 2"]:
    """Target pixels from the public checkpoint's coordinates: +1 at the first pixel's centre, -1 at the last one's."""
    height, width = coordinates.shape[-3:-1]
    return 0.5 * (1 - coordinates) * coordinates.new_tensor([width - 1, height - 1]) + 0.5


def ndc_from_pixels(pixels: Float[Tensor, "*b H W 2"]) -> Float[Tensor, "*b H W 2"]:
    """The inverse of `pixels_from_ndc`."""
    height, width = pixels.shape[-3:-1]
    return 1 - 2 * (pixels - 0.5) / pixels.new_tensor([max(width - 1, 1), max(height - 1, 1)])
