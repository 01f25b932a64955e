"""What a prediction says of a world that stands still: its pinholes, and the flow of its own points (Eq. 5)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flow3r.geometry.camera import centred_intrinsics, focal_from_points
from flow3r.geometry.flow import project_flow
from flow3r.geometry.se3 import invert
from flow3r.types import Prediction


def predicted_intrinsics(prediction: Prediction) -> Float[Tensor, "B N 3 3"]:
    """The model's own intrinsics, or the square, centred pinhole that best explains each of its pointmaps."""
    if prediction.intrinsics is not None:
        return prediction.intrinsics
    points = prediction.local_points.nan_to_num(0.0, 0.0, 0.0)
    weight = torch.ones_like(points[..., 0]) if prediction.confidence is None else prediction.confidence.nan_to_num(0.0)
    return centred_intrinsics(focal_from_points(points, weight), *points.shape[-3:-1])


def rigid_flow(
    prediction: Prediction, pairs: Int[Tensor, "B P 2"]
) -> tuple[Float[Tensor, "B P H W 2"], Float[Tensor, "B P H W"]]:
    """Eq. 5: the displacement in pixels that the predicted points and cameras imply for ordered pairs (source, target)
    of a static world, and the depth of each point in its target; what lies behind it (depth <= 0) has no flow.

    Needs world points and cameras, and intrinsics or local points.
    """
    scene = torch.arange(len(pairs), device=pairs.device)[:, None]
    source, target = pairs.unbind(-1)
    return project_flow(
        prediction.world_points[scene, source],
        invert(prediction.world_from_camera[scene, target]),
        predicted_intrinsics(prediction)[scene, target],
    )
