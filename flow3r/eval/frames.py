"""Posed frames on a model's grid, and the exact flow between them where there is depth."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flow3r.data.frame import Frame
from flow3r.data.transforms import choose_grid, fit_depth, fit_frame, fit_intrinsics
from flow3r.geometry.camera import inside_image, pixel_grid
from flow3r.geometry.flow import flow_from_depth
from flow3r.types import Flow, Views


def views_from_frames(frames: Sequence[Frame], tokens: tuple[int, int], patch: int = 14) -> Views:
    """Frames of one scene (B = 1), cropped and resized to one grid with their labels in single precision.

    Depth, intrinsics and poses are there if any frame has depth, and all have intrinsics or poses: a frame without
    depth is unknown (0) everywhere.
    """
    size = choose_grid([frame.image.shape[:2] for frame in frames], tokens, patch)
    fitted = [fit_frame(frame.image, size) for frame in frames]
    images = torch.from_numpy(np.stack([fit.image for fit in fitted])).movedim(-1, 1).float() / 255
    labels = labels_on_grid(frames, np.stack([fit.model_from_original for fit in fitted]), size)
    single = {
        name: None if getattr(labels, name) is None else getattr(labels, name).float()
        for name in ("depth", "intrinsics", "world_from_camera")
    }
    return replace(labels, images=images[None], **single)


def labels_on_grid(
    frames: Sequence[Frame], grid_from_image: Float[np.ndarray, "N 3 3"], size: tuple[int, int]
) -> Views:
    """The labels of frames of one scene (B = 1) on a grid `size` = (H, W), with black images; cameras in float64.

    `grid_from_image` maps homogeneous pixels of each frame to those of the grid: a crop or padding, and a resize. Depth
    is that of the original pixel under each centre, 0 (unknown) on padding; intrinsics are exact. Which labels there
    are: see `views_from_frames`. The world is moved so that the cameras' centroid is its origin.
    """
    depth = intrinsics = poses = None
    if all(frame.intrinsics is not None for frame in frames):
        fits = [fit_intrinsics(frame.intrinsics, affine) for frame, affine in zip(frames, grid_from_image)]
        intrinsics = torch.from_numpy(np.stack(fits)).double()[None]
    if all(frame.world_from_camera is not None for frame in frames):
        poses = torch.from_numpy(np.stack([frame.world_from_camera for frame in frames])).double()[None]
        # A world's origin may be far away, which costs digits.
        poses[:, :, :3, 3] -= poses[:, :, :3, 3].mean(1, keepdim=True)
    if any(frame.depth is not None for frame in frames):
        unknown = np.zeros(size, dtype=np.float32)
        depths = [
            unknown if frame.depth is None else fit_depth(frame.depth, affine, size).astype(np.float32)
            for frame, affine in zip(frames, grid_from_image)
        ]
        depth = torch.from_numpy(np.stack(depths))[None]
    black = torch.zeros(()).expand(1, len(frames), 3, *size)
    return Views(black, depth, intrinsics, poses, names=(tuple(frame.name for frame in frames),))


def flow_on_grid(flow: Flow, grid_from_image: Float[np.ndarray, "N 3 3"], size: tuple[int, int]) -> Flow:
    """Flow between frames of one scene (B = 1) on a grid (`labels_on_grid`): that of the nearest original pixel.

    A pixel of the grid keeps the place in the target that its original pixel's vector leads to. Outside the original
    image, and where `flow` is unknown, covisible is 0.
    """
    height, width = flow.displacement.shape[2:4]
    grids = torch.from_numpy(grid_from_image).double()
    scale, shift = grids[:, [0, 1], [0, 1]], grids[:, :2, 2]
    source, target = flow.pairs[0].unbind(-1)
    grid = pixel_grid(*size, dtype=torch.float64)
    original = (grid - shift[source][:, None, None]) / scale[source][:, None, None]
    inside = inside_image(original, height, width)
    x = original[..., 0].floor().long().clamp(0, width - 1)
    y = original[..., 1].floor().long().clamp(0, height - 1)
    pair = torch.arange(len(source))[:, None, None]
    reached = original + flow.displacement[0][pair, y, x]
    displacement = reached * scale[target][:, None, None] + shift[target][:, None, None] - grid
    covisible = torch.ones_like(original[..., 0]) if flow.covisible is None else flow.covisible[0][pair, y, x]
    covisible = torch.where(inside, covisible, 0.0).float()
    return Flow(flow.pairs, displacement.float()[None], covisible[None])


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
