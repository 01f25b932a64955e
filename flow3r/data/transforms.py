"""Crop, pad and resize images to a model's grid while intrinsics and depth stay true.

Every change of pixels is an affine map `model_from_original` of homogeneous pixel coordinates (half-integer centres).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch.nn import functional as F

from flow3r.errors import InputError
from flow3r.types import Flow

SMALLEST_SIDE = 14  # pixels: one patch of the encoder
PADDING = (124, 116, 104)  # ImageNet mean: zero after the model's normalisation


@dataclass(frozen=True)
class Fitted:
    """An image on a model's grid. `model_from_original` maps original pixels to the grid's; padding is not `valid`."""

    image: UInt8[np.ndarray, "h w 3"]
    model_from_original: Float[np.ndarray, "3 3"]
    valid: Bool[np.ndarray, "h w"]


def choose_grid(
    sizes: Sequence[tuple[int, int]], tokens: tuple[int, int] = (64, 96), patch: int = 14
) -> tuple[int, int]:
    """One (H, W), sides multiples of `patch`, for images of these sizes (H, W): the aspect is their median.

    Of the grids that have between tokens[0] and tokens[1] patches, the one with the largest product of patches and
    squared share of the image that a centred crop keeps.
    """
    if not sizes:
        raise ValueError("choose_grid needs at least one image size")
    log_aspect = float(np.median([math.log(width / height) for height, width in sizes]))
    low, high = tokens
    candidates = [(h, w) for h in range(1, high + 1) for w in range(-(-low // h), high // h + 1)]
    if not candidates:
        raise ValueError(f"no grid has between {low} and {high} patches")
    h, w = max(candidates, key=lambda grid: (_grid_value(grid, log_aspect), grid))
    return h * patch, w * patch


def _grid_value(grid: tuple[int, int], log_aspect: float) -> float:
    kept = math.exp(-abs(math.log(grid[1] / grid[0]) - log_aspect))
    return round(grid[0] * grid[1] * kept**2, 6)


def fit_frame(image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int], fit: Literal["crop", "pad"] = "crop") -> Fitted:
    """The image on a grid `size` = (H, W), never stretched: its centre, covering the grid, or all of it, padded.

    Lengths are rounded to whole pixels; the affine map is that of the rounded ones, exactly. Raises InputError for an
    image smaller than a patch.
    """
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise InputError(f"image is {width} x {height} pixels; at least {SMALLEST_SIDE} x {SMALLEST_SIDE} are needed")
    if fit == "crop":
        return _crop(image, size)
    if fit == "pad":
        return _pad(image, size)
    raise ValueError(f'fit is "crop" or "pad", got {fit!r}')


def _crop(image: np.ndarray, size: tuple[int, int]) -> Fitted:
    height, width = image.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    crop_height, crop_width = min(height, round(size[0] / scale)), min(width, round(size[1] / scale))
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    fitted = resize_image(image[top : top + crop_height, left : left + crop_width], size)
    affine = _affine(
        size[1] / crop_width, size[0] / crop_height, -left * size[1] / crop_width, -top * size[0] / crop_height
    )
    return Fitted(fitted, affine, np.ones(size, dtype=bool))


def _pad(image: np.ndarray, size: tuple[int, int]) -> Fitted:
    height, width = image.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    new_height, new_width = min(size[0], max(1, round(height * scale))), min(size[1], max(1, round(width * scale)))
    top, left = (size[0] - new_height) // 2, (size[1] - new_width) // 2
    inside = np.s_[top : top + new_height, left : left + new_width]
    fitted = np.broadcast_to(np.array(PADDING, dtype=np.uint8), (*size, 3)).copy()
    fitted[inside] = resize_image(image, (new_height, new_width))
    valid = np.zeros(size, dtype=bool)
    valid[inside] = True
    return Fitted(fitted, _affine(new_width / width, new_height / height, left, top), valid)


def _affine(scale_x: float, scale_y: float, shift_x: float, shift_y: float) -> Float[np.ndarray, "3 3"]:
    return np.array([[scale_x, 0.0, shift_x], [0.0, scale_y, shift_y], [0.0, 0.0, 1.0]])


def resize_image(image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """The image at (H, W) `size`: averaged where it shrinks, so that nothing aliases, interpolated where it grows."""
    import cv2

    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def fit_depth(
    depth: Float[np.ndarray, "H W"], model_from_original: Float[np.ndarray, "3 3"], size: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """Depth on the grid of a `Fitted` image: the depth of the original pixel under each centre, never a mixture.

    0 (unknown) on padding.
    """
    scale, shift = model_from_original[[0, 1], [0, 1]], model_from_original[:2, 2]
    x = np.floor((np.arange(size[1]) + 0.5 - shift[0]) / scale[0]).astype(int)
    y = np.floor((np.arange(size[0]) + 0.5 - shift[1]) / scale[1]).astype(int)
    picked = depth.take(y, axis=0, mode="clip").take(x, axis=1, mode="clip")
    picked[(y < 0) | (y >= depth.shape[0])] = 0
    picked[:, (x < 0) | (x >= depth.shape[1])] = 0
    return picked


def fit_intrinsics(
    intrinsics: Float[np.ndarray, "3 3"], model_from_original: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "3 3"]:
    """Intrinsics in pixels of the grid of a `Fitted` image."""
    return model_from_original @ intrinsics


def undistort(
    image: UInt8[np.ndarray, "H W 3"],
    depth: Float[np.ndarray, "H W"] | None,
    intrinsics: Float[np.ndarray, "3 3"],
    distortion: Sequence[float],
) -> tuple[UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "H W"] | None]:
    """The image and its depth as a pinhole camera of the same `intrinsics` (half-integer centres) sees them.

    `distortion` holds OpenCV's coefficients k1 k2 p1 p2 [k3 ...]. Depth is taken from the nearest pixel; what the lens
    did not see is black, at depth 0.
    """
    import cv2

    integer_centres = intrinsics.astype(np.float64) - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    coefficients = np.array(distortion, dtype=np.float64)
    size = (image.shape[1], image.shape[0])
    x, y = cv2.initUndistortRectifyMap(integer_centres, coefficients, None, integer_centres, size, cv2.CV_32FC1)
    undistorted = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    if depth is not None:
        depth = cv2.remap(depth, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return undistorted, depth


def resize_labels(flow: Flow, size: tuple[int, int]) -> Flow:
    """Labelled flow on a grid of another size (H, W): vectors scale with it, unknown flow never mixes with known.

    A pixel stays covisible if at least half of what it averages is.
    """
    height, width = flow.displacement.shape[2:4]
    if (height, width) == size or flow.pairs.shape[1] == 0:
        empty = flow.displacement.new_zeros(*flow.displacement.shape[:2], *size, 2)
        return flow if (height, width) == size else Flow(flow.pairs, empty, empty[..., 0])
    known = (flow.covisible > 0).float()
    planes = torch.cat([flow.displacement * known[..., None], flow.covisible[..., None], known[..., None]], dim=-1)
    stacked = planes.flatten(0, 1).movedim(-1, 1)
    resized = F.interpolate(stacked, size, mode="bilinear", antialias=True, align_corners=False).movedim(1, -1)
    share = resized[..., 3:]
    mean = torch.where(share >= 0.5, resized[..., :3] / share.clamp_min(0.5), 0.0).unflatten(0, flow.pairs.shape[:2])
    scale = mean.new_tensor([size[1] / width, size[0] / height])
    return Flow(flow.pairs, mean[..., :2] * scale, mean[..., 2].clamp(0, 1))
