"""What a teacher is not asked for: frames that show nothing or nothing new, pixels that do not show the scene.

All of it works on the consecutive frames of one segment, as the teacher would see them, and is counted with its reason.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from flow3r.data.sampling import spread_indices
from flow3r.geometry.camera import pixel_grid

_SMALL = (64, 36)  # pixels, (W, H), of the images that frames are compared by
_STILL_SIDE = 224  # pixels of the long side at which motion is measured
_PROBES = 8  # flows that tell whether the camera moves
_LEAST_FRAMES = 5  # to tell what never changes


@dataclass(frozen=True)
class FilterSettings:
    """Thresholds in grey levels of 255 where nothing else is said; each was chosen on real clips."""

    luma: tuple[float, float] = (20.0, 235.0)  # mean outside of it: a black or a white frame
    least_deviation: float = 8.0  # of a frame: below, it is of one colour
    duplicate: float = 0.3  # mean difference of small images; pulled-down and repeated frames stay below
    bar_luma: int = 24  # no pixel of a bar is brighter in any frame
    least_bar: float = 0.02  # of a side
    overlay_deviation: float = 3.0  # over time: a pixel of a logo varies less
    overlay_corner: float = 0.001  # least eigenvalue of the gradients' matrix: a logo has edges in two directions
    overlay_rim: int = 5  # pixels about such corners that belong to the logo
    overlay_motion: float = 0.01  # of the long side, between probes: less tells nothing about what stands still
    most_overlay: float = 0.25  # of the pixels: more is no logo
    still: float = 0.5  # pixels at 224: median flow between probes of a camera that stands
    still_share: float = 0.9  # of the probes
    still_kept: float = 0.1  # share of the segments of standing cameras that are labelled: they tell little of geometry


@dataclass(frozen=True)
class Findings:
    """What one segment has to leave out."""

    left_out: dict[int, str]  # frames, and why
    hidden: Bool[np.ndarray, "H W"]  # pixels of bars and overlays, in all frames
    masked: dict[str, float]  # share of the pixels by what hides the scene there
    still: bool  # the camera stands


def examine(images: UInt8[np.ndarray, "N H W 3"], settings: FilterSettings) -> Findings:
    """Examine consecutive frames of one shot."""
    greys = _grey(images)
    left_out = {k: reason for k, grey in enumerate(greys) if (reason := _shows_nothing(grey, settings))}
    left_out |= _duplicates(greys, set(left_out), settings)
    shown = [k for k in range(len(greys)) if k not in left_out]
    bars = _bars(greys[shown], settings)
    motion = _motion(greys[shown])
    side = max(greys.shape[1:])
    still = bool(len(motion) and np.mean(motion * _STILL_SIDE / side < settings.still) > settings.still_share)
    moves = bool(len(motion) and np.median(motion) > settings.overlay_motion * side)
    overlay = _overlay(greys[shown], bars, settings) if moves else np.zeros_like(bars)
    if overlay.mean() > settings.most_overlay:
        overlay[:] = False
    masked = {"bars": float(bars.mean()), "static overlay": float(overlay.mean())}
    return Findings(left_out, bars | overlay, {kind: share for kind, share in masked.items() if share}, still)


def hide(
    displacement: Float[Tensor, "H W 2"], covisible: Float[Tensor, "H W"], hidden: Bool[np.ndarray, "H W"]
) -> Float[Tensor, "H W"]:
    """Covisibility, 0 where a pixel is hidden or its flow leads to one that is."""
    mask = torch.from_numpy(hidden).to(covisible.device)
    height, width = mask.shape
    place = (pixel_grid(height, width, mask.device) + displacement).floor().long()
    to_hidden = mask[place[..., 1].clamp(0, height - 1), place[..., 0].clamp(0, width - 1)]
    return covisible.masked_fill(mask | to_hidden, 0.0)


def _grey(images: UInt8[np.ndarray, "N H W 3"]) -> UInt8[np.ndarray, "N H W"]:
    import cv2

    return np.stack([cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) for image in images])


def _shows_nothing(grey: UInt8[np.ndarray, "H W"], settings: FilterSettings) -> str:
    mean, deviation = float(grey.mean()), float(grey.std())
    if mean < settings.luma[0]:
        return "black frame"
    if mean > settings.luma[1]:
        return "white frame"
    return "frame of one colour" if deviation < settings.least_deviation else ""


def _duplicates(greys: UInt8[np.ndarray, "N H W"], empty: set[int], settings: FilterSettings) -> dict[int, str]:
    """Frames that look like the last one before them that does not."""
    import cv2

    found: dict[int, str] = {}
    last = None
    for k, grey in enumerate(greys):
        if k in empty:
            continue
        small = cv2.resize(grey, _SMALL, interpolation=cv2.INTER_AREA).astype(np.float32)
        if last is not None and float(np.abs(small - last).mean()) < settings.duplicate:
            found[k] = "duplicate frame"
        else:
            last = small
    return found


def _bars(greys: UInt8[np.ndarray, "n H W"], settings: FilterSettings) -> Bool[np.ndarray, "H W"]:
    """Letterbox and pillarbox: rows and columns at the rim that are dark in all frames."""
    mask = np.zeros(greys.shape[1:], dtype=bool)
    if len(greys) < _LEAST_FRAMES:
        return mask
    dark = greys.max(axis=0) < settings.bar_luma
    for axis in (0, 1):
        lines, turned = dark.all(axis=1 - axis), np.moveaxis(mask, axis, 0)
        least = settings.least_bar * len(lines)
        for rim, part in ((lines, turned), (lines[::-1], turned[::-1])):
            width = len(rim) if rim.all() else int(np.argmin(rim))
            if width > least:
                part[:width] = True
    return mask


def _motion(greys: UInt8[np.ndarray, "n H W"]) -> Float[np.ndarray, "p"]:
    """Median length of the flow between frames that are spread over the segment, in pixels."""
    import cv2

    height, width = greys.shape[1:]
    scale = min(1.0, _STILL_SIDE / max(height, width))
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    frames = [cv2.resize(greys[k], size, interpolation=cv2.INTER_AREA) for k in spread_indices(len(greys), _PROBES + 1)]
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    flows = [search.calc(a, b, None) for a, b in pairwise(frames)]
    return np.array([np.median(np.linalg.norm(flow, axis=-1)) for flow in flows]) / scale


def _overlay(
    greys: UInt8[np.ndarray, "n H W"], bars: Bool[np.ndarray, "H W"], settings: FilterSettings
) -> Bool[np.ndarray, "H W"]:
    """Logos and the like: corners that stay the same while the picture moves, with what is about them.

    Edges alone would not do: what moves along an edge does not change it.
    """
    import cv2

    if len(greys) < _LEAST_FRAMES:
        return np.zeros(greys.shape[1:], dtype=bool)
    total, squares = np.zeros((2, *greys.shape[1:]))
    for grey in greys:
        total += grey
        squares += grey.astype(np.float32) ** 2
    mean = total / len(greys)
    deviation = np.sqrt(np.maximum(squares / len(greys) - mean**2, 0))
    corner = cv2.cornerMinEigenVal((mean / 255).astype(np.float32), blockSize=5, ksize=3)
    found = (deviation < settings.overlay_deviation) & (corner > settings.overlay_corner)
    rim = np.ones((2 * settings.overlay_rim + 1,) * 2, np.uint8)
    found &= ~cv2.dilate(bars.astype(np.uint8), rim).astype(bool)  # a bar's own edge stands still, too
    return cv2.dilate(found.astype(np.uint8), rim).astype(bool)
