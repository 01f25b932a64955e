"""Posed frames on a model's grid, and the exact flow between them where there is depth."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from flow3r.data.frame import Frame
from flow3r.data.transforms import choose_grid, fit_depth, fit_frame, fit_intrinsics
from flow3r.geometry.flow import flow_from_depth
from flow3r.types import Flow, Views


def views_from_frames(frames: Sequence[Frame], tokens: tuple[int, int], patch: int = 14) -> Views:
    """Frames of one scene (B = 1), cropped and resized to one grid with their labels.

    Depth, intrinsics and poses are there if any frame has depth, and all have intrinsics or poses: a frame without
    depth is unknown (0) everywhere.
    """
    size = choose_grid([frame.image.shape[:2] for frame in frames], tokens, patch)
    fitted = [fit_frame(frame.image, size) for frame in frames]
    affines = [fit.model_from_original for fit in fitted]
    images = torch.from_numpy(np.stack([fit.image for fit in fitted])).movedim(-1, 1).float() / 255
    depth = intrinsics = poses = None
    if all(frame.intrinsics is not None for frame in frames):
        fits = [fit_intrinsics(frame.intrinsics, affine) for frame, affine in zip(frames, affines)]
        intrinsics = torch.from_numpy(np.stack(fits)).float()[None]
    if all(frame.world_from_camera is not None for frame in frames):
        poses = torch.from_numpy(np.stack([frame.world_from_camera for frame in frames]))
        # Centred before they are rounded to single precision, since a world's origin may be far away.
        poses = torch.cat([poses[:, :, :3], poses[:, :, 3:] - _last_column(poses[:, :3, 3].mean(0))], dim=-1)[
            None
        ].float()
    if any(frame.depth is not None for frame in frames):
        unknown = np.zeros(size, dtype=np.float32)
        depths = [
            unknown if frame.depth is None else fit_depth(frame.depth, affine, size).astype(np.float32)
            for frame, affine in zip(frames, affines)
        ]
        depth = torch.from_numpy(np.stack(depths))[None]
    names = (tuple(frame.name for frame in frames),)
    return Views(images[None], depth, intrinsics, poses, names=names)


def _last_column(centre: Tensor) -> Tensor:
    return torch.cat([centre, centre.new_zeros(1)])[:, None]


def with_exact_flow(views: Views, pairs: Int[Tensor, "B P 2"]) -> Views:
    """The views with the flow that their depth and poses imply for a static scene, and its covisibility."""
    flows = []
    for scene, chosen in enumerate(pairs):
        displacement, covisible = flow_from_depth(
            views.depth[scene][chosen], views.intrinsics[scene][chosen], views.world_from_camera[scene][chosen]
        )
        flows.append((displacement, covisible.to(displacement)))
    displacement, covisible = (torch.stack(parts) for parts in zip(*flows))
    return replace(views, flow=Flow(pairs, displacement, covisible))
