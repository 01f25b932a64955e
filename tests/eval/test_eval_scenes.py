"""The benchmarks end to end with models whose scores are known: the truth, and no motion."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from exact_scenes import KnowingModel, room_views
from synthetic_room import intrinsics_of, pose, render

from flow3r.data.mixture import TRAINING_SEEDS
from flow3r.data.worlds import mean_relative_poses
from flow3r.errors import InputError
from flow3r.eval import scenes
from flow3r.eval.motorcycle import motorcycle_files
from flow3r.eval.predictors import identity
from flow3r.eval.scenes import (
    evaluate_folder,
    evaluate_labels,
    evaluate_motorcycle,
    evaluate_worlds,
    held_out_worlds,
)
from flow3r.types import Flow, Prediction, Views

SMALL = {"scenes": 3, "views": 3, "size": (42, 56), "pairs": 2, "seed": 5}


class StillModel(torch.nn.Module):
    """Sees no motion: what the identity row is, as a model without a parameter."""

    def forward(self, images: torch.Tensor, pairs: torch.Tensor | None = None, *, outputs=()) -> Prediction:
        prediction = identity(Views(images))
        if pairs is None:
            return prediction
        still = torch.zeros(*pairs.shape[:2], *images.shape[-2:], 2)
        return replace(prediction, flow=Flow(pairs, still, None))


@pytest.fixture(autouse=True)
def _few_training_worlds(monkeypatch):
    """The mean training pose from few worlds: a thousand take seconds."""
    monkeypatch.setattr(scenes, "mean_relative_poses", partial(mean_relative_poses, scenes=8))
    scenes.mean_training_poses.cache_clear()
    yield
    scenes.mean_training_poses.cache_clear()


def test_on_held_out_worlds_the_truth_is_perfect_and_stillness_is_the_identity_row() -> None:
    knowing = KnowingModel(list(held_out_worlds(**SMALL)))
    report = evaluate_worlds(knowing, **SMALL, name="knowing")
    assert [row.name for row in report.rows] == ["knowing", "identity pose", "mean training pose", "ground truth"]
    assert {score.sequence for score in report.rows[0].scores} == {
        f"world {TRAINING_SEEDS + 5 * 2**20 + k}" for k in range(3)
    }
    for row in ("knowing", "ground truth"):
        assert all(report.mean(row, name) == 100.0 for name in ("rra@5", "rta@5", "auc@30", "within_1px", "delta"))
        assert report.mean(row, "f@2") == 1.0
        assert all(report.mean(row, name) < 1e-3 for name in ("ate", "mse", "chamfer", "abs_rel", "aepe"))
    assert report.mean("identity pose", "rta@30") == 0.0 and "three cameras" in report.remarks[0]
    still = evaluate_worlds(StillModel(), **SMALL, trivial_rows=False)
    assert len(still.rows) == 1
    for name in still.columns:
        expected = report.mean("identity pose", name)
        assert still.mean("model", name) == pytest.approx(expected, abs=1e-3 * (1 + abs(expected))), name


def test_standing_still_scores_low_on_held_out_worlds() -> None:
    report = evaluate_worlds(StillModel(), scenes=20, views=2, size=(14, 14), pairs=1, trivial_rows=False)
    assert report.mean("model", "rra@30") <= 40.0


def test_held_out_worlds_are_no_training_worlds_and_do_not_depend_on_their_number() -> None:
    few = list(held_out_worlds(scenes=1, views=2, size=(14, 14), pairs=1, seed=1))
    many = list(held_out_worlds(scenes=5, views=2, size=(14, 14), pairs=1, seed=1))
    assert [len(batch.images) for batch in many] == [4, 1]
    assert all(int(name.split()[1]) >= TRAINING_SEEDS for batch in many for (name, _) in batch.names)
    torch.testing.assert_close(few[0].world_from_camera, many[0].world_from_camera[:1])
    assert torch.equal(few[0].flow.pairs, many[0].flow.pairs[:1])


@pytest.fixture
def folder(tmp_path):
    """A walk through the exact room on disk, with depth."""
    from PIL import Image

    size = (56, 84)
    intrinsics = intrinsics_of(60.0, size)
    frames, depths = [], []
    for k in range(5):
        world_from_camera = pose(0.05 * k, (0.2 * k, -0.03 * k * k, 0.05 * k))
        depth, _, colours = render(world_from_camera, intrinsics, size)
        Image.fromarray((colours // (k + 1)).astype(np.uint8)).save(tmp_path / f"{k}.png")
        depths.append(depth.astype(np.float32))
        frames.append({"image": f"{k}.png", "K": intrinsics.tolist(), "c2w": world_from_camera.tolist()})
    content = {"convention": "OpenCV", "pixel_centre": 0.5, "frames": frames}
    (tmp_path / "cameras.json").write_text(json.dumps(content))
    np.savez(tmp_path / "condition.npz", depths=np.stack(depths))
    return tmp_path


def test_a_folder_with_depth_is_measured_in_full(folder) -> None:
    report = evaluate_folder(StillModel(), folder, frames=4)
    assert report.settings["views"] == 4 and report.remarks == ()
    assert report.mean("ground truth", "auc@30") == 100.0 and report.mean("ground truth", "aepe") == 0.0
    assert report.mean("ground truth", "f@2") == 1.0 and report.mean("ground truth", "ate") < 1e-6
    assert report.mean("model", "aepe") == pytest.approx(report.mean("identity pose", "aepe"), abs=1e-3)
    assert report.mean("model", "aepe") > 1.0


def test_a_folder_without_depth_is_measured_in_pose_and_says_what_is_missing(folder) -> None:
    (folder / "condition.npz").unlink()
    report = evaluate_folder(StillModel(), folder, frames=2)
    assert set(report.columns) <= {"rra@5", "rra@15", "rra@30", "rta@5", "rta@15", "rta@30", "rta_signed@30", "auc@30"}
    assert any("no depth" in remark for remark in report.remarks)
    assert any("two cameras" in remark for remark in report.remarks)


def test_a_folder_that_cannot_be_measured_is_an_input_error(folder, tmp_path) -> None:
    with pytest.raises(InputError, match=r"cameras\.json"):
        evaluate_folder(StillModel(), tmp_path / "nowhere")
    content = json.loads((folder / "cameras.json").read_text())
    content["frames"] = content["frames"][:1]
    (folder / "cameras.json").write_text(json.dumps(content))
    (folder / "condition.npz").unlink()
    with pytest.raises(InputError, match="at least two"):
        evaluate_folder(StillModel(), folder)


def test_the_sample_sequences_are_measured(shared) -> None:
    report = evaluate_folder(StillModel(), shared / "data" / "sequences_with_gt" / "rgbd_mini5", frames=3)
    assert report.mean("ground truth", "auc@30") == 100.0 and report.mean("identity pose", "aepe") > 5
    with pytest.raises(InputError, match="frames"):
        evaluate_folder(StillModel(), shared / "data" / "sequences_with_gt" / "pose2sim_4cam_person_dynamic")


def test_motorcycle_is_measured_in_all_but_its_trajectory() -> None:
    try:
        motorcycle_files()
    except InputError as error:
        pytest.skip(str(error))
    report = evaluate_motorcycle(StillModel(), point_budget=500)
    assert "ate" not in report.columns and {"rra@5", "rta@5", "mse", "abs_rel", "aepe"} <= set(report.columns)
    assert report.mean("ground truth", "auc@30") == 100.0 and report.mean("ground truth", "aepe") == 0.0
    assert report.mean("identity pose", "rra@5") == 100.0  # a rectified pair
    assert report.mean("identity pose", "rta@30") == 0.0


def test_labels_measure_flow_and_cameras_without_ground_truth() -> None:
    views = room_views(4, (42, 56), focal=45.0)
    clip = replace(views, depth=None, intrinsics=None, world_from_camera=None)

    class Model(KnowingModel):
        def forward(self, images, pairs=None, *, outputs=()):
            return super().forward(images, pairs)

    report = evaluate_labels(Model([views]), [clip])
    assert [row.name for row in report.rows] == ["model", "zero flow", "homography per pair", "fundamental per pair"]
    assert len(report.rows[0].scores) == 6 and report.rows[0].scores[0].sequence == "view 0 -> view 1"
    assert report.mean("model", "aepe") == 0.0 and report.mean("model", "sampson") < 1e-3
    assert report.mean("zero flow", "aepe") > report.mean("homography per pair", "aepe") > 0.0
    assert report.mean("zero flow", "sampson") > 0.5 > report.mean("fundamental per pair", "sampson")
    assert report.mean("homography per pair", "sampson") is None
    assert report.mean("fundamental per pair", "aepe") is None
    assert any("only 6" in remark for remark in report.remarks)


def test_a_label_without_covisible_pixels_is_noted_and_not_scored() -> None:
    views = room_views(3)
    covisible = views.flow.covisible.clone()
    covisible[:, 0] = 0.0
    clip = replace(views, flow=replace(views.flow, covisible=covisible))
    report = evaluate_labels(StillModel(), [clip])
    assert report.rows[0].scores[0].values == {} and report.rows[0].scores[1].values
    assert any("no Sampson error: 0 matches" in note for note in report.rows[0].scores[0].notes)
    assert any("only 2" in remark for remark in report.remarks)


def test_no_labels_at_all_is_an_empty_report() -> None:
    report = evaluate_labels(StillModel(), [])
    assert report.columns == () and any("only 0" in remark for remark in report.remarks)
