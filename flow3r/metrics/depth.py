"""Errors of depth maps, in float64, after one scale per sequence."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow3r.geometry.align import weighted_median_scale

NEAREST = 1e-5  # aligned depths below this are raised to it, in the truth's unit (π³, CUT3R)


@dataclass(frozen=True)
class DepthErrors:
    """Errors of one sequence's depth maps under one scale."""

    abs_rel: float  # mean |prediction - truth| / truth
    delta: float  # percent of pixels where max(prediction / truth, truth / prediction) < 1.25
    scale: float  # truth per prediction
    pixels: int
    failed: str  # why nothing could be scored and the values are the worst; "" for an ordinary sequence


def depth_errors(
    prediction: Float[Tensor, "N H W"], truth: Float[Tensor, "N H W"], valid: Bool[Tensor, "N H W"]
) -> DepthErrors:
    """AbsRel and δ < 1.25 of z-depth under the one scale that minimises Σ |s prediction - truth| over the sequence.

    A prediction that is not finite or not positive has no say in the scale, and counts as depth 0: an AbsRel of 1.
    """
    known = valid & (truth > 0)
    if not known.any():
        return DepthErrors(1.0, 0.0, 1.0, 0, "no pixel has a true depth")
    truth, prediction = truth[known].double(), prediction[known].double()
    prediction = torch.where(prediction.isfinite(), prediction, 0.0).clamp_min(0.0)
    scale = weighted_median_scale(prediction, truth, torch.ones_like(truth))
    aligned = (scale * prediction).clamp_min(NEAREST)
    ratio = torch.maximum(aligned / truth, truth / aligned)
    return DepthErrors(
        abs_rel=((aligned - truth).abs() / truth).mean().item(),
        delta=100.0 * (ratio < 1.25).double().mean().item(),
        scale=scale.item(),
        pixels=truth.numel(),
        failed="" if (prediction > 0).any() else "no predicted depth is positive",
    )
