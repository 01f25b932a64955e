"""Pictures of what a model sees and predicts: flow, depth, masks, points, sheets. All are (3 H W) in [0, 1]."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from flow3r.files import atomic_path
from flow3r.geometry.camera import centred_intrinsics, focal_from_points, project
from flow3r.geometry.se3 import invert, transform_points
from flow3r.types import Prediction, Views

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


def colourise_depth(depth: Float[Tensor, "H W"]) -> Float[Tensor, "3 H W"]:
    """Near yellow, far violet, by inverse depth between its 2nd and 98th percentile; unknown depth black."""
    known = depth > 0
    if not known.any():
        return depth.new_zeros(3, *depth.shape)
    inverse = torch.where(known, 1 / depth.clamp_min(1e-9), 0.0)
    low, high = (inverse[known].quantile(q) for q in (0.02, 0.98))
    place = (1 - (inverse - low) / (high - low).clamp_min(1e-9)).clamp(0, 1) * (len(DEPTH_RAMP) - 1)
    ramp = depth.new_tensor(DEPTH_RAMP)
    index = place.floor().long().clamp_max(len(DEPTH_RAMP) - 2)
    colour = torch.lerp(ramp[index], ramp[index + 1], (place - index)[..., None])
    return (colour * known[..., None]).movedim(-1, 0)


def colourise_mask(mask: Float[Tensor, "H W"]) -> Float[Tensor, "3 H W"]:
    """Grey: 1 white, 0 black."""
    return mask.clamp(0, 1).expand(3, *mask.shape)


def draw_points(
    points: Float[Tensor, "n 3"],
    colours: Float[Tensor, "n 3"],
    world_from_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    size: tuple[int, int],
    splat: int = 1,
) -> Float[Tensor, "3 H W"]:
    """World points as squares of side 2 splat + 1 pixels, nearest in front, seen by a camera, on white."""
    height, width = size
    in_camera = transform_points(invert(world_from_camera), points)
    pixels = project(in_camera[None], intrinsics)[0].floor().long()
    offset = torch.arange(-splat, splat + 1, device=points.device)
    square = torch.stack(torch.meshgrid(offset, offset, indexing="xy"), dim=-1).flatten(0, 1)
    spread = (pixels[:, None] + square).flatten(0, 1)
    z, colour = (x.repeat_interleave(len(square), dim=0) for x in (in_camera[:, 2], colours))
    x, y = spread.unbind(-1)
    seen = (z > 1e-6) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    order = z[seen].argsort(descending=True, stable=True)
    where = (y * width + x)[seen][order]
    nearest = torch.full((height * width,), -1, device=points.device)
    nearest = nearest.scatter_reduce(0, where, torch.arange(len(where), device=points.device), "amax")
    image = torch.ones(height * width, 3, device=points.device)
    drawn = nearest >= 0
    image[drawn] = colour[seen][order][nearest[drawn]]
    return image.view(height, width, 3).movedim(-1, 0)


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


def labels_picture(views: Views, scenes: int = 4) -> Float[Tensor, "3 H W"]:
    """What a batch says of flow, a row per scene: source, target, flow, covisibility, for its first pair."""
    rows = []
    for b in range(min(scenes, len(views.images))):
        i, j = views.flow.pairs[b, 0].tolist()
        displacement, covisible = views.flow.displacement[b, 0], views.flow.covisible[b, 0]
        flow = colourise_flow(displacement, mask=covisible)
        rows.append([views.images[b, i], views.images[b, j], flow, colourise_mask(covisible)])
    return sheet(rows)


def training_picture(views: Views, prediction: Prediction, scenes: int = 4) -> Float[Tensor, "3 H W"]:
    """A row per scene: source, target, flow label and prediction where there are pairs; where labelled, the depth, and
    the predicted depth and points.
    """
    rows = []
    for b in range(min(scenes, len(views.images))):
        row = [views.images[b, 0]]
        if prediction.flow is not None and views.flow is not None:
            i, j = views.flow.pairs[b, 0].tolist()
            label, covisible = views.flow.displacement[b, 0], views.flow.covisible[b, 0]
            longest = max(float(label.norm(dim=-1).flatten().quantile(0.95)), 1.0)
            guess = prediction.flow.displacement[b, 0].detach().float()
            row = [views.images[b, i], views.images[b, j]]
            row += [colourise_flow(label, longest, covisible), colourise_flow(guess, longest)]
        if prediction.depth is not None and views.depth is not None:
            row += [colourise_depth(views.depth[b, 0]), colourise_depth(prediction.depth[b, 0].detach().float())]
            row += [points_from_above(prediction.local_points[b, 0].detach().float(), views.images[b, 0])]
        rows.append(row)
    return sheet(rows)


def points_from_above(local_points: Float[Tensor, "H W 3"], image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
    """A pointmap in the colours of its image, seen from behind its camera and above, looking ahead."""
    height, width = image.shape[1:]
    focal = focal_from_points(local_points[None], torch.ones_like(local_points[None, ..., 0]))
    back = torch.eye(4, device=image.device)
    back[:3, 3] = local_points[..., 2].median() * torch.tensor([0.0, -0.4, -0.4], device=image.device)
    colours = image.movedim(0, -1).flatten(0, 1)
    return draw_points(
        local_points.flatten(0, 1), colours, back, centred_intrinsics(focal, height, width)[0], (height, width)
    )
