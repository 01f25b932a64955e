"""Sparse features, as a witness that knows nothing of the dense flow."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8


@dataclass(frozen=True)
class Features:
    """SIFT keypoints of one image: positions (x, y) with pixel centres at integers, and descriptors."""

    points: Float[np.ndarray, "n 2"]
    descriptors: Float[np.ndarray, "n 128"]


def find_features(grey: UInt8[np.ndarray, "H W"], maximum: int = 1000, contrast: float = 0.04) -> Features:
    """The strongest SIFT features of an image, of at least `contrast` (by default OpenCV's)."""
    import cv2

    keypoints, descriptors = cv2.SIFT_create(maximum, contrastThreshold=contrast).detectAndCompute(grey, None)
    if not keypoints:
        return Features(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32))
    return Features(np.array([keypoint.pt for keypoint in keypoints], dtype=np.float32), descriptors)


def match_features(a: Features, b: Features, ratio: float = 0.8) -> Float[np.ndarray, "m 2 2"]:
    """Positions (in a, in b) of features that are each other's nearest and clearly nearer than the second nearest."""
    kept = match_indices(a, b, ratio)
    return np.stack([a.points[kept[:, 0]], b.points[kept[:, 1]]], axis=1)


def match_indices(a: Features, b: Features, ratio: float = 0.8) -> Int[np.ndarray, "m 2"]:
    """The same matches as indices of the features (in a, in b)."""
    if min(len(a.points), len(b.points)) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    similarity = _unit(a.descriptors) @ _unit(b.descriptors).T
    forward, backward = similarity.argmax(1), similarity.argmax(0)
    best_two = np.sqrt(np.maximum(2 - 2 * np.partition(similarity, -2, axis=1)[:, -2:], 0))  # second best, best
    mine = np.arange(len(a.points))
    kept = (backward[forward] == mine) & (best_two[:, 1] < ratio * best_two[:, 0])
    return np.stack([mine[kept], forward[kept]], axis=1)


def _unit(descriptors: np.ndarray) -> np.ndarray:
    return descriptors / np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-6)


def epipolar_inliers(matches: Float[np.ndarray, "m 2 2"], threshold: float = 1.0) -> Float[np.ndarray, "k 2 2"] | None:
    """The matches that one fundamental matrix explains to `threshold` pixels (MAGSAC++); None where there is none."""
    import cv2

    if len(matches) < 8:
        return None
    try:
        _, inlier = cv2.findFundamentalMat(matches[:, 0], matches[:, 1], cv2.USAC_MAGSAC, threshold, 0.999, 1000)
    except cv2.error:  # OpenCV raises where the points hardly move
        return None
    return None if inlier is None or not inlier.any() else matches[inlier.ravel() > 0]
