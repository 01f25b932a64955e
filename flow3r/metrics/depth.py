"""Errors of depth maps, in float64, after one alignment per sequence (or one per image)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow3r.geometry.align import weighted_median_scale
from flow3r.metrics.robust import scale_and_shift

NEAREST = 1e-5  # aligned depths below this are raised to it, in the truth's unit (π³, CUT3R)
Alignment = Literal["scale", "scale_and_shift", "metric", "median"]


@dataclass(frozen=True)
class DepthErrors:
    """Errors of one sequence's depth maps under one alignment; means over all scored pixels."""

    abs_rel: float  # mean |prediction - truth| / truth
    squared_rel: float  # mean (prediction - truth)² / truth, in the truth's unit
    rmse: float  # in the truth's unit
    log_rmse: float  # of natural logarithms
    delta: float  # percent of pixels where max(prediction / truth, truth / prediction) < 1.25
    scale: float  # truth per prediction; the mean over images where each has its own
    shift: float  # in the truth's unit
    pixels: int
    failed: str  # why nothing could be scored and the values are the worst; "" for an ordinary sequence


def depth_errors(
    prediction: Float[Tensor, "N H W"],
    truth: Float[Tensor, "N H W"],
    valid: Bool[Tensor, "N H W"],
    alignment: Alignment = "scale",
    farthest: float | None = None,
    clip: float | None = None,
    among: Bool[Tensor, "N H W"] | None = None,
) -> DepthErrors:
    """Errors of z-depth where 0 < truth (< `farthest`), after an alignment over all these pixels of the sequence.

    The references take 70 as `farthest` for Sintel and Bonn, and as `clip` for Sintel.

    `scale`: the s that minimises Σ |s prediction - truth|. `scale_and_shift`: the (s, t) of least
    Σ |s prediction + t - truth|. Both exactly, where the references iterate. `metric`: none. `median`: every image has
    the ratio of its medians, for models of single images (π³'s monocular protocol). Aligned depth is raised to NEAREST
    and, with `clip`, lowered to that. `among` limits what is scored (a static or dynamic part), not what is aligned.

    A prediction that is not finite or, except under a shift, not positive has no say in the alignment, and counts as
    depth 0: an AbsRel of 1. Where no pixel can be scored the values are the worst, those with a unit NaN.
    """
    known = valid & (truth > 0)
    if farthest is not None:
        known &= truth < farthest
    scored = known if among is None else known & among
    if not scored.any():
        return DepthErrors(1.0, torch.nan, torch.nan, torch.nan, 0.0, 1.0, 0.0, 0, "no pixel has a true depth")
    truth, prediction = truth.double(), prediction.double()
    sound = prediction.isfinite() & known
    if alignment != "scale_and_shift":
        sound &= prediction > 0
    scale, shift = _alignment(torch.where(sound, prediction, 0.0), truth, sound, alignment)
    aligned = torch.where(sound, scale[:, None, None] * torch.where(sound, prediction, 0.0) + shift, 0.0)
    return _errors(
        aligned.clamp(NEAREST, clip)[scored],
        truth[scored],
        scale.mean().item(),
        shift,
        "" if sound.any() else "no predicted depth is positive",
    )


def _alignment(
    prediction: Tensor, truth: Tensor, sound: Tensor, alignment: Alignment
) -> tuple[Float[Tensor, "N"], float]:
    """A scale per image and the shift of the sequence. Images without a usable prediction have scale 1."""
    ones = prediction.new_ones(len(prediction))
    if alignment == "metric" or not sound.any():
        return ones, 0.0
    if alignment == "scale":
        fitted = weighted_median_scale(prediction[sound], truth[sound], torch.ones_like(truth[sound]))
        return fitted * ones, 0.0
    if alignment == "scale_and_shift":
        scale, shift = scale_and_shift(prediction[sound], truth[sound])
        return scale * ones, shift
    ratios = [
        true[chosen].median() / predicted[chosen].median() if chosen.any() else ones[0]
        for predicted, true, chosen in zip(prediction, truth, sound)
    ]
    return torch.stack(ratios), 0.0


def _errors(aligned: Tensor, truth: Tensor, scale: float, shift: float, failed: str) -> DepthErrors:
    difference = aligned - truth
    return DepthErrors(
        abs_rel=(difference.abs() / truth).mean().item(),
        squared_rel=(difference.square() / truth).mean().item(),
        rmse=difference.square().mean().sqrt().item(),
        log_rmse=(aligned.log() - truth.log()).square().mean().sqrt().item(),
        delta=100.0 * (torch.maximum(aligned / truth, truth / aligned) < 1.25).double().mean().item(),
        scale=scale,
        shift=shift,
        pixels=truth.numel(),
        failed=failed,
    )
