"""What a benchmark asks its questions to: a model, and the rows that tell what its numbers are worth."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow3r.geometry.camera import centred_intrinsics, unproject
from flow3r.geometry.rigid import rigid_flow
from flow3r.geometry.se3 import transform_maps
from flow3r.types import Flow, Prediction, Views

FLAT_FIELD_OF_VIEW = 60.0  # degrees across; ours: the middle of the training worlds' range
FLAT_DEPTH = 3.0  # metres; ours: the typical depth of training worlds

# Answers a batch of views with points, cameras and, where the views have flow, flow for the same pairs.
Predictor = Callable[[Views], Prediction]


def model_predictor(model: nn.Module, project: bool = True) -> Predictor:
    """The predictor of a model with the forward contract of Flow3r: in inference mode, on the model's own device.

    A model without a flow head is scored by the flow that its points and cameras imply (Eq. 5), or, without `project`,
    has none.
    """

    def predict(views: Views) -> Prediction:
        parameter = next(model.parameters(), None)
        device = views.images.device if parameter is None else parameter.device
        pairs = views.flow.pairs.to(device) if views.flow is not None and _has_flow_head(model) else None
        was_training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                prediction = model(views.images.to(device), pairs)
        finally:
            model.train(was_training)
        prediction = prediction.to(views.images.device)
        return prediction if prediction.flow is not None or not project else with_projected_flow(prediction, views)

    return predict


def _has_flow_head(model: nn.Module) -> bool:
    config = getattr(model, "config", None)
    return config is None or config.flow is not None


def with_projected_flow(prediction: Prediction, views: Views) -> Prediction:
    """The prediction with the flow of a static world that its own points and cameras imply (Eq. 5)."""
    if views.flow is None:
        return prediction
    displacement, _ = rigid_flow(prediction, views.flow.pairs)
    return replace(prediction, flow=Flow(views.flow.pairs, displacement, None))


def identity(views: Views) -> Prediction:
    """Every camera at the origin, before a flat wall: no motion, and zero flow."""
    return _flat(views, torch.eye(4, device=views.images.device).expand(views.images.shape[1], 4, 4))


def fixed_poses(world_from_camera: Float[Tensor, "N 4 4"]) -> Predictor:
    """The same cameras (metres) for every scene of at most N views, each before a flat wall."""

    def predict(views: Views) -> Prediction:
        return _flat(views, world_from_camera[: views.images.shape[1]].to(views.images.device))

    return predict


def _flat(views: Views, world_from_camera: Tensor) -> Prediction:
    batch, count, _, height, width = views.images.shape
    focal = torch.full((batch, count), 0.5 * width / math.tan(math.radians(FLAT_FIELD_OF_VIEW / 2)))
    intrinsics = centred_intrinsics(focal.to(views.images.device), height, width)
    local_points = unproject(torch.full_like(views.images[:, :, 0], FLAT_DEPTH), intrinsics)
    poses = world_from_camera.to(views.images).expand(batch, count, 4, 4)
    prediction = Prediction(
        local_points=local_points,
        world_points=transform_maps(poses, local_points),
        world_from_camera=poses,
        intrinsics=intrinsics,
    )
    return with_projected_flow(prediction, views)


def truth(views: Views) -> Prediction:
    """The labels themselves, as far as they go: what a perfect model would score."""
    local_points = world_points = None
    if views.depth is not None:
        local_points = unproject(views.depth, views.intrinsics)
        world_points = transform_maps(views.world_from_camera, local_points)
    return Prediction(
        local_points=local_points,
        world_points=world_points,
        world_from_camera=views.world_from_camera,
        intrinsics=views.intrinsics,
        flow=views.flow,
    )
