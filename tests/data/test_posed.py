"""Training scenes from posed images: geometry stays exact through crop and resize, and what is unusable is refused."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from synthetic_room import HIGH, LOW, intrinsics_of, render, walk
from tiny_model import TINY

from flow3r.config import DataConfig, TrainConfig
from flow3r.data.frame import Frame, Sequence
from flow3r.data.mixture import StepBatches, Wanted
from flow3r.data.posed import PosedScenes, draw_frames
from flow3r.errors import InputError
from flow3r.geometry.camera import unproject
from flow3r.geometry.se3 import transform_maps

SIZE = (60, 100)


class Room:
    """A walk through a box, frames of 60 x 100, ten a second."""

    def __init__(self, count: int = 12, name: str = "room", **changes):
        self.name, self.poses, self.changes = name, walk(count), changes
        self.intrinsics = intrinsics_of(70, SIZE)

    def __len__(self) -> int:
        return len(self.poses)

    def timestamps(self) -> np.ndarray:
        return np.arange(len(self)) / 10

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        for index in indices:
            depth, _, colours = render(self.poses[index], self.intrinsics, SIZE)
            frame = Frame(colours, index / 10, f"{index}", depth, self.intrinsics, self.poses[index])
            yield dataclasses.replace(frame, **self.changes)


def wanted(scenes: int = 2, views: int = 3, pairs: int = 2, size: tuple[int, int] = (42, 56)) -> Wanted:
    return Wanted(step=0, scenes=scenes, views=views, size=size, pairs=pairs)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(42, 56), (28, 84), (70, 28)])
def test_points_lie_on_the_walls_and_the_world_is_the_first_views(size: tuple[int, int]):
    room = Room()
    assert isinstance(room, Sequence)
    views = PosedScenes([room]).draw(wanted(size=size), generator())
    assert views.images.shape == (2, 3, 3, *size) and views.labelled and not views.dense.any() and views.flow is None
    torch.testing.assert_close(views.world_from_camera[:, 0], torch.eye(4).expand(2, 4, 4))
    points = transform_maps(views.world_from_camera, unproject(views.depth, views.intrinsics))
    for scene in points:  # one frame of the walk is the first view: from there, the box is seen
        assert min(_off_walls(scene, pose) for pose in room.poses) < 0.02  # depth is that of the nearest original pixel


def _off_walls(points: torch.Tensor, pose: np.ndarray) -> float:
    world = points.double().numpy() @ pose[:3, :3].T + pose[:3, 3]
    return float(np.minimum(abs(world - LOW), abs(world - HIGH)).min(axis=-1).mean())


def test_rigid_scenes_have_flow_that_joins_the_views():
    views = PosedScenes([Room()], rigid=True, dense=True).draw(wanted(pairs=4), generator())
    flow = views.flow
    assert views.dense.all() and flow.pairs.shape == (2, 4, 2) and flow.covisible.mean() > 0.3
    points = transform_maps(views.world_from_camera, unproject(views.depth, views.intrinsics))
    for scene in range(2):
        for (i, j), moved, seen in zip(flow.pairs[scene].tolist(), flow.displacement[scene], flow.covisible[scene] > 0):
            y, x = seen.nonzero().unbind(1)
            target = torch.stack([x, y], dim=1) + 0.5 + moved[seen]
            there = points[scene, j][target[:, 1].long().clamp(0, 41), target[:, 0].long().clamp(0, 55)]
            assert (there - points[scene, i][seen]).norm(dim=1).median() < 0.08  # a pixel's width on the walls


def test_a_draw_is_a_function_of_its_generator():
    source = PosedScenes([Room(), Room(name="other")], rigid=True)
    a, b, c = (source.draw(wanted(), generator(seed)) for seed in (1, 1, 2))
    assert a.images.equal(b.images) and a.flow.displacement.equal(b.flow.displacement)
    assert not a.images.equal(c.images)


def test_of_very_many_sequences_each_is_opened_when_it_is_drawn():
    opened: list[int] = []

    class Listed(Room):
        def __init__(self, number: int):
            super().__init__(4, name=f"{number}")
            self.number = number

        def __len__(self) -> int:
            opened.append(self.number)
            return super().__len__()

    scenes = PosedScenes([Listed(number) for number in range(2000)])
    assert len(set(opened)) < 300
    opened.clear()
    scenes.draw(wanted(scenes=3), generator())
    assert len(set(opened)) == 3


def test_a_draw_of_sequences_that_are_all_too_short_counts_as_bad():
    with pytest.raises(InputError, match=r"in a row have fewer than 9 frames"):
        PosedScenes([Room(2), Room(5)]).draw(wanted(views=9), generator())


def test_scenes_have_as_many_views_as_the_longest_sequence_at_most():
    scenes = PosedScenes([Room(2), Room(5)])
    views = scenes.draw(scenes.fit(wanted(scenes=3, views=9), generator()), generator())
    assert views.images.shape[:2] == (3, 5)
    with pytest.raises(InputError, match=r"none of 1 sequences \(room\) has two usable frames"):
        PosedScenes([Room(1)])


NAN = np.full((4, 4), np.nan)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": None}, "room: frame .* lacks depth"),
        ({"world_from_camera": None}, "lacks depth, intrinsics or pose"),
        ({"world_from_camera": NAN}, "not finite"),
        ({"depth": np.zeros(SIZE)}, r"has depth in 0\.0% of it; expected 1%"),
    ],
)
def test_frames_without_labels_are_refused(changes: dict, message: str):
    with pytest.raises(InputError, match=message):
        PosedScenes([Room(**changes)]).draw(wanted(), generator())


def test_a_run_replaces_scenes_that_are_refused():
    data = DataConfig(views=(2, 3), images_per_batch=2, tokens=(9, 16), workers=0)
    config = TrainConfig(name="test", model=TINY, data=data, steps=12)
    batches = StepBatches(config, labelled=PosedScenes([Room(4), Room(4, depth=np.zeros(SIZE))], rigid=True))
    drawn = [batches[step] for step in range(12)]
    assert all(batch.views.labelled for batch in drawn)
    assert any(batch.failures for batch in drawn) and not all(batch.failures for batch in drawn)


@pytest.mark.parametrize("views", [2, 5, 30])
def test_frames_are_distinct_ascending_and_about_a_stride_apart(views: int):
    timestamps = np.arange(300) / 10
    chosen = [draw_frames(timestamps, views, (0.5, 0.5), generator(seed)) for seed in range(100)]
    for frames in chosen:
        assert len(frames) == views and (frames.diff() > 0).all() and frames[0] >= 0 and frames[-1] < 300
        assert frames[-1] - frames[0] <= 5 * views
    assert 2.5 <= torch.stack(chosen).diff(dim=1).float().mean() <= 7.5
    assert len({int(frames[0]) for frames in chosen}) > 40


def test_a_sequence_as_long_as_the_clip_is_taken_whole():
    frames = draw_frames(np.arange(6.0), 6, (0.04, 2.0), generator())
    assert frames.tolist() == list(range(6))
