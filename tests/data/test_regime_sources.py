"""What the controlled experiments draw: labels exact or flawed as stated, unlabelled scenes without a trace of 3D."""

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
from tiny_model import TINY

from flow3r.config import DataConfig, TrainConfig
from flow3r.data.mixture import StepBatches, Wanted, draw_pairs, iterate_batches, stream
from flow3r.data.regime_sources import Flaws, LabelledSequences, UnlabelledSequences
from flow3r.data.regimes import FRAMES, WorldSet
from flow3r.data.worlds import Worlds
from flow3r.errors import InputError
from flow3r.geometry.camera import unproject
from flow3r.geometry.flow import project_flow
from flow3r.geometry.se3 import invert, transform_maps
from flow3r.types import Views

LABELLED, ELSEWHERE = WorldSet("dynamic", "labelled", 5), WorldSet("elsewhere", "unlabelled", 5)
WANTED = Wanted(step=0, scenes=2, views=3, size=(42, 42), pairs=4)


@pytest.fixture(scope="module")
def alive() -> Worlds:
    """Eight worlds, far frames, there and back."""
    pairs = torch.tensor([[0, 1], [1, 0]]).expand(8, -1, -1)
    return WorldSet("dynamic", "test", 8).render(range(8), torch.tensor([[3, 7]]).expand(8, -1), pairs, side=56)


def projected(views: Views) -> torch.Tensor:
    """Flow of depth and cameras alone, as of a static scene, for the pairs there and back."""
    points = transform_maps(views.world_from_camera, unproject(views.depth, views.intrinsics))
    target_from_world = invert(views.world_from_camera.flip(1))
    return project_flow(points, target_from_world, views.intrinsics.flip(1))[0]


def test_flow_is_that_of_depth_and_cameras_where_nothing_moves_and_more_where_something_does(alive: Worlds):
    error = (alive.views.flow.displacement - projected(alive.views)).norm(dim=-1)
    seen = (alive.views.flow.covisible > 0) & (alive.views.depth > 0)
    still, moving = error[seen & ~alive.moving], error[seen & alive.moving]
    assert len(still) > 5000 and still.max() < 0.1
    assert len(moving) > 500 and moving.median() > 0.5


def test_labelled_scenes_have_every_label_and_lie_in_the_set():
    views = LabelledSequences(LABELLED).draw(WANTED, stream(0, 0, "test"))
    assert views.labelled and views.dense.all() and views.flow.pairs.shape == (2, 4, 2)
    for names in views.names:
        worlds = {name.split()[0] for name in names}
        times = [int(name.split()[1]) for name in names]
        assert worlds <= {f"dynamic/labelled/{k}" for k in range(5)} and len(worlds) == 1
        assert times == sorted(set(times)) and times[-1] < FRAMES


def test_scenes_are_those_of_the_set_whatever_stands_beside_them():
    views = LabelledSequences(LABELLED).draw(WANTED, stream(0, 0, "test"))
    world, *times = views.names[1][0].split()[0], *(int(name.split()[1]) for name in views.names[1])
    alone = LABELLED.render([int(world.split("/")[-1])], torch.tensor([times]), views.flow.pairs[1:], side=42).views
    for label in ("images", "depth", "intrinsics", "world_from_camera"):
        torch.testing.assert_close(getattr(views, label)[1:], getattr(alone, label), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(views.flow.displacement[1:], alone.flow.displacement, atol=1e-3, rtol=1e-4)


def test_unlabelled_scenes_have_images_and_flow_alone():
    views = UnlabelledSequences(ELSEWHERE, Flaws(noise=1.0, wrong=0.5)).draw(WANTED, stream(0, 0, "test"))
    known = {field.name for field in dataclasses.fields(views) if getattr(views, field.name) is not None}
    assert known == {"images", "flow", "names"} and not views.labelled
    without = UnlabelledSequences(ELSEWHERE).draw(dataclasses.replace(WANTED, pairs=0), stream(0, 0, "test"))
    assert without.flow is None and without.depth is None


def test_every_world_and_every_pair_of_frames_comes_up():
    source, seen = LabelledSequences(WorldSet("static", "labelled", 3)), set()
    for step in range(4):
        names = source.draw(Wanted(step, 12, 2, (14, 14), 0), stream(0, step, "test")).names
        seen |= {(pair[0].split()[0], int(pair[1].split()[1]) - int(pair[0].split()[1])) for pair in names}
    assert len({world for world, _ in seen}) == 3
    assert {gap for _, gap in seen} >= {1, 2, 3, 4, 5}
    assert source.counts() == {"scenes of static/labelled": 48}


def test_it_gives_square_images_and_as_many_views_as_there_are_frames():
    source = LabelledSequences(LABELLED)
    fitted = source.fit(Wanted(0, 1, 24, (98, 126), 2), stream(0, 0, "test"))
    assert (fitted.views, fitted.size) == (FRAMES, (98, 98))
    with pytest.raises(ValueError, match="ask for what fit"):
        source.draw(Wanted(0, 1, 2, (98, 126), 2), stream(0, 0, "test"))


@pytest.mark.parametrize("noise", [1.0, 3.0])
def test_noise_has_the_stated_deviation_in_every_component_and_is_smooth(noise: float):
    exact, covisible = torch.zeros(112, 84, 2), torch.ones(112, 84)
    fields = [Flaws(noise=noise).applied(exact, covisible, f"pair {k}", "")[0] for k in range(40)]
    errors = torch.stack(fields)
    assert errors.std(dim=(0, 1, 2)) == pytest.approx(noise, rel=0.05)
    assert errors.mean().abs() < 0.1 * noise
    neighbours = (errors[:, :, 1:] * errors[:, :, :-1]).mean() / errors.square().mean()
    assert neighbours > 0.95  # white noise would have 0
    far = (errors[:, :, 24:] * errors[:, :, :-24]).mean() / errors.square().mean()
    assert far.abs() < 0.1


def test_noise_that_leads_out_of_the_image_is_not_covisible():
    start = torch.zeros(28, 28, 2)
    moved, covisible = Flaws(noise=5.0).applied(start, torch.ones(28, 28), "a", "")
    ends = torch.stack(torch.meshgrid(torch.arange(28) + 0.5, torch.arange(28) + 0.5, indexing="xy"), -1) + moved
    outside = ((ends < 0) | (ends >= 28)).any(-1)
    assert outside.any() and torch.equal(covisible == 0, outside)


def test_the_stated_share_of_pairs_is_wrong_and_wrong_both_ways():
    flow, covisible = torch.ones(2, 2, 2), torch.ones(2, 2)
    wrong = [bool((Flaws(wrong=0.2).applied(flow, covisible, f"{k}", f"{k}")[0] != flow).any()) for k in range(2000)]
    assert sum(wrong) / 2000 == pytest.approx(0.2, abs=4 * math.sqrt(0.2 * 0.8 / 2000))
    one, other = (Flaws(wrong=0.5).applied(flow, covisible, name, "3 and 5")[0] for name in ("3 to 5", "5 to 3"))
    assert torch.equal(one, other)


def test_a_wrong_pair_has_the_flow_of_the_mirrored_images(alive: Worlds):
    flow = alive.views.flow
    wrong, covisible = Flaws(wrong=1.0).applied(flow.displacement[0, 0], flow.covisible[0, 0], "a", "b")
    torch.testing.assert_close(wrong[:, 0], flow.displacement[0, 0][:, -1] * torch.tensor([-1.0, 1.0]))
    assert torch.equal(covisible.flip(1), flow.covisible[0, 0])
    error = (wrong - flow.displacement[0, 0]).norm(dim=-1)[(covisible > 0) & (flow.covisible[0, 0] > 0)]
    assert error.median() > 5


def drawn_pairs(flaws: Flaws) -> Iterator[tuple[tuple, torch.Tensor]]:
    """The flow of named pairs of one world as they come up, in more than one scene."""
    source = UnlabelledSequences(WorldSet("elsewhere", "unlabelled", 1), flaws)
    for step in range(2):
        views = source.draw(Wanted(step, 1, 8, (28, 28), 56), stream(0, step, "test"))
        for (i, j), flow in zip(views.flow.pairs[0].tolist(), views.flow.displacement[0], strict=True):
            yield (views.names[0][i], views.names[0][j]), flow


def test_a_pair_is_flawed_in_the_same_way_whenever_it_is_drawn():
    flawed: dict[tuple, torch.Tensor] = {}
    for (pair, flow), (_, exact) in zip(drawn_pairs(Flaws(1.0, 0.3)), drawn_pairs(Flaws()), strict=True):
        again = flawed.setdefault(pair, flow)
        torch.testing.assert_close(flow, again, atol=1e-3, rtol=1e-4)
        assert (flow - exact).abs().mean() > 0.1
    assert len(flawed) < 2 * 56


def test_flaws_that_cannot_be_are_refused():
    for noise, wrong in ((-1.0, 0.0), (0.0, 1.5), (math.nan, 0.0)):
        with pytest.raises(InputError, match="expected >= 0"):
            Flaws(noise, wrong)


def test_a_resumed_run_draws_what_one_that_was_not_stopped_does():
    data = DataConfig(views=(2, 3), images_per_batch=6, tokens=(4, 4), aspect=(1, 1), pairs_per_scene=2, workers=0)
    config = TrainConfig(name="test", model=TINY, data=data, steps=6, seed=3)

    def batches(first: int) -> list[Views]:
        clips = UnlabelledSequences(ELSEWHERE, Flaws(1.0, 0.3))
        return list(iterate_batches(config, first, clips, torch.device("cpu"), labelled=LabelledSequences(LABELLED)))

    through, resumed = batches(0), batches(4)
    assert {views.labelled for views in through} == {True, False}
    for one, other in zip(through[4:], resumed, strict=True):
        assert one.names == other.names and one.images.equal(other.images)
        assert one.flow.displacement.equal(other.flow.displacement)


def test_all_ranks_agree_on_the_shape_and_differ_in_the_worlds():
    data = DataConfig(views=(2, 2), images_per_batch=12, tokens=(9, 9), aspect=(1, 1), pairs_per_scene=2, workers=0)
    config = TrainConfig(name="test", model=TINY, data=data, steps=2)
    source = LabelledSequences(WorldSet("dynamic", "labelled", 100))
    first, second = (StepBatches(config, labelled=source, rank=rank)[1].views for rank in (0, 1))
    assert first.images.shape == second.images.shape and first.names != second.names


def test_pairs_of_a_scene_are_those_that_are_wanted():
    views = UnlabelledSequences(ELSEWHERE).draw(dataclasses.replace(WANTED, pairs=99), stream(0, 0, "test"))
    assert {tuple(pair) for pair in views.flow.pairs[0].tolist()} == {
        tuple(pair) for pair in draw_pairs(1, 3, 6, stream(0, 0, "other"))[0].tolist()
    }
