"""Pictures of what a model sees and predicts: flow, depth, masks, points, sheets. All are (3 H W) in [0, 1]."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from flow3r.files import atomic_path
from flow3r.geometry.align import apply_similarity, umeyama
from flow3r.geometry.camera import project, unproject
from flow3r.geometry.rigid import predicted_intrinsics, rigid_flow
from flow3r.geometry.se3 import from_parts, invert, transform_maps, transform_points
from flow3r.types import Flow, Prediction, Views

# Anchors of a perceptual dark-blue to yellow ramp for depth, near to far reversed; ours.
DEPTH_RAMP = ((0.99, 0.91, 0.14), (0.48, 0.82, 0.32), (0.13, 0.57, 0.55), (0.23, 0.32, 0.55), (0.27, 0.0, 0.33))

CLOUD_POINTS = 200_000  # ours: as many points of a cloud are drawn at most, about four to a pixel
BACK_AND_UP = 0.5  # ours: a cloud is seen from so far behind its camera, and above it, in median depths


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


@torch.no_grad()
def training_picture(views: Views, prediction: Prediction, scenes: int = 4) -> Float[Tensor, "3 H W"]:
    """A row per scene, of whatever there is of these columns:

    source and target of the first pair; covisibility and, in one scale of colours, three flows: the label, dark where
    it is unknown, the predicted one, and the rigid one (Eq. 5), dark behind the target camera; depth of the source, as
    labelled and as predicted; points of all views from behind the source and above, as labelled and as predicted.

    `prediction` may be that of the first scenes, and of their first pairs, alone.
    """
    if prediction.local_points is not None:
        prediction = replace(prediction, intrinsics=predicted_intrinsics(prediction))
    flow = views.flow if views.flow is not None and views.flow.pairs.shape[1] else None
    rigid = None
    if flow is not None and prediction.world_points is not None and prediction.world_from_camera is not None:
        rigid = rigid_flow(prediction, flow.pairs[: len(prediction.world_points), :1])
    rows = []
    for b in range(min(scenes, *(len(some) for some in _batched(views, prediction)))):
        i, j = (0, None) if flow is None else flow.pairs[b, 0].tolist()
        row = [views.images[b, i]]
        if flow is not None:
            row += [views.images[b, j], *_flow_columns(flow, prediction.flow, rigid, b)]
        rows.append(row + _depth_columns(views, prediction, b, i) + _cloud_columns(views, prediction, b, i))
    return sheet(rows)


def _batched(views: Views, prediction: Prediction) -> list[Tensor]:
    flow = None if prediction.flow is None else prediction.flow.displacement
    return [x for x in (views.images, flow, prediction.local_points, prediction.world_from_camera) if x is not None]


def _flow_columns(label: Flow, predicted: Flow | None, rigid: tuple[Tensor, Tensor] | None, b: int) -> list[Tensor]:
    covisible = torch.ones_like(label.displacement[b, 0, ..., 0]) if label.covisible is None else label.covisible[b, 0]
    length = label.displacement[b, 0].norm(dim=-1)[covisible > 0]
    longest = max(float(length.quantile(0.95)), 1.0) if len(length) else 1.0
    columns = [colourise_mask(covisible), colourise_flow(label.displacement[b, 0], longest, covisible)]
    if predicted is not None:
        columns += [colourise_flow(predicted.displacement[b, 0].float(), longest)]
    if rigid is not None:
        displacement, depth = rigid
        columns += [colourise_flow(displacement[b, 0], longest, (depth[b, 0] > 0).float())]
    return columns


def _depth_columns(views: Views, prediction: Prediction, b: int, i: int) -> list[Tensor]:
    label = None if views.depth is None else views.depth[b, i]
    columns = [] if label is None else [colourise_depth(label)]
    if prediction.depth is not None:
        columns += [colourise_depth(prediction.depth[b, i].float(), like=label)]
    return columns


def _cloud_columns(views: Views, prediction: Prediction, b: int, i: int) -> list[Tensor]:
    images = views.images[b]
    valid = torch.ones_like(images[:, 0]) > 0 if views.valid is None else views.valid[b]
    columns = []
    if views.depth is not None:
        local = unproject(views.depth[b], views.intrinsics[b])
        world = transform_maps(views.world_from_camera[b], local)
        known = valid & (views.depth[b] > 0)
        columns += [cloud_from_above(_seen_by(i, local[i], world), images, known, views.intrinsics[b, i])]
    if prediction.local_points is not None:
        local, lens = prediction.local_points[b, i].float(), prediction.intrinsics[b, i]
        if prediction.world_points is not None:
            cloud = _seen_by(i, local, prediction.world_points[b].float())
            columns += [cloud_from_above(cloud, images, valid, lens)]
        else:  # no cameras: the source by itself
            columns += [cloud_from_above(local[None], images[i : i + 1], valid[i : i + 1], lens)]
    return columns


def _seen_by(i: int, local_points: Float[Tensor, "H W 3"], world_points: Float[Tensor, "N H W 3"]) -> Tensor:
    """World points of all views in the frame of view i, by aligning what view i has in both: those of a head of their
    own need not share a frame with the cameras."""
    similarity = umeyama(world_points[i].flatten(0, 1), local_points.flatten(0, 1))
    return apply_similarity(similarity, world_points.flatten(0, 2)).view_as(world_points)


def cloud_from_above(
    points: Float[Tensor, "N H W 3"],
    images: Float[Tensor, "N 3 H W"],
    known: Bool[Tensor, "N H W"],
    intrinsics: Float[Tensor, "3 3"],
) -> Float[Tensor, "3 H W"]:
    """Points in the colours of their images, seen from behind and above the camera in whose frame they are.

    From as far as BACK_AND_UP of the median depth, looking at that depth, in the size of the images: scale is nothing
    to the picture.
    """
    coloured = torch.cat([points, images.movedim(1, -1)], dim=-1)[known]
    points, colours = coloured[:: max(1, -(-len(coloured) // CLOUD_POINTS))].split(3, dim=-1)
    z = points[points[:, 2] > 0, 2]
    distance = z.median() if len(z) else points.new_ones(())
    down = math.atan2(BACK_AND_UP, 1 + BACK_AND_UP)  # the angle by which the view is tilted
    tilt = points.new_tensor([[1, 0, 0], [0, math.cos(down), math.sin(down)], [0, -math.sin(down), math.cos(down)]])
    back_and_up = -BACK_AND_UP * distance * points.new_tensor([0.0, 1.0, 1.0])
    return draw_points(points, colours, from_parts(tilt, back_and_up), intrinsics, tuple(images.shape[2:]))
