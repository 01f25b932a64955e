"""Crops of clips: each view is cut to a window of its own and resized, and its labels stay true.

A window is (left, top, width, height) in whole pixels of the image that it is cut from.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from flow3r.data.transforms import resize_labels
from flow3r.geometry.camera import crop_and_resize_affine, inside_image, pixel_grid, transform_intrinsics
from flow3r.types import Flow, Views

Window = tuple[int, int, int, int]


def largest_window(image: tuple[int, int], size: tuple[int, int]) -> Window:
    """The largest centred window of an image (H, W) that has the aspect of `size` (H, W), to whole pixels."""
    return _placed(image, _window_size(image, size, 1.0), (0.5, 0.5))


def draw_window(image: tuple[int, int], size: tuple[int, int], least: float, generator: torch.Generator) -> Window:
    """A window anywhere in an image (H, W), with the aspect of `size` (H, W).

    Its sides are a share of the largest such window's, uniform in [least, 1], but not so small that the crop would have
    to be enlarged where the largest need not be.
    """
    enough = min(1.0, max(wanted / side for wanted, side in zip(size, _window_size(image, size, 1.0))))
    low = max(least, enough)
    share, x, y = torch.rand(3, generator=generator).tolist()
    return _placed(image, _window_size(image, size, low + (1 - low) * share), (x, y))


def _window_size(image: tuple[int, int], size: tuple[int, int], share: float) -> tuple[int, int]:
    scale = share * min(image[0] / size[0], image[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _placed(image: tuple[int, int], window: tuple[int, int], place: tuple[float, float]) -> Window:
    """A window (height, width) at a place (x, y) between the first and the last possible, each in [0, 1]."""
    left, top = (math.floor(place[k] * (image[1 - k] - window[1 - k] + 1)) for k in (0, 1))
    return min(left, image[1] - window[1]), min(top, image[0] - window[0]), window[1], window[0]


def crop_views(views: Views, windows: Int[Tensor, "B N 4"], size: tuple[int, int]) -> Views:
    """Every view's window, resized to `size` (H, W), with all of its labels.

    Depth and validity are those of the pixel under each new centre, never a mixture.
    """
    rows = windows.flatten(0, 1).tolist()
    intrinsics = views.intrinsics
    if intrinsics is not None:
        affines = torch.stack([crop_and_resize_affine(tuple(row), size) for row in rows])
        new_from_old = affines.to(intrinsics).unflatten(0, windows.shape[:2])
        intrinsics = transform_intrinsics(intrinsics, new_from_old)
    return replace(
        views,
        images=_each(_resized_crop, views.images, rows, size),
        depth=None if views.depth is None else _each(_picked_crop, views.depth, rows, size),
        intrinsics=intrinsics,
        valid=None if views.valid is None else _each(_picked_crop, views.valid, rows, size),
        flow=None if views.flow is None else crop_flow(views.flow, windows, size),
    )


def crop_flow(flow: Flow, windows: Int[Tensor, "B N 4"], size: tuple[int, int]) -> Flow:
    """Flow between the crops of views: its start moves with the source's window, its end with the target's.

    A pixel whose end leaves the target's crop is not covisible any more; one whose flow was unknown stays so. Where
    labels are resized, the rules are those of `resize_labels`.
    """
    cut = [
        [_cut(flow, b, p, windows[b, flow.pairs[b, p, 0]].tolist(), size) for p in range(flow.pairs.shape[1])]
        for b in range(flow.pairs.shape[0])
    ]
    if not cut or not cut[0]:
        empty = flow.displacement.new_zeros(*flow.pairs.shape[:2], *size, 2)
        return Flow(flow.pairs, empty, empty[..., 0])
    moved = torch.stack([torch.stack([displacement for displacement, _ in row]) for row in cut])
    covisible = torch.stack([torch.stack([known for _, known in row]) for row in cut])

    scene = torch.arange(len(windows), device=windows.device)[:, None]
    source, target = (windows[scene, flow.pairs[..., k]][:, :, None, None].to(moved) for k in (0, 1))  # B P 1 1 4
    extent = moved.new_tensor([size[1], size[0]])
    grid = pixel_grid(*size, device=moved.device, dtype=moved.dtype)
    start = source[..., :2] + grid * source[..., 2:] / extent  # in pixels of the whole source image
    end = (start + moved - target[..., :2]) * extent / target[..., 2:]  # in pixels of the target's crop
    covisible = covisible * inside_image(end, *size)
    return Flow(flow.pairs, torch.where(covisible[..., None] > 0, end - grid, 0.0), covisible)


def _cut(flow: Flow, b: int, p: int, window: list[int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """One pair's displacement, still in pixels of the whole image, and covisibility, over the source's crop."""
    left, top, width, height = window
    inside = (slice(b, b + 1), slice(p, p + 1), slice(top, top + height), slice(left, left + width))
    resized = resize_labels(
        Flow(flow.pairs[b : b + 1, p : p + 1], flow.displacement[inside], flow.covisible[inside]), size
    )
    extent = resized.displacement.new_tensor([width / size[1], height / size[0]])
    return resized.displacement[0, 0] * extent, resized.covisible[0, 0]


def _each(crop: Callable[..., Tensor], maps: Tensor, rows: list[list[int]], size: tuple[int, int]) -> Tensor:
    """`crop` of every view's map in (B N ...), each with its window."""
    flat = [crop(item, row, size) for item, row in zip(maps.flatten(0, 1), rows)]
    return torch.stack(flat).unflatten(0, maps.shape[:2])


def _resized_crop(image: Float[Tensor, "3 H W"], window: list[int], size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    left, top, width, height = window
    cut = image[:, top : top + height, left : left + width]
    if (height, width) == size:
        return cut
    return F.interpolate(cut[None], size, mode="bilinear", antialias=True, align_corners=False)[0].clamp(0, 1)


def _picked_crop(values: Tensor, window: list[int], size: tuple[int, int]) -> Tensor:
    left, top, width, height = window
    x = left + ((torch.arange(size[1], device=values.device) + 0.5) * width / size[1]).long()
    y = top + ((torch.arange(size[0], device=values.device) + 0.5) * height / size[0]).long()
    return values[y[:, None], x]
