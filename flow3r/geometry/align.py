"""Alignment of predictions and truths: weighted Umeyama and the exact weighted-median scale."""

import torch
from jaxtyping import Float
from torch import Tensor


def umeyama(
    source: Float[Tensor, "*b n 3"],
    target: Float[Tensor, "*b n 3"],
    weight: Float[Tensor, "*b n"] | None = None,
    with_scale: bool = True,
) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b 3 3"], Float[Tensor, "*b 3"]]:
    """The similarity (s, R, t) that minimises Σ w ‖s R source + t - target‖² (Umeyama 1991), R a proper rotation.

    Without scale s = 1 (Kabsch). Degenerate sets still get an answer: of the equally good rotations one is returned for
    collinear points; coincident source points get s = 1.
    """
    if weight is None:
        weight = torch.ones_like(source[..., 0])
    total = weight.sum(-1, keepdim=True).clamp_min(torch.finfo(source.dtype).tiny)
    weight = (weight / total)[..., None]
    source_mean = (weight * source).sum(-2, keepdim=True)
    target_mean = (weight * target).sum(-2, keepdim=True)
    source_centred, target_centred = source - source_mean, target - target_mean
    covariance = (weight * target_centred).mT @ source_centred
    u, singular, vt = torch.linalg.svd(covariance)
    sign = torch.linalg.det(u @ vt)
    flip = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
    rotation = (u * flip[..., None, :]) @ vt
    scale = torch.ones_like(sign)
    if with_scale:
        variance = (weight * source_centred.square()).sum((-2, -1))
        # Coincident points differ from their mean by rounding, which is no spread.
        rounding = (8 * torch.finfo(source.dtype).eps) ** 2 * (weight * source.square()).sum((-2, -1))
        spread = variance > rounding
        scale = torch.where(spread, (singular * flip).sum(-1) / torch.where(spread, variance, 1.0), scale)
    translation = target_mean[..., 0, :] - scale[..., None] * (rotation @ source_mean.mT)[..., 0]
    return scale, rotation, translation


def apply_similarity(
    similarity: tuple[Float[Tensor, "*b"], Float[Tensor, "*b 3 3"], Float[Tensor, "*b 3"]],
    points: Float[Tensor, "*b n 3"],
) -> Float[Tensor, "*b n 3"]:
    """s R p + t."""
    scale, rotation, translation = similarity
    return scale[..., None, None] * (points @ rotation.mT) + translation[..., None, :]


def weighted_median_scale(
    prediction: Float[Tensor, "*b n"], truth: Float[Tensor, "*b n"], weight: Float[Tensor, "*b n"]
) -> Float[Tensor, "*b"]:
    """argmin_s Σ w |s prediction - truth|, exactly (π³'s scale solver, Eq. 9 of appendix A.1).

    The objective is convex and piecewise linear with kinks at the ratios truth / prediction, so its minimiser is their
    lower median weighted by w |prediction|. Returns 1 where every weight or prediction is 0.
    """
    mass = weight * prediction.abs()
    safe = torch.where(mass > 0, prediction, 1.0)
    order = torch.where(mass > 0, truth / safe, torch.inf).argsort(dim=-1)
    cumulative = mass.gather(-1, order).cumsum(-1)
    total = cumulative[..., -1:]
    index = order.gather(-1, (2 * cumulative < total).sum(-1, keepdim=True).clamp_max(order.shape[-1] - 1))
    # Divided again for the one that is chosen, so that no other ratio can bring an infinity into the gradient.
    scale = truth.gather(-1, index) / safe.gather(-1, index)
    return torch.where(total > 0, scale, 1.0)[..., 0]
