"""Which conventions labels are in, told by what they predict: features of one image, drawn into another.

A match between two images is where a point is seen from both. Depth, intrinsics and poses say where it should be seen.
Under the right conventions the two agree; of the ways in which labels are usually wrong, the one that makes them agree
names the fault.
"""

from collections.abc import Callable
from collections.abc import Sequence as List
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from jaxtyping import Float

from flow3r.data.frame import Frame
from flow3r.data.transforms import fit_depth, fit_intrinsics, resize_image

LONG_SIDE = 640  # ours: pixels; matches are found at this size or less
LEAST_MATCHES = 20  # ours: of a pair that counts
STILL = 0.01  # ours: of the long side; matches that move less tell nothing
OFF = (0.005, 0.1)  # ours: a match agrees within this share of the long side, a pixel at least, or of its motion
EPIPOLAR_OFF = 1.5  # ours: pixels, Sampson; without depth
CONFIRMED = 0.03  # ours: relative, of depth, as in flow_from_depth
EVERY = 6  # ours: pixels between the points whose depth is compared
MOST_FAULTS = 2  # ours: that are looked for at once
PENALTY = 0.03  # ours: a fault must explain this share of the matches more than one fault less

# The camera's axes x, y, z in those of OpenCV (x right, y down, z forward), as columns, by the convention's name.
AXES = {
    "OpenCV (y down, z forward)": np.diag([1.0, 1, 1]),
    "OpenGL (y up, z backward)": np.diag([1.0, -1, -1]),
    "PyTorch3D (x left, y up, z forward)": np.diag([-1.0, -1, 1]),
    "ROS (x forward, y left, z up)": np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]),
    "aerospace (x forward, y right, z down)": np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]),
    "left-handed (y up, z forward)": np.diag([1.0, -1, 1]),
}
OPENCV = next(iter(AXES))
DEPTHS = (1.0, 1e-3, 1e3, 1e-2, 1e2, 0.2, 5.0)  # mm for m, cm for m, TUM's 5000 steps for 1000, and the reverse
FOCALS = (1.0, 2.0, 0.5)


@dataclass(frozen=True)
class Variant:
    """Labels as they would be if they had been given in other conventions; the default is as given."""

    inverted: bool = False
    axes: str = OPENCV
    depth: float = 1.0  # times the depth
    focal: float = 1.0  # times the focal lengths

    @property
    def departures(self) -> int:
        return self.inverted + (self.axes != OPENCV) + (self.depth != 1) + (self.focal != 1)

    def poses(self, given: Float[np.ndarray, "*n 4 4"]) -> Float[np.ndarray, "*n 4 4"]:
        """World from camera, in OpenCV's axes."""
        given_from_opencv = np.eye(4)
        given_from_opencv[:3, :3] = AXES[self.axes].T
        return (np.linalg.inv(given) if self.inverted else given) @ given_from_opencv

    def intrinsics(self, given: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
        return np.diag([self.focal, self.focal, 1.0]) @ given + np.array(
            [[0, 0, (1 - self.focal) * given[0, 2]], [0, 0, (1 - self.focal) * given[1, 2]], [0, 0, 0]]
        )

    def said(self) -> list[str]:
        """The faults of the labels as given, if this variant is the right one."""
        faults = ["poses are world-to-camera; expected camera-to-world"] if self.inverted else []
        if self.axes != OPENCV:
            faults.append(f"camera axes are those of {self.axes}; expected {OPENCV}")
        if self.depth != 1:
            units = {1e-3: " (millimetres for metres)", 1e-2: " (centimetres for metres)"}.get(self.depth, "")
            size = f"{1 / self.depth:g} times too large" if self.depth < 1 else f"{self.depth:g} times too small"
            faults.append(f"units: depth is {size} for the poses{units}")
        if self.focal != 1:
            faults.append(f"focal length is {'half' if self.focal == 2 else 'double'} of what fits")
        return faults


@dataclass(frozen=True)
class Match:
    """Points seen in two frames of a list: pixels (x, y) of both; tracked ones may have slid along an edge."""

    source: int
    target: int
    there: Float[np.ndarray, "n 2"]
    here: Float[np.ndarray, "n 2"]
    tracked: bool = False

    @cached_property
    def motion(self) -> Float[np.ndarray, "n"]:
        """Pixels."""
        return np.linalg.norm(self.here - self.there, axis=-1)


def shrink(frame: Frame) -> Frame:
    """The frame with its labels at LONG_SIDE pixels at most, which it is no smaller than by choice."""
    height, width = frame.image.shape[:2]
    scale = min(1.0, LONG_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    affine = np.diag([size[1] / width, size[0] / height, 1.0])
    return replace(
        frame,
        image=resize_image(frame.image, size) if scale < 1 else frame.image,
        depth=None if frame.depth is None else fit_depth(frame.depth, affine, size),
        intrinsics=None if frame.intrinsics is None else fit_intrinsics(frame.intrinsics, affine),
    )


class Matcher:
    """SIFT features, matched both ways and to an epipolar geometry of the pair's own; each image is described once.

    Where images have too few of them, corners are tracked there and back.
    """

    def __init__(self, frames: List[Frame]):
        self._frames, self._features = frames, {}

    def __call__(self, source: int, target: int) -> Match | None:
        """None for fewer than LEAST_MATCHES."""
        import cv2

        there, here = self._described(source, target)
        if tracked := len(there) < LEAST_MATCHES:
            there, here = self._tracked(source, target)
        if len(there) < LEAST_MATCHES:
            return None
        _, inlier = cv2.findFundamentalMat(there, here, cv2.FM_RANSAC, 2.0, 0.999)
        keep = np.ones(len(there), dtype=bool) if inlier is None else inlier[:, 0] > 0
        return Match(source, target, there[keep], here[keep], tracked) if keep.sum() >= LEAST_MATCHES else None

    def _described(self, source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
        import cv2

        (there, a), (here, b) = self._describe(source), self._describe(target)
        if min(len(there), len(here)) < LEAST_MATCHES:
            return np.empty((0, 2)), np.empty((0, 2))
        matcher = cv2.BFMatcher()
        back = {m.queryIdx: m.trainIdx for m, *_ in matcher.knnMatch(b, a, k=1)}
        both = [m for m in matcher.knnMatch(a, b, k=2) if m[0].distance < 0.75 * m[1].distance]  # Lowe's ratio
        kept = np.array([(m.queryIdx, m.trainIdx) for m, _ in both if back[m.trainIdx] == m.queryIdx], dtype=np.int64)
        first, second = kept.reshape(-1, 2).T
        return there[first], here[second]

    def _tracked(self, source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
        import cv2

        a, b = self._grey(source), self._grey(target)
        corners = cv2.goodFeaturesToTrack(a, 400, 0.005, 5)
        if corners is None or a.shape != b.shape:  # the tracker follows between images of one size
            return np.empty((0, 2)), np.empty((0, 2))
        found, seen, _ = cv2.calcOpticalFlowPyrLK(a, b, corners, None)
        again, seen_again, _ = cv2.calcOpticalFlowPyrLK(b, a, found, None)
        returns = np.linalg.norm(again - corners, axis=-1)[:, 0] < 0.5  # ours: pixels, there and back
        keep = returns & (seen[:, 0] > 0) & (seen_again[:, 0] > 0)
        return corners[keep, 0].astype(np.float64) + 0.5, found[keep, 0].astype(np.float64) + 0.5

    def _describe(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        import cv2

        if number not in self._features:
            points, described = cv2.SIFT_create(1000).detectAndCompute(self._grey(number), None)
            pixels = np.array([point.pt for point in points], dtype=np.float64).reshape(-1, 2) + 0.5
            self._features[number] = pixels, described
        return self._features[number]

    def _grey(self, number: int) -> np.ndarray:
        import cv2

        return cv2.cvtColor(np.ascontiguousarray(self._frames[number].image), cv2.COLOR_RGB2GRAY)


def fit(matches: List[Match], frames: List[Frame], variant: Variant = Variant()) -> float:
    """The share of matches that are seen where the labels, as the variant reads them, say; mean over the pairs."""
    return float(np.mean([np.mean(_agrees(match, frames, variant)) for match in matches]))


def reprojection(matches: List[Match], frames: List[Frame]) -> float:
    """Median distance in pixels between where points are seen and where the labels say; of the pairs, the median."""
    return float(np.median([np.median(_errors(match, frames, Variant())[0]) for match in matches]))


def best_variant(score: Callable[[Variant], float], frames: List[Frame]) -> tuple[Variant, float]:
    """The variant of the highest score, such as `fit`, after PENALTY for each departure, and its score."""
    depths = DEPTHS if frames[0].depth is not None else (1.0,)
    mirrored = np.linalg.det(frames[0].world_from_camera[:3, :3]) < 0
    axes = [name for name in AXES if mirrored == name.startswith("left-handed") or name == OPENCV]
    every = (Variant(*choice) for choice in product((False, True), axes, depths, FOCALS))
    variants = [variant for variant in every if variant.departures <= MOST_FAULTS]
    scores = [score(variant) for variant in variants]
    best = max(range(len(scores)), key=lambda k: scores[k] - PENALTY * variants[k].departures)
    return variants[best], scores[best]


def shuffled_fit(matches: List[Match], frames: List[Frame]) -> float:
    """The `fit` that matches reach if each image may have the labels of any of the frames, all but the depth or all."""
    reached = []
    for match in matches:
        shares = []
        for source, target in product(range(len(frames)), repeat=2):
            if source != target:
                posed = replace(frames[match.source], world_from_camera=frames[source].world_from_camera)
                for taken in (posed, replace(frames[source], image=posed.image)):
                    two = Match(0, 1, match.there, match.here)
                    shares.append(np.mean(_agrees(two, [taken, frames[target]], Variant())))
        reached.append(max(shares))
    return float(np.mean(reached))


def depth_agreement(pairs: List[tuple[Frame, Frame]], variant: Variant = Variant()) -> float:
    """The share of points of each first frame that the depth of the second confirms to CONFIRMED; mean over the pairs.

    Of all points, those that the second does not see too. It needs no texture, and tells less of what flat surfaces
    hide: a motion along them.
    """
    return float(np.mean([_confirmed(source, target, variant) for source, target in pairs]))


def _confirmed(source: Frame, target: Frame, variant: Variant) -> float:
    y, x = np.nonzero(source.depth[::EVERY, ::EVERY] > 0)
    there = np.stack([x, y], axis=-1) * float(EVERY) + 0.5
    place, z = _seen(there, source.depth[y * EVERY, x * EVERY], source, target, variant)
    height, width = target.depth.shape
    column, row = np.floor(place).clip(-1, max(height, width)).astype(np.int64).T
    inside = (z > 0) & (column >= 0) & (row >= 0) & (row < height) & (column < width)
    found = np.zeros(len(z))
    found[inside] = target.depth[row[inside], column[inside]] * variant.depth
    return float(np.mean((found > 0) & (np.abs(found - z) < CONFIRMED * z))) if len(z) else 0.0


def _agrees(match: Match, frames: List[Frame], variant: Variant) -> np.ndarray:
    error, motion = _errors(match, frames, variant)
    if frames[match.source].depth is None:
        return error < EPIPOLAR_OFF
    least = max(1.0, OFF[0] * max(frames[match.source].image.shape[:2]))
    return error < np.maximum(least, OFF[1] * motion)


def _errors(match: Match, frames: List[Frame], variant: Variant) -> tuple[np.ndarray, np.ndarray]:
    """Pixels by which the matches miss, of those with depth if there is depth, and how far they move."""
    source, target = frames[match.source], frames[match.target]
    if source.depth is None:
        return _epipolar(match, source, target, variant), match.motion
    height, width = source.depth.shape
    column, row = np.floor(match.there).astype(np.int64).T
    depth = source.depth[row.clip(0, height - 1), column.clip(0, width - 1)]
    known = depth > 0
    if not known.any():
        return np.full(len(depth), np.inf), match.motion
    place, z = _seen(match.there[known], depth[known], source, target, variant)
    error = np.where(z > 0, np.linalg.norm(place - match.here[known], axis=-1), np.inf)
    return error, match.motion[known]


def _seen(
    pixels: np.ndarray, depth: np.ndarray, source: Frame, target: Frame, variant: Variant
) -> tuple[np.ndarray, np.ndarray]:
    """Where the target sees the source's pixels, and at which depth."""
    inverse = np.linalg.inv(variant.intrinsics(source.intrinsics))
    rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=-1) @ inverse.T
    target_from_source = np.linalg.inv(variant.poses(target.world_from_camera)) @ variant.poses(
        source.world_from_camera
    )
    points = rays * depth[:, None] * variant.depth @ target_from_source[:3, :3].T + target_from_source[:3, 3]
    z = points[:, 2]
    seen = points @ variant.intrinsics(target.intrinsics).T
    return seen[:, :2] / np.where(z > 1e-9, z, 1.0)[:, None], z


def _epipolar(match: Match, source: Frame, target: Frame, variant: Variant) -> np.ndarray:
    """Sampson's distance, in pixels."""
    target_from_source = np.linalg.inv(variant.poses(target.world_from_camera)) @ variant.poses(
        source.world_from_camera
    )
    x, y, z = target_from_source[:3, 3]
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ target_from_source[:3, :3]
    here, there = (np.linalg.inv(variant.intrinsics(frame.intrinsics)) for frame in (target, source))
    fundamental = here.T @ essential @ there
    a, b = (np.concatenate([pixels, np.ones((len(pixels), 1))], axis=-1) for pixels in (match.there, match.here))
    line, back = a @ fundamental.T, b @ fundamental
    gradient = np.sqrt((line[:, :2] ** 2).sum(-1) + (back[:, :2] ** 2).sum(-1))
    return np.abs((b * line).sum(-1)) / np.maximum(gradient, 1e-12)
