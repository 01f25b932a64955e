"""Triangulated depth: that of a world from its exact flow and cameras; what moves or errs is found out."""

from dataclasses import replace

import pytest
import torch

from flow3r.data.regimes import WorldSet
from flow3r.geometry.se3 import invert
from flow3r.geometry.triangulation import Triangulated, triangulate
from flow3r.types import Views

VIEWS = 4


@pytest.fixture(scope="module")
def still() -> Views:
    """Four frames of a world in which nothing moves, and flow from the first to the others, in double precision."""
    pairs = torch.tensor([[[0, j] for j in range(1, VIEWS)]])
    worlds = WorldSet("static", "test", 1)
    views = worlds.render([0], torch.tensor([[0, 2, 4, 6]]), pairs, side=56).views
    return views.apply(lambda value: value.double() if value.is_floating_point() else value)


def from_flow(views: Views, **changes: torch.Tensor) -> Triangulated:
    given = {
        "displacement": views.flow.displacement[0],
        "covisible": views.flow.covisible[0] > 0,
        "target_from_source": invert(views.world_from_camera[0, 1:]) @ views.world_from_camera[0, 0],
        "source_intrinsics": views.intrinsics[0, 0],
        "target_intrinsics": views.intrinsics[0, 1:],
    }
    return triangulate(**(given | changes))


def relative_error(found: Triangulated, views: Views) -> torch.Tensor:
    return (found.depth - views.depth[0, 0]).abs() / views.depth[0, 0]


def test_exact_flow_and_cameras_give_exact_depth(still: Views):
    found = from_flow(still)
    told = found.parallax > 2
    assert told.float().mean() > 0.5 and relative_error(found, still)[told].max() < 2e-3
    assert found.agreeing[told].equal(found.seen[told])


def test_depth_scales_with_the_cameras_baselines(still: Views):
    motion = invert(still.world_from_camera[0, 1:]) @ still.world_from_camera[0, 0]
    grown = motion.clone()
    grown[:, :3, 3] *= 3
    a, b = from_flow(still), from_flow(still, target_from_source=grown)
    torch.testing.assert_close(b.depth, 3 * a.depth, rtol=1e-6, atol=0)
    torch.testing.assert_close(b.parallax, a.parallax, rtol=1e-6, atol=1e-9)


def test_parallax_says_what_an_error_of_flow_costs(still: Views):
    found = from_flow(still)
    moved = found.depth[None, ..., None] * 0 + torch.tensor([0.1, -0.05]).double()
    shifted = from_flow(replace(still, flow=replace(still.flow, displacement=still.flow.displacement + moved)))
    told = (found.parallax > 4) & (found.seen == 1)
    change = (shifted.depth / found.depth - 1).abs()[told] * found.parallax[told]
    assert told.sum() > 50 and change.quantile(0.95) < 0.2  # pixels; the error along the epipolar line is at most 0.11


def test_one_view_that_errs_is_outvoted_and_one_alone_is_told_by_its_epipolar_line(still: Views):
    wrong = still.flow.displacement[0].clone()
    wrong[0] += torch.tensor([7.0, 7.0])
    found = from_flow(still, displacement=wrong)
    everywhere = (found.seen == 3) & (from_flow(still).parallax > 4)
    assert everywhere.sum() > 50
    assert relative_error(found, still)[everywhere].median() < 0.01
    assert (found.agreeing[everywhere] == 2).float().mean() > 0.8


def test_what_no_view_sees_and_what_lies_behind_has_no_depth(still: Views):
    nothing = torch.zeros(VIEWS - 1, 56, 56, dtype=torch.bool)
    found = from_flow(still, covisible=nothing)
    assert not found.depth.any() and not found.seen.any() and not found.parallax.any()
    backwards = invert(still.world_from_camera[0, 1:]) @ still.world_from_camera[0, 0]
    backwards[:, :3, 3] *= -1
    assert (from_flow(still, target_from_source=backwards).depth[from_flow(still).parallax > 4] == 0).all()
