"""A long walk through a room of exact geometry, and a model that knows it up to a similarity of its own per window."""

from itertools import pairwise

import numpy as np
import torch
from synthetic_room import intrinsics_of, pose, render
from torch import nn

from flow3r.data.frame import Frame, check_indices
from flow3r.geometry.camera import camera_rays
from flow3r.geometry.se3 import invert, rotation_from_axis_angle, rotation_from_quaternion
from flow3r.geometry.stitch import move_cameras, similarity
from flow3r.types import Prediction

SIZE, FOCAL = (56, 70), 60.0  # whole patches: frames are fitted to the grid pixel by pixel
TOKENS = (20, 20)


def stroll(count: int, turns: float = 1.0) -> np.ndarray:
    """Poses along an ellipse inside the room, `turns` times around, looking ahead and a little inwards."""
    angles = np.linspace(0, 2 * np.pi * turns, count)
    centres = np.stack([0.5 + 1.6 * np.cos(angles), -0.4 + 0.3 * np.sin(3 * angles), 1 + 2.5 * np.sin(angles)], axis=-1)
    return np.stack([pose(-angle + 0.3, tuple(centre)) for angle, centre in zip(angles, centres)])


def length_of(poses: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=-1).sum())


class Walk:
    """The walk as a Sequence: the room's colours, and in the first pixel the number of the frame."""

    name = "walk"

    def __init__(self, poses: np.ndarray, papered: bool = False):
        """`papered`: the walls have a pattern that does not repeat."""
        self.poses, self.papered, self.asked = poses, papered, []

    def __len__(self) -> int:
        return len(self.poses)

    def timestamps(self) -> np.ndarray:
        return np.arange(len(self.poses)) / 10

    def sizes(self, indices):
        return [SIZE] * len(check_indices(indices, len(self)))

    def frames(self, indices):
        for index in check_indices(indices, len(self)):
            self.asked.append(index)
            _, points, image = render(self.poses[index], intrinsics_of(FOCAL, SIZE), SIZE)
            if self.papered:
                image = _paper(points)
            image[0, 0] = (*divmod(index, 256), 7)
            yield Frame(image, index / 10, f"walk_{index:04d}")


def _paper(points: np.ndarray) -> np.ndarray:
    """A random grey for every half metre."""
    x, y, z = np.moveaxis(np.floor(2 * points + 1e-6).astype(np.int64) + 20, -1, 0)
    greys = np.random.default_rng(0).integers(0, 255, 40**3, dtype=np.uint8)
    return np.repeat(greys[1600 * x + 40 * y + z][..., None], 3, axis=-1)


class Oracle(nn.Module):
    """Predicts the walk in a world and at a scale of each window's own.

    `bend`: radians by which the path turns too much from each frame of a window to the next.
    `noise`: relative standard deviation of the depth of every pixel, and of camera centres relative to a step between
    frames; a tenth of it, in radians, of rotations. `most`: more views than this exhaust the memory.
    """

    def __init__(self, poses: np.ndarray, noise: float = 0.0, most: int = 10_000, bend: float = 0.0):
        super().__init__()
        self.bend = bend
        self.poses, self.noise, self.most = torch.from_numpy(poses), noise, most
        self.step = length_of(poses) / max(1, len(poses) - 1)
        self.windows: list[list[int]] = []

    def forward(self, images: torch.Tensor, *, outputs: tuple[str, ...]) -> Prediction:
        code = (images[0, :, :2, 0, 0] * 255).round().long()
        numbers = (256 * code[:, 0] + code[:, 1]).tolist()
        self.windows.append(numbers)
        if len(numbers) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        generator = torch.Generator().manual_seed(1000 * len(numbers) + numbers[0])

        def normal(*shape: int) -> torch.Tensor:
            return self.noise * torch.randn(shape, generator=generator, dtype=torch.float64)

        intrinsics = intrinsics_of(FOCAL, SIZE)
        depth = torch.stack([torch.from_numpy(render(self.poses[i].numpy(), intrinsics, SIZE)[0]) for i in numbers])
        poses = self.poses[numbers].clone()
        poses[:, :3, :3] @= rotation_from_axis_angle(0.1 * normal(len(numbers), 3))
        poses[:, :3, 3] += self.step * normal(len(numbers), 3)
        poses = self._bent(poses)
        local = camera_rays(torch.from_numpy(intrinsics), *SIZE) * (depth * (1 + normal(*depth.shape)))[..., None]

        draw = {"generator": generator, "dtype": torch.float64}
        scale = torch.randn((), **draw).exp()
        own = similarity(scale, rotation_from_quaternion(torch.randn(4, **draw)), 5 * torch.randn(3, **draw))
        return Prediction(
            local_points=(scale * local)[None].float(),
            confidence_logit=(2.0 - depth)[None].float(),
            world_from_camera=move_cameras(own, poses)[None].float(),
        )

    def _bent(self, poses: torch.Tensor) -> torch.Tensor:
        turn = rotation_from_axis_angle(torch.tensor([0.0, self.bend, 0.3 * self.bend], dtype=torch.float64))
        bent = [poses[0]]
        for before, after in pairwise(poses):
            step = invert(before) @ after
            step[:3, :3] = step[:3, :3] @ turn
            bent.append(bent[-1] @ step)
        return torch.stack(bent)
