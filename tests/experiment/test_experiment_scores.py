"""The truth scores perfect, standing still as counting by hand says, and mean poses are what they are called."""

from pathlib import Path

import pytest
import torch

from flow3r.data.kept_worlds import KeptWorlds
from flow3r.data.regimes import WorldSet
from flow3r.eval.predictors import identity, truth
from flow3r.experiment.scores import mean_of, mean_poses, measured, trivial_rows
from flow3r.experiment.sources import SEEN, Stores
from flow3r.geometry.se3 import invert, rotation_angle

WORLDS = WorldSet("dynamic", "test", 3)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> KeptWorlds:
    return Stores(tmp_path_factory.mktemp("kept")).measured(WORLDS)


def test_the_truth_scores_perfect_on_every_world(kept: KeptWorlds):
    measures = measured(truth, kept)
    assert {len(values) for values in measures.values()} == {3}
    for name in ("rra@5", "rra@15", "rra@30", "rta@5", "rta@15", "rta@30", "auc@5", "auc@30", "5px"):
        assert measures[name] == [100.0] * 3, name
    for name in ("rotation", "mse", "cd", "abs_rel", "aepe"):
        assert measures[name] == pytest.approx([0.0] * 3, abs=1e-3), name


def test_standing_still_scores_the_share_of_pairs_that_are_turned_by_little(kept: KeptWorlds):
    rotation = kept.views(range(3)).world_from_camera[..., :3, :3]
    first, second = torch.triu_indices(4, 4, 1)
    angle = torch.rad2deg(rotation_angle(rotation[:, first].mT @ rotation[:, second]))
    measures = measured(identity, kept)
    assert measures["rra@30"] == pytest.approx((100 * (angle < 30).double().mean(1)).tolist())
    assert measures["rotation"] == pytest.approx(angle.mean(1).tolist(), abs=1e-3)
    assert measures["auc@30"] == [0.0] * 3  # no direction of translation
    flow = kept.views(range(3)).flow
    length = flow.displacement.norm(dim=-1)
    per_pair = (length * flow.covisible).sum((2, 3)) / flow.covisible.sum((2, 3))
    assert measures["aepe"] == pytest.approx([float(one[~one.isnan()].mean()) for one in per_pair], rel=0.02)


def test_facts_of_the_worlds_stand_beside_their_measures(kept: KeptWorlds):
    measures = measured(identity, kept, flow=False, most=2)
    assert measures["moving_objects"] == [kept.facts(number).moving_objects for number in range(2)]
    assert measures["moving_area"] == [kept.facts(number).moving_area for number in range(2)]
    assert "aepe" not in measures


def test_means_are_over_worlds_where_a_measure_exists():
    assert mean_of({"aepe": [1.0, None, 3.0], "5px": [None, None]}) == {"aepe": 2.0}


def test_mean_poses_of_one_world_are_its_own_in_units_of_its_path(tmp_path: Path):
    kept = Stores(tmp_path).learnt_from(WorldSet("static", "labelled", 1))
    poses = kept.views([0], torch.tensor([SEEN])).world_from_camera[0].double()
    relative = invert(poses[:1]) @ poses
    relative[:, :3, 3] /= (poses[1:, :3, 3] - poses[:-1, :3, 3]).norm(dim=-1).sum()
    torch.testing.assert_close(mean_poses(kept).double(), relative, atol=1e-5, rtol=1e-5)


def test_trivial_rows_lie_between_nothing_and_the_truth(kept: KeptWorlds, tmp_path: Path):
    rows = trivial_rows(kept, Stores(tmp_path).learnt_from(WorldSet("dynamic", "labelled", 2)))
    assert set(rows) == {"identity", "mean pose", "oracle"}
    assert mean_of(rows["oracle"])["auc@30"] == 100 > mean_of(rows["mean pose"])["auc@30"]
