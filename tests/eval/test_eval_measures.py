"""The path from a batch and a predictor to scores, on scenes of exact geometry."""

from dataclasses import replace

import pytest
import torch
from exact_scenes import KnowingModel, room_views

from flow3r.eval.measures import evaluate_rows, score_scene
from flow3r.eval.predictors import fixed_poses, identity, model_predictor, truth, with_projected_flow
from flow3r.eval.report import COLUMNS
from flow3r.geometry.rigid import predicted_intrinsics
from flow3r.geometry.se3 import transform_maps

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
