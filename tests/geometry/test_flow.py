"""Flow: against analytic homographies and constructed occlusions; warps, grids, the public checkpoint's coordinates."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from flow3r.geometry.camera import camera_rays, crop_and_resize_affine, inside_image, pixel_grid
from flow3r.geometry.flow import (
    flow_from_depth,
    forward_backward_error,
    median_length,
    ndc_from_pixels,
    pixels_from_ndc,
    project_flow,
    resize_flow,
    warp,
)
from flow3r.geometry.se3 import from_parts, invert, rotation_from_axis_angle

HEIGHT, WIDTH = 24, 32
LENSES = torch.tensor(
    [[[30, 0, 15.2], [0, 31, 12.4], [0, 0, 1]], [[26, 0, 16.6], [0, 27, 11.1], [0, 0, 1]]], dtype=torch.float64
)


def plane_seen_by(normal: torch.Tensor, distance: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    """Depth of the plane normal · X = distance of the camera's frame."""
    return distance / (camera_rays(intrinsics, HEIGHT, WIDTH) @ normal)


def slanted_plane(intrinsics: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Depths and poses of two views of a plane, and the homography that it induces from view 0 to view 1."""
    rotation = rotation_from_axis_angle(torch.tensor([0.05, -0.1, 0.08], dtype=torch.float64))
    translation = torch.tensor([0.3, -0.1, 0.2], dtype=torch.float64)
    normal = F.normalize(torch.tensor([0.2, -0.3, 1.0], dtype=torch.float64), dim=0)
    distance = torch.tensor(3.0, dtype=torch.float64)
    world_from_view0 = from_parts(
        rotation_from_axis_angle(torch.tensor([1.0, 0.4, -2.0], dtype=torch.float64)), torch.randn(3).double()
    )
    world_from_view1 = world_from_view0 @ invert(from_parts(rotation, translation))
    normal1 = rotation @ normal
    depth0 = plane_seen_by(normal, distance, intrinsics[0])
    depth1 = plane_seen_by(normal1, distance + normal1 @ translation, intrinsics[1])
    homography = rotation + translation[:, None] * normal / distance
    homography = intrinsics[1] @ homography @ torch.linalg.inv(intrinsics[0])
    return torch.stack([depth0, depth1])[None], torch.stack([world_from_view0, world_from_view1])[None], homography


def two_planes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A wall at z = 4 and a square at z = 2; the camera steps right so that the wall moves 4 px left, the square 8.

    Returns depths, intrinsics and poses of the two views, and where the square is in view 0 (columns 16-24 -> 8-16).
    """
    depth = torch.full((1, 2, HEIGHT, WIDTH), 4.0)
    depth[:, 0, 8:16, 16:24] = 2
    depth[:, 1, 8:16, 8:16] = 2
    intrinsics = torch.tensor([[32.0, 0, 16], [0, 32, 12], [0, 0, 1]]).expand(1, 2, 3, 3)
    world_from_camera = torch.eye(4).repeat(1, 2, 1, 1)
    world_from_camera[:, 1, 0, 3] = 0.5
    square = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    square[8:16, 16:24] = True
    return depth, intrinsics, world_from_camera, square


def test_flow_of_a_plane_is_its_homography():
    depth, world_from_camera, homography = slanted_plane(LENSES)
    displacement, covisible = flow_from_depth(depth, LENSES[None], world_from_camera)
    grid = pixel_grid(HEIGHT, WIDTH, dtype=torch.float64)
    mapped = torch.cat([grid, torch.ones_like(grid[..., :1])], dim=-1) @ homography.mT
    expected = mapped[..., :2] / mapped[..., 2:] - grid
    inside = inside_image(grid + expected, HEIGHT, WIDTH)
    assert 0.3 < inside.double().mean() < 1
    assert torch.equal(covisible[0], inside)
    torch.testing.assert_close(displacement[0][inside], expected[inside])
    assert (displacement[0][~inside] == 0).all()


def test_flow_does_not_depend_on_the_world_frame_or_scale():
    depth, world_from_camera, _ = slanted_plane(LENSES)
    expected = flow_from_depth(depth, LENSES[None], world_from_camera)
    turn = rotation_from_axis_angle(torch.randn(3).double())
    moved = from_parts(turn, torch.randn(3).double()) @ world_from_camera
    moved[..., :3, 3] *= 7
    for part, truth in zip(flow_from_depth(7 * depth, LENSES[None], moved), expected):
        torch.testing.assert_close(part, truth)


def test_a_nearer_plane_hides_the_wall_behind_it():
    depth, intrinsics, world_from_camera, square = two_planes()
    displacement, covisible = flow_from_depth(depth, intrinsics, world_from_camera)
    wall_shift, square_shift = torch.tensor([-4.0, 0.0]), torch.tensor([-8.0, 0.0])
    torch.testing.assert_close(displacement[0][square], square_shift.expand(64, 2), atol=1e-4, rtol=0)
    assert covisible[0][square].all()
    # The wall's pixels of columns 12-20 land on the square's columns 8-16; a pixel of slack at the square's border.
    hidden = torch.zeros_like(square)
    hidden[8:15, 12:16] = True
    assert not covisible[0][hidden].any()
    border = torch.zeros_like(square)
    border[7:17, 11:21] = True
    clear = ~border & ~square
    clear[:, :4] = False
    assert covisible[0][clear].all()
    assert not covisible[0][:, :4].any()  # leaves the image
    torch.testing.assert_close(displacement[0][clear], wall_shift.expand(int(clear.sum()), 2), atol=1e-4, rtol=0)


def test_unknown_depth_on_either_side_is_not_covisible_and_has_no_flow():
    depth, intrinsics, world_from_camera, _ = two_planes()
    depth[:, 0, :2], depth[:, 1, -2:] = 0, 0
    displacement, covisible = flow_from_depth(depth, intrinsics, world_from_camera)
    assert not covisible[0, :2].any() and not covisible[0, -2:].any()
    assert covisible[0, 3:6, 4:].all()
    assert displacement.isfinite().all() and (displacement[~covisible] == 0).all()


def test_unknown_depth_is_not_covisible_even_where_the_camera_itself_would_match():
    depth, pose = torch.zeros(1, 2, HEIGHT, WIDTH), torch.eye(4).repeat(1, 2, 1, 1)
    depth[:, 1], pose[:, 1, 2, 3] = 1, -1  # view 1 stands behind view 0 and sees a surface where view 0 stands
    displacement, covisible = flow_from_depth(depth, LENSES.float()[None], pose)
    assert not covisible.any() and (displacement == 0).all()


def test_the_same_view_twice_has_no_flow_and_is_all_covisible():
    depth = 1 + torch.rand(1, 1, HEIGHT, WIDTH).expand(1, 2, -1, -1)
    pose = torch.eye(4).expand(1, 2, 4, 4)
    displacement, covisible = flow_from_depth(depth, LENSES[:1].float().expand(1, 2, 3, 3), pose)
    assert covisible.all()
    assert displacement.abs().max() < 1e-4


def test_covisible_depths_agree_to_three_percent():
    pose = torch.eye(4).expand(1, 2, 4, 4)
    for factor, agrees in ((0.975, True), (1.025, True), (0.965, False), (1.035, False)):
        depth = torch.tensor([2.0, 2.0 * factor]).view(1, 2, 1, 1).expand(1, 2, HEIGHT, WIDTH)
        _, covisible = flow_from_depth(depth, LENSES[:1].float().expand(1, 2, 3, 3), pose)
        assert (covisible == agrees).all()


def test_what_lies_behind_the_target_is_not_covisible():
    depth, pose = torch.full((1, 2, HEIGHT, WIDTH), 3.0), torch.eye(4).repeat(1, 2, 1, 1)
    pose[:, 1, 2, 3] = 5  # the target stands beyond the wall
    _, covisible = flow_from_depth(depth, LENSES.float()[None], pose)
    assert not covisible.any()


def test_projected_flow_has_the_true_gradient_and_a_finite_one_behind_the_camera():
    points = torch.randn(2, 3, 3, dtype=torch.float64)
    points[..., 2] += 6
    target_from_world = from_parts(rotation_from_axis_angle(torch.full((3,), 0.1).double()), torch.randn(3).double())
    arguments = (points.requires_grad_(), target_from_world.requires_grad_(), LENSES[0].clone().requires_grad_())
    assert torch.autograd.gradcheck(project_flow, arguments)
    behind = torch.tensor([[[0.3, 0.1, -2.0], [0.0, 0.0, 0.0]]], requires_grad=True)
    displacement, _ = project_flow(behind, torch.eye(4), LENSES[0].float())
    displacement.sum().backward()
    assert displacement.isfinite().all() and behind.grad.isfinite().all()


def test_flow_there_and_back_cancels_except_where_something_came_between():
    square = two_planes()[-1]
    forward = torch.tensor([-4.0, 0.0]).repeat(1, HEIGHT, WIDTH, 1)
    forward[0][square] = torch.tensor([-8.0, 0.0])
    backward = torch.tensor([4.0, 0.0]).repeat(1, HEIGHT, WIDTH, 1)
    backward[0, 8:16, 8:16] = torch.tensor([8.0, 0.0])
    error, inside = forward_backward_error(forward, backward)
    seen = (error < 1) & inside
    hidden = torch.zeros_like(square)
    hidden[8:16, 12:16] = True
    assert not seen[0][hidden].any()
    assert seen[0][square].all()
    assert seen[0][:, 4:][~(hidden | square)[:, 4:]].all()
    assert not inside[0][:, :4].any() and inside[0][:, 4:].all()
    # |f + b|² = 4², |f|² + |b|² = 4² + 8².
    assert error[0, 10, 13].item() == pytest.approx(16 / (0.01 * 80 + 0.5))
    assert (error[0][square] == 0).all()


def test_the_published_constants_of_the_forward_backward_check():
    """|f + b|² < 0.01 (|f|² + |b|²) + 0.5: a slack of 0.7 px for no flow, of a seventh of its length for a long one."""
    for length in (0.0, 3.0, 300.0):
        # The slack e at which f = (length, 0), b = (e - length, 0) meets the bound: a quadratic in e.
        slack = (-0.02 * length + ((0.02 * length) ** 2 + 3.96 * (0.02 * length**2 + 0.5)) ** 0.5) / 1.98
        for factor, passes in ((0.99, True), (1.01, False)):
            forward = torch.tensor([length, 0.0]).repeat(1, 2, 1000, 1)
            backward = torch.tensor([factor * slack - length, 0.0]).repeat(1, 2, 1000, 1)
            error, _ = forward_backward_error(forward, backward)
            assert ((error < 1) == passes).all()
    assert slack / length == pytest.approx(0.02**0.5, rel=0.1)


def test_warping_the_target_by_the_flow_shows_the_source():
    target = torch.rand(1, 3, HEIGHT, WIDTH)
    source = target.roll((-2, 3), dims=(-2, -1))  # source(x, y) = target(x - 3, y + 2)
    displacement = torch.tensor([-3.0, 2.0]).repeat(1, HEIGHT, WIDTH, 1)
    torch.testing.assert_close(warp(target, displacement)[..., :-2, 3:], source[..., :-2, 3:])


def test_warping_is_exact_between_pixels_of_a_linear_image_and_repeats_the_border():
    coordinates = pixel_grid(HEIGHT, WIDTH, dtype=torch.float64)
    displacement = torch.rand(1, HEIGHT, WIDTH, 2, dtype=torch.float64) * 3 - 1.5
    warped = warp(coordinates.movedim(-1, 0)[None], displacement).movedim(1, -1)
    low, high = torch.tensor([0.5, 0.5]), torch.tensor([WIDTH - 0.5, HEIGHT - 0.5])
    torch.testing.assert_close(warped[0], (coordinates + displacement[0]).clamp(low, high))


def test_resized_flow_is_the_flow_of_the_resized_images():
    homography = slanted_plane(LENSES)[-1]
    affine = crop_and_resize_affine((0, 0, WIDTH, HEIGHT), (3 * HEIGHT, 2 * WIDTH))
    grid, fine_grid = pixel_grid(HEIGHT, WIDTH).double(), pixel_grid(3 * HEIGHT, 2 * WIDTH).double()

    def displacement(matrix: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        mapped = torch.cat([at, torch.ones_like(at[..., :1])], dim=-1) @ matrix.mT
        return mapped[..., :2] / mapped[..., 2:] - at

    resized = resize_flow(displacement(homography, grid)[None], 3 * HEIGHT, 2 * WIDTH)[0]
    expected = displacement(affine @ homography @ torch.linalg.inv(affine), fine_grid)
    inner = (slice(3, -3), slice(3, -3))
    torch.testing.assert_close(resized[inner], expected[inner], atol=0.01, rtol=0)


def test_resizing_a_constant_flow_scales_its_vectors_with_the_image():
    flow = torch.tensor([3.0, -2.0]).repeat(1, HEIGHT, WIDTH, 1)
    resized = resize_flow(flow, HEIGHT // 2, WIDTH * 2)
    torch.testing.assert_close(resized, torch.tensor([6.0, -1.0]).expand(1, HEIGHT // 2, WIDTH * 2, 2))


def test_the_median_length_is_that_of_covisible_flow_alone():
    flow = torch.tensor([[[3.0, 4.0], [6.0, 8.0], [0.0, 99.0]]])
    assert median_length(flow, torch.tensor([[1.0, 0.2, 0.0]])) == 5.0  # the lower of two
    assert median_length(flow, torch.zeros(1, 3)) == 0.0


def test_ndc_is_plus_one_at_the_centre_of_the_top_left_pixel_and_points_left_and_up():
    corners = torch.zeros(HEIGHT, WIDTH, 2)
    corners[0, 0], corners[0, 1], corners[0, 2] = torch.tensor([1.0, 1.0]), -torch.ones(2), torch.zeros(2)
    pixels = pixels_from_ndc(corners)
    assert pixels[0, 0].tolist() == [0.5, 0.5]
    assert pixels[0, 1].tolist() == [WIDTH - 0.5, HEIGHT - 0.5]
    assert pixels[0, 2].tolist() == [WIDTH / 2, HEIGHT / 2]
    ndc = ndc_from_pixels(pixel_grid(HEIGHT, WIDTH))
    assert (ndc[:, 1:, 0] < ndc[:, :-1, 0]).all() and (ndc[1:, :, 1] < ndc[:-1, :, 1]).all()
    x, y = torch.arange(WIDTH), torch.arange(HEIGHT)  # the checkpoint's own integer centres
    torch.testing.assert_close(ndc[0, :, 0], 1 - 2 * x / (WIDTH - 1))
    torch.testing.assert_close(ndc[:, 0, 1], 1 - 2 * y / (HEIGHT - 1))


@settings(max_examples=25, deadline=None)
@given(height=st.integers(2, 40), width=st.integers(2, 40), spread=st.floats(0.1, 50))
def test_ndc_and_pixels_are_each_others_inverse(height, width, spread):
    pixels = spread * torch.randn(2, height, width, 2, dtype=torch.float64)
    torch.testing.assert_close(pixels_from_ndc(ndc_from_pixels(pixels)), pixels)
    torch.testing.assert_close(ndc_from_pixels(pixels_from_ndc(pixels)), pixels)
