"""Errors of optical flow, in float64: AEPE and inlier shares, and the best homography per pair as a floor."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow3r.geometry.camera import inside_image, pixel_grid

COVISIBLE = 0.5  # ours: pixels above it are scored; the paper names no mask
PIXEL_THRESHOLDS = (1, 3, 5)  # the paper prints 5
WIDTH_THRESHOLDS = (0.01, 0.02, 0.05)  # of the image's width: comparable across resolutions


@dataclass(frozen=True)
class FlowErrors:
    """Means over pairs of means over their scored pixels. Pixels are those of the flow's own grid."""

    aepe: float  # end-point error in pixels
    aepe_of_diagonal: float  # the same in percent of the image's diagonal
    within_pixels: tuple[float, float, float]  # percent of pixels with an error below PIXEL_THRESHOLDS
    within_width: tuple[float, float, float]  # and below WIDTH_THRESHOLDS
    per_pair: tuple[float, ...]  # AEPE of every scored pair
    skipped: int  # pairs without a pixel to score
    failed: float  # share of the scored pixels whose prediction is not finite: errors of a whole diagonal


def scored_pixels(
    displacement: Float[Tensor, "P H W 2"], covisible: Float[Tensor, "P H W"] | None
) -> Bool[Tensor, "P H W"]:
    """Covisible pixels whose true target lies inside the image."""
    height, width = displacement.shape[1:3]
    grid = pixel_grid(height, width, displacement.device, displacement.dtype)
    inside = inside_image(grid + displacement, height, width)
    return inside if covisible is None else inside & (covisible > COVISIBLE)


def flow_errors(
    prediction: Float[Tensor, "P H W 2"],
    truth: Float[Tensor, "P H W 2"],
    covisible: Float[Tensor, "P H W"] | None,
    among: Bool[Tensor, "P H W"] | None = None,
) -> FlowErrors | None:
    """Score flows on `scored_pixels` of the truth; None where no pair has any.

    AEPE and the share below 5 px ("EPE@5px") are those of the paper's Table 6. `among` limits the pixels further, to a
    static or dynamic part.
    """
    mask = scored_pixels(truth, covisible) if among is None else scored_pixels(truth, covisible) & among
    height, width = mask.shape[1:]
    diagonal = (height**2 + width**2) ** 0.5
    finite = prediction.isfinite().all(-1)
    error = (prediction.double() - truth.double()).norm(dim=-1)
    error = torch.where(finite, error, diagonal)
    count = mask.flatten(1).sum(1)
    scored = count > 0
    if not scored.any():
        return None

    def per_pair(values: Tensor) -> Tensor:
        return (torch.where(mask, values, 0.0).flatten(1).sum(1) / count.clamp_min(1))[scored]

    def shares(thresholds: Sequence[float | int]) -> tuple[float, float, float]:
        low, middle, high = (100.0 * per_pair((error < t).double()).mean().item() for t in thresholds)
        return low, middle, high

    aepe = per_pair(error)
    return FlowErrors(
        aepe=aepe.mean().item(),
        aepe_of_diagonal=100.0 * aepe.mean().item() / diagonal,
        within_pixels=shares(PIXEL_THRESHOLDS),
        within_width=shares([fraction * width for fraction in WIDTH_THRESHOLDS]),
        per_pair=tuple(aepe.tolist()),
        skipped=int((~scored).sum()),
        failed=per_pair((~finite).double()).mean().item(),
    )


def homography_flow(
    displacement: Float[Tensor, "P H W 2"], covisible: Float[Tensor, "P H W"] | None
) -> Float[Tensor, "P H W 2"]:
    """Per pair, the flow of the homography that best explains a flow on its scored pixels: a floor for other flows.

    Best means the least mean end-point error: the best of a shift, of OpenCV's least squares and of its RANSAC, refined
    by reweighted least squares. A pair without scored pixels gets zero flow.
    """
    mask = scored_pixels(displacement, covisible)
    height, width = mask.shape[1:]
    # Centred and scaled coordinates keep the normal equations well conditioned.
    centre, half = np.array([width / 2, height / 2]), 0.5 * (height**2 + width**2) ** 0.5
    grid = pixel_grid(height, width, dtype=torch.float64).numpy()
    everywhere = ((grid - centre) / half).reshape(-1, 2)
    flows = np.zeros((len(displacement), height, width, 2))
    for index, (flow, scored) in enumerate(zip(displacement.detach().cpu().double().numpy(), mask.cpu().numpy())):
        if not scored.any():
            continue
        source = (grid[scored] - centre) / half
        homography = _best_homography(source, source + flow[scored] / half)
        flows[index] = ((_map(homography, everywhere) - everywhere) * half).reshape(height, width, 2)
    return torch.from_numpy(flows).to(displacement)


def _map(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    mapped = points @ homography[:, :2].T + homography[:, 2]
    # A point on the horizon has no image; it is put far away, finite.
    return mapped[:, :2] / np.where(np.abs(mapped[:, 2:]) < 1e-6, 1e-6, mapped[:, 2:])


def _best_homography(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    import cv2

    shift = np.eye(3)
    shift[:2, 2] = np.median(target - source, axis=0)
    candidates = [shift]
    if len(source) >= 4:
        # RANSAC's threshold: 1 % of the image, in units of its half-diagonal.
        fits = (cv2.findHomography(source, target, 0), cv2.findHomography(source, target, cv2.RANSAC, 0.02))
        candidates += [fit for fit, _ in fits if fit is not None and np.isfinite(fit).all()]

    def error(homography: np.ndarray) -> float:
        return float(np.linalg.norm(_map(homography, source) - target, axis=-1).mean())

    best = min(candidates, key=error)
    for _ in range(10):
        refined = _reweighted_step(best, source, target)
        if refined is None or error(refined) >= error(best):
            break
        best = refined
    return best


def _reweighted_step(homography: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """One Gauss-Newton step on Σ ‖H source - target‖, H's last entry held at 1; None where it is singular."""
    if abs(homography[2, 2]) < 1e-9:
        return None
    homography = homography / homography[2, 2]
    mapped = _map(homography, source)
    residual = target - mapped
    depth = source @ homography[2, :2] + 1.0
    weight = 1.0 / np.maximum(np.linalg.norm(residual, axis=-1), 1e-6)
    ones, zeros = np.ones(len(source)), np.zeros((len(source), 3))
    rows = np.column_stack([source, ones]) / depth[:, None]
    normal, right = np.zeros((8, 8)), np.zeros(8)
    for axis in (0, 1):
        linear = np.hstack([rows, zeros] if axis == 0 else [zeros, rows])
        jacobian = np.hstack([linear, -mapped[:, axis : axis + 1] * rows[:, :2]])
        normal += (jacobian * weight[:, None]).T @ jacobian
        right += (jacobian * weight[:, None]).T @ residual[:, axis]
    try:
        step = np.linalg.solve(normal, right)
    except np.linalg.LinAlgError:
        return None
    refined = homography + np.append(step, 0.0).reshape(3, 3)
    return refined if np.isfinite(refined).all() else None
