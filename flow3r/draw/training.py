"""Pictures of a batch: what its labels say of flow, and what a model predicts beside them."""

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow3r.draw.pictures import colourise_depth, colourise_flow, colourise_mask, sheet
from flow3r.draw.points import draw_points
from flow3r.geometry.align import apply_similarity, umeyama
from flow3r.geometry.camera import unproject
from flow3r.geometry.rigid import predicted_intrinsics, rigid_flow
from flow3r.geometry.se3 import from_parts, transform_maps
from flow3r.types import Flow, Prediction, Views

CLOUD_POINTS = 200_000  # ours: as many points of a cloud are drawn at most, about four to a pixel
BACK_AND_UP = 0.5  # ours: a cloud is seen from so far behind its camera, and above it, in median depths


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
