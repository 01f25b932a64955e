"""Errors of camera poses, in float64: relative poses of pairs (RRA, RTA, AUC@30) and trajectories (ATE, RPE).

Poses are world_from_camera. A view whose predicted pose is not finite counts as a failure; it is never left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow3r.geometry.align import apply_similarity, umeyama
from flow3r.geometry.se3 import from_parts, invert, nearest_rotation, rotation_angle
from flow3r.metrics.curves import CurveAreas, curve_areas

THRESHOLDS = (5, 15, 30)  # degrees; the paper prints 30, π³ also 5 and 15
RESOLUTION = 1e-6  # lengths below this share of the coordinates they were computed from are zero in single precision


@dataclass(frozen=True)
class PairErrors:
    """Errors of the relative poses of all unordered pairs i < j, in degrees."""

    rotation: Float[Tensor, "P"]  # [0, 180]
    translation: Float[Tensor, "P"]  # direction, whatever its sign, [0, 90], as the reference measures it
    translation_signed: Float[Tensor, "P"]  # direction, [0, 180]
    static: Bool[Tensor, "P"]  # the true baseline is too short to have a direction
    failed: Bool[Tensor, "P"]  # a predicted pose of the pair is not finite


@dataclass(frozen=True)
class PairScores:
    """Shares of pairs, in percent, below each threshold (strictly), and AUC@30. NaN where no pair is scored."""

    rra: tuple[float, ...]
    rta: tuple[float, ...]
    rta_signed: tuple[float, ...]
    auc: float  # areas.binned
    areas: CurveAreas
    pairs: int
    static_pairs: int
    failed_pairs: int


@dataclass(frozen=True)
class TrajectoryErrors:
    """Root mean squares over a trajectory, after one similarity has been fitted to its camera centres."""

    ate: float  # in the truth's unit
    rpe_translation: float  # in the truth's unit, between consecutive views
    rpe_rotation: float  # degrees, between consecutive views
    scale: float  # truth per prediction
    degenerate: tuple[str, ...]  # why these numbers say less than usual; empty for an ordinary trajectory


def relative_pose_errors(
    prediction: Float[Tensor, "N 4 4"], truth: Float[Tensor, "N 4 4"], least_baseline: float = 0.0
) -> PairErrors:
    """Errors of target_from_source = invert(world_from_target) @ world_from_source over all pairs source < target.

    Predicted rotations are first brought to SO(3). A baseline of zero, true or predicted, has the direction error 90; a
    prediction that is not finite has 180 and 90 (180 signed). Pairs whose true baseline is at most `least_baseline`
    (in the truth's unit) are marked `static`, and are scored like any other. Raises ValueError for fewer than two views
    and for a truth that is not finite.
    """
    views = truth.shape[0]
    if views < 2:
        raise ValueError(f"a relative pose needs two views, got {views}")
    if not truth.isfinite().all():
        raise ValueError("true poses are not finite: leave such views out before scoring")
    finite = prediction.flatten(1).isfinite().all(1)
    identity = torch.eye(4, dtype=torch.float64, device=prediction.device)
    source, target = torch.triu_indices(views, views, 1, device=truth.device).unbind(0)
    rotation, direction, baseline = _relative(truth.double(), source, target)
    predicted = torch.where(finite[:, None, None], prediction.double(), identity)
    predicted_rotation, predicted_direction, _ = _relative(predicted, source, target)
    failed = ~(finite[source] & finite[target])
    angle = rotation_angle(rotation.mT @ predicted_rotation).rad2deg()
    sine = torch.linalg.cross(direction, predicted_direction).norm(dim=-1)
    cosine = (direction * predicted_direction).sum(-1)
    undefined = (sine == 0) & (cosine == 0)
    signed = torch.where(undefined, 90.0, torch.atan2(sine, cosine).rad2deg())
    return PairErrors(
        rotation=torch.where(failed, 180.0, angle),
        translation=torch.where(failed, 90.0, torch.minimum(signed, 180 - signed)),
        translation_signed=torch.where(failed, 180.0, signed),
        static=(baseline <= least_baseline) | (direction == 0).all(-1),
        failed=failed,
    )


def _relative(world_from_camera: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotation, unit translation (0 for a zero baseline) and baseline of target_from_source."""
    rotation = nearest_rotation(world_from_camera[:, :3, :3])
    centre = world_from_camera[:, :3, 3]
    translation = (rotation[target].mT @ (centre[source] - centre[target])[..., None])[..., 0]
    baseline = translation.norm(dim=-1)
    moves = ~zero_baseline(centre[source], centre[target])
    direction = torch.where(moves[:, None], translation / torch.where(moves, baseline, 1.0)[:, None], 0.0)
    return rotation[target].mT @ rotation[source], direction, baseline


def zero_baseline(centre: Float[Tensor, "*b 3"], other: Float[Tensor, "*b 3"]) -> Bool[Tensor, "*b"]:
    """Whether two camera centres coincide within what single precision can tell at their distance from the origin."""
    size = torch.maximum(centre.norm(dim=-1), other.norm(dim=-1))
    return (centre - other).norm(dim=-1) <= RESOLUTION * size


def pair_scores(
    errors: PairErrors,
    mode: Literal["reference", "strict"] = "reference",
    thresholds: Sequence[float] = THRESHOLDS,
) -> PairScores:
    """RRA, RTA, the signed RTA and AUC@30 of one sequence; AUC takes the larger of rotation and direction.

    `reference` scores every pair in everything, as π³ does: a true baseline of zero is an error of 90 degrees. `strict`
    leaves the pairs marked `static` out of RTA and AUC, whose direction says nothing, and keeps them in RRA; where all
    are static these are NaN, and `static_pairs` says why.
    """
    kept = torch.ones_like(errors.static) if mode == "reference" else ~errors.static

    def shares(angles: Tensor) -> tuple[float, ...]:
        return tuple(100.0 * (angles < threshold).double().mean().item() for threshold in thresholds)

    areas = curve_areas(errors.rotation[kept], errors.translation[kept])
    return PairScores(
        rra=shares(errors.rotation),
        rta=shares(errors.translation[kept]),
        rta_signed=shares(errors.translation_signed[kept]),
        auc=areas.binned,
        areas=areas,
        pairs=errors.rotation.numel(),
        static_pairs=int(errors.static.sum()),
        failed_pairs=int(errors.failed.sum()),
    )


def trajectory_errors(
    prediction: Float[Tensor, "N 4 4"], truth: Float[Tensor, "N 4 4"], scale: float | None = None
) -> TrajectoryErrors | None:
    """ATE and RPE as evo defines them: Sim(3) on camera centres, root mean square, RPE between consecutive views.

    None for fewer than three views: a similarity fits any two centres exactly. Trajectories that evo refuses are solved
    and marked in `degenerate`: collinear ones (a rotation about the line is free, and does not matter), and a static
    truth (scale 0, rotation I). A prediction that is not finite gets what any prediction can be scaled down to, a
    camera that does not move (no fit has a larger ATE), with 180 degrees. Raises ValueError for a truth that is not
    finite.

    A `scale` (truth per prediction, such as that of the points) is taken as it is and only a rigid motion is fitted:
    the ATE then has no bound, and a near-static truth no longer flatters noise by scaling it away. The ratio of the
    fitted scale to that of the points tells how far this went.
    """
    if truth.shape[0] < 3:
        return None
    if not truth.isfinite().all():
        raise ValueError("true poses are not finite: leave such views out before scoring")
    truth = from_parts(nearest_rotation(truth[:, :3, :3].double()), truth[:, :3, 3].double())
    centre = truth[:, :3, 3]
    if not prediction.isfinite().all():
        step = (centre[1:] - centre[:-1]).norm(dim=-1)
        return TrajectoryErrors(
            _rms((centre - centre.mean(0)).norm(dim=-1)), _rms(step), 180.0, 0.0, ("prediction is not finite",)
        )
    rotation = nearest_rotation(prediction[:, :3, :3].double())
    predicted_centre = prediction[:, :3, 3].double()
    fitted, align, offset = _fit(predicted_centre, centre, scale)
    aligned_centre = apply_similarity((fitted, align, offset), predicted_centre)
    aligned = from_parts(align @ rotation, aligned_centre)
    step = invert(truth[:-1]) @ truth[1:]
    predicted_step = invert(aligned[:-1]) @ aligned[1:]
    error = invert(step) @ predicted_step
    return TrajectoryErrors(
        ate=_rms((centre - aligned_centre).norm(dim=-1)),
        rpe_translation=_rms(error[:, :3, 3].norm(dim=-1)),
        rpe_rotation=_rms(rotation_angle(error[:, :3, :3]).rad2deg()),
        scale=fitted.item(),
        degenerate=_degeneracies(centre, "truth") + _degeneracies(predicted_centre, "prediction"),
    )


def _fit(prediction: Tensor, truth: Tensor, scale: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """From predicted to true centres: a similarity of a given scale, or the best one (scale 0 for a static truth)."""
    if scale is not None:
        _, align, offset = umeyama(scale * prediction, truth, with_scale=False)
        return truth.new_tensor(scale), align, offset
    if _is_static(truth):
        return truth.new_zeros(()), torch.eye(3, dtype=truth.dtype, device=truth.device), truth.mean(0)
    return umeyama(prediction, truth)


def _rms(values: Tensor) -> float:
    return values.square().mean().sqrt().item()


def _is_static(centre: Tensor) -> bool:
    extent = (centre - centre.mean(0)).norm(dim=-1).max().item()
    return extent <= RESOLUTION * max(1.0, centre.norm(dim=-1).max().item())


def _degeneracies(centre: Tensor, name: str) -> tuple[str, ...]:
    if _is_static(centre):
        return (f"{name} is static",)
    singular = torch.linalg.svdvals(centre - centre.mean(0))
    return (f"{name} is collinear",) if singular[1] <= 1e-5 * singular[0] else ()
