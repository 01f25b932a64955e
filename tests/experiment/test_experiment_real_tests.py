"""Real sequences as a test: the truth scores best, squares lose nothing that is measured, a sequence counts once."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from posed_on_disk import write_posed

from flow3r.data.regimes import SIDE
from flow3r.errors import InputError
from flow3r.eval.predictors import fixed_poses, identity, truth
from flow3r.eval.samples import Sample
from flow3r.experiment.real_tests import DRAWS, RealTests, measured_on, method_on, open_tests, scene_values


def without_depth(folder: Path) -> None:
    content = json.loads((folder / "cameras.json").read_text())
    for entry in content["frames"]:
        del entry["depth"]
    (folder / "cameras.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def tests(tmp_path_factory) -> RealTests:
    """A walk of nine frames, one of two without depth, and a folder of one frame."""
    root = tmp_path_factory.mktemp("sequences")
    write_posed(root / "long", 9)
    without_depth(write_posed(root / "pair", 2))
    write_posed(root / "single", 1)
    return open_tests(root)


def test_four_frames_are_drawn_of_every_sequence_that_has_two(tests):
    assert tests.names == ("long", "pair")
    assert {name: len(indices) for name, indices in tests.scenes} == {"long": 4, "pair": 2}
    assert len(tests.manifest.draws) == 2 * DRAWS
    assert "not tested: single" in "\n".join(tests.lines())


def test_models_see_squares_of_the_side_of_the_worlds(tests):
    for views in tests.scenes.values():
        assert views.images.shape[-2:] == (SIDE, SIDE)


def test_the_truth_scores_best_in_all_that_the_labels_tell(tests):
    found = measured_on(tests, truth)
    assert found["rra@5"] == found["rta@5"] == found["auc@30"] == [100.0, 100.0]
    np.testing.assert_allclose(found["rotation"], 0, atol=1e-2)
    for name in ("mse", "cd", "abs_rel", "aepe"):
        assert found[name][0] == pytest.approx(0, abs=1e-3) and found[name][1] is None, name
    assert found["5px"][0] == pytest.approx(100)


def test_a_sequence_is_the_mean_of_its_draws(tests):
    by_scene = {key: scene_values(identity(views), views) for key, views in tests.scenes.items()}
    drawn = [by_scene[d.sequence, d.frames]["rotation"] for d in tests.manifest.draws if d.sequence == "long"]
    assert len(set(drawn)) > 1
    assert measured_on(tests, identity)["rotation"][0] == pytest.approx(np.mean(drawn))


def test_flow_is_measured_only_where_it_is_asked_for(tests):
    assert "aepe" not in measured_on(tests, identity, flow=False)
    assert measured_on(tests, fixed_poses(torch.eye(4).repeat(4, 1, 1))) == measured_on(tests, identity)


class Upright:
    """A method on the frames' own pixels that says what `identity` says, or gives up."""

    name = fingerprint = "upright"

    def __init__(self, gives_up: bool = False):
        self.gives_up = gives_up

    def __call__(self, frames, pairs):
        if self.gives_up:
            raise InputError("nothing matches")
        assert all(frame.depth is None and frame.world_from_camera is None for frame in frames)
        count, (height, width) = len(frames), frames[0].image.shape[:2]
        y, x = np.mgrid[:height, :width] + 0.5
        rays = np.stack([(x - width / 2) / width, (y - height / 2) / width, np.ones_like(x)], -1)
        eyes = np.tile(np.eye(4), (count, 1, 1))
        grids, points = np.tile(np.eye(3), (count, 1, 1)), np.tile(rays, (count, 1, 1, 1))
        return Sample(np.arange(count), eyes, grids, local_points=points)


def test_a_method_on_its_own_grid_is_scored_like_a_model(tests):
    found, known = method_on(tests, Upright()), measured_on(tests, identity)
    assert found["rotation"] == pytest.approx(known["rotation"])
    assert found["abs_rel"][0] == pytest.approx(known["abs_rel"][0], rel=0.05)


def test_a_method_that_gives_up_scores_worst(tests):
    found = method_on(tests, Upright(gives_up=True))
    assert found["auc@30"] == [0, 0] and found["rotation"] == [180, 180]


def test_a_folder_of_which_nothing_can_be_measured_is_refused(tmp_path):
    write_posed(tmp_path / "single", 1)
    with pytest.raises(InputError, match="no sequence can be measured: single"):
        open_tests(tmp_path)
