"""Areas under the curve of accuracy over threshold, in the definitions in use, each under its own name."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

AUC_LIMIT = 30  # degrees, in bins of one degree (π³, VGGT)


@dataclass(frozen=True)
class CurveAreas:
    """Areas up to AUC_LIMIT degrees in percent. They differ by points: never mix them in one column."""

    binned: float  # of the larger error per pair, one-degree bins: π³, VGGT, MapAnything; our AUC@30
    integral: float  # the same curve integrated exactly; lower by up to 1/60
    histc: float  # torch.histc's bins, one more than degrees (VGGSfM)
    mean_accuracy: float  # mAA, mean over whole degrees of min(RRA, RTA); never below `binned` (PoseDiffusion)


def curve_areas(rotation: Float[Tensor, "P"], translation: Float[Tensor, "P"], limit: int = AUC_LIMIT) -> CurveAreas:
    """All areas of pairs' rotation and direction errors in degrees; NaN where there is no pair."""
    rotation, translation = rotation.double(), translation.double()
    worse = torch.maximum(rotation, translation)
    bins = limit + 1
    slot = (worse * bins / limit).floor().clamp_max(limit)
    histc = torch.where(worse <= limit, (bins - slot) / bins, 0.0)
    thresholds = torch.arange(1, bins, device=worse.device, dtype=torch.float64)[:, None]
    shares = [(errors < thresholds).double().mean(1) for errors in (rotation, translation)]
    return CurveAreas(
        binned=area_under_curve(worse, limit),
        integral=100.0 * (1 - worse / limit).clamp(0, 1).mean().item(),
        histc=100.0 * histc.mean().item(),
        mean_accuracy=100.0 * torch.minimum(*shares).mean().item(),
    )


def area_under_curve(degrees: Float[Tensor, "P"], limit: int = AUC_LIMIT) -> float:
    """AUC@limit in percent: the mean over one-degree bins of the cumulative histogram of errors (π³, VGGT).

    An error e adds to the bins from floor(e) on, so that its share is (limit - floor(e)) / limit, at least 0; the last
    bin is closed. Errors beyond the limit stay in the denominator.
    """
    slot = torch.where(degrees == limit, limit - 1, degrees.double().floor())
    return 100.0 * ((limit - slot) / limit).clamp(0, 1).mean().item()
