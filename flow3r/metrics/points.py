"""Errors of pointmaps, in float64, after one similarity on corresponding pixels: MSE, Acc, Comp, CD, F-scores, normals.

Lengths are divided by a unit, in the paper's reading s, the mean distance of the true points to their centroid.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow3r.geometry.align import apply_similarity, umeyama
from flow3r.metrics.clouds import (
    NormalConsistency,
    iterative_closest_point,
    mutual_nearest,
    normal_consistency,
)
from flow3r.metrics.pose import RESOLUTION
from flow3r.metrics.robust import robust_similarity

LEAST_POINTS = 100  # ours: fewer say nothing about a cloud
F_THRESHOLDS = (0.02, 0.05)  # of the unit; paper, tables 2-15: F@2 % and F@5 %

Unit = Literal["spread", "first_camera", "median", "diagonal", "extent", "truth"]


@dataclass(frozen=True)
class PointProfile:
    """What a table means by its point errors. Numbers of different profiles do not compare."""

    unit: Unit = "spread"
    icp_gate: float | None = None  # in the truth's unit, before any division; None leaves ICP out
    normals: bool = False
    robust: bool = False  # align by the least sum of distances: a second opinion on moving scenes, in no main table


FLOW3R = PointProfile()  # ours, after DiffusionSfM: no ICP, lengths in units of s
PI3 = PointProfile(unit="truth", icp_gate=0.1, normals=True)  # π³'s evaluation: metres, ICP with a gate of 10 cm


@dataclass(frozen=True)
class PointErrors:
    """Lengths in units of `unit`, F-scores in [0, 1], `dropped` a share of the valid pixels."""

    mse: float  # mean distance of corresponding points; the paper's name for it, though nothing is squared
    mse_squared: float
    rmse: float
    accuracy: float  # mean distance from a predicted point to the nearest true one
    completeness: float  # and from a true point to the nearest predicted one
    accuracy_median: float
    completeness_median: float
    chamfer: float  # (accuracy + completeness) / 2
    chamfer_squared: float  # the sum of both mean squared distances (DiffusionSfM)
    f2: float
    f5: float
    normals: NormalConsistency | None  # where the profile asks for it
    scale: float  # s, in the truth's unit
    unit: float  # the length that was divided by, in the truth's unit: s in the profile FLOW3R
    alignment: float  # scale of the similarity, truth per prediction; 0 where there is none
    points: int  # pixels whose neighbours were sought
    dropped: float  # valid pixels whose prediction is not finite: recall misses, left out of the MSE only
    failed: str  # why the sample could not be scored and has the worst values; "" for an ordinary sample


@dataclass(frozen=True)
class _Cloud:
    """Valid pixels of a sample: truth, aligned prediction (NaN where unusable), and the numbers they have in common."""

    truth: Float[Tensor, "n 3"]
    aligned: Float[Tensor, "n 3"]
    finite: Bool[Tensor, "n"]  # of the prediction
    spread: float  # of the truth; 0 without points
    alignment: float
    failed: str


@dataclass(frozen=True)
class _Distances:
    """Distances in the truth's unit. `drawn` are the pixels of the cloud whose neighbours were sought."""

    drawn: Tensor
    finite: Tensor  # of the drawn
    accuracy: Tensor  # of the drawn and finite
    completeness: Tensor  # of the drawn
    normals: NormalConsistency | None


def spread(points: Float[Tensor, "n 3"]) -> float:
    """s: the mean distance of points to their centroid."""
    return (points - points.mean(0)).norm(dim=-1).mean().item()


def unit_length(points: Float[Tensor, "n 3"], unit: Unit, first_camera: Float[Tensor, "3"] | None = None) -> float:
    """The length of a true cloud that others are divided by; all but `spread` are other readings of the paper.

    `spread`: s. `first_camera`: mean distance to that centre (DUSt3R, MapAnything). `median`: median distance to the
    centroid. `diagonal` and `extent`: of the axis-aligned box, and its longest side. `truth`: 1, the truth's own unit.
    Raises ValueError for `first_camera` without one.
    """
    if unit == "truth":
        return 1.0
    if unit == "spread":
        return spread(points)
    if unit == "median":
        return (points - points.mean(0)).norm(dim=-1).median().item()
    if unit == "first_camera":
        if first_camera is None:
            raise ValueError("the unit 'first_camera' needs the true centre of the first camera, got none")
        return (points - first_camera).norm(dim=-1).mean().item()
    box = points.amax(0) - points.amin(0)
    return (box.norm() if unit == "diagonal" else box.max()).item()


def point_errors(
    prediction: Float[Tensor, "*b 3"],
    truth: Float[Tensor, "*b 3"],
    valid: Bool[Tensor, "*b"],
    budget: int | None = None,
    seed: int = 0,
    profile: PointProfile = FLOW3R,
    first_camera: Float[Tensor, "3"] | None = None,
) -> PointErrors:
    """Score predicted world points against true ones of the same pixels; all views of a sample are pooled.

    One Umeyama similarity over all valid pixels aligns the prediction; no threshold on confidence. The profile may ask
    for ICP after it, which all but the errors of corresponding points see. `budget` limits the pixels (one draw for
    both clouds, from `seed`) that nearest neighbours are sought for; the MSE has all. Fewer than 100 valid pixels or a
    prediction of one spot fail: lengths s, the error of a cloud that has collapsed onto the true centroid, and F-scores
    and normals 0.
    """
    return point_errors_by_part(prediction, truth, valid, {}, budget, seed, profile, first_camera)["all"]


def point_errors_by_part(
    prediction: Float[Tensor, "*b 3"],
    truth: Float[Tensor, "*b 3"],
    valid: Bool[Tensor, "*b"],
    parts: Mapping[str, Bool[Tensor, "*b"]],
    budget: int | None = None,
    seed: int = 0,
    profile: PointProfile = FLOW3R,
    first_camera: Float[Tensor, "3"] | None = None,
) -> dict[str, PointErrors]:
    """`point_errors` under "all", and those of parts of the pixels (static, dynamic) under their names.

    Alignment, unit and neighbours are those of the whole sample, so that the means over parts that tile it average to
    those of the whole; normals belong to the whole alone. A part without a valid (or drawn) pixel is absent.
    """
    cloud = _align(prediction[valid].double(), truth[valid].double(), profile.robust)
    masks = {"all": torch.ones_like(valid[valid])} | {name: mask[valid] for name, mask in parts.items()}
    unit = cloud.spread
    if profile.unit != "spread":
        unit = unit_length(cloud.truth, profile.unit, first_camera) if len(cloud.truth) else 1.0
    distances = None if cloud.failed else _distances(cloud, budget, seed, profile)
    drawn = slice(None) if distances is None else distances.drawn
    return {
        name: _summary(cloud, distances, mask, unit, profile.normals and name == "all")
        for name, mask in masks.items()
        if name == "all" or mask[drawn].any()
    }


def _align(prediction: Tensor, truth: Tensor, robust: bool) -> _Cloud:
    """The prediction of valid pixels moved onto their truth, or why that is impossible."""
    finite = prediction.isfinite().all(-1)
    matched, target = prediction[finite], truth[finite]
    scale = spread(truth) if len(truth) else 0.0
    aligned = torch.full_like(truth, torch.nan)
    failed = ""
    if len(truth) < LEAST_POINTS:
        failed = f"{len(truth)} valid pixels, at least {LEAST_POINTS} needed"
    elif len(matched) < LEAST_POINTS:
        failed = f"{len(matched)} finite predictions, at least {LEAST_POINTS} needed"
    elif scale == 0 or spread(matched) <= RESOLUTION * matched.norm(dim=-1).max().item():
        failed = "the points lie on one spot"
    if failed:
        return _Cloud(truth, aligned, finite, scale, 0.0, failed)
    similarity = robust_similarity(matched, target) if robust else umeyama(matched, target)
    aligned[finite] = apply_similarity(similarity, matched)
    return _Cloud(truth, aligned, finite, scale, similarity[0].item(), "")


def _distances(cloud: _Cloud, budget: int | None, seed: int, profile: PointProfile) -> _Distances | None:
    """Nearest neighbours in both directions; None where no drawn prediction is finite."""
    count = len(cloud.truth)
    drawn = torch.arange(count)
    if budget is not None and count > budget:
        drawn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:budget]
    # Centred, so that a scene far from its origin keeps its digits.
    centre = cloud.truth.mean(0)
    truth, aligned = ((points - centre).cpu()[drawn] for points in (cloud.truth, cloud.aligned))
    finite = cloud.finite.cpu()[drawn]
    predicted = aligned[finite]
    if not len(predicted):
        return None
    if profile.icp_gate is not None:
        fit = iterative_closest_point(predicted, truth, profile.icp_gate)
        predicted = predicted @ fit.rotation.T + fit.translation
    (accuracy, true_of_predicted), (completeness, predicted_of_true) = mutual_nearest(predicted, truth)
    normals = None
    if profile.normals:
        normals = normal_consistency(predicted, truth, true_of_predicted, predicted_of_true)
    device = cloud.truth.device
    return _Distances(drawn.to(device), finite.to(device), accuracy.to(device), completeness.to(device), normals)


def _summary(cloud: _Cloud, distances: _Distances | None, part: Tensor, unit: float, normals: bool) -> PointErrors:
    """The errors of a part of the pixels."""
    dropped = 1 - cloud.finite[part].double().mean().item() if part.any() else 0.0
    reason = cloud.failed
    if not reason and distances is None:
        reason = "none of the drawn predictions is finite"
    elif not reason and not part[distances.drawn][distances.finite].any():
        reason = "no prediction of this part is finite"
    if reason:
        return _failure(cloud, part, unit, dropped, normals, reason)
    matched = part & cloud.finite
    distance = (cloud.aligned[matched] - cloud.truth[matched]).norm(dim=-1) / unit
    drawn = part[distances.drawn]
    accuracy, completeness = distances.accuracy[drawn[distances.finite]] / unit, distances.completeness[drawn] / unit
    f2, f5 = (f_score(accuracy, completeness, threshold) for threshold in F_THRESHOLDS)
    return PointErrors(
        mse=distance.mean().item(),
        mse_squared=distance.square().mean().item(),
        rmse=distance.square().mean().sqrt().item(),
        accuracy=accuracy.mean().item(),
        completeness=completeness.mean().item(),
        accuracy_median=accuracy.median().item(),
        completeness_median=completeness.median().item(),
        chamfer=0.5 * (accuracy.mean() + completeness.mean()).item(),
        chamfer_squared=(accuracy.square().mean() + completeness.square().mean()).item(),
        f2=f2,
        f5=f5,
        normals=distances.normals if normals else None,
        scale=cloud.spread,
        unit=unit,
        alignment=cloud.alignment,
        points=int(drawn.sum()),
        dropped=dropped,
        failed="",
    )


def f_score(accuracy: Float[Tensor, "n"], completeness: Float[Tensor, "m"], threshold: float) -> float:
    """The harmonic mean of the shares of distances below `threshold` (strictly); 0 where both are 0."""
    precision = (accuracy < threshold).double().mean().item()
    recall = (completeness < threshold).double().mean().item()
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def _failure(cloud: _Cloud, part: Tensor, unit: float, dropped: float, normals: bool, reason: str) -> PointErrors:
    length, square = 1.0, 1.0
    if cloud.spread > 0 and unit > 0:
        length = cloud.spread / unit
        square = (cloud.truth - cloud.truth.mean(0)).square().sum(-1).mean().item() / unit**2
    return PointErrors(
        mse=length,
        mse_squared=square,
        rmse=square**0.5,
        accuracy=length,
        completeness=length,
        accuracy_median=length,
        completeness_median=length,
        chamfer=length,
        chamfer_squared=2 * square,
        f2=0.0,
        f5=0.0,
        normals=NormalConsistency(0.0, 0.0, 0.0, 0.0, 0.0) if normals else None,
        scale=cloud.spread,
        unit=unit,
        alignment=cloud.alignment,
        points=int(part.sum()),
        dropped=dropped,
        failed=reason,
    )
