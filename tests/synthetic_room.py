"""A room of exact geometry, red above and blue below, and a model that knows it."""

import numpy as np
import torch
from torch import nn

from flow3r.data.transforms import fit_frame
from flow3r.geometry.camera import camera_rays
from flow3r.types import Prediction, Reconstruction

LOW, HIGH = np.array([-3.0, -2.0, -4.0]), np.array([4.0, 1.2, 6.0])
HORIZON = -0.4  # y of the border between red and blue


def pose(yaw: float, position: tuple[float, float, float], roll: float = 0.0) -> np.ndarray:
    """World from camera."""
    (c, s), (cr, sr) = (np.cos(yaw), np.sin(yaw)), (np.cos(roll), np.sin(roll))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    matrix[:3, 3] = position
    return matrix


def walk(count: int) -> np.ndarray:
    """Poses of a hand-held walk that starts at the identity."""
    return np.stack([pose(0.05 * i, (0.2 * i, -0.02 * i, 0.05 * i), 0.03 * i) for i in range(count)])


def render(world_from_camera: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Depth (H W), world points (H W 3) and colours (H W 3) of one camera inside the room, exact at pixel centres."""
    return render_rays(world_from_camera, camera_rays(torch.from_numpy(intrinsics), *size).numpy())


def render_rays(world_from_camera: np.ndarray, local_rays: np.ndarray) -> tuple[np.ndarray, ...]:
    """As `render`, along any rays (H W 3) of depth 1 in the camera's frame."""
    rays = local_rays @ world_from_camera[:3, :3].T
    centre = world_from_camera[:3, 3]
    walls = np.where(rays > 0, HIGH, LOW) - centre
    depth = np.divide(walls, rays, out=np.full_like(rays, np.inf), where=rays != 0).min(axis=-1)
    points = centre + rays * depth[..., None]
    colours = np.where(points[..., 1:2] < HORIZON, [220, 50, 40], [40, 60, 220]).astype(np.uint8)
    return depth, points, colours


def intrinsics_of(focal: float, size: tuple[int, int]) -> np.ndarray:
    """A centred pinhole."""
    return np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1.0]])


def room_reconstruction(
    count: int = 3,
    grid: tuple[int, int] = (42, 56),
    original: tuple[int, int] = (101, 187),
    fit: str = "crop",
    focals: tuple[float, ...] = (150.0,),
) -> Reconstruction:
    """A perfect reconstruction of frames of size `original`, fitted to `grid`; focal lengths are of the originals."""
    poses = walk(count)
    focals = focals * count if len(focals) == 1 else focals
    fitted = fit_frame(np.zeros((*original, 3), dtype=np.uint8), grid, fit)
    intrinsics = np.stack([fitted.model_from_original @ intrinsics_of(focal, original) for focal in focals])
    rendered = [render(poses[i], intrinsics[i], grid) for i in range(count)]
    depth, points, colours = (np.stack(part) for part in zip(*rendered))
    valid = np.repeat(fitted.valid[None], count, axis=0)
    return Reconstruction(
        names=tuple(f"frame {i} </script><b>é" for i in range(count)),
        frame_indices=np.arange(count) * 5,
        timestamps=np.arange(count) * 0.2,
        original_sizes=np.tile(original, (count, 1)),
        original_from_model=np.tile(np.linalg.inv(fitted.model_from_original), (count, 1, 1)),
        world_from_camera=poses,
        intrinsics=intrinsics,
        frame_intrinsics=intrinsics,
        shared_intrinsics=intrinsics[0],
        intrinsics_residual=np.full(count, 0.25),
        depth=np.where(valid, depth, 0).astype(np.float32),
        points=points.astype(np.float32),
        raw_points=points.astype(np.float32),
        confidence=np.exp(-0.1 * np.linalg.norm(points - poses[:, None, None, :3, 3], axis=-1)).astype(np.float32),
        colours=colours,
        valid=valid,
        pinhole="shared",
        source="a walk & a <room>",
        model="exact",
        weights_sha256="0" * 64,
        timings={"predict": 0.5},
    )


def original_images(reconstruction: Reconstruction) -> list[np.ndarray]:
    """The frames that were used, rendered at original size."""
    return [
        render(*item, tuple(size.tolist()))[2]
        for *item, size in zip(
            reconstruction.world_from_camera, reconstruction.original_intrinsics, reconstruction.original_sizes
        )
    ]


class ExactModel(nn.Module):
    """Predicts the room exactly, in a world of its own. Every image is uniformly grey: 10 times the number of its pose.

    `focal` is of the original images; `noise` is the relative error of the pointmaps across their rays.
    """

    def __init__(self, poses: np.ndarray, focal: float, original: tuple[int, int], noise: float = 0.0):
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.poses, self.focal, self.original, self.noise = poses, focal, original, noise
        self.seen: list[tuple[bool, bool, tuple[int, ...]]] = []

    def forward(self, images: torch.Tensor, *, outputs: tuple[str, ...]) -> Prediction:
        self.seen.append((self.training, torch.is_grad_enabled(), tuple(images.shape)))
        size = tuple(images.shape[-2:])
        numbers = (images[0, :, 0, size[0] // 2, size[1] // 2] * 25.5).round().int().tolist()
        model_from_original = fit_frame(np.zeros((*self.original, 3), dtype=np.uint8), size).model_from_original
        intrinsics = model_from_original @ intrinsics_of(self.focal, self.original)
        depth = torch.from_numpy(np.stack([render(self.poses[i], intrinsics, size)[0] for i in numbers]))
        local = camera_rays(torch.from_numpy(intrinsics), *size) * depth[..., None]
        wobble = torch.randn(local.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        local = local + self.noise * wobble * local[..., 2:] * torch.tensor([1.0, 1.0, 0.0])
        # A world of its own, which depends on the order of the images.
        elsewhere = torch.from_numpy(pose(0.7 + numbers[0], (3.0, -1.0, 2.0), 0.4))
        poses = elsewhere @ torch.from_numpy(self.poses[numbers])
        return Prediction(
            local_points=local[None].float(),
            confidence_logit=(2.0 - depth)[None].float(),
            world_from_camera=poses[None].float(),
        )
