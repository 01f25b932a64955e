import math

import pytest
import torch

from flow3r.geometry.align import umeyama
from flow3r.geometry.camera import centred_intrinsics, unproject
from flow3r.geometry.se3 import from_parts, rotation_angle, rotation_from_axis_angle, transform_maps
from flow3r.losses.terms import (
    align_rigidly,
    centre_loss,
    field_of_view_loss,
    mean_by_scene,
    reprojection,
    scene_scale,
    weighted_by_confidence,
)


def test_each_scene_counts_once_however_many_pixels_it_has():
    value = torch.tensor([[[1.0, 2.0, 3.0]], [[10.0, 1e9, 1e9]], [[1e9, 1e9, 1e9]]], requires_grad=True)
    mask = torch.tensor([[[True, True, True]], [[True, False, False]], [[False, False, False]]])
    mean = mean_by_scene(value, mask)
    mean.backward()
    assert mean == (2 + 10) / 2
    torch.testing.assert_close(value.grad, torch.tensor([[[1 / 6] * 3], [[0.5, 0, 0]], [[0.0] * 3]]))


def test_scale_is_the_mean_distance_to_the_centroid_with_its_gradient():
    points = (torch.randn(2, 30, 3) + 4).double().requires_grad_()
    mask = torch.rand(2, 30) > 0.4
    centroid, scale = scene_scale(points, mask, torch.randn(2, 4, 3).double())
    (gradient,) = torch.autograd.grad((centroid.sum(1) * scale).sum(), points)
    means = [points[b][mask[b]].mean(0) for b in range(2)]
    spreads = [(points[b][mask[b]] - means[b]).norm(dim=1).mean() for b in range(2)]
    torch.testing.assert_close(centroid, torch.stack(means))
    torch.testing.assert_close(scale, torch.stack(spreads))
    twin = sum(mean.sum() * spread for mean, spread in zip(means, spreads))
    torch.testing.assert_close(gradient, torch.autograd.grad(twin, points)[0])


def test_scene_without_points_is_measured_by_its_cameras_and_without_extent_by_one():
    centres = torch.stack([torch.tensor([[0.0, 0, 0], [6.0, 0, 0]]), torch.tensor([[1.3, 2.1, 0.7]] * 2)])
    centres.requires_grad_()
    centroid, scale = scene_scale(torch.full((2, 5, 3), 9.0), torch.zeros(2, 5, dtype=torch.bool), centres)
    assert scale.tolist() == [3.0, 1.0] and centroid[0].tolist() == [3.0, 0.0, 0.0]
    scale.sum().backward()
    assert centres.grad[1].abs().max() == 0 and centres.grad[0].isfinite().all()
    same = torch.tensor([1.3, -2.1, 0.7]).expand(2, 5, 3)
    assert scene_scale(same, torch.ones(2, 5, dtype=torch.bool), centres)[1].tolist() == [1.0, 1.0]


def test_alignment_is_the_least_sum_of_distances():
    """A twin that descends on the unsquared sum over axis-angle and translation, in the presence of outliers."""
    source = torch.randn(60, 3).double()
    truth = source @ rotation_from_axis_angle(torch.tensor([0.5, -1.0, 0.3])).double().mT + 1.0
    truth += 0.05 * torch.randn(60, 3)
    truth[:12] += torch.tensor([2.0, 0.0, 1.0]) + torch.randn(12, 3)

    def cost(rotation: torch.Tensor, translation: torch.Tensor) -> torch.Tensor:
        return (source @ rotation.mT + translation - truth).norm(dim=1).mean()

    mask = torch.ones(1, 60, dtype=torch.bool)
    rotation, translation = (x[0] for x in align_rigidly(source[None], truth[None], mask, 20, 60))
    _, kabsch, kabsch_translation = umeyama(source, truth, with_scale=False)
    parameters = torch.zeros(6).double().requires_grad_()
    search = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def descend() -> torch.Tensor:
        search.zero_grad()
        value = cost(rotation_from_axis_angle(parameters[:3]) @ kabsch, kabsch_translation + parameters[3:])
        value.backward()
        return value

    search.step(descend)
    assert cost(rotation, translation) < cost(kabsch, kabsch_translation) - 0.01
    torch.testing.assert_close(cost(rotation, translation), descend().detach(), atol=1e-4, rtol=0)


def test_alignment_without_steps_is_kabsch_and_five_steps_nearly_converge():
    source = torch.randn(3, 200, 3)
    truth = source @ rotation_from_axis_angle(torch.randn(3, 3)).mT + torch.randn(3, 1, 3)
    truth = truth + 0.1 * torch.randn(3, 200, 3) / torch.rand(3, 200, 1).clamp_min(0.02)
    mask = torch.rand(3, 200) > 0.3
    rotation, translation = align_rigidly(source, truth, mask, 0, 200)
    _, kabsch, shift = umeyama(source, truth, mask.float(), with_scale=False)
    torch.testing.assert_close((rotation, translation), (kabsch, shift), atol=1e-5, rtol=1e-5)
    few, many = (align_rigidly(source, truth, mask, steps, 200) for steps in (5, 50))
    assert rotation_angle(few[0].mT @ many[0]).max() < 3e-3


def test_alignment_ignores_invalid_points_and_carries_no_gradient():
    source = torch.randn(2, 50, 3, requires_grad=True)
    motion = rotation_from_axis_angle(torch.randn(2, 3))
    mask = torch.arange(50) < 30
    truth = torch.where(mask[:, None], source.detach() @ motion.mT + 2, 1e3)
    rotation, translation = align_rigidly(source, truth, mask.expand(2, 50), 5, 40)
    torch.testing.assert_close(rotation, motion, atol=1e-5, rtol=0)
    torch.testing.assert_close(translation, torch.full((2, 3), 2.0), atol=1e-5, rtol=0)
    assert not rotation.requires_grad and not translation.requires_grad


def test_a_draw_of_points_is_enough_and_follows_its_generator():
    source = torch.randn(1, 5000, 3)
    truth = source @ rotation_from_axis_angle(torch.randn(1, 3)).mT + 0.2 * torch.randn(1, 5000, 3)
    mask = torch.ones(1, 5000, dtype=torch.bool)
    first, again = (align_rigidly(source, truth, mask, 3, 1000, torch.Generator().manual_seed(1)) for _ in range(2))
    whole = align_rigidly(source, truth, mask, 3, 5000)
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert 0 < rotation_angle(first[0].mT @ whole[0]) < 0.03


def test_centres_by_hand():
    truth = torch.zeros(1, 2, 3)
    predicted = torch.tensor([[[1.0, -2.0, 0.0], [0.0, 0.0, 0.5]]], requires_grad=True)
    loss = centre_loss(predicted, truth)
    loss.backward()
    assert loss == (3 + 0.5) / 2
    assert torch.equal(predicted.grad, 0.5 * predicted.detach().sign())


def test_fields_of_view_are_compared_across_and_down():
    def pinhole(across: float, down: float) -> torch.Tensor:
        focal = torch.tensor([30 / math.tan(across / 2), 20 / math.tan(down / 2)])
        return torch.diag(torch.cat([focal, torch.ones(1)])).expand(1, 2, 3, 3)

    predicted = pinhole(1.2, 0.7).clone().requires_grad_()
    loss = field_of_view_loss(predicted, pinhole(1.0, 0.8), height=40, width=60)
    loss.backward()
    assert loss.item() == pytest.approx((0.2 + 0.1) / 2, abs=1e-6)
    assert (predicted.grad[..., 0, 0] < 0).all() and (predicted.grad[..., 1, 1] > 0).all()


def test_confidence_weighting_against_a_loop_with_gradients():
    errors, logit = (x.double().requires_grad_() for x in (torch.rand(2, 2, 3, 4), 2 * torch.randn(2, 2, 3, 4)))
    mask = torch.rand(2, 2, 3, 4) > 0.3
    loss = weighted_by_confidence(errors, logit, mask, 0.2)
    scenes = []
    for b in range(2):
        e, c = errors[b][mask[b]], 1 + logit[b][mask[b]].exp()
        scenes.append((c * e - 0.2 * c.log()).mean())
    twin = torch.stack(scenes).mean()
    torch.testing.assert_close(loss, twin)
    for ours, theirs in zip(torch.autograd.grad(loss, [errors, logit]), torch.autograd.grad(twin, [errors, logit])):
        torch.testing.assert_close(ours, theirs)


def test_the_best_confidence_is_alpha_over_the_error():
    errors = torch.tensor([[[[0.01, 0.05, 0.19]]]])
    logit = (0.2 / errors - 1).log().requires_grad_()
    mask = torch.ones_like(errors, dtype=torch.bool)
    weighted_by_confidence(errors, logit, mask, 0.2).backward()
    assert logit.grad.abs().max() < 1e-6


def test_reprojection_is_zero_of_one_world_and_counts_pixels():
    poses = from_parts(rotation_from_axis_angle(torch.randn(1, 2, 3)), torch.randn(1, 2, 3))
    pinhole = centred_intrinsics(torch.full((1, 2), 9.0), 12, 16)
    world_points = transform_maps(poses, unproject(1 + torch.rand(1, 2, 12, 16), pinhole))
    assert reprojection(world_points, poses, pinhole, None) < 1e-3
    moved = pinhole.clone()
    moved[..., :2, 2] += torch.tensor([3.0, 4.0])
    assert reprojection(world_points, poses, moved, None).item() == pytest.approx(5, abs=1e-3)
    padded = torch.ones(1, 2, 12, 16, dtype=torch.bool)
    padded[..., 8:] = False
    spoilt = torch.where(padded[..., None], world_points, 1e3)
    assert reprojection(spoilt, poses, moved, padded).item() == pytest.approx(5, abs=1e-3)
    assert reprojection(spoilt, poses, moved, torch.zeros_like(padded)) == 0


def test_what_lies_behind_its_camera_is_a_diagonal_away():
    pose, pinhole = torch.eye(4).expand(1, 1, 4, 4), centred_intrinsics(torch.full((1, 1), 4.0), 3, 4)
    behind = -unproject(torch.ones(1, 1, 3, 4), pinhole)
    assert reprojection(behind, pose, pinhole, None) == 5
