import dataclasses

import pytest
import torch

from flow3r.config import LossConfig
from flow3r.geometry.align import umeyama
from flow3r.geometry.camera import centred_intrinsics, unproject
from flow3r.geometry.se3 import from_parts, rotation_from_axis_angle
from flow3r.losses.objective import pi3_objective
from flow3r.types import Flow, Prediction, Views

B, N, H, W = 2, 3, 8, 10


def labelled_views() -> Views:
    poses = from_parts(rotation_from_axis_angle(0.4 * torch.randn(B, N, 3)), torch.randn(B, N, 3))
    pairs = torch.tensor([[0, 1], [2, 0]]).expand(B, 2, 2)
    return Views(
        images=torch.rand(B, N, 3, H, W),
        depth=1 + torch.rand(B, N, H, W),
        intrinsics=centred_intrinsics(torch.full((B, N), 9.0), H, W),
        world_from_camera=poses,
        dense=torch.ones(B, N, dtype=torch.bool),
        flow=Flow(pairs, torch.randn(B, 2, H, W, 2), torch.rand(B, 2, H, W)),
    )


def perfect_prediction(views: Views, scale: float = 1.0, moved: bool = False) -> Prediction:
    """The truth in another world frame and at another scale, which the objective must not see."""
    poses = views.world_from_camera.clone()
    poses[..., :3, 3] *= scale
    if moved:
        poses = from_parts(rotation_from_axis_angle(torch.randn(B, 1, 3)), torch.randn(B, 1, 3)) @ poses
    return Prediction(
        local_points=scale * unproject(views.depth, views.intrinsics),
        confidence_logit=torch.full((B, N, H, W), 20.0),
        world_from_camera=poses,
        flow=Flow(views.flow.pairs, views.flow.displacement, None),
    )


@pytest.mark.parametrize(("scale", "moved"), [(1.0, False), (0.03, True), (40.0, True)])
def test_zero_at_the_truth_up_to_a_similarity(scale: float, moved: bool):
    views = labelled_views()
    objective = pi3_objective(perfect_prediction(views, scale, moved), views, LossConfig())
    assert set(objective.terms) == {"points", "normals", "rotation", "translation", "confidence", "flow"}
    for name, term in objective.terms.items():
        assert term < 2e-3, f"{name} is {term}"


def test_order_of_views_does_not_matter():
    views = labelled_views()
    prediction = dataclasses.replace(
        perfect_prediction(views), local_points=unproject(1 + torch.rand(B, N, H, W), views.intrinsics)
    )
    order = torch.tensor([2, 0, 1])
    shuffled_views = dataclasses.replace(
        views,
        images=views.images[:, order],
        depth=views.depth[:, order],
        world_from_camera=views.world_from_camera[:, order],
        flow=None,
    )
    shuffled = Prediction(
        local_points=prediction.local_points[:, order],
        confidence_logit=prediction.confidence_logit[:, order],
        world_from_camera=prediction.world_from_camera[:, order],
    )
    config = LossConfig(scale_points=10_000)
    first = pi3_objective(prediction, dataclasses.replace(views, flow=None), config)
    torch.testing.assert_close(pi3_objective(shuffled, shuffled_views, config).total, first.total)


def test_total_is_the_weighted_sum():
    views = labelled_views()
    config = LossConfig()
    prediction = dataclasses.replace(
        perfect_prediction(views), local_points=unproject(1 + torch.rand(B, N, H, W), views.intrinsics)
    )
    objective = pi3_objective(prediction, views, config)
    expected = sum(getattr(config, name) * term for name, term in objective.terms.items())
    torch.testing.assert_close(objective.total, expected)


def test_labels_decide_the_terms():
    views = labelled_views()
    prediction = perfect_prediction(views)
    unlabelled = Views(images=views.images, flow=views.flow)
    assert set(pi3_objective(prediction, unlabelled, LossConfig()).terms) == {"flow"}
    posed = Views(images=views.images, world_from_camera=views.world_from_camera)
    camera_only = pi3_objective(prediction, posed, LossConfig())
    assert set(camera_only.terms) == {"rotation", "translation"}
    assert camera_only.total < 1e-3
    sparse = dataclasses.replace(views, dense=torch.zeros(B, N, dtype=torch.bool))
    assert pi3_objective(prediction, sparse, LossConfig()).terms["normals"] == 0
    without_flow = pi3_objective(dataclasses.replace(prediction, flow=None), views, LossConfig())
    assert "flow" not in without_flow.terms
    with pytest.raises(ValueError, match="no loss term"):
        pi3_objective(prediction, Views(images=views.images), LossConfig())


def test_weight_zero_leaves_a_term_out():
    views = labelled_views()
    objective = pi3_objective(perfect_prediction(views), views, LossConfig(normals=0.0, confidence=0.0))
    assert set(objective.terms) == {"points", "rotation", "translation", "flow"}


def test_padding_and_unknown_depth_are_not_seen():
    views = labelled_views()
    valid = torch.ones(B, N, H, W, dtype=torch.bool)
    valid[..., :3] = False
    views = dataclasses.replace(views, valid=valid, dense=None)
    prediction = perfect_prediction(views)
    before = pi3_objective(prediction, views, LossConfig()).total
    spoilt = torch.where(valid[..., None], prediction.local_points, 1e3)
    flow = views.flow.displacement.clone()
    flow[..., :3, :] = 1e3
    spoilt = dataclasses.replace(prediction, local_points=spoilt, flow=Flow(views.flow.pairs, flow, None))
    torch.testing.assert_close(pi3_objective(spoilt, views, LossConfig()).total, before)


@pytest.mark.parametrize("case", ["no depth known", "two views", "same pose", "no covisible pixel"])
def test_gradients_are_finite_at_the_edges(case: str):
    views = labelled_views()
    if case == "no depth known":
        views = dataclasses.replace(views, depth=torch.zeros_like(views.depth))
    if case == "two views":
        views = dataclasses.replace(
            views,
            **{k: getattr(views, k)[:, :2] for k in ("images", "depth", "intrinsics", "world_from_camera", "dense")},
            flow=dataclasses.replace(views.flow, pairs=views.flow.pairs.clamp_max(1)),
        )
    if case == "same pose":
        views = dataclasses.replace(views, world_from_camera=torch.eye(4).expand(B, N, 4, 4))
    if case == "no covisible pixel":
        views = dataclasses.replace(
            views, flow=dataclasses.replace(views.flow, covisible=torch.zeros_like(views.flow.covisible))
        )
    n = views.images.shape[1]
    leaves = [
        torch.rand(B, n, H, W, 3).add(0.5).requires_grad_(),
        torch.zeros(B, n, H, W, requires_grad=True),
        torch.eye(4).repeat(B, n, 1, 1).requires_grad_(),
        torch.zeros(B, 2, H, W, 2, requires_grad=True),
    ]
    prediction = Prediction(
        local_points=leaves[0],
        confidence_logit=leaves[1],
        world_from_camera=leaves[2],
        flow=Flow(views.flow.pairs, leaves[3], None),
    )
    objective = pi3_objective(prediction, views, LossConfig())
    objective.total.backward()
    assert objective.total.isfinite()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_local_points_and_poses_agree_with_an_explicit_alignment():
    """What the objective calls zero is zero under Umeyama too: predicted world points match after one similarity."""
    views = labelled_views()
    prediction = perfect_prediction(views, scale=3.0, moved=True)
    camera_points = unproject(views.depth, views.intrinsics).flatten(2, 3)
    world = camera_points @ views.world_from_camera[..., :3, :3].mT + views.world_from_camera[..., None, :3, 3]
    local = prediction.local_points.flatten(2, 3)
    predicted = local @ prediction.world_from_camera[..., :3, :3].mT + prediction.world_from_camera[..., None, :3, 3]
    scale, rotation, translation = umeyama(predicted.flatten(1, 2), world.flatten(1, 2))
    aligned = scale[:, None, None] * predicted.flatten(1, 2) @ rotation.mT + translation[:, None]
    torch.testing.assert_close(aligned, world.flatten(1, 2), atol=1e-4, rtol=1e-4)
