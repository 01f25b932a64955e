"""The objectives of both families: the terms that the labels at hand allow, and their visible weighted sum."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow3r.config import LossConfig, MatcherConfig, ModelConfig, VggtConfig
from flow3r.geometry.align import umeyama
from flow3r.geometry.camera import unproject
from flow3r.geometry.se3 import from_parts, safe_norm, transform_maps, transform_points
from flow3r.losses.terms import (
    align_rigidly,
    align_scale,
    centre_loss,
    confidence_loss,
    depth_edges,
    field_of_view_loss,
    flow_loss,
    masked_mean,
    mean_by_scene,
    normal_loss,
    point_errors,
    relative_poses,
    reprojection,
    rotation_loss,
    scene_scale,
    translation_loss,
    weighted_by_confidence,
)
from flow3r.types import Prediction, Views


@dataclass(frozen=True)
class Objective:
    """A scalar to minimise, and for the log the unweighted terms it is made of and what else is worth recording."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    records: dict[str, Float[Tensor, ""]] = field(default_factory=dict)


def pi3_objective(
    prediction: Prediction, views: Views, config: LossConfig, generator: torch.Generator | None = None
) -> Objective:
    """The supervised loss of π³ (Sec. 3.3, Eq. 7 and 9-12) plus the factored flow loss.

    Which terms there are depends on the labels present and the outputs predicted, nothing else: depth with intrinsics
    and poses gives points, normals and confidence; poses give rotation and translation; flow gives flow. A term of
    weight 0 is left out. Computed in fp32 outside autocast.

    Raises ValueError if the batch has no label that this prediction can learn from.
    """
    with torch.autocast(views.images.device.type, enabled=False):
        terms: dict[str, Tensor] = {}
        if views.world_from_camera is not None and prediction.world_from_camera is not None:
            terms |= _local_terms(prediction, views, config, generator)
        terms |= _flow_terms(prediction, views, config)
        return _weighted_sum(terms, vars(config))


def vggt_objective(
    prediction: Prediction, views: Views, config: LossConfig, generator: torch.Generator | None = None
) -> Objective:
    """The supervised loss of VGGT's family (appendix A.1, Eq. 8 and 11-14) plus the factored flow loss.

    Points, camera centres and depth of the prediction are divided by its own scale, those of the truth by theirs. As
    printed, `config.vggt.alignment = "separate"`, rotations are compared between views, and centres and points under a
    rigid motion each, so that nothing ties the three together; with "shared" the motion that aligns the points holds
    for centres and rotations too. The record `reprojection`, in pixels, says how well they agree.

    Which terms there are depends on the labels present and the outputs predicted, nothing else: depth with intrinsics
    and poses gives points, centring, depth and confidence; poses give rotation and centres; intrinsics give the field
    of view; flow gives flow. A term of weight 0 is left out. Computed in fp32 outside autocast.

    Raises ValueError if the batch has no label that this prediction can learn from.
    """
    with torch.autocast(views.images.device.type, enabled=False):
        terms: dict[str, Tensor] = {}
        if views.world_from_camera is not None and prediction.world_from_camera is not None:
            terms |= _world_terms(prediction, views, config, generator)
        if views.intrinsics is not None and prediction.intrinsics is not None:
            size = views.images.shape[-2:]
            terms["field_of_view"] = field_of_view_loss(prediction.intrinsics.float(), views.intrinsics, *size)
        terms |= _flow_terms(prediction, views, config)
        weights = {**vars(config.vggt), "flow": config.flow}
        return _weighted_sum(terms, weights, _world_records(prediction, views))


def matcher_objective(
    prediction: Prediction, views: Views, config: LossConfig, generator: torch.Generator | None = None
) -> Objective:
    """The flow loss alone. Raises ValueError if the batch has no flow."""
    with torch.autocast(views.images.device.type, enabled=False):
        return _weighted_sum(_flow_terms(prediction, views, config), vars(config))


OBJECTIVES: dict[type, Callable[..., Objective]] = {
    ModelConfig: pi3_objective,
    VggtConfig: vggt_objective,
    MatcherConfig: matcher_objective,
}


def _weighted_sum(
    terms: dict[str, Tensor], weights: Mapping[str, Any], records: dict[str, Tensor] | None = None
) -> Objective:
    terms = {name: term for name, term in terms.items() if weights[name] > 0}
    if not terms:
        raise ValueError("no loss term: the batch has neither poses nor flow that this prediction could be held to")
    total = sum(weights[name] * term for name, term in terms.items())
    return Objective(total, {name: term.detach() for name, term in terms.items()}, records or {})


def _local_terms(
    prediction: Prediction, views: Views, config: LossConfig, generator: torch.Generator | None
) -> dict[str, Tensor]:
    predicted_rotations, predicted_translations = relative_poses(prediction.world_from_camera.float())
    rotations, translations = relative_poses(views.world_from_camera)
    predicted_points, points, mask = _pointmaps(prediction.local_points, views)
    scale = align_scale(
        predicted_points, points, mask, predicted_translations, translations, config.scale_points, generator
    )
    terms = {"rotation": rotation_loss(predicted_rotations, rotations)}
    terms["translation"] = translation_loss(
        scale.prediction[:, None, None] * predicted_translations,
        scale.truth[:, None, None] * translations,
        config.huber_delta,
    )
    if views.depth is None or prediction.local_points is None:
        return terms
    predicted_points = scale.prediction[:, None, None, None, None] * predicted_points
    points = scale.truth[:, None, None, None, None] * points
    errors = point_errors(predicted_points, points, mask)
    terms["points"] = masked_mean(errors, mask)
    if views.dense is not None and config.normals > 0:
        smooth = mask & ~depth_edges(points[..., 2].flatten(0, 1), config.edge_threshold).view_as(mask)
        smooth = smooth & views.dense[:, :, None, None]
        terms["normals"] = normal_loss(predicted_points.flatten(0, 1), points.flatten(0, 1), smooth.flatten(0, 1))
    if prediction.confidence_logit is not None:
        terms["confidence"] = confidence_loss(
            prediction.confidence_logit.float(), errors, mask, config.confidence_sharpness
        )
    return terms


def _world_terms(
    prediction: Prediction, views: Views, config: LossConfig, generator: torch.Generator | None
) -> dict[str, Tensor]:
    own = config.vggt
    predicted_poses, poses = prediction.world_from_camera.float(), views.world_from_camera
    predicted_points, local_points, mask = _pointmaps(prediction.world_points, views)
    points, known = transform_maps(poses, local_points), mask.flatten(1)
    centroid, predicted_scale = scene_scale(predicted_points.flatten(1, 3), known, predicted_poses[..., :3, 3])
    _, scale = scene_scale(points.flatten(1, 3), known, poses[..., :3, 3])
    predicted_poses, poses = _shrunk(predicted_poses, predicted_scale), _shrunk(poses, scale)
    predicted_points = predicted_points / predicted_scale[:, None, None, None, None]
    points = points / scale[:, None, None, None, None]

    rotation, translation = align_rigidly(
        predicted_points.flatten(1, 3), points.flatten(1, 3), known, own.alignment_steps, config.scale_points, generator
    )
    if own.alignment == "shared":
        terms = _shared_camera_terms(predicted_poses, poses, from_parts(rotation, translation), known.any(1))
    else:
        terms = _separate_camera_terms(predicted_poses, poses)
    if views.depth is None or prediction.world_points is None:
        return terms
    aligned = predicted_points @ rotation.mT[:, None, None] + translation[:, None, None, None]
    errors = safe_norm(aligned - points)
    terms["points"] = mean_by_scene(errors, mask)  # Eq. 8
    terms["centring"] = masked_mean(safe_norm(centroid) / predicted_scale, known.any(1))  # Eq. 12
    if prediction.world_confidence_logit is not None:
        terms["point_confidence"] = weighted_by_confidence(
            errors.detach(), prediction.world_confidence_logit.float(), mask, own.depth_alpha
        )
    if prediction.depth is not None and prediction.confidence_logit is not None:
        predicted_depth = prediction.depth.float() / predicted_scale[:, None, None, None]
        difference = (predicted_depth - views.depth / scale[:, None, None, None]).abs()
        terms["depth"] = weighted_by_confidence(difference, prediction.confidence_logit.float(), mask, own.depth_alpha)
    return terms


def _shrunk(world_from_camera: Tensor, scale: Tensor) -> Tensor:
    """Poses in a world whose lengths are divided by `scale`."""
    return from_parts(world_from_camera[..., :3, :3], world_from_camera[..., :3, 3] / scale[:, None, None])


def _separate_camera_terms(predicted: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """As printed: rotations between views (Eq. 11), centres under the rigid motion that fits them best."""
    centres, true_centres = predicted[..., :3, 3], truth[..., :3, 3]
    with torch.no_grad():
        _, rotation, translation = umeyama(centres, true_centres, with_scale=False)
    return {
        "rotation": rotation_loss(relative_poses(predicted)[0], relative_poses(truth)[0]),
        "centres": centre_loss(centres @ rotation.mT + translation[:, None], true_centres),
    }


def _shared_camera_terms(predicted: Tensor, truth: Tensor, motion: Tensor, usable: Tensor) -> dict[str, Tensor]:
    """Rotations and centres under one rigid motion: the given one of the points where it is `usable`, else the one that
    fits the cameras' own axes best, which any number of views determines. No gradient goes through either."""
    with torch.no_grad():
        # A camera as its centre and the tips of its three axes, a scene's scale long.
        axes = torch.cat([torch.zeros(1, 3), torch.eye(3)]).to(truth)
        tips = [
            transform_points(poses, axes.expand(*poses.shape[:2], 4, 3)).flatten(1, 2) for poses in (predicted, truth)
        ]
        _, rotation, translation = umeyama(*tips, with_scale=False)
        motion = torch.where(usable[:, None, None], motion, from_parts(rotation, translation))
    aligned = motion[:, None] @ predicted
    return {
        "rotation": rotation_loss(aligned[..., :3, :3], truth[..., :3, :3]),
        "centres": centre_loss(aligned[..., :3, 3], truth[..., :3, 3]),
    }


def _world_records(prediction: Prediction, views: Views) -> dict[str, Tensor]:
    points, poses, intrinsics = prediction.world_points, prediction.world_from_camera, prediction.intrinsics
    if points is None or poses is None or intrinsics is None:
        return {}
    return {"reprojection": reprojection(points.float(), poses.float(), intrinsics.float(), views.valid)}


def _flow_terms(prediction: Prediction, views: Views, config: LossConfig) -> dict[str, Tensor]:
    if views.flow is None or prediction.flow is None or views.flow.covisible is None:
        return {}
    covisible = views.flow.covisible * _source_mask(views)
    predicted, truth = prediction.flow.displacement.float(), views.flow.displacement
    return {"flow": flow_loss(predicted, truth, covisible, config.flow_alpha, config.flow_c)}


def _pointmaps(
    predicted: Float[Tensor, "B N H W 3"] | None, views: Views
) -> tuple[Float[Tensor, "B N H W 3"], Float[Tensor, "B N H W 3"], Bool[Tensor, "B N H W"]]:
    """Predicted points; true ones, in each camera's frame; where both are known: nowhere if one of them is absent."""
    if predicted is None or views.depth is None:
        nothing = torch.zeros_like(views.images).movedim(2, -1)
        return nothing, nothing, torch.zeros_like(views.images[:, :, 0], dtype=torch.bool)
    mask = views.depth > 0
    if views.valid is not None:
        mask = mask & views.valid
    return predicted.float(), unproject(torch.where(mask, views.depth, 0.0), views.intrinsics), mask


def _source_mask(views: Views) -> Float[Tensor, "B P H W"] | float:
    """1 where the source pixel of a pair is valid."""
    if views.valid is None:
        return 1.0
    return views.valid.take_along_dim(views.flow.pairs[..., 0, None, None], dim=1).float()
