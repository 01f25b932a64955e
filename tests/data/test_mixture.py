import dataclasses
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable

import pytest
import torch
from test_clips import write_segment
from tiny_model import TINY

from flow3r.config import DataConfig, TrainConfig
from flow3r.data.clips import LabelClips
from flow3r.data.labels import LabelStore
from flow3r.data.mixture import Source, StepBatches, Tally, Wanted, draw_pairs, grids, iterate_batches, stream
from flow3r.data.worlds import Worlds
from flow3r.errors import InputError, LabelStoreError, TrainingError
from flow3r.types import Flow, Views

DATA = DataConfig(views=(2, 3), images_per_batch=6, tokens=(9, 16), pairs_per_scene=2, workers=0)
CONFIG = TrainConfig(name="test", model=TINY, data=DATA, steps=6, seed=3)


class FakeClips(Source):
    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        chosen = draw_pairs(wanted.scenes, wanted.views, wanted.pairs, generator)
        shape = (*chosen.shape[:2], *wanted.size)
        flow = Flow(chosen, torch.randn(*shape, 2, generator=generator), torch.ones(shape))
        images = torch.rand(wanted.scenes, wanted.views, 3, *wanted.size, generator=generator)
        return Views(images=images, flow=flow)


class FakeScenes(Source):
    """Labelled scenes of about one colour."""

    def __init__(self, colour: float):
        self.colour = colour

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        shape = (wanted.scenes, wanted.views, *wanted.size)
        depth = torch.rand(shape, generator=generator) + 1
        poses = torch.eye(4).expand(*shape[:2], 4, 4)
        pairs = draw_pairs(wanted.scenes, wanted.views, wanted.pairs, generator)
        flow = torch.zeros(*pairs.shape[:2], *wanted.size, 2)
        images = self.colour + 0.1 * torch.rand(*shape[:2], 3, *wanted.size, generator=generator)
        return Views(images, depth, poses[..., :3, :3], poses, flow=Flow(pairs, flow, flow[..., 0]))


DAMAGED = LabelStoreError("a.labels: block 3 is damaged")


class FlakyClips(FakeClips):
    """Of which a share of draws cannot be read."""

    def __init__(self, share: float, error: Exception = DAMAGED):
        self.share, self.error = share, error

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        if torch.rand((), generator=generator) < self.share:
            raise self.error
        return super().draw(wanted, generator)


def with_data(**changes) -> TrainConfig:
    return dataclasses.replace(CONFIG, steps=40, data=dataclasses.replace(DATA, **changes))


def same(a: Views, b: Views) -> bool:
    return a.images.equal(b.images) and a.flow.displacement.equal(b.flow.displacement) and a.labelled == b.labelled


def test_a_batch_depends_on_run_and_step_alone():
    first, second = StepBatches(CONFIG, FakeClips()), StepBatches(CONFIG, FakeClips())
    torch.manual_seed(1)
    forwards = [first[step].views for step in range(6)]
    torch.manual_seed(2)
    backwards = [second[step].views for step in reversed(range(6))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    other = StepBatches(dataclasses.replace(CONFIG, seed=4), FakeClips())[0].views
    assert other.images.shape != forwards[0].images.shape or not other.images.equal(forwards[0].images)


def test_workers_and_a_resumed_run_see_the_same_batches():
    with_worker = dataclasses.replace(CONFIG, data=dataclasses.replace(DATA, workers=1))
    ahead = list(iterate_batches(with_worker, 2, None, torch.device("cpu")))
    here = list(iterate_batches(CONFIG, 2, None, torch.device("cpu")))
    assert len(ahead) == 4 and all(same(a, b) for a, b in zip(ahead, here, strict=True))


def test_both_kinds_are_mixed_by_their_share():
    data = dataclasses.replace(DATA, unlabelled_share=0.25)
    batches = StepBatches(dataclasses.replace(CONFIG, data=data, steps=40), FakeClips(), labelled=FakeScenes(0.5))
    labelled = [batches[step].views.labelled for step in range(40)]
    assert 22 <= sum(labelled) <= 38
    only_worlds = StepBatches(CONFIG)
    assert all(only_worlds[step].views.labelled for step in range(4))


def test_batches_keep_within_views_images_and_tokens():
    batches = StepBatches(CONFIG)
    for step in range(6):
        b, n, _, h, w = batches[step].views.images.shape
        assert 2 <= n <= 3 and b * n <= 6 and 9 <= h * w / 14**2 <= 16 and 0.5 <= w / h <= 2.0


def test_a_model_without_flow_head_asks_for_no_flow():
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(TINY, flow=None))
    assert StepBatches(config)[0].views.flow is None


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


def test_streams_of_ranks_and_steps_never_coincide():
    first = [
        int(torch.randint(2**62, (), generator=stream(3, step, purpose, rank)))
        for rank in range(8)
        for step in range(250)
        for purpose in ("batch", "augmentation")
    ]
    assert len(set(first)) == len(first)


def test_the_stream_of_one_device_is_that_of_earlier_runs():
    """Runs that are documented can be repeated."""
    drawn = torch.randint(2**40, (3,), generator=stream(0, 0, "batch")).tolist()
    assert drawn == [900138527500, 721525375539, 16125040892]
    assert drawn == torch.randint(2**40, (3,), generator=stream(0, 0, "batch", rank=0)).tolist()


@pytest.mark.parametrize("clips", ["fake", "labels", "both"])
def test_ranks_agree_on_kind_and_shape_and_draw_other_scenes(clips: str, tmp_path):
    config, labels = with_data(views=(2, 4), images_per_batch=4, augment=False), LabelStore(tmp_path, {})
    for source, size in (("a", (28, 42)), ("b", (42, 28))):
        for start in (0, 10):
            write_segment(labels, start, size, source)
    sources = {"fake": FakeClips(), "labels": LabelClips(labels)}
    chosen = [(source, 1.0) for source in sources.values()] if clips == "both" else sources[clips]
    ranks = [StepBatches(config, chosen, labelled=FakeScenes(0.5), rank=rank) for rank in range(3)]
    kinds, differing = set(), 0
    for step in range(12):
        first, *others = [batches[step].views for batches in ranks]
        kinds.add((first.labelled, first.images.shape[3:]))
        for other in others:
            assert other.labelled == first.labelled and other.images.shape == first.images.shape
            assert other.flow.pairs.shape == first.flow.pairs.shape
            differing += not (other.images.equal(first.images) and other.flow.pairs.equal(first.flow.pairs))
    assert {labelled for labelled, _ in kinds} == {False, True} and len(kinds) > 3
    assert differing >= 23  # a store of so few frames may give two ranks the same


def test_ranks_see_other_worlds_on_the_same_grid():
    first, second = (StepBatches(CONFIG, rank=rank)[1].views for rank in (0, 1))
    assert first.images.shape == second.images.shape and not first.intrinsics.equal(second.intrinsics)


def test_sources_are_drawn_by_their_weights_and_on_all_ranks_alike():
    labelled = [(FakeScenes(0.1), 3.0), (FakeScenes(0.9), 1.0)]
    config = with_data(unlabelled_share=0.5, augment=False)
    config = dataclasses.replace(config, steps=400)
    a, b = FakeClips(), FakeClips()
    ranks = [StepBatches(config, [(a, 1.0), (b, 4.0)], labelled=labelled, rank=rank) for rank in (0, 5)]
    sources = [ranks[0].plan(step).source for step in range(400)]
    assert sources == [ranks[1].plan(step).source for step in range(400)]
    counts = [sources.count(source) for source in (labelled[0][0], labelled[1][0], a, b)]
    assert counts == pytest.approx([150, 50, 40, 160], abs=25)
    drawn = next(batch for step in range(400) if (batch := ranks[0][step].views).labelled)
    assert float(drawn.images.median()) == pytest.approx(0.15, abs=0.01) or drawn.images.min() >= 0.9


def test_augmentation_changes_images_alone_and_differs_between_ranks():
    plain, changed, other = (
        StepBatches(with_data(augment=on), FakeClips(), labelled=FakeScenes(0.5), rank=rank)
        for on, rank in ((False, 0), (True, 0), (True, 1))
    )
    for step in range(4):
        a, b, c = plain[step].views, changed[step].views, other[step].views
        assert not a.images.equal(b.images) and not b.images.equal(c.images)
        assert a.flow.displacement.equal(b.flow.displacement) and a.flow.pairs.equal(b.flow.pairs)
        assert not a.labelled or (a.depth.equal(b.depth) and a.intrinsics.equal(b.intrinsics))
        assert b.images.min() >= 0 and b.images.max() <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_replaced_and_counted_wherever_they_are_drawn(workers: int):
    config = with_data(unlabelled_share=0.7, workers=workers)
    tally = Tally(budget=1.0)
    seen = list(iterate_batches(config, 0, FlakyClips(0.3), torch.device("cpu"), labelled=FakeScenes(0.5), tally=tally))
    batches = StepBatches(config, FlakyClips(0.3), labelled=FakeScenes(0.5))
    expected = [batches[step] for step in range(40)]
    assert all(same(a, b.views) for a, b in zip(seen, expected, strict=True))
    assert tally.bad == sum(len(b.failures) for b in expected) > 3
    assert tally.scenes == sum(len(views.images) for views in seen)
    whole = StepBatches(config, FakeClips(), labelled=FakeScenes(0.5))
    for step, batch in enumerate(expected):  # of the same source and shape
        assert batch.views.labelled == whole[step].views.labelled
        assert batch.views.images.shape == whole[step].views.images.shape


def test_a_replaced_draw_differs_between_ranks_and_from_that_of_another_step():
    config = with_data(unlabelled_share=1.0)
    ranks = [StepBatches(config, FlakyClips(0.6), rank=rank) for rank in (0, 1)]
    replaced = [b.views.images for batches in ranks for step in range(20) if (b := batches[step]).failures]
    assert len(replaced) > 10
    assert len({float(images.double().sum()) for images in replaced}) == len(replaced)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_that_always_fails_stops_the_run_and_says_why(workers: int):
    config = with_data(unlabelled_share=1.0, workers=workers)
    with pytest.raises(TrainingError, match=r"^step 3: 10 draws in a row could not be read, .* block 3 is damaged$"):
        next(iterate_batches(config, 3, FlakyClips(1.0), torch.device("cpu")))


@pytest.mark.parametrize("error", [InputError("a"), OSError("disk")])
def test_bad_samples_beyond_the_budget_stop_the_run(error: Exception):
    config = with_data(unlabelled_share=1.0, bad_sample_budget=0.0)
    with pytest.raises(TrainingError, match=r"expected a share of at most 0 \(bad_sample_budget\); the last: (a|disk)"):
        list(iterate_batches(config, 0, FlakyClips(0.3, error), torch.device("cpu")))


def test_few_early_bad_samples_do_not_stop_a_run():
    config = with_data(unlabelled_share=1.0, bad_sample_budget=0.01)
    tally = Tally(0.01)
    for views in iterate_batches(config, 0, FlakyClips(0.1), torch.device("cpu"), tally=tally):
        assert views is not None
    assert 0 < tally.bad <= 10 and tally.bad / tally.scenes > 0.01


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_the_program_are_not_taken_for_bad_samples(workers: int):
    config = with_data(unlabelled_share=1.0, workers=workers)
    with pytest.raises(ValueError, match="a mistake"):
        list(iterate_batches(config, 0, FlakyClips(1.0, ValueError("a mistake")), torch.device("cpu")))


def test_a_damaged_label_file_is_worked_around(tmp_path):
    store = LabelStore(tmp_path, {})
    for source in "abcd":
        write_segment(store, 0, (28, 42), source)
    clips, file = LabelClips(store), sorted(tmp_path.glob("*.labels"))[1]
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    config = dataclasses.replace(with_data(unlabelled_share=1.0, images_per_batch=2), steps=16)
    tally = Tally(0.01)
    assert len(list(iterate_batches(config, 0, clips, torch.device("cpu"), tally=tally))) == 16
    assert 0 < tally.bad <= 10


def test_an_accelerator_renders_worlds_in_place_and_has_the_rest_from_workers(monkeypatch):
    here = os.getpid()

    def rendered(seeds: list[int], views: int, size: tuple[int, int], **_: object) -> Worlds:
        assert os.getpid() == here
        maps = (len(seeds), views, *size)
        zeros = torch.zeros(maps)
        return Worlds(Views(torch.zeros(*maps[:2], 3, *size), depth=zeros), zeros.long(), zeros.bool())

    class ClipsOfWorkers(FakeClips):
        def draw(self, *arguments) -> Views:
            assert os.getpid() != here
            return super().draw(*arguments)

    monkeypatch.setattr("flow3r.data.mixture.render_worlds", rendered)
    config = with_data(workers=2)
    there = list(iterate_batches(config, 0, ClipsOfWorkers(), torch.device("meta")))  # stands for an accelerator
    expected = StepBatches(config, FakeClips())
    assert all(views.images.is_meta for views in there)
    assert [views.labelled for views in there] == [expected[step].views.labelled for step in range(40)]
    assert [views.images.shape for views in there] == [expected[step].views.images.shape for step in range(40)]


class MortalClips(FakeClips):
    """Of which some steps end the process that draws them, if it is a worker."""

    def __init__(self, steps: Iterable[int], by: int):
        self.steps, self.by, self.here = steps, by, os.getpid()

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        if wanted.step in self.steps and os.getpid() != self.here:
            os.kill(os.getpid(), self.by)
        return super().draw(wanted, generator)


def test_a_dead_worker_is_named_where_its_batch_is_missing():
    config = with_data(unlabelled_share=1.0, workers=2)
    seen = []  # none of them, where the machine is so busy that the first batch is still waited for
    with pytest.raises(TrainingError, match=r"^step [0-5]: of 2 processes .* 1 ended \(\d+ by SIGKILL\).* `workers`"):
        for views in iterate_batches(config, 0, MortalClips([5], signal.SIGKILL), torch.device("cpu")):
            seen.append(views)
            time.sleep(0.05)  # a step, in which the death must not be felt
    expected = StepBatches(config, FakeClips())
    assert len(seen) <= 5 and all(same(views, expected[step].views) for step, views in enumerate(seen))


def test_an_error_in_a_worker_is_not_taken_for_its_death():
    config = with_data(unlabelled_share=1.0, workers=1)
    with pytest.raises(RuntimeError, match="a mistake"):
        list(iterate_batches(config, 0, FlakyClips(1.0, RuntimeError("a mistake")), torch.device("cpu")))


class CountedClips(FakeClips):
    """Counts its scenes as it draws."""

    def __init__(self):
        self.drawn = Counter()

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        self.drawn["scenes drawn"] += wanted.scenes
        return super().draw(wanted, generator)

    def counts(self) -> Counter[str]:
        return self.drawn


@pytest.mark.parametrize("workers", [0, 2])
def test_what_sources_count_reaches_the_log_from_every_process(workers: int):
    tally = Tally(0.0)
    config = with_data(unlabelled_share=1.0, workers=workers)
    clips = CountedClips()
    seen = list(iterate_batches(config, 0, clips, torch.device("cpu"), tally=tally))
    assert tally.records() == {"scenes drawn": sum(len(views.images) for views in seen)}


def test_two_workers_and_two_ranks_never_draw_the_same_scenes():
    config = with_data(unlabelled_share=0.5, workers=2, augment=False)
    sums = [
        float(scene.double().sum())
        for rank in (0, 1)
        for views in iterate_batches(config, 0, FakeClips(), torch.device("cpu"), labelled=FakeScenes(0.5), rank=rank)
        for scene in views.images
    ]
    assert len(sums) > 150 and len(set(sums)) == len(sums)


def test_a_source_that_draws_on_an_accelerator_is_never_drawn_from_by_workers():
    class OnAccelerator(MortalClips):
        in_process = True

    config = with_data(unlabelled_share=0.5, workers=1)
    source = OnAccelerator(range(40), signal.SIGKILL)
    drawn = iterate_batches(config, 0, source, torch.device("cpu"), labelled=FakeScenes(0.5))
    assert len(list(drawn)) == 40
