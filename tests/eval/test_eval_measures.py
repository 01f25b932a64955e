"""The path from a batch and a predictor to scores, on scenes of exact geometry."""

from dataclasses import replace

import pytest
import torch
from exact_scenes import KnowingModel, room_views

from flow3r.data.worlds import render_worlds
from flow3r.eval.measures import Protocol, evaluate_rows, score_scene
from flow3r.eval.predictors import fixed_poses, identity, model_predictor, truth, with_projected_flow
from flow3r.eval.report import COLUMNS
from flow3r.geometry.rigid import predicted_intrinsics
from flow3r.geometry.se3 import nearest_rotation, transform_maps
from flow3r.metrics.points import PI3
from flow3r.types import Prediction, Views

LOWER = [name for name, column in COLUMNS.items() if column.better == "lower"]
SHARES = [name for name, column in COLUMNS.items() if column.better == "higher" and not name.startswith("f@")]


def test_the_truth_is_perfect_in_every_column_that_the_labels_allow() -> None:
    score = score_scene(truth(room_views()), room_views(), 0)
    expected = {name for name in COLUMNS if not name.endswith(("_static", "_dynamic"))} - {"sampson"}
    assert set(score.values) == {name for name in expected if COLUMNS[name].group != "normals"}
    for name, value in score.values.items():
        if name in LOWER:
            assert value == pytest.approx(0.0, abs=1e-3), name
        else:
            assert value == (1.0 if name.startswith("f@") else 100.0), name
    assert score.notes == {} and not score.degenerate and score.sequence == "view 0"


def test_a_model_that_knows_the_truth_scores_as_the_truth() -> None:
    views = room_views()
    model = KnowingModel([views])
    rows = evaluate_rows({"model": model_predictor(model), "truth": truth}, [views], None)
    assert rows[0].scores[0].values == rows[1].scores[0].values
    assert model.modes == [(False, True)] and model.training


def test_scores_do_not_depend_on_the_models_unit_and_world() -> None:
    views = room_views()
    pose = torch.eye(4)
    pose[:3, :3] = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    pose[:3, 3] = torch.tensor([3.0, 2.0, 1.0])

    def elsewhere(prediction):
        poses = prediction.world_from_camera.clone()
        poses[..., :3, 3] *= 5
        poses = pose @ poses
        local = 5 * prediction.local_points
        return replace(
            prediction, local_points=local, world_from_camera=poses, world_points=transform_maps(poses, local)
        )

    score = evaluate_rows({"m": model_predictor(KnowingModel([views], elsewhere))}, [views], None)[0].scores[0]
    expected = score_scene(truth(views), views, 0).values
    metric = {name for name in score.values if name.endswith("_metric")}  # depth in the model's own unit
    assert {name for name, value in score.values.items() if value != pytest.approx(expected[name], abs=2e-3)} == metric


def test_flow_implied_by_true_geometry_is_the_true_flow() -> None:
    views = room_views()
    implied = with_projected_flow(truth(replace(views, flow=None)), views)
    torch.testing.assert_close(
        implied.flow.displacement * views.flow.covisible[..., None], views.flow.displacement, atol=1e-3, rtol=0
    )
    # Without intrinsics of its own, a prediction's focal length is read off its pointmaps.
    unknown = replace(truth(views), intrinsics=None)
    torch.testing.assert_close(predicted_intrinsics(unknown), views.intrinsics, atol=1e-3, rtol=1e-4)


def test_a_model_without_a_flow_head_is_scored_by_the_flow_that_it_implies() -> None:
    views = room_views()
    model = KnowingModel([views], lambda prediction: replace(prediction, flow=None, intrinsics=None))
    model.config = type("Config", (), {"flow": None})()
    score = score_scene(model_predictor(model)(views), views, 0)
    assert score.values["aepe"] < 1e-2


def test_identity_is_zero_flow_and_no_rotation() -> None:
    views = room_views()
    prediction = identity(views)
    assert (prediction.flow.displacement.abs() < 1e-4).all()
    score = score_scene(prediction, views, 0)
    moving = views.flow.displacement[views.flow.covisible > 0.5].norm(dim=-1)
    assert score.values["aepe"] == pytest.approx(moving.mean().item(), rel=0.2)
    assert score.values["rta@30"] == 0.0 and "prediction is static" in score.notes
    fixed = score_scene(fixed_poses(views.world_from_camera[0])(views), views, 0).values
    assert fixed["rra@5"] == fixed["rta@5"] == 100.0 and fixed["mse"] > 0.05


def test_what_has_no_label_is_not_measured() -> None:
    views = room_views()
    posed = replace(views, depth=None, flow=None)
    assert {COLUMNS[name].group for name in score_scene(identity(posed), posed, 0).values} == {"pose"}
    unposed = replace(views, depth=None, world_from_camera=None)
    assert {COLUMNS[name].group for name in score_scene(identity(unposed), unposed, 0).values} == {"flow"}
    pair = room_views(2)
    assert not {"ate", "rpe_translation", "rpe_rotation"} & set(score_scene(truth(pair), pair, 0).values)


def test_sky_and_padding_are_left_out_of_points_and_depth() -> None:
    views = room_views()
    depth, valid = views.depth.clone(), torch.ones_like(views.depth, dtype=torch.bool)
    depth[:, :, :6] = 0.0  # sky
    valid[:, :, -5:] = False  # padding
    labelled = replace(views, depth=depth, valid=valid)
    wrong = truth(views)
    points = wrong.world_points.clone()
    points[:, :, :6] += 100.0
    points[:, :, -5:] = torch.nan
    score = score_scene(replace(wrong, world_points=points), labelled, 0)
    assert score.values["mse"] < 1e-5 and score.notes == {}


def test_a_broken_prediction_has_the_worst_scores_and_says_so() -> None:
    views = room_views()
    broken = replace(
        truth(views),
        local_points=truth(views).local_points * torch.nan,
        world_points=truth(views).world_points * torch.nan,
        world_from_camera=views.world_from_camera * torch.nan,
        flow=replace(views.flow, displacement=views.flow.displacement * torch.nan),
    )
    score = score_scene(broken, views, 0)
    assert all(torch.isfinite(torch.tensor(value)) for value in score.values.values())
    assert all(score.values[name] == 0.0 for name in SHARES if name in score.values) and score.values["f@5"] == 0.0
    assert set(score.values) == set(score_scene(truth(views), views, 0).values) and score.values["dropped"] == 100.0
    assert score.values["mse"] == 1.0 and score.values["abs_rel"] == pytest.approx(1.0, abs=1e-4)
    assert len(score.notes) >= 4
    focal = predicted_intrinsics(replace(broken, intrinsics=None))
    assert focal.isfinite().all()


def test_a_pair_that_sees_nothing_in_common_is_left_out_and_noted() -> None:
    views = room_views()
    covisible = views.flow.covisible.clone()
    covisible[:, 1:] = 0.0
    score = score_scene(identity(views), replace(views, flow=replace(views.flow, covisible=covisible)), 0)
    assert score.notes["pairs without covisible pixels are left out"] == 5
    blind = score_scene(identity(views), replace(views, flow=replace(views.flow, covisible=0 * covisible)), 0)
    assert "aepe" not in blind.values and blind.notes["pairs without covisible pixels are left out"] == 6


def noisy(views: Views, seed: int = 0) -> Prediction:
    """The truth with noise on everything."""
    generator, exact = torch.Generator().manual_seed(seed), truth(views)

    def shaken(values: torch.Tensor, by: float) -> torch.Tensor:
        return values + by * torch.randn(values.shape, generator=generator)

    poses = exact.world_from_camera.clone()
    poses[..., :3, 3] = shaken(poses[..., :3, 3], 0.05)
    poses[..., :3, :3] = nearest_rotation(shaken(poses[..., :3, :3], 0.05))
    local = shaken(exact.local_points, 0.1)
    flow = replace(exact.flow, displacement=shaken(exact.flow.displacement, 2.0))
    points = transform_maps(poses, local)
    return replace(exact, local_points=local, world_points=points, world_from_camera=poses, flow=flow)


def test_the_order_of_the_views_changes_nothing_but_the_errors_between_consecutive_ones() -> None:
    views = room_views()
    prediction, order = noisy(views), [2, 0, 3, 1]

    def permuted(thing):
        tensors = {name: value for name, value in vars(thing).items() if isinstance(value, torch.Tensor)}
        return replace(thing, **{name: value[:, order] for name, value in tensors.items()}, flow=None)

    one = score_scene(replace(prediction, flow=None), replace(views, flow=None), 0).values
    other = score_scene(permuted(prediction), permuted(views), 0).values
    # Directions stand in the later camera of a pair (spec 1.1), so that RTA and AUC may change with the order too.
    same = {name for name in one if one[name] == pytest.approx(other[name], rel=1e-6)}
    assert {name for name in set(one) - same if COLUMNS[name].group != "pose"} == set()
    assert {"ate", "ate_of_s", "ate_ptscale", "rra@5", "rra@10", "rra@15"} <= same
    assert {"rpe_translation", "rpe_rotation"}.isdisjoint(same)


def test_other_scales_and_units_of_the_trajectory_follow_from_it() -> None:
    views = room_views()
    prediction = noisy(views)
    larger = replace(prediction, local_points=3 * prediction.local_points, world_points=3 * prediction.world_points)
    one, other = score_scene(prediction, views, 0), score_scene(larger, views, 0)
    assert other.facts["scale_ratio"] == pytest.approx(3 * one.facts["scale_ratio"], rel=1e-5)
    assert one.facts["scale_ratio"] == pytest.approx(1.0, abs=0.1)
    assert one.values["ate"] == pytest.approx(one.facts["s"] * one.values["ate_of_s"])
    # A fitted scale is the best there is; that of points three times too large shrinks the path to a third.
    assert one.values["ate"] <= one.values["ate_ptscale"] < other.values["ate_ptscale"]
    assert other.values["ate"] == pytest.approx(one.values["ate"])


def test_the_strict_mode_forgives_a_baseline_that_has_no_direction() -> None:
    views = room_views()
    poses = views.world_from_camera.clone()
    poses[:, 1, :3, 3] = poses[:, 0, :3, 3]
    still = replace(views, world_from_camera=poses)
    score = score_scene(truth(still), still, 0)
    assert score.values["rta@30"] == score.values["auc@30"] == pytest.approx(500 / 6)
    assert score.values["rta_strict@30"] == score.values["auc_strict@30"] == 100.0
    assert score.facts["static_pairs"] == 1 and score.facts["pairs"] == 6
    together = replace(views, world_from_camera=poses[:, :1].expand_as(poses))
    nowhere = score_scene(truth(together), together, 0).values
    assert nowhere["rta@30"] == 0.0 and not any("strict" in name for name in nowhere)  # nothing to measure


def test_moving_things_are_scored_beside_the_rest() -> None:
    worlds = render_worlds([1, 7], 3, (42, 56), pairs=torch.tensor([[0, 1], [2, 0]]).expand(2, 2, 2))
    scene = worlds.moving.flatten(1).sum(1).argmax().item()
    views, moving = worlds.views, worlds.moving[scene]
    exact = truth(views)
    points, displacement = exact.world_points.clone(), exact.flow.displacement.clone()
    points[scene][moving] += 0.3
    displacement[scene][moving[exact.flow.pairs[scene, :, 0]]] += 3.0
    wrong = replace(exact, world_points=points, flow=replace(exact.flow, displacement=displacement))
    score = score_scene(wrong, views, scene, moving=moving).values
    assert score["aepe_static"] == pytest.approx(0.0, abs=1e-5)
    assert score["aepe_dynamic"] == pytest.approx(3 * 2**0.5, rel=1e-5) and score["within_5px_dynamic"] == 100.0
    assert score["mse_dynamic"] > 3 * score["mse_static"] and score["f@2_static"] > score["f@2_dynamic"]
    known = views.depth[scene] > 0
    share = (moving & known).sum() / known.sum()
    tiled = share * score["mse_dynamic"] + (1 - share) * score["mse_static"]
    assert score["mse"] == pytest.approx(tiled.item(), rel=1e-5)
    assert not any(name.endswith(("_static", "_dynamic")) for name in score_scene(wrong, views, scene).values)


def test_a_protocol_measures_its_groups_alone() -> None:
    views = room_views()
    for groups in (("pose",), ("points",), ("depth",), ("flow",), ("pose", "points", "normals")):
        score = score_scene(noisy(views), views, 0, protocol=Protocol(groups, PI3))
        found = {COLUMNS[name].group for name in score.values}
        assert found == set(groups) | ({"normals"} if "points" in groups else set())
    assert "ate_of_s" in score_scene(noisy(views), views, 0, protocol=Protocol(("pose",))).values
    near = score_scene(noisy(views), views, 0, protocol=Protocol(farthest=3.0))
    assert near.facts["points"] == near.facts["depth_pixels"] == ((views.depth > 0) & (views.depth < 3)).sum()


def test_what_rests_on_how_many_pixels_can_be_weighed() -> None:
    score = score_scene(noisy(room_views()), room_views(), 0)
    assert score.facts["depth_pixels"] == room_views().depth.numel() and score.facts["flow_pairs"] == 6
    blind = replace(room_views(), depth=torch.zeros_like(room_views().depth))
    unknown = score_scene(noisy(room_views()), blind, 0)
    assert not {name for name in unknown.values if COLUMNS[name].group == "depth"}
    assert unknown.notes["no pixel has a true depth"] == 1
