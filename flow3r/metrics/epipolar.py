"""A measure of cameras without true cameras: the Sampson error of matches under predicted poses and intrinsics."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flow3r.geometry.camera import pixel_grid
from flow3r.geometry.se3 import invert, nearest_rotation
from flow3r.metrics.flow import scored_pixels
from flow3r.metrics.pose import zero_baseline

INLIER_PIXELS = 1.0  # ours: Sampson distance to the fitted geometry below which a pixel moves rigidly
FIT_MATCHES = 2000  # ours: matches per pair that the robust fit sees
LEAST_MATCHES = 50  # ours
FIT_ITERATIONS = 1000
FIT_CONFIDENCE = 0.999


@dataclass(frozen=True)
class RigidPixels:
    """Per pair: the pixels whose matches agree with one fundamental matrix, that matrix, and why a pair was refused."""

    mask: Bool[Tensor, "P H W"]  # False everywhere in a refused pair
    fundamental: Float[Tensor, "P 3 3"]  # target pixels' F source pixels = 0; zero in a refused pair
    refusals: tuple[str, ...]  # "" where the pair was accepted


@dataclass(frozen=True)
class EpipolarErrors:
    """Distances of matches to what the cameras of their pairs allow."""

    median: float  # pixels, over all masked pixels of all pairs
    per_pair: tuple[float, ...]  # medians of the pairs that have a masked pixel
    skipped: int  # pairs that have none
    static_pairs: int  # scored pairs whose predicted cameras coincide


def sampson_distance(
    fundamental: Float[Tensor, "P 3 3"], displacement: Float[Tensor, "P H W 2"]
) -> Float[Tensor, "P H W"]:
    """First-order distance, in pixels, of every match (x, x') to the geometry x'ᵀ F x = 0; any scale of F.

    |x'ᵀ F x| / sqrt((F x)₁² + (F x)₂² + (Fᵀ x')₁² + (Fᵀ x')₂²). It is the least motion of both points together, so that
    it is 1/√2 of the distance to the epipolar line where both images share the error.
    """
    source, target = _homogeneous_matches(displacement)
    fundamental = fundamental.double()
    line = source @ fundamental.mT
    line_back = target @ fundamental
    residual = (target * line).sum(-1).abs()
    gradient = (line[..., :2].square().sum(-1) + line_back[..., :2].square().sum(-1)).sqrt()
    # A vanishing gradient is a match of both epipoles, which every camera explains.
    distance = torch.where(gradient > 0, residual / torch.where(gradient > 0, gradient, 1.0), 0.0)
    return distance.unflatten(1, displacement.shape[1:3])


def rotation_distance(
    homography: Float[Tensor, "P 3 3"], displacement: Float[Tensor, "P H W 2"]
) -> Float[Tensor, "P H W"]:
    """First-order distance, in pixels, of every match to x' = H x: what Sampson's is to an epipolar geometry.

    sqrt(eᵀ (I + A Aᵀ)⁻¹ e) with e = x' - H x and A = ∂(H x)/∂x (Hartley & Zisserman, section 4.2.6). Where H sends a
    point behind the camera, the diagonal of the image.
    """
    source, target = _homogeneous_matches(displacement)
    height, width = displacement.shape[1:3]
    mapped = source @ homography.double().mT
    front = mapped[..., 2] > 1e-9
    depth = torch.where(front, mapped[..., 2], 1.0)[..., None]
    image = mapped[..., :2] / depth
    error = target[..., :2] - image
    homography = homography.double()[:, None]
    jacobian = (homography[..., :2, :2] - image[..., None] * homography[..., 2:, :2]) / depth[..., None]
    spread = torch.eye(2, dtype=torch.float64, device=error.device) + jacobian @ jacobian.mT
    distance = (error * torch.linalg.solve(spread, error[..., None])[..., 0]).sum(-1).sqrt()
    return torch.where(front, distance, (height**2 + width**2) ** 0.5).unflatten(1, (height, width))


def _homogeneous_matches(displacement: Tensor) -> tuple[Tensor, Tensor]:
    """Source and target pixels (P, H W, 3), homogeneous."""
    height, width = displacement.shape[1:3]
    grid = pixel_grid(height, width, displacement.device, torch.float64)
    ones = torch.ones_like(grid[..., :1])
    source = torch.cat([grid, ones], dim=-1).expand(len(displacement), -1, -1, -1)
    target = torch.cat([grid + displacement.double(), ones.expand(len(displacement), -1, -1, -1)], dim=-1)
    return source.flatten(1, 2), target.flatten(1, 2)


def camera_distance(
    displacement: Float[Tensor, "P H W 2"],
    pairs: Int[Tensor, "P 2"],
    world_from_camera: Float[Tensor, "N 4 4"],
    intrinsics: Float[Tensor, "N 3 3"],
) -> tuple[Float[Tensor, "P H W"], Bool[Tensor, "P"]]:
    """The distance, in pixels, of every match to what two cameras allow, and the pairs whose cameras coincide.

    Two distinct cameras allow an epipolar geometry: Sampson's distance, which does not depend on the length of the
    baseline. Coinciding cameras have none; they allow the homography of their rotation alone, whose first-order
    distance is taken. To first order it bounds Sampson's over all directions of translation from above, so that a
    model gains nothing by predicting no motion. A camera that is not finite, or has no focal length, gets the image's
    diagonal.
    """
    height, width = displacement.shape[1:3]
    source, target = pairs[:, 0], pairs[:, 1]
    focal = intrinsics[:, [0, 1], [0, 1]]
    sound = (
        world_from_camera.flatten(1).isfinite().all(1) & intrinsics.flatten(1).isfinite().all(1) & (focal > 0).all(1)
    )
    identity = torch.eye(4, dtype=torch.float64, device=displacement.device)
    pose = torch.where(sound[:, None, None], world_from_camera.double(), identity)
    camera = torch.where(sound[:, None, None], intrinsics.double(), identity[:3, :3])
    pose = torch.cat([torch.cat([nearest_rotation(pose[:, :3, :3]), pose[:, :3, 3:]], dim=-1), pose[:, 3:]], dim=1)
    target_from_source = invert(pose[target]) @ pose[source]
    rotation, translation = target_from_source[:, :3, :3], target_from_source[:, :3, 3]
    static = zero_baseline(pose[source, :3, 3], pose[target, :3, 3])
    unit = translation / torch.where(static, 1.0, translation.norm(dim=-1))[:, None]
    source_inverse, target_inverse = torch.linalg.inv(camera[source]), torch.linalg.inv(camera[target])
    fundamental = target_inverse.mT @ _cross_matrix(unit) @ rotation @ source_inverse
    distance = sampson_distance(fundamental, displacement)
    if static.any():
        homography = (camera[target] @ rotation @ source_inverse)[static]
        distance[static] = rotation_distance(homography, displacement[static])
    usable = (sound[source] & sound[target])[:, None, None]
    return torch.where(usable, distance, (height**2 + width**2) ** 0.5), static


def _cross_matrix(vector: Tensor) -> Tensor:
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [torch.stack([zero, -z, y], -1), torch.stack([z, zero, -x], -1), torch.stack([-y, x, zero], -1)]
    return torch.stack(rows, dim=-2)


def epipolar_errors(
    displacement: Float[Tensor, "P H W 2"],
    mask: Bool[Tensor, "P H W"],
    pairs: Int[Tensor, "P 2"],
    world_from_camera: Float[Tensor, "N 4 4"],
    intrinsics: Float[Tensor, "N 3 3"],
) -> EpipolarErrors | None:
    """Median distance of the masked matches under cameras (`camera_distance`); None where no pixel is masked in."""
    distance, static = camera_distance(displacement, pairs, world_from_camera, intrinsics)
    return median_errors(distance, mask, static)


def median_errors(
    distance: Float[Tensor, "P H W"], mask: Bool[Tensor, "P H W"], static: Bool[Tensor, "P"]
) -> EpipolarErrors | None:
    """Medians of masked distances, over all pairs together and pair by pair; None where no pixel is masked in."""
    scored = mask.flatten(1).any(1)
    if not scored.any():
        return None
    return EpipolarErrors(
        median=distance[mask].median().item(),
        per_pair=tuple(values[chosen].median().item() for values, chosen in zip(distance[scored], mask[scored])),
        skipped=int((~scored).sum()),
        static_pairs=int((static & scored).sum()),
    )


def rigid_pixels(
    displacement: Float[Tensor, "P H W 2"], covisible: Float[Tensor, "P H W"] | None, seed: int = 0
) -> RigidPixels:
    """The scored pixels whose matches lie within a pixel of a fundamental matrix fitted to them robustly (MAGSAC++).

    The fit sees a seeded draw of matches and no model, so that every model is scored on the same pixels. Pairs are
    refused, with a reason, that have too few matches, barely move (any geometry would do), or cannot be fitted.
    """
    candidates = scored_pixels(displacement, covisible)
    fundamental = torch.zeros(len(displacement), 3, 3, dtype=torch.float64, device=displacement.device)
    refusals = []
    for index, (flow, candidate) in enumerate(zip(displacement, candidates)):
        fit = _fit_fundamental(flow[candidate], candidate, np.random.default_rng((seed, index)), seed)
        refusals.append(fit if isinstance(fit, str) else "")
        if not isinstance(fit, str):
            fundamental[index] = torch.from_numpy(fit)
    accepted = torch.tensor([not reason for reason in refusals], dtype=torch.bool, device=displacement.device)
    inlier = sampson_distance(fundamental, displacement) < INLIER_PIXELS
    return RigidPixels(candidates & inlier & accepted[:, None, None], fundamental, tuple(refusals))


def _fit_fundamental(flow: Tensor, candidate: Tensor, generator: np.random.Generator, seed: int) -> np.ndarray | str:
    """The fundamental matrix of matches, or why there is none."""
    import cv2

    if len(flow) < LEAST_MATCHES:
        return f"{len(flow)} matches, at least {LEAST_MATCHES} needed"
    if flow.norm(dim=-1).median() < INLIER_PIXELS:
        return f"near-static: half of the matches move less than {INLIER_PIXELS:g} px"
    source = pixel_grid(*candidate.shape, candidate.device)[candidate].double().cpu().numpy()
    target = source + flow.double().cpu().numpy()
    chosen = generator.permutation(len(source))[:FIT_MATCHES]
    settings = cv2.UsacParams()
    settings.score = cv2.SCORE_METHOD_MAGSAC
    settings.sampler = cv2.SAMPLING_UNIFORM
    settings.loMethod = cv2.LOCAL_OPTIM_SIGMA
    settings.threshold = INLIER_PIXELS
    settings.maxIterations = FIT_ITERATIONS
    settings.confidence = FIT_CONFIDENCE
    settings.randomGeneratorState = seed
    try:
        fundamental, _ = cv2.findFundamentalMat(source[chosen], target[chosen], settings)
    except cv2.error:
        # OpenCV raises on degenerate sets instead of finding nothing.
        return "no fundamental matrix fits: the matches are degenerate"
    if fundamental is None or fundamental.shape != (3, 3) or not np.isfinite(fundamental).all():
        return "no fundamental matrix fits the matches"
    return fundamental
