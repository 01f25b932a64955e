"""Pinhole cameras: pixel centres, OpenCV axes, z-depth, intrinsics under crops and resizes, focal length."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from flow3r.geometry.camera import (
    camera_rays,
    centred_intrinsics,
    crop_and_resize_affine,
    focal_from_points,
    inside_image,
    intrinsics_from_focal,
    pixel_grid,
    project,
    shared_focal_from_points,
    transform_intrinsics,
    unproject,
)

HEIGHT, WIDTH = 6, 8


def lens(fx: float = 9.0, fy: float = 8.0, cx: float = 4.3, cy: float = 2.8) -> torch.Tensor:
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)


def pixel_of(point: list[float], intrinsics: torch.Tensor) -> torch.Tensor:
    return project(torch.tensor(point, dtype=torch.float64).view(1, 1, 3), intrinsics)[0, 0]


def apply_affine(affine: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    return pixels @ affine[:2, :2].mT + affine[:2, 2]


def test_pixel_centres_are_half_integers_and_average_to_the_image_centre():
    grid = pixel_grid(HEIGHT, WIDTH)
    assert grid.shape == (HEIGHT, WIDTH, 2)
    assert grid[0, 0].tolist() == [0.5, 0.5]
    assert grid[-1, -1].tolist() == [WIDTH - 0.5, HEIGHT - 0.5]
    assert grid[2, 5].tolist() == [5.5, 2.5]  # row 2, column 5, as (x, y)
    assert grid.mean(dim=(0, 1)).tolist() == [WIDTH / 2, HEIGHT / 2]


def test_axes_are_x_right_y_down_z_forward():
    intrinsics = lens()
    ahead = pixel_of([0, 0, 2], intrinsics)
    assert ahead.tolist() == [4.3, 2.8]  # the optical axis meets the principal point
    right, below, nearer = (pixel_of(p, intrinsics) for p in ([0.1, 0, 2], [0, 0.1, 2], [0.1, 0.1, 1]))
    assert right[0] > ahead[0] and right[1] == ahead[1]
    assert below[1] > ahead[1] and below[0] == ahead[0]
    torch.testing.assert_close(nearer - ahead, torch.tensor([0.9, 0.8], dtype=torch.float64))


def test_intrinsics_hold_focal_lengths_and_principal_point():
    built = intrinsics_from_focal(torch.tensor([9.0, 8.0]).double(), torch.tensor([4.3, 2.8]).double())
    torch.testing.assert_close(built, lens())
    torch.testing.assert_close(
        centred_intrinsics(torch.tensor([9.0]).double(), HEIGHT, WIDTH)[0], lens(9.0, 9.0, WIDTH / 2, HEIGHT / 2)
    )


def test_every_pixel_unprojects_and_projects_back_onto_itself():
    depth = 0.5 + torch.rand(2, 3, HEIGHT, WIDTH, dtype=torch.float64)
    points = unproject(depth, lens().expand(2, 3, 3, 3))
    grid = pixel_grid(HEIGHT, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(project(points, lens().expand(2, 3, 3, 3)), grid.expand(2, 3, -1, -1, -1))


def test_depth_is_z_and_not_the_length_of_the_ray():
    depth = 0.5 + torch.rand(HEIGHT, WIDTH, dtype=torch.float64)
    points = unproject(depth, lens())
    torch.testing.assert_close(points[..., 2], depth)
    assert (points.norm(dim=-1) > depth).all()
    torch.testing.assert_close(points, camera_rays(lens(), HEIGHT, WIDTH) * depth[..., None])


def test_unknown_depth_unprojects_to_the_camera_itself():
    assert (unproject(torch.zeros(HEIGHT, WIDTH), lens().float()) == 0).all()


def test_points_behind_the_camera_project_to_finite_pixels_with_finite_gradients():
    points = torch.tensor([[[0.1, 0.2, -1.0], [0.1, 0.2, 0.0], [0.0, 0.0, 0.0]]], requires_grad=True)
    pixels = project(points, lens().float())
    pixels.sum().backward()
    assert pixels.isfinite().all() and points.grad.isfinite().all()


def test_projection_has_the_true_gradient_in_points_and_intrinsics():
    points = torch.randn(2, 2, 3, dtype=torch.float64)
    points[..., 2] += 4
    assert torch.autograd.gradcheck(project, (points.requires_grad_(), lens().requires_grad_()))


def test_resize_is_pure_scaling():
    affine = crop_and_resize_affine((0, 0, WIDTH, HEIGHT), (HEIGHT * 3, WIDTH * 2))
    torch.testing.assert_close(affine, torch.diag(torch.tensor([2.0, 3.0, 1.0], dtype=torch.float64)))
    corners = torch.tensor([[0.0, 0.0], [WIDTH, HEIGHT]], dtype=torch.float64)
    assert apply_affine(affine, corners).tolist() == [[0, 0], [WIDTH * 2, HEIGHT * 3]]


def test_resizing_an_image_moves_its_content_as_the_affine_says():
    """An image whose value is its own x (or y) coordinate shows after any resize the coordinate it came from."""
    coordinates = pixel_grid(24, 32, dtype=torch.float64).movedim(-1, 0)[None]
    for height, width in ((12, 16), (6, 8), (48, 64)):
        mode = {"mode": "area"} if height < 24 else {"mode": "bilinear", "align_corners": False}
        resized = F.interpolate(coordinates, (height, width), **mode)[0].movedim(0, -1)
        affine = crop_and_resize_affine((0, 0, 32, 24), (height, width))
        expected = apply_affine(torch.linalg.inv(affine), pixel_grid(height, width, dtype=torch.float64))
        torch.testing.assert_close(resized[2:-2, 2:-2], expected[2:-2, 2:-2])


def test_cropping_and_padding_an_array_move_its_content_as_the_affine_says():
    coordinates = pixel_grid(HEIGHT, WIDTH, dtype=torch.float64)
    cropped = coordinates[1:5, 3:7]
    affine = crop_and_resize_affine((3, 1, 4, 4), (4, 4))
    torch.testing.assert_close(apply_affine(affine, cropped), pixel_grid(4, 4, dtype=torch.float64))
    padded = F.pad(coordinates.movedim(-1, 0), (2, 1, 3, 0), value=-1.0).movedim(0, -1)
    affine = crop_and_resize_affine((-2, -3, WIDTH + 3, HEIGHT + 3), (HEIGHT + 3, WIDTH + 3))
    content = (padded >= 0).all(-1)
    assert content.sum() == HEIGHT * WIDTH
    expected = pixel_grid(HEIGHT + 3, WIDTH + 3, dtype=torch.float64)
    torch.testing.assert_close(apply_affine(affine, padded)[content], expected[content])


@settings(max_examples=30, deadline=None)
@given(
    crop=st.tuples(st.floats(-20, 20), st.floats(-20, 20), st.floats(1, 60), st.floats(1, 60)),
    size=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    point=st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.5, 5)),
)
def test_a_point_lands_on_the_transformed_pixel(crop, size, point):
    affine = crop_and_resize_affine(crop, size)
    expected = apply_affine(affine, pixel_of(list(point), lens()))
    torch.testing.assert_close(pixel_of(list(point), transform_intrinsics(lens(), affine)), expected)


def test_a_crop_and_then_a_resize_are_their_product():
    crop = crop_and_resize_affine((3, 1, 10, 6), (6, 10))
    resize = crop_and_resize_affine((0, 0, 10, 6), (12, 5))
    torch.testing.assert_close(resize @ crop, crop_and_resize_affine((3, 1, 10, 6), (12, 5)))


def test_the_image_spans_zero_to_its_size():
    edge = torch.tensor([[0.0, 0.0], [7.99, 5.99], [8.0, 3.0], [3.0, 6.0], [-0.01, 3.0], [3.0, -0.01]])
    assert inside_image(edge, HEIGHT, WIDTH).tolist() == [True, True, False, False, False, False]


def pointmap(focal: float, height: int = 40, width: int = 56) -> torch.Tensor:
    depth = 1 + torch.rand(height, width, dtype=torch.float64) * 3
    return unproject(depth, centred_intrinsics(torch.tensor(focal).double(), height, width))


def with_noise_and_outliers(points: torch.Tensor) -> torch.Tensor:
    """1 % of noise on every coordinate, and 10 % of the points thrown anywhere, also behind and close to the camera."""
    points = points * (1 + 0.01 * torch.randn_like(points))
    outlier = torch.rand(points.shape[:-1]) < 0.1
    return torch.where(outlier[..., None], 3 * torch.randn_like(points), points)


@settings(max_examples=15, deadline=None)
@given(focal=st.floats(20, 400), scale=st.floats(0.01, 100))
def test_the_focal_length_of_a_pinhole_pointmap_is_recovered_at_any_scale(focal, scale):
    points = scale * pointmap(focal)
    found = focal_from_points(points, torch.ones(points.shape[:2], dtype=torch.float64))
    assert found.item() == pytest.approx(focal, rel=1e-6)


@pytest.mark.parametrize("focal", [25.0, 60.0, 150.0])
def test_the_focal_length_survives_noise_and_outliers(focal):
    points = with_noise_and_outliers(pointmap(focal))
    found = focal_from_points(points, torch.ones(40, 56, dtype=torch.float64))
    assert found.item() == pytest.approx(focal, rel=0.01)


def test_masked_points_do_not_count():
    points, weight = pointmap(60.0), torch.ones(40, 56, dtype=torch.float64)
    points[:, :30], weight[:, :30] = torch.randn(40, 30, 3).double(), 0
    assert focal_from_points(points, weight).item() == pytest.approx(60.0, rel=1e-6)


def test_points_behind_the_camera_do_not_count():
    points = pointmap(60.0)
    points[::2, :, 2] *= -1
    assert focal_from_points(points, torch.ones(40, 56).double()).item() == pytest.approx(60.0, rel=1e-6)


def test_a_pointmap_without_a_focal_length_gets_a_normal_lens():
    """Nothing visible, everything behind, all points one point ahead or one point aside: the image's diagonal."""
    ahead = torch.tensor([0.0, 0.0, 2.0]).expand(40, 56, 3)
    aside = torch.tensor([0.13, -0.71, 1.7]).expand(40, 56, 3)
    points = torch.stack([ahead, -ahead, ahead, aside])
    weight = torch.ones(4, 40, 56)
    weight[2] = 0
    found = focal_from_points(points, weight)
    torch.testing.assert_close(found, torch.full((4,), (40**2 + 56**2) ** 0.5))


def test_points_that_know_nothing_of_their_pixels_get_a_normal_lens():
    points = torch.randn(16, 40, 56, 3)
    points[..., 2] = 1 + torch.rand(16, 40, 56)
    found = focal_from_points(points, torch.ones(16, 40, 56))
    torch.testing.assert_close(found, torch.full((16,), (40**2 + 56**2) ** 0.5))


def test_each_pointmap_of_a_batch_gets_its_own_focal_length():
    points = torch.stack([pointmap(30.0), pointmap(90.0)])
    found = focal_from_points(points, torch.ones(2, 40, 56).double())
    torch.testing.assert_close(found, torch.tensor([30.0, 90.0]).double())


def test_one_focal_length_is_found_for_many_frames_together():
    """Also where one of them alone says nothing, and where each is noisy."""
    frames = torch.stack(
        [with_noise_and_outliers(pointmap(60.0)), with_noise_and_outliers(pointmap(60.0)), -pointmap(9.0)]
    )
    found = shared_focal_from_points(frames[None], torch.ones(1, 3, 40, 56).double())
    assert found.shape == (1,)
    assert found.item() == pytest.approx(60.0, rel=0.01)
    single = pointmap(45.0)[None]
    torch.testing.assert_close(
        shared_focal_from_points(single, torch.ones(1, 40, 56).double()), torch.tensor(45.0).double()
    )


def test_the_pixel_at_the_very_centre_has_no_say_in_the_focal_length():
    points = pointmap(33.0, 9, 11)
    points[4, 5] = torch.tensor([5.0, 5.0, 1.0])
    assert focal_from_points(points, torch.ones(9, 11).double()).item() == pytest.approx(33.0)
