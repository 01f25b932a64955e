"""What is known of every frame: written window by window, and finished once the windows stand in one world.

Where there are many frames, what has a value per pixel is kept on disk.
"""

import tempfile
import weakref
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flow3r.files import FrameStack
from flow3r.geometry.camera import (
    centred_intrinsics,
    focal_from_points,
    pixel_grid,
    project,
    shared_focal_from_points,
    unproject,
)
from flow3r.geometry.se3 import from_parts, invert, nearest_rotation, transform_maps
from flow3r.geometry.stitch import PosedPoints, move_cameras, similarity_parts
from flow3r.reconstruction.windows import NEAREST, Window

# Pixels that the one pinhole of all frames is solved from, of a frame and of all; ours: 32 frames of nano whole.
FRAME_PIXELS, SHARED_PIXELS = 20_000, 600_000
DENSE = {  # shape per pixel, and type
    "depth": ((), np.float32),
    "points": ((3,), np.float32),
    "raw_points": ((3,), np.float32),
    "confidence": ((), np.float32),
    "colours": ((3,), np.uint8),
    "valid": ((), np.bool_),
}


def in_memory(frames: int, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """Arrays for what has a value per pixel."""
    return {name: np.zeros((frames, *grid, *shape), dtype) for name, (shape, dtype) in DENSE.items()}


def on_disk(frames: int, grid: tuple[int, int], folder: Path | None) -> dict[str, FrameStack]:
    """The same as files in `folder`, which stay; without one, in a folder that goes when the last of them is let go."""
    kept = folder is not None
    folder = folder if kept else Path(tempfile.mkdtemp(prefix="flow3r-"))
    stacks = {
        name: FrameStack.create(folder / f"{name}.npy", (frames, *grid, *shape), dtype)
        for name, (shape, dtype) in DENSE.items()
    }
    if not kept:
        for stack in stacks.values():
            weakref.finalize(stack, _remove, stack.path)
    return stacks


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


class Record:
    """The frames so far. Until `finish`, `raw_points` are in each camera's frame, at the scale of its window.

    What stays is allocated at once: small pieces that outlive the large ones around them would tear up the heap, and
    memory would grow with the number of frames after all.
    """

    def __init__(self, dense: dict[str, np.ndarray] | dict[str, FrameStack]):
        frames = len(dense["depth"])
        self.dense = dense
        self.count = 0
        self.windows = torch.zeros(frames, dtype=torch.long)  # the window that each frame is taken from
        self.poses = torch.zeros(frames, 4, 4, dtype=torch.float64)  # in that window's world
        self.focals = torch.zeros(frames, dtype=torch.float64)

    def add(self, window: Window, number: int, stop: int) -> None:
        """Take the frames up to position `stop` (exclusive) from `window`, the `number`-th."""
        start, self.count = self.count, stop
        posed = window.posed_points(start, stop)
        poses = posed.world_from_camera.double()
        self.poses[start:stop] = from_parts(nearest_rotation(poses[:, :3, :3]), poses[:, :3, 3])
        self.windows[start:stop] = number
        for frame, (local, weight) in enumerate(zip(posed.local_points, posed.weight), start):
            here = frame - window.start
            valid = torch.from_numpy(window.pixels.valid[here]) & (local[..., 2] > NEAREST)
            self.dense["raw_points"][frame] = local.numpy()
            self.dense["confidence"][frame] = window.prediction.confidence[here].numpy()
            self.dense["colours"][frame] = window.pixels.images[here]
            self.dense["valid"][frame] = valid.numpy()
            self.focals[frame] = focal_from_points(local.double(), weight.double())

    def posed_points(self, frames: list[int], world_from_window: Float[Tensor, "N 4 4"]) -> PosedPoints:
        """Some frames in the world, before `finish`; `world_from_window` is of every frame's window."""
        placed = world_from_window[torch.tensor(frames)]
        scale, _, _ = similarity_parts(placed)
        local, weight = zip(*(self._local(frame) for frame in frames))
        local = scale[:, None, None, None] * torch.stack(local)
        return PosedPoints(local, torch.stack(weight), move_cameras(placed, self.poses[torch.tensor(frames)]))

    def _local(self, frame: int) -> tuple[Float[Tensor, "H W 3"], Float[Tensor, "H W"]]:
        """A frame's points in its camera's frame, before `finish`, and their confidence, 0 where there is no point."""
        valid = torch.from_numpy(self.dense["valid"][frame])
        confidence = torch.from_numpy(self.dense["confidence"][frame])
        return torch.from_numpy(self.dense["raw_points"][frame]), torch.where(valid, confidence, 0.0)

    def _shared_focal(self) -> Float[Tensor, ""]:
        """The one focal length of all frames, from a part of their pixels if they are many."""
        frames, height, width = self.dense["depth"].shape
        stride = 1
        while (height // stride) * (width // stride) > FRAME_PIXELS:
            stride += 2
        size = _thinned(torch.zeros(height, width), stride).shape
        chosen = range(0, frames, -(-frames * size.numel() // SHARED_PIXELS))
        points, weight = torch.zeros(len(chosen), *size, 3), torch.zeros(len(chosen), *size)
        for k, frame in enumerate(chosen):
            local, confidence = self._local(frame)
            points[k], weight[k] = _thinned(local, stride), _thinned(confidence, stride)
        return stride * shared_focal_from_points(points.double(), weight.double())

    def finish(
        self, world_from_window: Float[Tensor, "N 4 4"], pinhole: str
    ) -> dict[str, np.ndarray | FrameStack | str]:
        """Poses in the first camera's frame, pinholes from the pointmaps, points at their depth on the pinholes' rays.

        `world_from_window` is of every frame's window. Everything is in the units of the first one.
        """
        height, width = self.dense["depth"].shape[1:3]
        scale, _, _ = similarity_parts(world_from_window)
        poses = move_cameras(world_from_window, self.poses)
        first = torch.eye(4, dtype=poses.dtype)[None]  # exactly, not to rounding
        world_from_camera = torch.cat([first, invert(poses[0]) @ poses[1:]])

        frame_intrinsics = centred_intrinsics(self.focals, height, width)
        shared_intrinsics = centred_intrinsics(self._shared_focal(), height, width)
        intrinsics = shared_intrinsics.expand_as(frame_intrinsics) if pinhole == "shared" else frame_intrinsics
        residual = torch.zeros_like(self.focals)
        for frame in range(self.count):
            residual[frame] = self._finish_frame(frame, scale[frame], world_from_camera[frame], intrinsics[frame])
        return {
            "world_from_camera": world_from_camera.numpy(),
            "intrinsics": intrinsics.numpy().copy(),
            "frame_intrinsics": frame_intrinsics.numpy(),
            "shared_intrinsics": shared_intrinsics.numpy(),
            "intrinsics_residual": residual.numpy(),
            "pinhole": pinhole,
            **self.dense,
        }

    def _finish_frame(self, frame: int, scale: Tensor, world_from_camera: Tensor, intrinsics: Tensor) -> Tensor:
        """Bring the pixels of a frame into the world; returns the residual of its pinhole."""
        local, weight = (values.double() for values in self._local(frame))
        local = scale * local
        depth = torch.where(torch.from_numpy(self.dense["valid"][frame]), local[..., 2], 0.0)
        points = transform_maps(world_from_camera, unproject(depth, intrinsics))
        self.dense["depth"][frame] = depth.float().numpy()
        self.dense["points"][frame] = points.float().numpy()
        self.dense["raw_points"][frame] = transform_maps(world_from_camera, local).float().numpy()
        return _residual(local, intrinsics, weight)


def _thinned(values: Float[Tensor, "H W *c"], stride: int) -> Float[Tensor, "h w *c"]:
    """One pixel of every `stride` (odd) in both directions: the centres of the pixels of a coarser, centred image."""
    for axis, size in enumerate(values.shape[:2]):
        count = size // stride
        count -= (size - count * stride) % 2  # as much is left over at either side
        first = (size - count * stride) // 2 + stride // 2
        values = values.index_select(axis, first + stride * torch.arange(count))
    return values


def _residual(
    local: Float[Tensor, "H W 3"], intrinsics: Float[Tensor, "3 3"], weight: Float[Tensor, "H W"]
) -> Float[Tensor, ""]:
    """RMS pixels, weighted by confidence, between where raw points project and the centres of their pixels."""
    error = project(local, intrinsics) - pixel_grid(*weight.shape, dtype=local.dtype)
    squared = (weight * error.square().sum(-1)).sum()
    return (squared / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)).sqrt()
