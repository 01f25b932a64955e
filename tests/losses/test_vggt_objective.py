import dataclasses
from typing import Any

import pytest
import torch
from test_objective import B, H, N, W, labelled_views

from flow3r.config import LossConfig, VggtLossConfig
from flow3r.geometry.align import umeyama
from flow3r.geometry.camera import unproject
from flow3r.geometry.se3 import from_parts, invert, rotation_angle, rotation_from_axis_angle, transform_maps
from flow3r.losses.objective import Objective, pi3_objective, vggt_objective
from flow3r.types import Flow, Prediction, Views

TERMS = {"points", "centring", "depth", "point_confidence", "rotation", "centres", "field_of_view", "flow"}
ALIGNMENTS = ["separate", "shared"]


def loss_config(**own: Any) -> LossConfig:
    """All pixels align, and every term is there unless said otherwise."""
    return LossConfig(scale_points=10_000, vggt=VggtLossConfig(**{"point_confidence": 0.1, **own}))


def only(term: str, alignment: str) -> LossConfig:
    weights = {name: float(name == term) for name in TERMS - {"flow"}}
    return dataclasses.replace(loss_config(alignment=alignment, **weights), flow=float(term == "flow"))


def random_motion() -> torch.Tensor:
    return from_parts(rotation_from_axis_angle(torch.randn(B, 1, 3)), torch.randn(B, 1, 3))


def moved(prediction: Prediction, motion: torch.Tensor, scale: float = 1.0) -> Prediction:
    """The same prediction in another world frame and at another scale."""
    poses = prediction.world_from_camera.clone()
    poses[..., :3, 3] *= scale
    return dataclasses.replace(
        prediction,
        local_points=scale * prediction.local_points,
        world_points=transform_maps(motion.expand(poses.shape), scale * prediction.world_points),
        world_from_camera=motion @ poses,
    )


def perfect_prediction(views: Views) -> Prediction:
    """The truth, without confidence in it: depth then costs its error alone."""
    local = unproject(views.depth, views.intrinsics)
    return Prediction(
        local_points=local,
        world_points=transform_maps(views.world_from_camera, local),
        confidence_logit=torch.full(views.depth.shape, -30.0),
        world_confidence_logit=torch.full(views.depth.shape, -30.0),
        world_from_camera=views.world_from_camera,
        intrinsics=views.intrinsics,
        flow=Flow(views.flow.pairs, views.flow.displacement, None),
    )


def poor_prediction(views: Views) -> Prediction:
    """Off in everything, as leaves that take gradients; points, depth and cameras agree on no world."""
    perfect = perfect_prediction(views)
    n = views.images.shape[1]
    turn = from_parts(rotation_from_axis_angle(0.3 * torch.randn(B, n, 3)), 0.3 * torch.randn(B, n, 3))
    intrinsics = perfect.intrinsics.clone()
    intrinsics[..., [0, 1], [0, 1]] *= 1 + 0.2 * torch.rand(B, n, 2)
    return Prediction(
        local_points=(perfect.local_points + 0.3 * torch.randn(B, n, H, W, 3)).requires_grad_(),
        world_points=(perfect.world_points + 0.3 * torch.randn(B, n, H, W, 3)).requires_grad_(),
        confidence_logit=torch.randn(B, n, H, W).requires_grad_(),
        world_confidence_logit=torch.randn(B, n, H, W).requires_grad_(),
        world_from_camera=(perfect.world_from_camera @ turn).requires_grad_(),
        intrinsics=intrinsics.requires_grad_(),
        flow=Flow(views.flow.pairs, torch.randn(views.flow.displacement.shape).requires_grad_(), None),
    )


def leaves(prediction: Prediction) -> list[torch.Tensor]:
    fields = [getattr(prediction, f.name) for f in dataclasses.fields(prediction) if f.name != "flow"]
    return [*fields, prediction.flow.displacement]


def reference(prediction: Prediction, views: Views, alignment: str) -> dict[str, torch.Tensor]:
    """Appendix A.1 scene by scene, with least squares for the least sum of distances."""
    known = (views.depth > 0) & views.valid
    points = transform_maps(views.world_from_camera, unproject(views.depth, views.intrinsics))
    n, terms = views.images.shape[1], {name: [] for name in TERMS - {"flow"}}
    for b in range(B):
        p, q = prediction.world_points[b][known[b]], points[b][known[b]]
        s, z = ((x - x.mean(0)).norm(dim=1).mean() for x in (p, q))
        _, rotation, shift = umeyama((p / s).detach(), q / z, with_scale=False)
        errors = (p / s @ rotation.T + shift - q / z).norm(dim=1)
        c, d = prediction.world_from_camera[b, :, :3, 3] / s, views.world_from_camera[b, :, :3, 3] / z
        turned, turns = prediction.world_from_camera[b, :, :3, :3], views.world_from_camera[b, :, :3, :3]
        if alignment == "shared":
            terms["rotation"] += [torch.stack([rotation_angle(turns[i].T @ rotation @ turned[i]) for i in range(n)])]
        else:
            every = [(i, j) for i in range(n) for j in range(n) if i != j]
            relative = [(turned[i].T @ turned[j]).T @ turns[i].T @ turns[j] for i, j in every]
            terms["rotation"] += [torch.stack([rotation_angle(r) for r in relative])]
            _, rotation, shift = umeyama(c.detach(), d, with_scale=False)
        terms["centres"] += [(c @ rotation.T + shift - d).abs().sum(1)]
        terms["points"] += [errors]
        terms["centring"] += [(p / s).mean(0).norm()]
        sigma = 1 + prediction.confidence_logit[b][known[b]].exp()
        difference = (prediction.local_points[b, ..., 2] / s - views.depth[b] / z).abs()[known[b]]
        terms["depth"] += [sigma * difference - 0.2 * sigma.log()]
        sigma = 1 + prediction.world_confidence_logit[b][known[b]].exp()
        terms["point_confidence"] += [sigma * errors.detach() - 0.2 * sigma.log()]
        for side, k in ((W, 0), (H, 1)):
            fov = [2 * torch.atan(side / 2 / x.intrinsics[b, :, k, k]) for x in (prediction, views)]
            terms["field_of_view"] += [(fov[0] - fov[1]).abs()]
    return {name: torch.stack([scene.mean() for scene in scenes]).mean() for name, scenes in terms.items()}


def masked_views() -> Views:
    views = labelled_views()
    unknown = torch.rand(B, N, H, W) < 0.2
    valid = torch.rand(B, N, H, W) > 0.2
    return dataclasses.replace(views, depth=torch.where(unknown, 0.0, views.depth), valid=valid)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_every_term_and_its_gradient_against_a_reference(alignment: str):
    views = masked_views()
    prediction = poor_prediction(views)
    inputs = leaves(prediction)
    for name, twin in reference(prediction, views, alignment).items():
        config = only(name, alignment)
        config = dataclasses.replace(config, vggt=dataclasses.replace(config.vggt, alignment_steps=0))
        objective = vggt_objective(prediction, views, config)
        assert set(objective.terms) == {name}
        torch.testing.assert_close(objective.total, twin, atol=1e-5, rtol=1e-5, msg=name)
        ours, theirs = (
            torch.autograd.grad(x, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
            for x in (objective.total, twin)
        )
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("scale", [1.0, 0.03, 40.0])
def test_zero_at_the_truth_up_to_a_similarity(alignment: str, scale: float):
    views = labelled_views()
    prediction = moved(perfect_prediction(views), random_motion(), scale)
    objective = vggt_objective(prediction, views, loss_config(alignment=alignment))
    assert set(objective.terms) == TERMS
    for name, term in objective.terms.items():
        assert name == "centring" or term.abs() < 1e-4, f"{name} is {term}"
    assert objective.records["reprojection"] < 1e-3


def test_points_around_the_origin_are_centred():
    views = labelled_views()
    prediction = perfect_prediction(views)
    mean = prediction.world_points.mean((1, 2, 3))
    shift = from_parts(torch.eye(3).expand(B, 1, 3, 3), -mean[:, None])
    assert vggt_objective(moved(prediction, shift), views, only("centring", "separate")).total < 1e-5


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_scale_frame_and_order_of_the_prediction_do_not_matter(alignment: str):
    views = dataclasses.replace(masked_views(), flow=None)
    prediction = dataclasses.replace(poor_prediction(labelled_views()), flow=None)
    config = loss_config(alignment=alignment, centring=0.0)
    total = vggt_objective(prediction, views, config).total
    elsewhere = moved(prediction, random_motion(), 7.0)
    torch.testing.assert_close(vggt_objective(elsewhere, views, config).total, total, atol=1e-4, rtol=1e-4)

    def shuffled(x: Views | Prediction) -> Any:
        fields = {f.name: getattr(x, f.name) for f in dataclasses.fields(x)}
        tensors = {name: value[:, [2, 0, 1]] for name, value in fields.items() if isinstance(value, torch.Tensor)}
        return dataclasses.replace(x, **tensors)

    permuted = vggt_objective(shuffled(prediction), shuffled(views), config).total
    torch.testing.assert_close(permuted, total, atol=1e-5, rtol=1e-5)


def test_gradient_flows_through_the_scale():
    """The total does not see the prediction's scale, so its gradient is orthogonal to scaling all of it (Euler)."""
    views = labelled_views()
    prediction = poor_prediction(views)
    vggt_objective(prediction, views, loss_config(alignment_steps=0)).total.backward()
    radial = sum((x.grad * x.detach()).sum() for x in (prediction.local_points, prediction.world_points))
    radial += (prediction.world_from_camera.grad * prediction.world_from_camera.detach())[..., :3, 3].sum()
    assert radial.abs() < 1e-5 and prediction.world_points.grad.abs().max() > 1e-4


def turned_about_the_mean(prediction: Prediction) -> Prediction:
    """All world points turned about their mean; cameras and depth stay."""
    mean = prediction.world_points.mean((1, 2, 3), keepdim=True)
    rotation = rotation_from_axis_angle(torch.tensor([0.4, -0.8, 0.3]))
    return dataclasses.replace(prediction, world_points=(prediction.world_points - mean) @ rotation.mT + mean)


def test_as_printed_nothing_ties_points_and_cameras_together():
    """Points turned about their mean leave every printed term as it is; the record alone tells."""
    views = labelled_views()
    perfect = perfect_prediction(views)
    for prediction in (perfect, poor_prediction(views)):
        before = vggt_objective(prediction, views, loss_config())
        after = vggt_objective(turned_about_the_mean(prediction), views, loss_config())
        torch.testing.assert_close(after.total, before.total, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(after.terms, before.terms, atol=1e-4, rtol=1e-4)
    reprojection = vggt_objective(turned_about_the_mean(perfect), views, loss_config()).records["reprojection"]
    assert reprojection > 1 and not reprojection.requires_grad


def test_a_shared_alignment_ties_points_and_cameras_together():
    views = labelled_views()
    turned = turned_about_the_mean(perfect_prediction(views))
    terms = vggt_objective(turned, views, loss_config(alignment="shared")).terms
    angle = torch.tensor([0.4, -0.8, 0.3]).norm()
    torch.testing.assert_close(terms["rotation"], angle, atol=1e-4, rtol=0)
    assert terms["points"] < 1e-4 and terms["centres"] > 0.1


def test_descent_under_a_shared_alignment_brings_cameras_to_their_points():
    views = labelled_views()
    start = turned_about_the_mean(perfect_prediction(views))
    motion = torch.zeros(B, N, 6, requires_grad=True)
    search = torch.optim.Adam([motion], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(search, 1.0, 0.0, 60)
    records = []
    for _ in range(60):
        step = from_parts(rotation_from_axis_angle(motion[..., :3]), motion[..., 3:])
        prediction = dataclasses.replace(start, world_from_camera=step @ start.world_from_camera)
        objective = vggt_objective(prediction, views, loss_config(alignment="shared"))
        search.zero_grad()
        objective.total.backward()
        search.step()
        schedule.step()
        records.append(objective.records["reprojection"])
    assert records[0] > 1 and records[-1] < 0.2 * records[0]


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_labels_decide_the_terms(alignment: str):
    views, config = labelled_views(), loss_config(alignment=alignment)
    prediction = moved(perfect_prediction(views), random_motion(), 3.0)
    unlabelled = Views(images=views.images, flow=views.flow)
    assert set(vggt_objective(prediction, unlabelled, config).terms) == {"flow"}
    posed = Views(images=views.images, world_from_camera=views.world_from_camera)
    cameras = Prediction(world_from_camera=prediction.world_from_camera)
    for seen in (prediction, cameras):
        objective = vggt_objective(seen, posed, config)
        assert set(objective.terms) == {"rotation", "centres"} and objective.total < 1e-4
    assert set(vggt_objective(cameras, views, config).terms) == {"rotation", "centres"}
    with pytest.raises(ValueError, match="no loss term"):
        vggt_objective(prediction, Views(images=views.images), config)


def test_cameras_alone_can_be_held_to_poses_in_both_families():
    views = labelled_views()
    posed = Views(images=views.images, world_from_camera=views.world_from_camera)
    cameras = Prediction(world_from_camera=views.world_from_camera)
    assert set(pi3_objective(cameras, posed, LossConfig()).terms) == {"rotation", "translation"}
    assert set(pi3_objective(cameras, views, LossConfig()).terms) == {"rotation", "translation"}


def test_flow_is_the_same_term_in_both_families():
    views = masked_views()
    prediction = poor_prediction(views)
    ours, theirs = (family(prediction, views, LossConfig()) for family in (vggt_objective, pi3_objective))
    assert torch.equal(ours.terms["flow"], theirs.terms["flow"])


def test_by_default_the_confidence_of_the_points_is_left_alone():
    views = labelled_views()
    prediction = poor_prediction(views)
    objective = vggt_objective(prediction, views, LossConfig())
    objective.total.backward()
    assert set(objective.terms) == TERMS - {"point_confidence"}
    assert prediction.world_confidence_logit.grad is None and prediction.confidence_logit.grad.abs().max() > 0


def test_asked_for_it_learns_the_error_of_the_points_without_changing_them():
    views = labelled_views()
    prediction = poor_prediction(views)
    vggt_objective(prediction, views, only("point_confidence", "separate")).total.backward()
    assert prediction.world_points.grad is None and prediction.world_confidence_logit.grad.abs().max() > 0


def test_padding_and_unknown_depth_are_not_seen():
    views = masked_views()
    prediction = poor_prediction(views)
    known = (views.depth > 0) & views.valid
    spoilt = dataclasses.replace(
        prediction,
        local_points=torch.where(known[..., None], prediction.local_points, 1e3),
        world_points=torch.where(known[..., None], prediction.world_points, -1e3),
        confidence_logit=torch.where(known, prediction.confidence_logit, 9.0),
    )
    before, after = (vggt_objective(x, views, loss_config()) for x in (prediction, spoilt))
    torch.testing.assert_close(after.terms, before.terms)


def without_depth(views: Views) -> Views:
    return dataclasses.replace(views, depth=torch.zeros_like(views.depth))


def one_pixel(views: Views) -> Views:
    depth = torch.zeros_like(views.depth)
    depth[:, 1, 2, 3] = 1.5
    return dataclasses.replace(views, depth=depth)


def some_views(views: Views, n: int) -> Views:
    kept = {k: getattr(views, k)[:, :n] for k in ("images", "depth", "intrinsics", "world_from_camera", "dense")}
    return dataclasses.replace(
        views, **kept, flow=dataclasses.replace(views.flow, pairs=views.flow.pairs.clamp_max(n - 1))
    )


def on_a_line(views: Views) -> Views:
    poses = views.world_from_camera.clone()
    poses[..., :3, 3] = torch.arange(N)[:, None] * torch.tensor([1.0, 2.0, -1.0])
    return dataclasses.replace(views, world_from_camera=poses)


EDGES = {
    "no depth known": without_depth,
    "one pixel known": one_pixel,
    "two views": lambda views: some_views(views, 2),
    "one view": lambda views: some_views(views, 1),
    "centres on a line": on_a_line,
    "centres coincide": lambda v: dataclasses.replace(v, world_from_camera=torch.eye(4).expand(B, N, 4, 4)),
    "no covisible pixel": lambda v: dataclasses.replace(
        v, flow=dataclasses.replace(v.flow, covisible=torch.zeros_like(v.flow.covisible))
    ),
}


def finite(objective: Objective, inputs: list[torch.Tensor]) -> bool:
    values = [objective.total, *objective.terms.values(), *objective.records.values()]
    gradients = torch.autograd.grad(objective.total, inputs, allow_unused=True, materialize_grads=True)
    return all(x.isfinite().all() for x in [*values, *gradients])


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("edge", EDGES)
def test_gradients_are_finite_at_the_edges(edge: str, alignment: str):
    views = EDGES[edge](labelled_views())
    poor = poor_prediction(views)
    n = views.images.shape[1]
    # The start of a training: cameras at the identity, all points in one place.
    start = dataclasses.replace(
        poor,
        world_points=torch.full((B, n, H, W, 3), 0.3, requires_grad=True),
        world_from_camera=torch.eye(4).repeat(B, n, 1, 1).requires_grad_(),
    )
    for prediction in (poor, start):
        assert finite(vggt_objective(prediction, views, loss_config(alignment=alignment)), leaves(prediction))
    perfect = dataclasses.replace(
        perfect_prediction(views),
        world_points=transform_maps(views.world_from_camera, unproject(1 + views.depth, views.intrinsics)),
    )
    for value in (perfect.world_points, perfect.world_from_camera.requires_grad_()):
        value.requires_grad_()
    objective = vggt_objective(perfect, views, loss_config(alignment=alignment))
    assert finite(objective, [perfect.world_points, perfect.world_from_camera])


def test_two_or_collinear_centres_are_met_whatever_the_roll_about_their_line():
    """Kabsch leaves the roll open there; centres on the line do not see it."""
    for views in (some_views(labelled_views(), 2), on_a_line(labelled_views())):
        prediction = moved(perfect_prediction(views), random_motion(), 2.0)
        assert vggt_objective(prediction, views, only("centres", "separate")).total < 1e-4


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_autocast_changes_nothing_and_bf16_outputs_are_welcome(alignment: str):
    views, config = labelled_views(), loss_config(alignment=alignment)
    prediction = poor_prediction(views)
    with torch.autocast("cpu", torch.bfloat16):
        inside = vggt_objective(prediction, views, config, torch.Generator().manual_seed(0))
    outside = vggt_objective(prediction, views, config, torch.Generator().manual_seed(0))
    assert torch.equal(inside.total, outside.total)
    dense = {
        name: getattr(prediction, name).bfloat16()
        for name in ("local_points", "world_points", "confidence_logit", "world_confidence_logit")
    }
    low = vggt_objective(dataclasses.replace(prediction, **dense), views, config)
    assert low.total.dtype == torch.float32
    torch.testing.assert_close(low.total, inside.total, atol=0.02, rtol=0.02)


def test_poses_are_camera_to_world():
    """Inverted poses are no similarity of the truth."""
    views = labelled_views()
    perfect = perfect_prediction(views)
    inverted = dataclasses.replace(perfect, world_from_camera=invert(perfect.world_from_camera))
    terms = vggt_objective(inverted, views, loss_config()).terms
    assert terms["rotation"] > 0.05 and terms["centres"] > 0.05
