"""Errors of pointmaps, in float64, after one similarity on corresponding pixels: MSE, Acc, Comp, CD, F-scores.

All lengths are divided by s, the mean distance of the true points to their centroid.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow3r.geometry.align import apply_similarity, umeyama
from flow3r.metrics.pose import RESOLUTION

LEAST_POINTS = 100  # ours: fewer say nothing about a cloud
F_THRESHOLDS = (0.02, 0.05)  # of s; paper, tables 2-15: F@2 % and F@5 %


@dataclass(frozen=True)
class PointErrors:
    """Lengths in units of the true spread s, F-scores in [0, 1], `dropped` a share of the valid pixels."""

    mse: float  # mean distance of corresponding points; the paper's name for it, though nothing is squared
    mse_squared: float
    accuracy: float  # mean distance from a predicted point to the nearest true one
    completeness: float  # and from a true point to the nearest predicted one
    accuracy_median: float
    completeness_median: float
    chamfer: float  # (accuracy + completeness) / 2
    f2: float
    f5: float
    scale: float  # s, in the truth's unit
    dropped: float  # valid pixels whose prediction is not finite: recall misses, left out of the MSE only
    failed: str  # why the sample could not be scored and has the worst values; "" for an ordinary sample


def spread(points: Float[Tensor, "n 3"]) -> float:
    """s: the mean distance of points to their centroid."""
    return (points - points.mean(0)).norm(dim=-1).mean().item()


def point_errors(
    prediction: Float[Tensor, "*b 3"],
    truth: Float[Tensor, "*b 3"],
    valid: Bool[Tensor, "*b"],
    budget: int | None = None,
    seed: int = 0,
) -> PointErrors:
    """Score predicted world points against true ones of the same pixels; all views of a sample are pooled.

    One Umeyama similarity over all valid pixels aligns the prediction; no ICP, no threshold on confidence. `budget`
    limits the pixels (one draw for both clouds, from `seed`) that nearest neighbours are sought for; the MSE has all.
    Fewer than 100 valid pixels or a prediction of one spot fail: lengths 1, the error of a cloud that has collapsed
    onto the true centroid, and F-scores 0.
    """
    truth, prediction = truth[valid].double(), prediction[valid].double()
    finite = prediction.isfinite().all(-1)
    dropped = 1 - finite.double().mean().item() if len(truth) else 0.0
    if len(truth) < LEAST_POINTS:
        return _failure(truth, dropped, f"{len(truth)} valid pixels, at least {LEAST_POINTS} needed")
    if int(finite.sum()) < LEAST_POINTS:
        return _failure(truth, dropped, f"{int(finite.sum())} finite predictions, at least {LEAST_POINTS} needed")
    scale = spread(truth)
    matched, target = prediction[finite], truth[finite]
    if scale == 0 or spread(matched) <= RESOLUTION * matched.norm(dim=-1).max().item():
        return _failure(truth, dropped, "the points lie on one spot")
    matched = apply_similarity(umeyama(matched, target), matched)
    distance = (matched - target).norm(dim=-1) / scale
    aligned = torch.full_like(truth, torch.nan)
    aligned[finite] = matched
    if budget is not None and len(truth) > budget:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(truth), generator=generator)[:budget].to(truth.device)
        aligned, truth, finite = aligned[chosen], truth[chosen], finite[chosen]
        if not finite.any():
            return _failure(truth, dropped, f"none of the {budget} drawn predictions is finite")
    # Divided after centring, so that a scene far from its origin keeps its digits.
    centre = truth.mean(0)
    accuracy, completeness = nearest_distances((aligned[finite] - centre) / scale, (truth - centre) / scale)
    f2, f5 = (f_score(accuracy, completeness, threshold) for threshold in F_THRESHOLDS)
    return PointErrors(
        mse=distance.mean().item(),
        mse_squared=distance.square().mean().item(),
        accuracy=accuracy.mean().item(),
        completeness=completeness.mean().item(),
        accuracy_median=accuracy.median().item(),
        completeness_median=completeness.median().item(),
        chamfer=0.5 * (accuracy.mean() + completeness.mean()).item(),
        f2=f2,
        f5=f5,
        scale=scale,
        dropped=dropped,
        failed="",
    )


def nearest_distances(
    prediction: Float[Tensor, "n 3"], truth: Float[Tensor, "m 3"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "m"]]:
    """The distance of every predicted point to the nearest true one, and of every true point to a predicted one."""
    from scipy.spatial import cKDTree

    clouds = prediction.cpu().numpy(), truth.cpu().numpy()
    trees = tuple(cKDTree(cloud) for cloud in clouds)
    workers = torch.get_num_threads()
    forth = torch.from_numpy(trees[1].query(clouds[0], workers=workers)[0])
    back = torch.from_numpy(trees[0].query(clouds[1], workers=workers)[0])
    return forth, back


def f_score(accuracy: Float[Tensor, "n"], completeness: Float[Tensor, "m"], threshold: float) -> float:
    """The harmonic mean of the shares of distances below `threshold` (strictly); 0 where both are 0."""
    precision = (accuracy < threshold).double().mean().item()
    recall = (completeness < threshold).double().mean().item()
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def _failure(truth: Tensor, dropped: float, reason: str) -> PointErrors:
    scale = spread(truth) if len(truth) else 0.0
    square = (truth - truth.mean(0)).square().sum(-1).mean().item() / scale**2 if scale > 0 else 1.0
    return PointErrors(1.0, square, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, scale, dropped, reason)
