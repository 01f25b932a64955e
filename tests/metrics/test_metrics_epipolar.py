"""The Sampson measure on an analytic scene: two planes before two or three cameras, one pixel-exact flow."""

import math

import pytest
import torch

from flow3r.geometry.camera import centred_intrinsics, pixel_grid, unproject
from flow3r.geometry.flow import project_flow
from flow3r.geometry.se3 import from_parts, invert, rotation_from_axis_angle, transform_maps
from flow3r.metrics.epipolar import (
    camera_distance,
    epipolar_errors,
    median_errors,
    rigid_pixels,
    rotation_distance,
    sampson_distance,
)

HEIGHT, WIDTH = 42, 56
PAIRS = torch.tensor([[0, 1], [1, 0], [0, 2]])


def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Exact flow for PAIRS, poses and intrinsics. Each pixel's match is one 3D point, whatever the depth."""
    depth = torch.full((3, HEIGHT, WIDTH), 2.0, dtype=torch.float64)
    depth[:, :, WIDTH // 2 :] = 6.0 + torch.arange(HEIGHT, dtype=torch.float64)[:, None] / 20
    axis_angle = torch.tensor([[0.0, 0, 0], [0.02, -0.06, 0.03], [-0.05, 0.04, 0.0]], dtype=torch.float64)
    centre = torch.tensor([[0.0, 0, 0], [0.5, 0.1, 0.2], [-0.2, 0.4, 0.1]], dtype=torch.float64)
    poses = from_parts(rotation_from_axis_angle(axis_angle), centre)
    intrinsics = centred_intrinsics(torch.tensor([50.0, 60.0, 55.0], dtype=torch.float64), HEIGHT, WIDTH)
    source, target = PAIRS.T
    points = transform_maps(poses[source], unproject(depth[source], intrinsics[source]))
    displacement, _ = project_flow(points, invert(poses[target]), intrinsics[target])
    return displacement, poses, intrinsics, torch.ones(3, HEIGHT, WIDTH, dtype=torch.bool)


def test_exact_flow_under_true_cameras_has_no_error_in_any_unit() -> None:
    displacement, poses, intrinsics, mask = scene()
    for scale in (1e-4, 1.0, 1e3):
        scaled = from_parts(poses[:, :3, :3], scale * poses[:, :3, 3])
        errors = epipolar_errors(displacement, mask, PAIRS, scaled, intrinsics)
        assert errors.median < 1e-9 and max(errors.per_pair) < 1e-9 and errors.static_pairs == 0


def test_wrong_cameras_have_an_error() -> None:
    displacement, poses, intrinsics, mask = scene()
    turned = poses.clone()
    turned[1, :3, :3] = turned[1, :3, :3] @ rotation_from_axis_angle(torch.tensor([0.1, 0, 0], dtype=torch.float64))
    longer = intrinsics.clone()
    longer[:, [0, 1], [0, 1]] *= 1.5
    for cameras in ((turned, intrinsics), (poses, longer), (invert(poses), intrinsics)):
        assert epipolar_errors(displacement, mask, PAIRS, *cameras).median > 0.1


def test_the_distance_does_not_depend_on_the_scale_of_the_baseline() -> None:
    displacement, poses, intrinsics, _ = scene()
    displacement = displacement + 0.5 * torch.randn(displacement.shape, dtype=torch.float64)
    small = from_parts(poses[:, :3, :3], 1e-3 * poses[:, :3, 3])
    one, _ = camera_distance(displacement, PAIRS, poses, intrinsics)
    other, _ = camera_distance(displacement, PAIRS, small, intrinsics)
    torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-6)


def test_sampson_is_the_least_joint_motion_of_both_points() -> None:
    # A pure shift along x: epipolar lines are rows in both images, so e pixels across are shared, e / √2 in all.
    fundamental = torch.tensor([[[0.0, 0, 0], [0, 0, -1], [0, 1, 0]]])
    displacement = torch.zeros(1, 5, 6, 2)
    displacement[..., 0], displacement[..., 1] = 3.0, 0.8
    expected = torch.full((1, 5, 6), 0.8 / math.sqrt(2), dtype=torch.float64)
    torch.testing.assert_close(sampson_distance(7 * fundamental, displacement), expected, atol=1e-6, rtol=0)


def test_coinciding_cameras_allow_the_homography_of_their_rotation_alone() -> None:
    _, poses, intrinsics, mask = scene()
    static = from_parts(poses[:, :3, :3], torch.ones(3, 3, dtype=torch.float64))
    source, target = PAIRS.T
    ahead = transform_maps(static[source], unproject(torch.full((3, HEIGHT, WIDTH), 2.0).double(), intrinsics[source]))
    turning, _ = project_flow(ahead, invert(static[target]), intrinsics[target])
    errors = epipolar_errors(turning, mask, PAIRS, static, intrinsics)
    assert errors.median < 1e-6 and errors.static_pairs == 3
    # With one camera twice the homography is the identity: the flow's own length, shared by both images.
    same = torch.eye(4, dtype=torch.float64).expand(3, 4, 4)
    distance, coincide = camera_distance(turning, PAIRS, same, intrinsics[:1].expand(3, 3, 3))
    assert coincide.all()
    torch.testing.assert_close(distance, turning.norm(dim=-1) / math.sqrt(2), atol=1e-6, rtol=0)


def test_no_motion_is_never_better_than_any_motion_of_the_same_rotation() -> None:
    _, poses, intrinsics, _ = scene()
    static = from_parts(poses[:, :3, :3], torch.zeros(3, 3, dtype=torch.float64))
    source, target = PAIRS.T
    ahead = transform_maps(static[source], unproject(torch.full((3, HEIGHT, WIDTH), 2.0).double(), intrinsics[source]))
    turning, _ = project_flow(ahead, invert(static[target]), intrinsics[target])
    nearly = turning + 0.05 * torch.randn(turning.shape, dtype=torch.float64)
    bound, _ = camera_distance(nearly, PAIRS, static, intrinsics)
    for _ in range(10):
        moving = from_parts(poses[:, :3, :3], torch.randn(3, 3, dtype=torch.float64))
        distance, _ = camera_distance(nearly, PAIRS, moving, intrinsics)
        assert (distance <= 1.01 * bound + 1e-6).all()


def test_rotation_distance_is_the_least_joint_motion_to_a_homography() -> None:
    # x' = 2x: error e in the target is shared 2 : 1 by source and target, e / √5 in all.
    doubling = torch.diag(torch.tensor([2.0, 2.0, 1.0]))[None]
    displacement = pixel_grid(4, 4)[None] + 1.0
    expected = torch.full((1, 4, 4), math.sqrt(2 / 5), dtype=torch.float64)
    torch.testing.assert_close(rotation_distance(doubling, displacement), expected, atol=1e-5, rtol=0)
    behind = torch.diag(torch.tensor([1.0, 1.0, -1.0]))[None]
    assert (rotation_distance(behind, displacement) == math.hypot(4, 4)).all()


def test_broken_cameras_are_a_diagonal_off() -> None:
    displacement, poses, intrinsics, mask = scene()
    broken, flat = poses.clone(), intrinsics.clone()
    broken[2, 0, 3] = torch.nan
    flat[2, 0, 0] = 0.0
    for cameras in ((broken, intrinsics), (poses, flat)):
        errors = epipolar_errors(displacement, mask, PAIRS, *cameras)
        assert errors.per_pair[2] == pytest.approx(math.hypot(HEIGHT, WIDTH)) and max(errors.per_pair[:2]) < 1e-9


def test_pairs_without_a_pixel_are_skipped_and_counted() -> None:
    distance = torch.stack([torch.full((2, 2), 3.0), torch.zeros(2, 2), torch.ones(2, 2)])
    mask = torch.ones(3, 2, 2, dtype=torch.bool)
    mask[1] = False
    errors = median_errors(distance, mask, torch.tensor([True, True, False]))
    assert errors.per_pair == (3.0, 1.0) and errors.skipped == 1 and errors.static_pairs == 1
    assert median_errors(distance, torch.zeros_like(mask), torch.zeros(3, dtype=torch.bool)) is None


def test_rigid_pixels_are_those_that_do_not_move_on_their_own() -> None:
    displacement, _, _, _ = scene()
    displacement = displacement + 0.1 * torch.randn(displacement.shape, dtype=torch.float64)
    covisible = torch.ones(3, HEIGHT, WIDTH)
    covisible[:, :3] = 0.0
    displacement[:, 10:20, 10:25] += torch.tensor([6.0, 9.0])
    rigid = rigid_pixels(displacement.float(), covisible)
    assert rigid.refusals == ("", "", "")
    assert not rigid.mask[:, :3].any()
    assert rigid.mask[:, 10:20, 10:25].double().mean() < 0.2
    background = rigid.mask[:, 3:].clone()
    background[:, 7:17, 10:25] = True
    assert background[:2].double().mean() > 0.7
    again = rigid_pixels(displacement.float(), covisible)
    assert torch.equal(again.mask, rigid.mask) and torch.equal(again.fundamental, rigid.fundamental)
    under_fit = median_errors(
        sampson_distance(rigid.fundamental, displacement), rigid.mask, torch.zeros(3, dtype=torch.bool)
    )
    assert under_fit.median < 0.15


def test_pairs_that_cannot_tell_are_refused_with_a_reason() -> None:
    displacement, _, _, _ = scene()
    still = 0.1 * torch.randn(1, HEIGHT, WIDTH, 2)
    rigid = rigid_pixels(torch.cat([still, displacement[:1].float()]), None)
    assert "near-static" in rigid.refusals[0] and rigid.refusals[1] == ""
    assert not rigid.mask[0].any() and rigid.mask[1].any()
    none = rigid_pixels(displacement.float(), torch.zeros(3, HEIGHT, WIDTH))
    assert all("0 matches" in reason for reason in none.refusals) and not none.mask.any()
    assert rigid_pixels(displacement[:0].float(), None).mask.shape == (0, HEIGHT, WIDTH)
