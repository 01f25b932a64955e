import dataclasses

import pytest
import torch
from tiny_model import TINY

from flow3r.config import DataConfig, TrainConfig
from flow3r.data.mixture import StepBatches, draw_pairs, grids, iterate_batches, stream
from flow3r.types import Flow, Views

DATA = DataConfig(views=(2, 3), images_per_batch=6, tokens=(9, 16), pairs_per_scene=2, workers=0)
CONFIG = TrainConfig(name="test", model=TINY, data=DATA, steps=6, seed=3)


class FakeClips:
    def draw(self, scenes: int, views: int, pairs: int, generator: torch.Generator) -> Views:
        chosen = draw_pairs(scenes, views, pairs, generator)
        shape = (*chosen.shape[:2], 42, 56)
        flow = Flow(chosen, torch.randn(*shape, 2, generator=generator), torch.ones(shape))
        return Views(images=torch.rand(scenes, views, 3, 42, 56, generator=generator), flow=flow)


def same(a: Views, b: Views) -> bool:
    return a.images.equal(b.images) and a.flow.displacement.equal(b.flow.displacement) and a.labelled == b.labelled


def test_a_batch_depends_on_run_and_step_alone():
    first, second = StepBatches(CONFIG, FakeClips()), StepBatches(CONFIG, FakeClips())
    torch.manual_seed(1)
    forwards = [first[step] for step in range(6)]
    torch.manual_seed(2)
    backwards = [second[step] for step in reversed(range(6))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    other = StepBatches(dataclasses.replace(CONFIG, seed=4), FakeClips())[0]
    assert other.images.shape != forwards[0].images.shape or not other.images.equal(forwards[0].images)


def test_workers_and_a_resumed_run_see_the_same_batches():
    with_worker = dataclasses.replace(CONFIG, data=dataclasses.replace(DATA, workers=1))
    ahead = list(iterate_batches(with_worker, 2, None, torch.device("cpu")))
    here = list(iterate_batches(CONFIG, 2, None, torch.device("cpu")))
    assert len(ahead) == 4 and all(same(a, b) for a, b in zip(ahead, here, strict=True))


def test_both_kinds_are_mixed_by_their_share():
    data = dataclasses.replace(DATA, unlabelled_share=0.25)
    batches = StepBatches(dataclasses.replace(CONFIG, data=data, steps=40), FakeClips())
    labelled = [batches[step].labelled for step in range(40)]
    assert 22 <= sum(labelled) <= 38
    only_worlds = StepBatches(CONFIG)
    assert all(only_worlds[step].labelled for step in range(4))


def test_batches_keep_within_views_images_and_tokens():
    batches = StepBatches(CONFIG)
    for step in range(6):
        b, n, _, h, w = batches[step].images.shape
        assert 2 <= n <= 3 and b * n <= 6 and 9 <= h * w / 14**2 <= 16 and 0.5 <= w / h <= 2.0


def test_a_model_without_flow_head_asks_for_no_flow():
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(TINY, flow=None))
    assert StepBatches(config)[0].flow is None


@pytest.mark.parametrize(("views", "count"), [(2, 5), (4, 3), (3, 6)])
def test_pairs_are_distinct_ordered_and_never_of_one_view(views: int, count: int):
    pairs = draw_pairs(5, views, count, stream(0, 0, "test"))
    assert pairs.shape == (5, min(count, views * (views - 1)), 2)
    for scene in pairs.tolist():
        assert len({tuple(p) for p in scene}) == len(scene) and all(i != j for i, j in scene)


def test_grids_are_all_that_fit():
    found = grids((510, 1300), (0.5, 2.0))
    assert (37, 28) in found and (22, 24) in found
    assert all(510 <= h * w <= 1300 and 0.5 <= w / h <= 2.0 for h, w in found)
    assert len(found) == len(set(found))


def test_streams_of_steps_and_purposes_are_independent():
    draws = {
        float(torch.rand((), generator=stream(*key))) for key in ((0, 0, "a"), (0, 1, "a"), (1, 0, "a"), (0, 0, "b"))
    }
    assert len(draws) == 4
