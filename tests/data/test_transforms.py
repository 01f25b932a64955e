"""Crops, pads and resizes keep images unstretched, and intrinsics, depth and flow true."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flow3r.data.transforms import (
    choose_grid,
    fit_depth,
    fit_frame,
    fit_intrinsics,
    resize_image,
    resize_labels,
    undistort,
)
from flow3r.errors import InputError
from flow3r.types import Flow


@given(st.integers(40, 4000), st.integers(40, 4000))
@settings(max_examples=60, deadline=None)
def test_the_grid_has_whole_patches_in_number_and_keeps_the_aspect(height, width):
    rows, columns = choose_grid([(height, width)])
    assert rows % 14 == columns % 14 == 0
    assert 64 <= rows * columns // 196 <= 96
    if 0.4 <= width / height <= 2.5:
        assert 0.87 <= (columns / rows) / (width / height) <= 1.15


def test_the_grid_follows_the_median_aspect():
    assert choose_grid([(360, 540), (1000, 300), (720, 1080)]) == choose_grid([(360, 540)]) == (112, 168)
    rows, columns = choose_grid([(1080, 1920)], (510, 1300))
    assert 510 <= rows * columns // 196 <= 1300


def ramp(height: int, width: int) -> np.ndarray:
    """Red says x, green says y: half a level per pixel."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([x / 2, y / 2, np.zeros_like(x)], axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize("size", [(112, 168), (98, 182), (168, 112)])
@pytest.mark.parametrize("original", [(272, 500), (480, 400), (90, 130)])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_the_affine_map_says_where_every_pixel_came_from(size, original, fit):
    fitted = fit_frame(ramp(*original), size, fit)
    scale = np.diag(fitted.model_from_original)[:2]
    assert fitted.image.shape[:2] == fitted.valid.shape == size
    assert abs(scale[0] / scale[1] - 1) < 0.012  # no stretching but for whole pixels
    y, x = np.nonzero(fitted.valid)
    came_from = np.linalg.inv(fitted.model_from_original) @ np.stack([x + 0.5, y + 0.5, np.ones(len(x))])
    assert (came_from[:2] > -0.01).all()
    assert (came_from[:2] < np.array(original[::-1])[:, None] + 0.01).all()
    inner = (
        np.abs(came_from[:2] - np.array(original[::-1])[:, None] / 2) < 0.45 * np.array(original[::-1])[:, None]
    ).all(0)
    read = 2.0 * fitted.image[y, x].astype(float)[inner, :2]
    assert np.abs(read - came_from[:2].T[inner]).max() < 3
    assert np.abs((read - came_from[:2].T[inner]).mean(0)).max() < 0.25  # half a pixel of the grid would be more
    assert fitted.valid.all() or fit == "pad"


def test_a_crop_covers_and_is_centred_and_a_pad_shows_all():
    crop = fit_frame(ramp(100, 300), (112, 112))
    np.testing.assert_allclose(crop.model_from_original @ [150, 50, 1], [56, 56, 1], atol=0.6)
    pad = fit_frame(ramp(100, 300), (112, 112), "pad")
    assert pad.valid.any(0).all()
    assert pad.valid.any(1).mean() == pytest.approx(1 / 3, abs=0.02)


def test_intrinsics_and_depth_follow_the_image():
    """A tilted plane, unprojected on the grid, is the plane of the original."""
    height, width = 300, 500
    intrinsics = np.array([[400.0, 0, 260], [0, 410, 140], [0, 0, 1]])
    y, x = np.mgrid[:height, :width] + 0.5
    rays = np.stack([(x - 260) / 400, (y - 140) / 410, np.ones_like(x)])
    depth = (1 / (np.array([0.1, 0.05, 0.5]) @ rays.reshape(3, -1))).reshape(height, width)
    for fit in ("crop", "pad"):
        fitted = fit_frame(np.zeros((height, width, 3), np.uint8), (112, 154), fit)
        small = fit_depth(depth, fitted.model_from_original, (112, 154))
        assert set(np.unique(small)) <= {0.0, *np.unique(depth)}  # never a mixture
        assert ((small == 0) == ~fitted.valid).all()
        v, u = np.nonzero(small)
        rays_small = np.linalg.inv(fit_intrinsics(intrinsics, fitted.model_from_original)) @ [
            u + 0.5,
            v + 0.5,
            1 + 0 * u,
        ]
        np.testing.assert_allclose(np.array([0.1, 0.05, 0.5]) @ (rays_small * small[v, u]), 1, atol=3e-3)


def test_shrinking_averages():
    checkerboard = np.indices((120, 120)).sum(0)[..., None].repeat(3, 2) % 2 * 255
    small = resize_image(checkerboard.astype(np.uint8), (24, 24))
    assert np.abs(small.astype(int) - 127).max() < 16


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(InputError, match="200 x 13 pixels; at least 14 x 14"):
        fit_frame(np.zeros((13, 200, 3), np.uint8), (112, 168))


def test_undistortion_puts_points_where_a_pinhole_sees_them():
    intrinsics = np.array([[300.0, 0, 200.5], [0, 300, 150.5], [0, 0, 1]])
    distortion = [-0.2, 0.05, 0.001, -0.001, 0.0]
    directions = np.array([[-0.4, -0.3, 1], [0.3, 0.2, 1], [0.1, -0.35, 1]])
    no_turn = np.zeros(3)
    integer_centres = intrinsics - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    seen = cv2.projectPoints(directions, no_turn, no_turn, integer_centres, np.array(distortion))[0][:, 0]
    image, depth = np.zeros((300, 400, 3), np.uint8), np.full((300, 400), 5.0, np.float32)
    for number, (x, y) in enumerate(seen):
        cv2.circle(image, (round(x), round(y)), 4, (255, 255, 255), -1)
        depth[round(y) - 3 : round(y) + 4, round(x) - 3 : round(x) + 4] = number + 1
    straight, straight_depth = undistort(image, depth, intrinsics, distortion)
    assert set(np.unique(straight_depth)) <= {0, 1, 2, 3, 5}
    for number, ray in enumerate(directions):
        x, y = (intrinsics @ ray)[:2]
        spot = straight[int(y) - 8 : int(y) + 9, int(x) - 8 : int(x) + 9, 0].astype(float)
        rows, columns = np.indices(spot.shape) + 0.5
        centre = np.array([(spot * columns).sum(), (spot * rows).sum()]) / spot.sum() + [int(x) - 8, int(y) - 8]
        np.testing.assert_allclose(centre, [x, y], atol=0.6)
        assert straight_depth[int(y), int(x)] == number + 1


def test_labels_resize_with_their_vectors_and_do_not_mix_with_the_unknown():
    displacement = torch.full((1, 1, 60, 90, 2), 3.0)
    displacement[..., 1] = -6.0
    covisible = torch.full((1, 1, 60, 90), 0.8)
    displacement[:, :, :, 45:] = 1000.0  # meaningless, since it is not covisible
    covisible[:, :, :, 45:] = 0
    flow = resize_labels(Flow(torch.tensor([[[0, 1]]]), displacement, covisible), (20, 45))
    known = flow.covisible[0, 0] > 0
    assert known[:, :22].all()
    assert not known[:, 23:].any()
    torch.testing.assert_close(flow.displacement[0, 0][known], torch.tensor([1.5, -2.0]).expand(int(known.sum()), 2))
    torch.testing.assert_close(flow.covisible[0, 0][known], torch.full((int(known.sum()),), 0.8))


def test_no_labels_resize_to_no_labels():
    nothing = Flow(torch.zeros(1, 0, 2, dtype=torch.long), torch.zeros(1, 0, 9, 9, 2), torch.zeros(1, 0, 9, 9))
    assert resize_labels(nothing, (4, 6)).displacement.shape == (1, 0, 4, 6, 2)
