"""The objective of the π³ family: the terms that the labels at hand allow, and their visible weighted sum."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow3r.config import LossConfig
from flow3r.geometry.camera import unproject
from flow3r.losses.terms import (
    align_scale,
    confidence_loss,
    depth_edges,
    flow_loss,
    masked_mean,
    normal_loss,
    point_errors,
    relative_poses,
    rotation_loss,
    translation_loss,
)
from flow3r.types import Prediction, Views


@dataclass(frozen=True)
class Objective:
    """A scalar to minimise and the unweighted terms it is made of, for the log."""

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


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
            terms |= _geometry_terms(prediction, views, config, generator)
        if views.flow is not None and prediction.flow is not None and views.flow.covisible is not None:
            covisible = views.flow.covisible * _source_mask(views)
            terms["flow"] = flow_loss(
                prediction.flow.displacement.float(),
                views.flow.displacement,
                covisible,
                config.flow_alpha,
                config.flow_c,
            )
        terms = {name: term for name, term in terms.items() if getattr(config, name) > 0}
        if not terms:
            raise ValueError("no loss term: the batch has neither poses nor flow that this prediction could be held to")
        total = sum(getattr(config, name) * term for name, term in terms.items())
    return Objective(total, {name: term.detach() for name, term in terms.items()})


def _geometry_terms(
    prediction: Prediction, views: Views, config: LossConfig, generator: torch.Generator | None
) -> dict[str, Tensor]:
    predicted_rotations, predicted_translations = relative_poses(prediction.world_from_camera.float())
    rotations, translations = relative_poses(views.world_from_camera)
    predicted_points = prediction.local_points.float()
    mask = _known_pixels(views)
    points = torch.zeros_like(predicted_points)
    if views.depth is not None:
        points = unproject(torch.where(mask, views.depth, 0.0), views.intrinsics)
    scale = align_scale(
        predicted_points, points, mask, predicted_translations, translations, config.scale_points, generator
    )
    terms = {"rotation": rotation_loss(predicted_rotations, rotations)}
    terms["translation"] = translation_loss(
        scale.prediction[:, None, None] * predicted_translations,
        scale.truth[:, None, None] * translations,
        config.huber_delta,
    )
    if views.depth is None:
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


def _known_pixels(views: Views) -> Bool[Tensor, "B N H W"]:
    if views.depth is None:
        return torch.zeros_like(views.images[:, :, 0], dtype=torch.bool)
    known = views.depth > 0
    return known if views.valid is None else known & views.valid


def _source_mask(views: Views) -> Float[Tensor, "B P H W"] | float:
    """1 where the source pixel of a pair is valid."""
    if views.valid is None:
        return 1.0
    return views.valid.take_along_dim(views.flow.pairs[..., 0, None, None], dim=1).float()
