"""What a set of worlds asks for, against its cameras and against counting by hand."""

import pytest
import torch

from flow3r.data.regime_measures import measure_set
from flow3r.data.regimes import DOMAINS, FRAMES, SIDE, WorldSet
from flow3r.data.worlds import sample_cameras
from flow3r.metrics.pose import relative_pose_errors


def test_standing_still_does_badly_on_the_dynamic_test_worlds():
    """All 500, by the metric of the evaluation: identity poses score RRA@30 of at most 40."""
    worlds = WorldSet("dynamic", "test", 500)
    seeds = [worlds.seed(number) for number in range(worlds.count)]
    cameras = torch.cat(
        [
            sample_cameras(seeds[k : k + 50], FRAMES, (SIDE, SIDE), config=DOMAINS["dynamic"])[0]
            for k in range(0, 500, 50)
        ]
    )[:, [0, 4, 7, 11]]
    still = torch.eye(4).expand(4, 4, 4)
    angles = torch.cat([relative_pose_errors(still, one).rotation for one in cameras])
    assert len(angles) == 3000 and 30 < 100 * float((angles < 30).double().mean()) <= 40


def test_measures_are_what_counting_by_hand_finds():
    worlds, pair = WorldSet("dynamic", "test", 3), torch.tensor([[0, 1], [1, 0]])
    found = measure_set(worlds, views=2)
    areas, medians, shares, objects = [], [], [], []
    for number in range(3):
        one = worlds.render([number], torch.tensor([[0, 11]]), pair[None])
        areas.append(float(one.moving.float().mean()))
        objects.append(len(set(one.object_ids[one.moving].tolist())))
        for flow, seen in zip(one.views.flow.displacement[0], one.views.flow.covisible[0] > 0, strict=True):
            shares.append(float(seen.float().mean()))
            medians.append(float(flow[seen].norm(dim=-1).median()))
    moving = [area for area in areas if area > 0]
    assert found.worlds == 3 and found.identity_rra == 0
    assert found.moving_scenes == pytest.approx(len(moving) / 3)
    assert found.moving_area == pytest.approx(sum(moving) / len(moving), rel=1e-3)
    assert found.moving_objects == pytest.approx(sum(objects) / len(moving))
    assert found.covisible == pytest.approx(sum(shares) / 6, rel=1e-3)
    assert found.hardly_covisible == pytest.approx(sum(share < 0.1 for share in shares) / 6)
    assert found.median_flow == pytest.approx(sorted(medians)[2], rel=1e-3)


def test_nothing_moves_in_static_worlds():
    found = measure_set(WorldSet("static", "test", 500), most=2)
    assert (found.worlds, found.moving_scenes, found.moving_area, found.moving_objects) == (2, 0, 0, 0)
    assert len(found.line().split(" | ")) == 8
