"""How right a teacher's labels are, where the depth and the cameras of a static scene give the true flow."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from flow3r.data import frame
from flow3r.data.sampling import label_pairs, seconds_of, split_shots
from flow3r.data.transforms import fit_depth, fit_frame, fit_intrinsics
from flow3r.errors import InputError
from flow3r.geometry.camera import unproject
from flow3r.geometry.flow import flow_from_depth, project_flow
from flow3r.geometry.se3 import invert, transform_maps
from flow3r.teacher.features import Features, epipolar_inliers, find_features, match_features
from flow3r.types import Teacher

WORKING_SIDE = 336  # pixels: the size at which videos are labelled
SEGMENT_FRAMES = 64  # in which they are labelled
TOLERANCE = 3.0  # pixels of the working size
LEAST_MATCHES = 20  # ours: features that tell how right the truth itself is
SOUND = 1.5  # ours: half of TOLERANCE, so that the truth's own error decides about few pixels


@dataclass(frozen=True)
class JudgedPair:
    """An ordered pair that a teacher was asked for. Pixels are those of the source at the working size."""

    source: int
    target: int
    reason: str  # why the teacher refused it; "" if it did not
    labelled: int = 0  # pixels that it calls covisible
    known: int = 0  # of these: the truth is known, that is, the source has depth there
    right: int = 0  # of these: within TOLERANCE of it
    seen: int = 0  # of these: by its depth the target shows the same point
    truth_error: float = float("nan")  # pixels: median distance of the truth from feature matches; NaN if they are few

    @property
    def sound(self) -> bool:
        """Whether feature matches, which know nothing of depth and poses, agree with the truth."""
        return self.truth_error < SOUND


def precision(pairs: Iterable[JudgedPair]) -> float:
    """Share of the labelled pixels of known truth that are right, pooled; NaN if there are none."""
    pairs = tuple(pairs)
    known = sum(pair.known for pair in pairs)
    return sum(pair.right for pair in pairs) / known if known else float("nan")


def judge(
    sequence: frame.Sequence, teacher: Teacher, pairs_per_frame: float = 2.0, seed: int = 0
) -> Iterator[JudgedPair]:
    """The pairs that labelling would try, with the teacher's labels held against the flow of the static scene.

    Raises InputError for frames without depth, intrinsics or pose.
    """
    for start, stop in split_shots([(0, len(sequence))], SEGMENT_FRAMES):
        frames = [_shrunk(item) for item in sequence.frames(range(start, stop))]
        seconds = seconds_of(sequence.timestamps())[start:stop]
        pairs = torch.from_numpy(label_pairs(seconds, pairs_per_frame=pairs_per_frame, seed=seed))
        images = torch.from_numpy(np.stack([item.image for item in frames])).movedim(-1, 1).float() / 255
        labels = teacher(images, pairs)
        features: dict[int, Features] = {}
        for row, (i, j) in enumerate(pairs.tolist()):
            if labels.refusals[row]:
                yield JudgedPair(start + i, start + j, labels.refusals[row])
                continue
            for k in {i, j} - set(features):
                features[k] = find_features(_grey(frames[k].image))
            flow, covisible = labels.flow.displacement[0, row], labels.flow.covisible[0, row] > 0
            truth, known, seen = _true_flow(frames[i], frames[j])
            right = covisible & known & ((flow - truth).norm(dim=-1) < TOLERANCE)
            yield JudgedPair(
                source=start + i,
                target=start + j,
                reason="",
                labelled=int(covisible.sum()),
                known=int((covisible & known).sum()),
                right=int(right.sum()),
                seen=int((right & seen).sum()),
                truth_error=_truth_error(truth, known, features[i], features[j]),
            )


def _shrunk(item: frame.Frame) -> frame.Frame:
    """The whole frame at the working size."""
    if item.depth is None or item.intrinsics is None or item.world_from_camera is None:
        raise InputError(f"{item.name}: the true flow needs depth, intrinsics and pose of every frame")
    scale = min(1.0, WORKING_SIDE / max(item.image.shape[:2]))
    size = (round(item.image.shape[0] * scale), round(item.image.shape[1] * scale))
    fitted = fit_frame(item.image, size)
    depth = fit_depth(item.depth, fitted.model_from_original, size)
    intrinsics = fit_intrinsics(item.intrinsics, fitted.model_from_original)
    return frame.Frame(fitted.image, item.timestamp, item.name, depth, intrinsics, item.world_from_camera)


def _grey(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
    import cv2

    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _true_flow(
    source: frame.Frame, target: frame.Frame
) -> tuple[Float[Tensor, "H W 2"], Bool[Tensor, "H W"], Bool[Tensor, "H W"]]:
    """Where the source's points lie in the target's image, hidden or not; where they are known; where both see them."""
    both = [(item.depth, item.intrinsics, item.world_from_camera) for item in (source, target)]
    depth, intrinsics, poses = (torch.from_numpy(np.stack(values))[None].double() for values in zip(*both))
    points = transform_maps(poses[:, 0], unproject(depth[:, 0], intrinsics[:, 0]))
    flow, z = project_flow(points, invert(poses[:, 1]), intrinsics[:, 1])
    _, seen = flow_from_depth(depth, intrinsics, poses)
    return flow[0].float(), (depth[0, 0] > 0) & (z[0] > 1e-6), seen[0]


def _truth_error(truth: Float[Tensor, "H W 2"], known: Bool[Tensor, "H W"], a: Features, b: Features) -> float:
    matches = epipolar_inliers(match_features(a, b))
    if matches is None:
        return float("nan")
    height, width = known.shape
    x, y = np.rint(matches[:, 0]).astype(int).T
    x, y = x.clip(0, width - 1), y.clip(0, height - 1)
    error = np.linalg.norm(matches[:, 1] - matches[:, 0] - truth.numpy()[y, x], axis=-1)[known.numpy()[y, x]]
    return float(np.median(error)) if len(error) >= LEAST_MATCHES else float("nan")
