"""Cropped and resized clips: their flow is that of the cropped cameras, and warps one crop into the other."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_worlds import near_borders
from torch import Tensor
from torch.nn import functional as F

from flow3r.config import WorldsConfig
from flow3r.data.crops import crop_flow, crop_views, draw_window, largest_window
from flow3r.data.worlds import Worlds, render_worlds
from flow3r.geometry.camera import inside_image, pixel_grid
from flow3r.geometry.flow import flow_from_depth, warp
from flow3r.types import Flow, Views

SIZE = (112, 140)
PAIRS = torch.tensor([[0, 1], [1, 0], [2, 0]])
CUT = torch.tensor([[10, 5, 84, 70], [20, 30, 84, 70], [0, 14, 84, 70]])  # of one size: nothing is resized
MIXED = torch.tensor([[10, 4, 112, 84], [20, 28, 98, 70], [0, 14, 126, 98]])  # one size and aspect for each view


@pytest.fixture(scope="module")
def still() -> Worlds:
    pairs = PAIRS.expand(4, -1, -1)
    return render_worlds(range(4), 3, SIZE, config=WorldsConfig(moving_share=0.0), pairs=pairs, difficulty=0.3)


def windows_of(rows: Tensor, worlds: Worlds) -> Tensor:
    return rows.expand(len(worlds.views.images), -1, -1)


def from_cameras(views: Views) -> tuple[Tensor, Tensor]:
    """Flow and covisibility for the pairs of views, from their depth and cameras."""
    scene = torch.arange(len(views.images))[:, None, None]
    pairs = views.flow.pairs
    maps = (m[scene, pairs].flatten(0, 1) for m in (views.depth, views.intrinsics, views.world_from_camera))
    displacement, covisible = flow_from_depth(*maps)
    return displacement.unflatten(0, pairs.shape[:2]), covisible.unflatten(0, pairs.shape[:2])


def test_flow_of_crops_is_that_of_the_cropped_cameras(still: Worlds) -> None:
    cropped = crop_views(still.views, windows_of(CUT, still), (70, 84))
    displacement, covisible = from_cameras(cropped)
    both = covisible & (cropped.flow.covisible > 0)
    assert (cropped.flow.displacement - displacement).norm(dim=-1)[both].max() < 0.01  # pixels
    agree = (covisible == (cropped.flow.covisible > 0)).float().flatten(2).mean(-1)
    assert agree.min() > 0.9 and agree.mean() > 0.97
    assert 0.1 < both.float().mean() < 0.9


def inside_surfaces(worlds: Worlds, pairs: Tensor, windows: Tensor, size: tuple[int, int]) -> Tensor:
    """(B P H W): pixels of the sources' crops that are some pixels away from any other surface."""
    smooth = ~F.max_pool2d(near_borders(worlds).float(), 5, 1, 2).bool()
    marked = crop_views(Views(worlds.views.images, valid=smooth), windows, size).valid
    return marked[torch.arange(len(marked))[:, None], pairs[..., 0]]


def averaged_depth(worlds: Worlds, windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Depth on the crops. The inverse depth of a plane is linear: its mean is that of the new pixel's centre."""
    inverse = torch.where(worlds.views.depth > 0, 1 / worlds.views.depth.clamp_min(1e-3), 0.0)
    largest = inverse.amax()  # images lie in [0, 1]
    images = (inverse / largest)[:, :, None].expand(-1, -1, 3, -1, -1)
    small = crop_views(Views(images), windows, size).images[:, :, 0] * largest
    return torch.where(small > 0, 1 / small.clamp_min(1e-6), 0.0)


def test_flow_of_resized_crops_is_that_of_their_cameras(still: Worlds) -> None:
    size, windows = (42, 56), windows_of(MIXED, still)
    cropped = crop_views(still.views, windows, size)
    displacement, covisible = from_cameras(replace(cropped, depth=averaged_depth(still, windows, size)))
    both = covisible & (cropped.flow.covisible > 0.99) & inside_surfaces(still, cropped.flow.pairs, windows, size)
    error = (cropped.flow.displacement - displacement).norm(dim=-1)[both]
    assert both.float().mean() > 0.1
    assert error.quantile(0.99) < 0.1 and error.mean() < 0.02  # pixels


@pytest.mark.parametrize(("rows", "size"), [(CUT, (70, 84)), (MIXED, (42, 56)), (MIXED, (126, 168))])
def test_a_cropped_target_warps_into_the_cropped_source(rows: Tensor, size: tuple[int, int], still: Worlds) -> None:
    windows = windows_of(rows, still)
    cropped = crop_views(still.views, windows, size)
    scene = torch.arange(len(windows))[:, None]
    source, target = (cropped.images[scene, cropped.flow.pairs[..., k]].flatten(0, 1) for k in (0, 1))
    warped = warp(target, cropped.flow.displacement.flatten(0, 1))
    known = ((cropped.flow.covisible > 0.99) & inside_surfaces(still, cropped.flow.pairs, windows, size)).flatten(0, 1)
    error = (warped - source).square().mean(1)
    psnr = torch.tensor([float(-10 * e[k].mean().log10()) for e, k in zip(error, known) if k.sum() > 100])
    assert len(psnr) > 6 and psnr.median() > 30 and psnr.min() > 22  # dB; the worlds themselves: 30


def test_what_leaves_the_target_crop_is_not_covisible_and_unknown_stays_unknown(still: Worlds) -> None:
    windows = windows_of(CUT, still)
    cropped = crop_flow(still.views.flow, windows, (70, 84))
    ends = pixel_grid(70, 84) + cropped.displacement
    assert inside_image(ends, 70, 84)[cropped.covisible > 0].all()
    scene, pairs = torch.arange(len(windows))[:, None], cropped.pairs
    for b, p in ((0, 0), (1, 2), (3, 1)):
        left, top = windows[b, pairs[b, p, 0], :2].tolist()
        whole = still.views.flow.covisible[b, p, top : top + 70, left : left + 84]
        assert (cropped.covisible[b, p] <= whole).all()
    lost = still.views.flow.covisible[scene, torch.arange(3)].sum() > cropped.covisible.sum() > 0
    assert bool(lost)
    assert not cropped.displacement[cropped.covisible == 0].any()


def test_the_whole_image_at_its_own_size_is_itself(still: Worlds) -> None:
    whole = torch.tensor([[0, 0, SIZE[1], SIZE[0]]]).expand(len(still.views.images), 3, 4)
    same = crop_views(still.views, whole, SIZE)
    assert same.images.equal(still.views.images) and same.depth.equal(still.views.depth)
    torch.testing.assert_close(same.intrinsics, still.views.intrinsics)
    known = still.views.flow.covisible > 0
    assert (same.flow.covisible > 0).equal(known)
    torch.testing.assert_close(same.flow.displacement[known], still.views.flow.displacement[known], atol=1e-3, rtol=0)


def test_crops_of_crops_are_crops(still: Worlds) -> None:
    first, second = torch.tensor([8, 12, 120, 90]), torch.tensor([6, 4, 84, 70])
    at_once = torch.tensor([14, 16, 84, 70])
    shape = (len(still.views.images), 3, 4)
    twice = crop_views(crop_views(still.views, first.expand(shape), (90, 120)), second.expand(shape), (70, 84))
    once = crop_views(still.views, at_once.expand(shape), (70, 84))
    assert twice.images.equal(once.images) and twice.depth.equal(once.depth)
    assert (twice.flow.covisible > 0).equal(once.flow.covisible > 0)
    torch.testing.assert_close(twice.flow.displacement, once.flow.displacement, atol=1e-3, rtol=0)


def test_no_pairs_have_no_flow() -> None:
    views = Views(torch.rand(2, 2, 3, 28, 28), flow=Flow(torch.zeros(2, 0, 2).long(), *_nothing(2)))
    cropped = crop_views(views, torch.tensor([0, 0, 14, 28]).expand(2, 2, 4), (28, 14))
    assert cropped.flow.displacement.shape == (2, 0, 28, 14, 2)


def _nothing(scenes: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(scenes, 0, 28, 28, 2), torch.zeros(scenes, 0, 28, 28)


@given(*(st.integers(14, 400) for _ in range(4)), st.floats(0.1, 1.0), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_windows_lie_inside_and_keep_the_aspect(h, w, rows, columns, least, seed):
    generator = torch.Generator().manual_seed(seed)
    for window in (largest_window((h, w), (rows, columns)), draw_window((h, w), (rows, columns), least, generator)):
        left, top, width, height = window
        assert 0 <= left <= left + width <= w and 0 <= top <= top + height <= h and min(width, height) >= 1
        assert abs(width - height * columns / rows) <= 0.5 + 0.5 * columns / rows + 1e-6


def test_a_larger_image_is_never_enlarged_after_a_random_crop():
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_window((200, 300), (112, 112), 0.1, generator) for _ in range(50)]
    assert all(width >= 112 and height >= 112 for _, _, width, height in drawn)
    assert len({window[2] for window in drawn}) > 10 and len({window[0] for window in drawn}) > 10
