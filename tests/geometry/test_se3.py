"""Rigid motions: frames chain, rotations agree with independent formulas, gradients are finite everywhere."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from flow3r.geometry.se3 import (
    from_parts,
    invert,
    nearest_rotation,
    quaternion_from_rotation,
    rotation_angle,
    rotation_from_axis_angle,
    rotation_from_quaternion,
    safe_norm,
    transform_maps,
    transform_points,
)

ANGLES = (0.0, 1e-12, 1e-8, 1e-4, 0.1, 1.0, math.pi / 2, 3.0, math.pi - 1e-4, math.pi - 1e-8, math.pi)
component = st.floats(-1, 1, allow_nan=False, width=32)


def random_rotation(*shape: int) -> torch.Tensor:
    return rotation_from_quaternion(torch.randn(*shape, 4, dtype=torch.float64))


def random_pose(*shape: int) -> torch.Tensor:
    return from_parts(random_rotation(*shape), torch.randn(*shape, 3, dtype=torch.float64))


def cross_matrix(v: torch.Tensor) -> torch.Tensor:
    x, y, z = v.tolist()
    return torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=v.dtype)


def test_poses_chain_from_source_through_world_to_target():
    world_from_source, world_from_target = random_pose(2)
    target_from_source = invert(world_from_target) @ world_from_source
    in_source = torch.randn(5, 3, dtype=torch.float64)
    in_world = transform_points(world_from_source, in_source)
    in_target = transform_points(target_from_source, in_source)
    torch.testing.assert_close(transform_points(world_from_target, in_target), in_world)


def test_the_translation_of_world_from_camera_is_the_camera_centre():
    world_from_camera = random_pose()
    centre = transform_points(world_from_camera, torch.zeros(1, 3, dtype=torch.float64))[0]
    torch.testing.assert_close(centre, world_from_camera[:3, 3])
    back = transform_points(invert(world_from_camera), centre[None])[0]
    torch.testing.assert_close(back, torch.zeros(3, dtype=torch.float64))


def test_invert_is_the_matrix_inverse_and_its_own_inverse():
    pose = random_pose(3, 4)
    torch.testing.assert_close(invert(pose), torch.linalg.inv(pose))
    torch.testing.assert_close(invert(invert(pose)), pose)


def test_transforming_a_map_is_transforming_its_points():
    pose, points = random_pose(2, 3), torch.randn(2, 3, 4, 5, 3, dtype=torch.float64)
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    expected = torch.einsum("bnij,bnhwj->bnhwi", pose, homogeneous)[..., :3]
    torch.testing.assert_close(transform_maps(pose, points), expected)


def test_axis_angle_is_the_exponential_of_its_cross_matrix():
    for angle in ANGLES:
        axis = torch.nn.functional.normalize(torch.randn(3, dtype=torch.float64), dim=0)
        expected = torch.linalg.matrix_exp(cross_matrix(axis * angle))
        torch.testing.assert_close(rotation_from_axis_angle(axis * angle), expected, atol=1e-14, rtol=0)


def test_axis_angle_has_the_true_gradient_also_at_zero():
    for vector in (torch.zeros(3), torch.tensor([1e-9, 0.0, 0.0]), torch.tensor([0.3, -2.0, 0.5])):
        assert torch.autograd.gradcheck(rotation_from_axis_angle, vector.double().requires_grad_())


def test_quaternions_are_wxyz_and_turn_the_right_way():
    quarter_turn_about_z = torch.tensor([math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)])
    x, y = torch.eye(3)[:2]
    torch.testing.assert_close(rotation_from_quaternion(quarter_turn_about_z) @ x, y)


@settings(max_examples=40, deadline=None)
@given(st.tuples(component, component, component, component).filter(lambda q: math.hypot(*q) > 1e-3))
def test_quaternions_agree_with_scipy_and_come_back(wxyz):
    quaternion = torch.tensor(wxyz, dtype=torch.float64)
    rotation = rotation_from_quaternion(quaternion)
    expected = Rotation.from_quat(quaternion.roll(-1).numpy()).as_matrix()
    torch.testing.assert_close(rotation, torch.from_numpy(expected))
    back = quaternion_from_rotation(rotation)
    assert back[0] >= 0
    torch.testing.assert_close((back @ quaternion).abs(), quaternion.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_turns_survive_the_round_trip_through_quaternions(dtype):
    axes = torch.cat([torch.eye(3), torch.randn(20, 3)]).to(dtype)
    axes = torch.nn.functional.normalize(axes, dim=-1)
    half_turns = 2 * axes[:, :, None] * axes[:, None, :] - torch.eye(3, dtype=dtype)
    back = rotation_from_quaternion(quaternion_from_rotation(half_turns))
    torch.testing.assert_close(back, half_turns, atol=8 * torch.finfo(dtype).eps, rtol=0)


def test_quaternion_gradient_is_finite_at_the_identity_and_at_half_turns():
    turns = torch.stack([torch.eye(3), torch.diag(torch.tensor([1.0, -1.0, -1.0]))]).requires_grad_()
    quaternion_from_rotation(turns).sum().backward()
    assert turns.grad.isfinite().all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_rotation_angle_is_exact_from_zero_to_pi(dtype, tolerance):
    for angle in ANGLES:
        axis = torch.nn.functional.normalize(torch.randn(3, dtype=torch.float64), dim=0)
        measured = rotation_angle(rotation_from_axis_angle(axis * angle).to(dtype))
        assert measured.item() == pytest.approx(angle, abs=tolerance)


def test_rotation_angle_does_not_depend_on_the_frames_it_is_measured_in():
    a, b, frame = random_rotation(3)
    angle = rotation_angle(a.mT @ b)
    torch.testing.assert_close(rotation_angle((frame @ a).mT @ (frame @ b)), angle)
    torch.testing.assert_close(rotation_angle(b.mT @ a), angle)


def test_rotation_angle_has_unit_slope_along_its_axis_and_finite_gradients_at_the_ends():
    axis = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    for angle in (1e-6, 1.0, math.pi - 1e-6):
        theta = torch.tensor(angle, dtype=torch.float64, requires_grad=True)
        rotation_angle(rotation_from_axis_angle(axis * theta)).backward()
        assert theta.grad.item() == pytest.approx(1.0, abs=1e-6)
    ends = torch.stack([torch.eye(3), torch.diag(torch.tensor([-1.0, 1.0, -1.0]))]).requires_grad_()
    rotation_angle(ends).sum().backward()
    assert ends.grad.isfinite().all()


def test_safe_norm_is_the_norm_with_gradient_zero_at_zero():
    vector = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(safe_norm(vector), vector.norm(dim=-1))
    assert torch.autograd.gradcheck(safe_norm, vector)
    zero = torch.zeros(1, 3, requires_grad=True)
    safe_norm(zero).sum().backward()
    assert (zero.grad == 0).all()


def test_nearest_rotation_beats_every_other_rotation():
    matrices = torch.randn(6, 3, 3, dtype=torch.float64)
    nearest = nearest_rotation(matrices)
    torch.testing.assert_close(torch.linalg.det(nearest), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(nearest @ nearest.mT, torch.eye(3, dtype=torch.float64).expand(6, 3, 3))
    best = (nearest - matrices).norm(dim=(-2, -1))
    small = rotation_from_axis_angle(1e-3 * torch.randn(500, 1, 3, dtype=torch.float64)) @ nearest
    for others in (random_rotation(2000, 1), small):
        assert ((others - matrices).norm(dim=(-2, -1)) >= best - 1e-12).all()


def test_nearest_rotation_of_scaled_rotations_reflections_and_itself():
    rotation = random_rotation(5)
    torch.testing.assert_close(nearest_rotation(2.5 * rotation), rotation)
    mirror = torch.diag(torch.tensor([1.0, 1.0, -0.5], dtype=torch.float64))
    torch.testing.assert_close(nearest_rotation(mirror), torch.eye(3, dtype=torch.float64))


def test_nearest_rotation_turns_with_its_argument():
    matrix, left, right = torch.randn(3, 3, dtype=torch.float64), random_rotation(), random_rotation()
    torch.testing.assert_close(nearest_rotation(left @ matrix @ right), left @ nearest_rotation(matrix) @ right)


def test_nearest_rotation_has_the_true_gradient_also_at_a_rotation_and_at_a_reflection():
    mirror = torch.diag(torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64))
    for matrix in (torch.randn(3, 3, dtype=torch.float64), torch.eye(3).double(), random_rotation(), mirror):
        assert torch.autograd.gradcheck(nearest_rotation, matrix.clone().requires_grad_())


def test_nearest_rotation_is_a_rotation_with_finite_gradient_where_none_is_nearest():
    column = torch.tensor([[1.0], [2.0], [3.0]])
    degenerate = torch.stack([torch.zeros(3, 3), column @ column.mT, -torch.eye(3)]).requires_grad_()
    rotation = nearest_rotation(degenerate)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(3, 3, 3), atol=1e-5, rtol=0)
    assert (torch.linalg.det(rotation) > 0).all()
    (rotation * torch.randn(3, 3)).sum().backward()
    assert degenerate.grad.isfinite().all()


def test_nearest_rotation_is_computed_in_single_precision_inside_autocast():
    matrix = torch.randn(7, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        inside, narrow = nearest_rotation(matrix), nearest_rotation(matrix.bfloat16())
    torch.testing.assert_close(inside, nearest_rotation(matrix), atol=0, rtol=0)
    assert narrow.dtype == torch.float32
