"""A rendered scene with exact labels, to be written in a format of a dataset, and what must hold of what is read."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from synthetic_room import render, walk

from flow3r.data.frame import Frame


@dataclass(frozen=True)
class Rendered:
    """Posed images in our conventions: OpenCV axes, world from camera, half-integer pixel centres, z-depth."""

    images: np.ndarray  # (N H W 3), uint8
    depth: np.ndarray  # (N H W), metres
    intrinsics: np.ndarray  # (3 3)
    world_from_camera: np.ndarray  # (N 4 4)


def rendered_scene(
    count: int = 3,
    size: tuple[int, int] = (48, 64),
    intrinsics: np.ndarray | None = None,
    poses: np.ndarray | None = None,
) -> Rendered:
    """A walk through a room; its pinhole is off-centre and not square, so that confused axes and halves show."""
    if intrinsics is None:
        intrinsics = np.array([[60.0, 0, size[1] / 2 + 1.75], [0, 57.0, size[0] / 2 - 1.25], [0, 0, 1]])
    poses = walk(count) if poses is None else poses
    depth, _, colours = zip(*(render(pose, intrinsics, size) for pose in poses))
    return Rendered(np.stack(colours), np.stack(depth), intrinsics, np.asarray(poses))


def check_frames(
    frames: Sequence[Frame],
    truth: Rendered,
    *,
    depth_step: float = 1e-3,
    depth_relative: float = 1e-3,
    colours: float = 12.0,
    unit: float = 1.0,
) -> None:
    """Intrinsics, relative poses, depth where it is known, and colours are those of the truth; points reproject.

    `depth_step` in the truth's metres and `depth_relative` bound what the format's encoding loses; `unit`: scene units
    in a metre; `colours`: mean difference of 8-bit values that the image format may make.
    """
    assert len(frames) == len(truth.images)
    first, true_first = frames[0].world_from_camera, truth.world_from_camera[0]
    for k, frame in enumerate(frames):
        assert frame.image.shape == truth.images[k].shape
        assert np.abs(frame.image.astype(float) - truth.images[k]).mean() < colours
        np.testing.assert_allclose(frame.intrinsics, truth.intrinsics, atol=2e-3, rtol=1e-5)
        relative = np.linalg.inv(first) @ frame.world_from_camera
        true_relative = np.linalg.inv(true_first) @ truth.world_from_camera[k]
        np.testing.assert_allclose(relative[:3, :3], true_relative[:3, :3], atol=1e-5)
        np.testing.assert_allclose(relative[:3, 3] / unit, true_relative[:3, 3], atol=1e-4)
        if frame.depth is not None:
            known = frame.depth > 0
            assert known.mean() > 0.5
            error = np.abs(frame.depth / unit - truth.depth[k])[known]
            assert (error <= depth_step + depth_relative * truth.depth[k][known]).all()
    if all(frame.depth is not None for frame in frames):
        assert worst_reprojection(frames, truth) < 0.1


def worst_reprojection(frames: Sequence[Frame], truth: Rendered) -> float:
    """Pixels between where a point read from one frame falls in the next, and where the true point falls."""
    worst = 0.0
    for k in range(len(frames) - 1):
        known = frames[k].depth > 0
        ours = _projected(frames[k].depth, frames[k].intrinsics, frames[k].world_from_camera, frames[k + 1])
        true_next = Frame(frames[k + 1].image, 0.0, "", None, truth.intrinsics, truth.world_from_camera[k + 1])
        theirs = _projected(truth.depth[k], truth.intrinsics, truth.world_from_camera[k], true_next)
        worst = max(worst, float(np.linalg.norm(ours - theirs, axis=-1)[known].max()))
    return worst


def _projected(depth: np.ndarray, intrinsics: np.ndarray, world_from_camera: np.ndarray, target: Frame) -> np.ndarray:
    height, width = depth.shape
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(intrinsics).T
    points = np.concatenate([rays * depth[..., None], np.ones((height, width, 1))], axis=-1)
    target_from_source = np.linalg.inv(target.world_from_camera) @ world_from_camera
    seen = (points @ target_from_source.T)[..., :3] @ target.intrinsics.T
    return seen[..., :2] / seen[..., 2:]
