import math

import pytest
import torch

from flow3r.geometry.camera import centred_intrinsics, unproject
from flow3r.geometry.se3 import from_parts, rotation_from_axis_angle
from flow3r.losses.terms import (
    align_scale,
    confidence_loss,
    depth_edges,
    depth_weight,
    flow_loss,
    masked_mean,
    normal_loss,
    point_errors,
    relative_poses,
    rotation_loss,
    translation_loss,
)


def random_poses(*batch: int) -> torch.Tensor:
    return from_parts(rotation_from_axis_angle(torch.randn(*batch, 3)), torch.randn(*batch, 3))


def random_points(b: int = 2, n: int = 3, h: int = 6, w: int = 8) -> torch.Tensor:
    intrinsics = centred_intrinsics(torch.full((b, n), 8.0), h, w)
    return unproject(1 + torch.rand(b, n, h, w), intrinsics)


def scaled(points, predicted, mask, translations, predicted_translations):
    scale = align_scale(predicted, points, mask, predicted_translations, translations, samples=10_000)
    return (
        scale.prediction[:, None, None, None, None] * predicted,
        scale.truth[:, None, None, None, None] * points,
        scale.prediction[:, None, None] * predicted_translations,
        scale.truth[:, None, None] * translations,
    )


def test_masked_mean_ignores_the_rest_and_is_zero_without_entries():
    value = torch.tensor([1.0, 2.0, 1e9], requires_grad=True)
    assert masked_mean(value, torch.tensor([True, True, False])) == 1.5
    empty = masked_mean(value, torch.zeros(3, dtype=torch.bool))
    empty.backward()
    assert empty == 0 and torch.equal(value.grad, torch.zeros(3))


def test_scale_is_found_for_any_scale_of_either_side():
    points = random_points()
    mask = torch.rand(points.shape[:-1]) > 0.3
    _, translations = relative_poses(random_poses(2, 3))
    for predicted_scale, truth_scale in ((1.0, 1.0), (7.0, 0.02), (1e-3, 30.0)):
        p, q, tp, tq = scaled(
            truth_scale * points,
            predicted_scale * points,
            mask,
            truth_scale * translations,
            predicted_scale * translations,
        )
        torch.testing.assert_close(p[mask], q[mask])
        torch.testing.assert_close(tp, tq)


def test_scale_equals_a_brute_force_search():
    points, predicted = random_points(1), random_points(1) + 0.3 * torch.randn(1, 3, 6, 8, 3)
    mask = torch.ones(1, 3, 6, 8, dtype=torch.bool)
    _, translations = relative_poses(random_poses(1, 3))
    scale = align_scale(predicted, points, mask, translations, translations, samples=10_000)
    p, q = scale.prediction * predicted, scale.truth * points
    weight = depth_weight(q[..., 2], mask)[..., None]
    cost = [(weight * (factor * p - q).abs()).sum() for factor in torch.linspace(0.8, 1.2, 401)]
    assert (weight * (p - q).abs()).sum() <= min(cost) * (1 + 1e-6)


def test_the_scale_carries_no_gradient_but_the_norm_does():
    """The loss is invariant to the prediction's scale, so its gradient is orthogonal to the prediction (Euler)."""
    points, predicted = random_points(), (random_points() + 0.1).requires_grad_()
    mask = torch.ones(points.shape[:-1], dtype=torch.bool)
    _, translations = relative_poses(random_poses(2, 3))
    p, q, _, _ = scaled(points, predicted, mask, translations, translations)
    masked_mean(point_errors(p, q, mask), mask).backward()
    radial = (predicted.grad * predicted).flatten(1).sum(1)
    assert radial.abs().max() < 1e-6 and predicted.grad.abs().max() > 1e-5


def test_scene_without_points_is_scaled_by_its_translations():
    points = torch.zeros(1, 2, 4, 4, 3)
    mask = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    _, translations = relative_poses(random_poses(1, 2))
    predicted = torch.randn(1, 2, 4, 4, 3, requires_grad=True)
    _, _, tp, tq = scaled(points, predicted, mask, translations, 5 * translations)
    torch.testing.assert_close(tp, tq)
    (tp.sum() + masked_mean(point_errors(predicted, points, mask), mask)).backward()
    assert predicted.grad is None or predicted.grad.isfinite().all()


def test_still_camera_and_no_points_stay_finite():
    poses = torch.eye(4).expand(1, 3, 4, 4).clone().requires_grad_()
    rotations, translations = relative_poses(poses)
    mask = torch.zeros(1, 3, 4, 4, dtype=torch.bool)
    zeros = torch.zeros(1, 3, 4, 4, 3)
    scale = align_scale(zeros, zeros, mask, translations, translations.detach(), 64)
    total = rotation_loss(rotations, rotations.detach()) + translation_loss(
        scale.prediction[:, None, None] * translations, torch.zeros_like(translations), 0.1
    )
    total.backward()
    assert total == 0 and poses.grad.isfinite().all()


def test_depth_weight_has_a_floor_at_a_tenth_of_the_views_mean():
    depth = torch.tensor([[[[0.01, 1.0, 2.0, 0.0]]]])
    mean = (0.01 + 1 + 2) / 3
    expected = torch.tensor([[[[1 / (0.1 * mean), 1.0, 0.5, 0.0]]]])
    torch.testing.assert_close(depth_weight(depth, depth > 0), expected)


def test_point_errors_by_hand():
    points = torch.tensor([0.0, 0.0, 2.0]).expand(1, 1, 1, 2, 3)
    predicted = points + torch.tensor([0.3, -0.6, 0.0])
    mask = torch.tensor([[[[True, False]]]])
    torch.testing.assert_close(point_errors(predicted, points, mask), torch.tensor([[[[0.15, 0.0]]]]))


def test_normals_ignore_scale_and_see_a_known_tilt():
    plane = random_points(1, 1)[0] * 0 + unproject(torch.ones(1, 6, 8), centred_intrinsics(torch.tensor([8.0]), 6, 8))
    mask = torch.ones(1, 6, 8, dtype=torch.bool)
    assert normal_loss(3 * plane, plane, mask) == 0
    angle = math.radians(20)
    tilted = plane @ rotation_from_axis_angle(torch.tensor([0.0, angle, 0.0])).mT
    beta = math.radians(3)
    expected = 4 * ((angle - math.radians(1)) - beta / 2) / (4 * 8)
    torch.testing.assert_close(normal_loss(tilted, plane, mask), torch.tensor(expected), rtol=1e-4, atol=0)


def test_normals_against_a_loop():
    predicted, points = random_points(1, 1)[0], random_points(1, 1)[0]
    mask = torch.rand(1, 6, 8) > 0.2
    total, beta = 0.0, math.radians(3)
    for y in range(5):
        for x in range(7):
            ring = [(y, x), (y, x + 1), (y + 1, x + 1), (y + 1, x)]
            for k in range(4):
                a, o, b = ring[k - 1], ring[k], ring[(k + 1) % 4]
                if not (mask[0][a] and mask[0][o] and mask[0][b]):
                    continue
                n, m = (torch.linalg.cross(p[0][a] - p[0][o], p[0][b] - p[0][o]) for p in (predicted, points))
                angle = torch.atan2(torch.linalg.cross(n, m).norm(), n @ m).item()
                angle = min(max(angle, math.radians(1)), math.radians(90)) - math.radians(1)
                total += angle**2 / (2 * beta) if angle < beta else angle - beta / 2
    expected = torch.tensor(total / (5 * 7) / (4 * 8))
    torch.testing.assert_close(normal_loss(predicted, points, mask), expected, rtol=1e-4, atol=1e-7)


def test_normals_have_finite_gradient_on_degenerate_points():
    predicted = torch.zeros(1, 4, 4, 3, requires_grad=True)
    loss = normal_loss(predicted, random_points(1, 1, 4, 4)[0], torch.ones(1, 4, 4, dtype=torch.bool))
    loss.backward()
    assert predicted.grad.isfinite().all()


def test_depth_edges_mark_both_sides_of_a_step():
    depth = torch.ones(1, 3, 6)
    depth[..., 3:] = 2.0
    assert depth_edges(depth, 0.03)[0, 1].tolist() == [False, False, True, True, False, False]
    assert not depth_edges(1 + 0.001 * torch.rand(1, 3, 6), 0.03).any()


def test_relative_poses_chain_and_ignore_the_world_frame():
    poses = random_poses(2, 4)
    rotations, translations = relative_poses(poses)
    first = torch.linalg.inv(poses[:, 0]) @ poses[:, 1]  # the first off-diagonal entry is (0, 1)
    torch.testing.assert_close(rotations[:, 0], first[:, :3, :3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(translations[:, 0], first[:, :3, 3], atol=1e-5, rtol=1e-5)
    moved = random_poses(2, 1) @ poses
    torch.testing.assert_close(relative_poses(moved)[0], rotations, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(relative_poses(moved)[1], translations, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("angle", [0.0, 1e-4, 0.5, math.pi - 1e-3, math.pi])
def test_rotation_loss_is_the_angle_with_a_finite_gradient(angle: float):
    truth = rotation_from_axis_angle(torch.randn(1, 1, 3)).double()
    axis = torch.nn.functional.normalize(torch.randn(1, 1, 3), dim=-1).double()
    predicted = (truth @ rotation_from_axis_angle(angle * axis)).requires_grad_()
    loss = rotation_loss(predicted, truth)
    loss.backward()
    assert loss.item() == pytest.approx(angle, abs=1e-6)
    assert predicted.grad.isfinite().all() and predicted.grad.abs().max() <= 1.0 + 1e-6


def test_translation_loss_is_huber():
    truth = torch.zeros(1, 2, 3)
    predicted = torch.tensor([[[0.05, 0.0, 0.0], [0.0, -1.0, 0.0]]])
    expected = (0.5 * 0.05**2 + 0.1 * (1 - 0.05)) / 6
    torch.testing.assert_close(translation_loss(predicted, truth, 0.1), torch.tensor(expected))


def test_one_view_has_no_pose_loss():
    rotations, translations = relative_poses(random_poses(1, 1))
    assert rotation_loss(rotations, rotations) == 0 and translation_loss(translations, translations, 0.1) == 0


def test_confidence_is_least_at_its_target_and_does_not_train_the_points():
    errors = (0.05 * torch.rand(1, 1, 4, 4)).requires_grad_()
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    best = torch.logit(torch.exp(-50 * errors.detach()).clamp(1e-6, 1 - 1e-6)).requires_grad_()
    loss = confidence_loss(best, errors, mask, 50.0)
    loss.backward()
    assert errors.grad is None and best.grad.abs().max() < 1e-6
    assert loss < confidence_loss(best.detach() + 0.5, errors, mask, 50.0)


def test_flow_loss_against_a_loop():
    predicted, truth = torch.randn(2, 3, 4, 6, 2), torch.randn(2, 3, 4, 6, 2)
    covisible = torch.rand(2, 3, 4, 6)
    covisible[1, 2] = 0
    pairs = []
    for b in range(2):
        for p in range(3):
            if covisible[b, p].sum() > 0:
                e = (predicted - truth)[b, p].norm(dim=-1) / 3  # half of the longer side
                rho = (e**2 + 1e-6) ** 0.25 - 1e-3**0.5
                pairs.append((covisible[b, p] * rho).sum() / covisible[b, p].sum())
    torch.testing.assert_close(flow_loss(predicted, truth, covisible, 0.5, 1e-3), torch.stack(pairs).mean())


def test_flow_loss_is_zero_at_the_truth_and_without_covisible_pixels():
    truth = torch.randn(1, 2, 4, 6, 2)
    predicted = truth.clone().requires_grad_()
    loss = flow_loss(predicted, truth, torch.ones(1, 2, 4, 6), 0.5, 1e-3)
    loss.backward()
    assert loss.abs() < 1e-7 and torch.equal(predicted.grad, torch.zeros_like(predicted))
    unseen = torch.randn_like(truth).requires_grad_()
    nothing = flow_loss(unseen, truth, torch.zeros(1, 2, 4, 6), 0.5, 1e-3)
    nothing.backward()
    assert nothing == 0 and torch.equal(unseen.grad, torch.zeros_like(unseen))


def test_flow_loss_is_isotropic():
    truth = torch.zeros(1, 1, 4, 10, 2)
    along_x, along_y = torch.tensor([1.0, 0.0]).expand_as(truth), torch.tensor([0.0, 1.0]).expand_as(truth)
    ones = torch.ones(1, 1, 4, 10)
    assert flow_loss(along_x, truth, ones, 0.5, 1e-3) == flow_loss(along_y, truth, ones, 0.5, 1e-3)
