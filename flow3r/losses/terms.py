"""The terms of the objective: pure functions of (prediction, label), computed in fp32.

Points, translations and depths come in already normalised and scaled (see `align_scale`); masks are boolean; a term
without any valid element is exactly 0 with a zero gradient.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from flow3r.geometry.align import umeyama, weighted_median_scale
from flow3r.geometry.camera import fields_of_view, pixel_grid, project
from flow3r.geometry.se3 import invert, rotation_angle, safe_norm, transform_maps

SMOOTH_L1_DEGREES = 3.0  # MoGe: width of the quadratic part of the normal loss
NORMAL_RANGE_DEGREES = (1.0, 90.0)  # MoGe: angles are clamped to this
NEAR = 1e-3  # ours: in re-weighting by 1 / distance, aligned points closer than this share of the scene weigh alike


@dataclass(frozen=True)
class ScaleAlignment:
    """How to bring a prediction and a truth of one scene to a common scale: multiply each by its factor."""

    prediction: Float[Tensor, "B"]  # carries gradient through the prediction's own norm, none through s*
    truth: Float[Tensor, "B"]


def masked_mean(value: Float[Tensor, "*s"], mask: Bool[Tensor, "*s"]) -> Float[Tensor, ""]:
    """The mean over the true entries of `mask`, 0 if there is none; masked-out entries may hold anything finite."""
    return torch.where(mask, value, 0.0).sum() / mask.sum().clamp_min(1)


def mean_by_scene(value: Float[Tensor, "B *s"], mask: Bool[Tensor, "B *s"]) -> Float[Tensor, ""]:
    """The mean over the true entries of each scene, then over the scenes that have any."""
    value, mask = value.flatten(1), mask.flatten(1)
    count = mask.sum(1)
    return masked_mean(torch.where(mask, value, 0.0).sum(1) / count.clamp_min(1), count > 0)


def depth_weight(depth: Float[Tensor, "B N H W"], mask: Bool[Tensor, "B N H W"]) -> Float[Tensor, "B N H W"]:
    """π³'s weight 1 / max(z, 0.1 mean z), the mean over a view's valid pixels; 0 where invalid. Units: 1 / depth."""
    known = torch.where(mask, depth, 0.0)
    mean = known.sum((-2, -1), keepdim=True) / mask.sum((-2, -1), keepdim=True).clamp_min(1)
    floor = torch.maximum(known, 0.1 * mean)
    return torch.where(mask, 1 / torch.where(mask, floor, 1.0).clamp_min(1e-6), 0.0)


def align_scale(
    predicted_points: Float[Tensor, "B N H W 3"],
    points: Float[Tensor, "B N H W 3"],
    mask: Bool[Tensor, "B N H W"],
    predicted_translations: Float[Tensor, "B Q 3"],
    translations: Float[Tensor, "B Q 3"],
    samples: int,
    generator: torch.Generator | None = None,
) -> ScaleAlignment:
    """Scale factors per scene (appendix A.1, Eq. 9): both sides to mean distance 1, then s* on `samples` pixels.

    The distance is that of local points to their cameras, so that the order of views does not matter. s* minimises
    Σ w |s p̂ - p| over x, y, z and carries no gradient; the prediction's norm does, which makes every term invariant to
    the scale of the prediction. A scene without any valid pixel is scaled by its relative translations instead.
    """
    has_points = mask.flatten(1).any(1)
    norm_predicted = torch.where(
        has_points, _mean_norm(predicted_points.flatten(1, 3), mask.flatten(1)), _mean_norm(predicted_translations)
    )
    norm_truth = torch.where(has_points, _mean_norm(points.flatten(1, 3), mask.flatten(1)), _mean_norm(translations))
    with torch.no_grad():
        weight = depth_weight(points[..., 2], mask).flatten(1)
        chosen = _random_valid(mask.flatten(1), samples, generator)
        predicted_chosen = predicted_points.flatten(1, 3).take_along_dim(chosen[..., None], dim=1)
        truth_chosen = points.flatten(1, 3).take_along_dim(chosen[..., None], dim=1)
        from_points = weighted_median_scale(
            (predicted_chosen / norm_predicted[:, None, None]).flatten(1),
            (truth_chosen / norm_truth[:, None, None]).flatten(1),
            weight.take_along_dim(chosen, dim=1).repeat_interleave(3, dim=1),
        )
        from_translations = weighted_median_scale(
            (predicted_translations / norm_predicted[:, None, None]).flatten(1),
            (translations / norm_truth[:, None, None]).flatten(1),
            torch.ones_like(translations).flatten(1),
        )
        scale = torch.where(has_points, from_points, from_translations)
    return ScaleAlignment(prediction=scale / norm_predicted, truth=1 / norm_truth)


def _mean_norm(vectors: Tensor, mask: Tensor | None = None) -> Tensor:
    norm = safe_norm(vectors)
    if mask is not None:
        norm = torch.where(mask, norm, 0.0)
    count = norm.shape[1] if mask is None else mask.sum(1).clamp_min(1)
    mean = norm.sum(1) / count
    return torch.where(mean > 1e-8, mean, 1.0)


def scene_scale(
    points: Float[Tensor, "B n 3"], mask: Bool[Tensor, "B n"], centres: Float[Tensor, "B N 3"]
) -> tuple[Float[Tensor, "B 3"], Float[Tensor, "B"]]:
    """The centroid of each scene's valid points and their mean distance to it, its scale (appendix A.1), with gradient.

    A scene without any valid point is measured by its camera centres; one without any spread has scale 1.
    """
    everywhere = torch.ones_like(centres[..., 0], dtype=torch.bool)
    has_points = mask.any(1)
    of_points, of_centres = _centroid_and_spread(points, mask), _centroid_and_spread(centres, everywhere)
    return torch.where(has_points[:, None], of_points[0], of_centres[0]), torch.where(
        has_points, of_points[1], of_centres[1]
    )


def _centroid_and_spread(points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    count = mask.sum(1).clamp_min(1)
    centroid = torch.where(mask[..., None], points, 0.0).sum(1) / count[:, None]
    distance = torch.where(mask, safe_norm(points - centroid[:, None]), 0.0).sum(1) / count
    # Coincident points differ from their mean by rounding, which is no spread.
    rounding = 8 * torch.finfo(points.dtype).eps * safe_norm(centroid).detach()
    return centroid, torch.where(distance > rounding, distance, 1.0)


def align_rigidly(
    predicted: Float[Tensor, "B n 3"],
    points: Float[Tensor, "B n 3"],
    mask: Bool[Tensor, "B n"],
    steps: int,
    samples: int,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "B 3 3"], Float[Tensor, "B 3"]]:
    """R*, t* of Eq. 8, argmin Σ ‖R p̂ + t - p‖ on `samples` valid points of each scene, without gradient.

    Least squares (Kabsch), then `steps` times the same weighted by 1 / distance, which lessens the unsquared sum.
    """
    with torch.no_grad():
        chosen = _random_valid(mask, samples, generator)
        valid = mask.take_along_dim(chosen, dim=1).to(points.dtype)
        source, target = (x.take_along_dim(chosen[..., None], dim=1) for x in (predicted, points))
        _, rotation, translation = umeyama(source, target, valid, with_scale=False)
        for _ in range(steps):
            distance = safe_norm(source @ rotation.mT + translation[:, None] - target)
            _, rotation, translation = umeyama(source, target, valid / distance.clamp_min(NEAR), with_scale=False)
    return rotation, translation


def _random_valid(mask: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """`count` random indices per row, valid ones first: an unbiased draw that cannot alias with the image grid."""
    keys = torch.rand(mask.shape, generator=generator, device=mask.device) + mask
    return keys.topk(min(count, mask.shape[1]), dim=1).indices


def point_errors(
    predicted_points: Float[Tensor, "B N H W 3"],
    points: Float[Tensor, "B N H W 3"],
    mask: Bool[Tensor, "B N H W"],
) -> Float[Tensor, "B N H W"]:
    """Per pixel the depth-weighted L1 error w |p̂ - p|, mean over x, y, z; 0 where invalid."""
    error = (predicted_points - points).abs().mean(-1)
    return torch.where(mask, depth_weight(points[..., 2], mask) * error, 0.0)


def normal_loss(
    predicted_points: Float[Tensor, "b H W 3"],
    points: Float[Tensor, "b H W 3"],
    mask: Bool[Tensor, "b H W"],
) -> Float[Tensor, ""]:
    """Angle between the normals of pointmaps (MoGe): at each 2 x 2 block the four corners' cross products, whose three
    pixels must be valid; smooth L1 in radians on angles within 1-90 degrees, mean over all blocks, over 4 max(H, W)."""
    corners = [_block_corners(x) for x in (predicted_points, points, mask)]
    low, high = (torch.pi / 180 * bound for bound in NORMAL_RANGE_DEGREES)
    beta = torch.pi / 180 * SMOOTH_L1_DEGREES
    total = predicted_points.new_zeros(())
    for k in range(4):  # corner k with its two neighbours around the block
        before, here, after = (k - 1) % 4, k, (k + 1) % 4
        normals = [
            torch.linalg.cross(p[before] - p[here], p[after] - p[here], dim=-1) for p in (corners[0], corners[1])
        ]
        known = corners[2][before] & corners[2][here] & corners[2][after]
        sine = safe_norm(torch.linalg.cross(*normals, dim=-1))
        cosine = (normals[0] * normals[1]).sum(-1)
        defined = known & ((sine > 0) | (cosine != 0))  # atan2(0, 0) has no gradient
        angle = torch.atan2(torch.where(defined, sine, 0.0), torch.where(defined, cosine, 1.0)).clamp(low, high) - low
        total = (
            total
            + torch.where(
                known, F.smooth_l1_loss(angle, torch.zeros_like(angle), beta=beta, reduction="none"), 0.0
            ).mean()
        )
    return total / (4 * max(points.shape[1:3]))


def _block_corners(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The corners of every 2 x 2 block, going round."""
    return x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, 1:], x[:, 1:, :-1]


def depth_edges(depth: Float[Tensor, "b H W"], threshold: float) -> Bool[Tensor, "b H W"]:
    """Pixels whose 3 x 3 neighbourhood spans more than `threshold` of their depth; unknown pixels (0) are edges."""
    padded = depth[:, None]
    highest = F.max_pool2d(padded, 3, stride=1, padding=1)
    lowest = -F.max_pool2d(-padded, 3, stride=1, padding=1)
    return ((highest - lowest) > threshold * padded)[:, 0] | (depth <= 0)


def relative_poses(
    world_from_camera: Float[Tensor, "B N 4 4"],
) -> tuple[Float[Tensor, "B Q 3 3"], Float[Tensor, "B Q 3"]]:
    """Rotations and translations of i_from_j = T_i⁻¹ T_j over all ordered pairs i != j (Eq. 10), Q = N (N - 1)."""
    rotation, centre = world_from_camera[..., :3, :3], world_from_camera[..., :3, 3]
    i_from_world = rotation.mT[:, :, None]
    relative_rotation = i_from_world @ rotation[:, None]
    relative_translation = (i_from_world @ (centre[:, None] - centre[:, :, None])[..., None])[..., 0]
    views = world_from_camera.shape[1]
    off_diagonal = ~torch.eye(views, dtype=torch.bool, device=rotation.device)
    return relative_rotation[:, off_diagonal], relative_translation[:, off_diagonal]


def rotation_loss(predicted: Float[Tensor, "B Q 3 3"], truth: Float[Tensor, "B Q 3 3"]) -> Float[Tensor, ""]:
    """Mean geodesic distance in radians (Eq. 11)."""
    if truth.shape[1] == 0:
        return predicted.new_zeros(())
    return rotation_angle(predicted.mT @ truth).mean()


def translation_loss(
    predicted: Float[Tensor, "B Q 3"], truth: Float[Tensor, "B Q 3"], delta: float
) -> Float[Tensor, ""]:
    """Mean Huber loss of scaled relative translations (Eq. 12)."""
    if truth.shape[1] == 0:
        return predicted.new_zeros(())
    return F.huber_loss(predicted, truth, delta=delta)


def centre_loss(predicted: Float[Tensor, "B N 3"], truth: Float[Tensor, "B N 3"]) -> Float[Tensor, ""]:
    """Mean 1-norm of the difference of camera centres, once aligned (appendix A.1)."""
    return (predicted - truth).abs().sum(-1).mean()


def field_of_view_loss(
    predicted: Float[Tensor, "B N 3 3"], truth: Float[Tensor, "B N 3 3"], height: int, width: int
) -> Float[Tensor, ""]:
    """Mean absolute difference of the fields of view across and down, in radians, of pinholes of images of this size
    (VGGT); principal points do not count."""
    return (fields_of_view(predicted, height, width) - fields_of_view(truth, height, width)).abs().mean()


def weighted_by_confidence(
    errors: Float[Tensor, "B N H W"],
    logit: Float[Tensor, "B N H W"],
    mask: Bool[Tensor, "B N H W"],
    alpha: float,
) -> Float[Tensor, ""]:
    """Mean of Σ e - α log Σ, with the confidence Σ = 1 + exp(logit) (Eq. 13, DUSt3R, VGGT).

    Eq. 13 prints one 2-norm over an image of weighted differences, beside a sum of logarithms over its pixels; per
    pixel, as its text and DUSt3R have it, both grow alike with the size of the image.
    """
    return mean_by_scene((1 + logit.exp()) * errors - alpha * F.softplus(logit), mask)


def confidence_loss(
    logit: Float[Tensor, "B N H W"],
    errors: Float[Tensor, "B N H W"],
    mask: Bool[Tensor, "B N H W"],
    sharpness: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of the confidence to exp(-sharpness · error), the error without gradient (π³-X)."""
    target = torch.exp(-sharpness * errors.detach())
    return masked_mean(F.binary_cross_entropy_with_logits(logit, target, reduction="none"), mask)


def flow_loss(
    predicted: Float[Tensor, "B P H W 2"],
    displacement: Float[Tensor, "B P H W 2"],
    covisible: Float[Tensor, "B P H W"],
    alpha: float,
    c: float,
) -> Float[Tensor, ""]:
    """The paper's flow loss (Sec. 3.3): covisibility-normalised generalised Charbonnier.

    e = ‖û - u‖ / (max(H, W) / 2), isotropic; ρ = (e² + c²)^(α/2) - c^α; Σ C ρ / Σ C per pair, then the mean over the
    pairs that have a covisible pixel.
    """
    half = max(predicted.shape[2:4]) / 2
    error_squared = ((predicted - displacement) / half).square().sum(-1)
    robust = (error_squared + c**2) ** (alpha / 2) - c**alpha
    total = covisible.sum((-2, -1))
    known = total > 0
    per_pair = torch.where(covisible > 0, covisible * robust, 0.0).sum((-2, -1)) / torch.where(known, total, 1.0)
    return masked_mean(per_pair, known)


@torch.no_grad()
def reprojection(
    world_points: Float[Tensor, "B N H W 3"],
    world_from_camera: Float[Tensor, "B N 4 4"],
    intrinsics: Float[Tensor, "B N 3 3"],
    valid: Bool[Tensor, "B N H W"] | None,
) -> Float[Tensor, ""]:
    """How far from its own pixel a view's world point falls in that view's camera: the median, in pixels.

    A measure, no loss: whether the points and the cameras of a model agree on one world. The image's diagonal is the
    farthest, and what a point behind the camera counts as.
    """
    in_camera = transform_maps(invert(world_from_camera), world_points)
    pixels = project(in_camera, intrinsics)
    height, width = pixels.shape[2:4]
    diagonal = math.hypot(height, width)
    distance = safe_norm(pixels - pixel_grid(height, width, pixels.device)).clamp_max(diagonal)
    distance = torch.where(in_camera[..., 2] > 0, distance, diagonal)
    return distance.median() if valid is None else torch.where(valid, distance, torch.nan).nanmedian().nan_to_num()
