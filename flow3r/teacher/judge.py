"""How right a teacher's labels are, where the depth and the cameras of a static scene give the true flow."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flow3r.data import frame
from flow3r.data.sampling import label_pairs, seconds_of, split_shots
from flow3r.data.transforms import fit_depth, fit_frame, fit_intrinsics
from flow3r.errors import InputError
from flow3r.geometry.camera import unproject
from flow3r.geometry.flow import flow_from_depth, project_flow
from flow3r.geometry.se3 import invert, rotation_angle
from flow3r.teacher.features import Features, find_features, match_indices
from flow3r.types import Teacher

WORKING_SIDE = 336  # pixels: the size at which videos are labelled
SEGMENT_FRAMES = 64  # in which they are labelled
TOLERANCE = 3.0  # pixels of the working size
MOST_FEATURES = 4000  # ours: of an image, to refine a pose by
CONTRAST = 0.01  # ours: least of a feature, a quarter of OpenCV's: in fast turns images are blurred
INLIER = 1.5  # ours: pixels of the working size within which a pose explains a match
LEAST_MATCHES = 20  # ours: fewer of them do not refine a pose


@dataclass(frozen=True)
class JudgedPair:
    """An ordered pair that a teacher was asked for. Pixels are those of the source at the working size."""

    source: int
    target: int
    reason: str  # why the teacher refused it; "" if it did not
    labelled: int = 0  # pixels that it calls covisible
    known: int = 0  # of these: the truth is known, that is, the source has depth there
    right: int = 0  # of these: within TOLERANCE of the truth
    seen: int = 0  # of these: by its depth the target shows the same point
    right_as_given: int = 0  # of the known: within TOLERANCE of the flow that the poses as they are given make
    matches: int = 0  # features that the refined pose explains; 0 where they are too few and the given pose is kept
    moved: float = 0.0  # pixels: median distance that refining the pose moved the true flow by
    turned: float = 0.0  # degrees that it turned the pose by


def precision(pairs: Iterable[JudgedPair], as_given: bool = False) -> float:
    """Share of the labelled pixels of known truth that are right, pooled; NaN if there are none."""
    pairs = tuple(pairs)
    known = sum(pair.known for pair in pairs)
    right = sum(pair.right_as_given if as_given else pair.right for pair in pairs)
    return right / known if known else float("nan")


@dataclass(frozen=True)
class LabelledPair:
    """What a teacher says of an ordered pair of frames, at the working size; flow is in pixels of the source."""

    source: int
    target: int
    source_view: "JudgedView"
    target_view: "JudgedView"
    reason: str  # why the teacher refused it; "" if it did not
    flow: Float[Tensor, "H W 2"]
    covisible: Bool[Tensor, "H W"]


def labelled_pairs(
    sequence: frame.Sequence, teacher: Teacher, pairs_per_frame: float = 2.0, seed: int = 0
) -> Iterator[LabelledPair]:
    """The pairs that labelling would try, and what the teacher says of them.

    Raises InputError for frames without depth, intrinsics or pose.
    """
    for start, stop in split_shots([(0, len(sequence))], SEGMENT_FRAMES):
        views = [JudgedView.of(item) for item in sequence.frames(range(start, stop))]
        seconds = seconds_of(sequence.timestamps())[start:stop]
        pairs = torch.from_numpy(label_pairs(seconds, pairs_per_frame=pairs_per_frame, seed=seed))
        images = torch.from_numpy(np.stack([view.small.image for view in views])).movedim(-1, 1).float() / 255
        labels = teacher(images, pairs)
        for row, (i, j) in enumerate(pairs.tolist()):
            flow, covisible = labels.flow.displacement[0, row], labels.flow.covisible[0, row] > 0
            yield LabelledPair(start + i, start + j, views[i], views[j], labels.refusals[row], flow, covisible)


def judge(
    sequence: frame.Sequence, teacher: Teacher, pairs_per_frame: float = 2.0, seed: int = 0
) -> Iterator[JudgedPair]:
    """The pairs that labelling would try, with the teacher's labels held against the flow of the static scene.

    Tracked poses can be off by more than TOLERANCE. The truth is therefore that of the relative pose which explains
    most feature matches by the source's depth, at full resolution, and knows nothing of the teacher's flow. Raises
    InputError for frames without depth, intrinsics or pose.
    """
    for pair in labelled_pairs(sequence, teacher, pairs_per_frame, seed):
        if pair.reason:
            yield JudgedPair(pair.source, pair.target, pair.reason)
            continue
        source, target = pair.source_view, pair.target_view
        given = np.linalg.inv(target.small.world_from_camera) @ source.small.world_from_camera
        refined, matches = _refine_pose(given, source, target)
        as_given, known, _ = _true_flow(source.small, target.small, given)
        truth, still_known, seen = _true_flow(source.small, target.small, refined)
        known &= pair.covisible & still_known
        right = known & ((pair.flow - truth).norm(dim=-1) < TOLERANCE)
        yield JudgedPair(
            source=pair.source,
            target=pair.target,
            reason="",
            labelled=int(pair.covisible.sum()),
            known=int(known.sum()),
            right=int(right.sum()),
            seen=int((right & seen).sum()),
            right_as_given=int((known & ((pair.flow - as_given).norm(dim=-1) < TOLERANCE)).sum()),
            matches=matches,
            moved=float((truth - as_given).norm(dim=-1)[known].median()) if known.any() else 0.0,
            turned=float(rotation_angle(torch.from_numpy(given[:3, :3].T @ refined[:3, :3])).rad2deg()),
        )


@dataclass(frozen=True)
class JudgedView:
    """A frame at the working size, and the features of the original with what its depth says of them."""

    small: frame.Frame
    intrinsics: Float[np.ndarray, "3 3"]  # of the original
    scale: float  # working size over original
    features: Features
    points: Float[np.ndarray, "n 3"]  # of the features, in the camera's frame; z = 0 where unknown

    @classmethod
    def of(cls, item: frame.Frame) -> "JudgedView":
        import cv2

        if item.depth is None or item.intrinsics is None or item.world_from_camera is None:
            raise InputError(f"{item.name}: the true flow needs depth, intrinsics and pose of every frame")
        height, width = item.image.shape[:2]
        scale = min(1.0, WORKING_SIDE / max(height, width))
        features = find_features(cv2.cvtColor(item.image, cv2.COLOR_RGB2GRAY), MOST_FEATURES, CONTRAST)
        x, y = np.rint(features.points).astype(int).T
        depth = item.depth[y.clip(0, height - 1), x.clip(0, width - 1)].astype(np.float64)
        rays = np.c_[features.points + 0.5, np.ones(len(depth))] @ np.linalg.inv(item.intrinsics).T
        return cls(_shrunk(item, scale), item.intrinsics, scale, features, rays * depth[:, None])


def matched_points(source: JudgedView, target: JudgedView) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 2"]]:
    """Feature matches: points in the source camera's frame by its depth, and pixels of the target's original."""
    kept = match_indices(source.features, target.features)
    kept = kept[source.points[kept[:, 0], 2] > 0]
    return source.points[kept[:, 0]], target.features.points[kept[:, 1]].astype(np.float64) + 0.5


def _refine_pose(
    target_from_source: Float[np.ndarray, "4 4"], source: JudgedView, target: JudgedView
) -> tuple[Float[np.ndarray, "4 4"], int]:
    """The relative pose that explains most feature matches (PnP, RANSAC, from the given one), and their number.

    The given one and 0 where they are fewer than LEAST_MATCHES.
    """
    import cv2

    points, pixels = matched_points(source, target)
    if len(points) < LEAST_MATCHES:
        return target_from_source, 0
    rotation, translation = cv2.Rodrigues(target_from_source[:3, :3])[0], target_from_source[:3, 3:].copy()
    found, rotation, translation, inlier = cv2.solvePnPRansac(
        points, pixels, target.intrinsics, None, rotation, translation, True, 1000, INLIER / target.scale, 0.999
    )
    if not found or inlier is None or len(inlier) < LEAST_MATCHES:
        return target_from_source, 0
    chosen = inlier.ravel()
    rotation, translation = cv2.solvePnPRefineLM(
        points[chosen], pixels[chosen], target.intrinsics, None, rotation, translation
    )
    refined = np.eye(4)
    refined[:3, :3], refined[:3, 3:] = cv2.Rodrigues(rotation)[0], translation
    return refined, len(chosen)


def _shrunk(item: frame.Frame, scale: float) -> frame.Frame:
    """The whole frame at the working size."""
    size = (round(item.image.shape[0] * scale), round(item.image.shape[1] * scale))
    fitted = fit_frame(item.image, size)
    depth = fit_depth(item.depth, fitted.model_from_original, size)
    intrinsics = fit_intrinsics(item.intrinsics, fitted.model_from_original)
    return frame.Frame(fitted.image, item.timestamp, item.name, depth, intrinsics, item.world_from_camera)


def _true_flow(
    source: frame.Frame, target: frame.Frame, target_from_source: Float[np.ndarray, "4 4"]
) -> tuple[Float[Tensor, "H W 2"], Bool[Tensor, "H W"], Bool[Tensor, "H W"]]:
    """Where the source's points lie in the target's image, hidden or not; where they are known; where both see them."""
    both = [(item.depth, item.intrinsics) for item in (source, target)]
    depth, intrinsics = (torch.from_numpy(np.stack(values))[None].double() for values in zip(*both))
    poses = torch.from_numpy(np.stack([np.eye(4), np.linalg.inv(target_from_source)]))[None].double()
    points = unproject(depth[:, 0], intrinsics[:, 0])  # the source's camera is the world
    flow, z = project_flow(points, invert(poses[:, 1]), intrinsics[:, 1])
    _, seen = flow_from_depth(depth, intrinsics, poses)
    return flow[0].float(), (depth[0, 0] > 0) & (z[0] > 1e-6), seen[0]
