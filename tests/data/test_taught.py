"""Clips with flow from a teacher, a store, or both: the same truth whichever it came from, on any grid."""

from pathlib import Path
from typing import Any

import pytest
import torch
from made_media import texture
from PIL import Image
from tiny_model import TINY

from flow3r.config import DataConfig, TrainConfig
from flow3r.data.clips import LabelClips, check_store_matches
from flow3r.data.labels import LabelStore
from flow3r.data.mixture import Source, Tally, Wanted, iterate_batches
from flow3r.data.taught import Footage, HybridClips, TaughtClips
from flow3r.errors import InputError, LabelStoreError
from flow3r.geometry.flow import warp
from flow3r.teacher.label import label_videos
from flow3r.types import Flow, FlowLabels, Views

SPEED = 2.0  # pixels per frame that the camera pans
SIZE = (84, 112)  # of the frames
FRAMES = 20


class PanTeacher:
    """Knows that everything moves at one speed; refuses pairs farther apart than its reach."""

    name = "pan"

    def __init__(self, reach: int = 8):
        self.parameters: dict[str, Any] = {"reach": reach}
        self.reach = reach
        self.asked: list[tuple[int, int]] = []

    def __call__(self, images: torch.Tensor, pairs: torch.Tensor) -> FlowLabels:
        height, width = images.shape[2:]
        self.asked += [(int(i), int(j)) for i, j in pairs.tolist()]
        steps = (pairs[:, 1] - pairs[:, 0]).float()
        displacement = torch.zeros(1, len(pairs), height, width, 2)
        displacement[0, ..., 0] = (-steps * SPEED * width / SIZE[1])[:, None, None]
        ends = torch.arange(width) + 0.5 + displacement[..., 0]
        accepted = steps.abs() <= self.reach
        covisible = ((ends >= 0) & (ends < width) & accepted[:, None, None]).float()
        return FlowLabels(Flow(pairs[None], displacement, covisible), tuple("" if ok else "far" for ok in accepted))


def write_pan(folder: Path, seed: int, frames: int = FRAMES) -> Path:
    folder.mkdir()
    wall = texture(SIZE[0], SIZE[1] + int(SPEED) * frames, seed, coarseness=3.0)
    for k in range(frames):
        Image.fromarray(wall[:, int(SPEED) * k :][:, : SIZE[1]]).save(folder / f"{k:03d}.png")
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [write_pan(folder / name, seed) for seed, name in enumerate("abc")]


@pytest.fixture(scope="module")
def store(videos, tmp_path_factory) -> LabelStore:
    """Labels of the first two videos."""
    folder = tmp_path_factory.mktemp("labels")
    label_videos(videos[:2], folder, PanTeacher(), tokens=(48, 48), working_side=112, progress=False)
    return LabelStore(folder)


def taught(videos: list[Path], reach: int = 8, **options: Any) -> TaughtClips:
    return TaughtClips(Footage(videos), PanTeacher(reach), working_side=112, **options)


def hybrid(store: LabelStore, videos: list[Path], crop: float | None = 0.7, reach: int = 8) -> HybridClips:
    return HybridClips(LabelClips(store, crop=crop), taught(videos, reach, crop=crop))


def drawn(source: Source, seed: int = 0, size: tuple[int, int] = (56, 42), pairs: int = 4, views: int = 3) -> Views:
    generator = torch.Generator().manual_seed(seed)
    wanted = source.fit(Wanted(0, scenes=2, views=views, size=size, pairs=pairs), generator)
    return source.draw(wanted, generator)


def folders(views: Views) -> list[list[int]]:
    return [[int(name.split("_")[-1]) for name in scene] for scene in views.names]


@pytest.mark.parametrize("kind", ["store", "teacher", "teacher, centred", "hybrid"])
@pytest.mark.parametrize("size", [(56, 42), (42, 84), (112, 112)])
def test_labels_and_images_agree_on_every_grid(kind: str, size: tuple[int, int], store, videos):
    source = {
        "store": lambda: LabelClips(store, crop=0.7),
        "teacher": lambda: taught(videos, crop=0.7),
        "teacher, centred": lambda: taught(videos),
        "hybrid": lambda: hybrid(store, videos),
    }[kind]()
    for seed in range(2):
        views = drawn(source, seed, size)
        assert views.images.shape == (2, 3, 3, *size) and views.flow.covisible.shape == (2, 4, *size)
        scene = torch.arange(2)[:, None]
        start, end = (views.images[scene, views.flow.pairs[..., k]].flatten(0, 1) for k in (0, 1))
        known = views.flow.covisible.flatten(0, 1) > 0.99
        error = (warp(end, views.flow.displacement.flatten(0, 1)) - start).square().mean(1)[known]
        still = (end - start).square().mean(1)[known]
        assert known.float().mean() > 0.3
        assert -10 * error.mean().log10() > 26 and error.mean() < 0.2 * still.mean()  # dB


def test_draws_depend_on_their_generator_alone(store, videos):
    for make in (lambda: taught(videos, crop=0.8), lambda: hybrid(store, videos)):
        first, again = make(), make()
        drawn(again, seed=5)
        a, b = drawn(first, seed=3), drawn(again, seed=3)
        assert a.names == b.names and a.images.equal(b.images) and a.flow.displacement.equal(b.flow.displacement)


def test_without_crops_the_grid_is_that_of_the_store(store, videos):
    stored = {segment.size for segment in store.segments()}
    views = drawn(hybrid(store, videos, crop=None), size=(14, 14))
    assert tuple(views.images.shape[3:]) in stored


def test_what_the_store_has_is_not_asked_of_the_teacher(store, videos):
    source = hybrid(store, videos[:2])
    for seed in range(4):
        drawn(source, seed, pairs=2, views=2)
    assert source.counts()["stored pairs"] == 16 and not source.taught.teacher.asked
    more = hybrid(store, videos[:2])
    drawn(more, pairs=6, views=3)
    assert more.counts()["stored pairs"] > 0 and more.counts()["taught pairs"] > 0


def test_what_the_store_has_not_is_asked_of_the_teacher(store, videos):
    source = hybrid(store, videos[2:])
    drawn(source)
    counts = source.counts()
    assert counts["taught pairs"] >= 6 and not counts["stored pairs"]  # three frames may have fewer than four pairs


def test_refused_pairs_are_replaced_and_counted(videos):
    source = taught(videos, reach=3)
    for seed in range(6):
        views = drawn(source, seed)
        assert (views.flow.covisible.flatten(2).sum(-1) > 0).any(dim=1).all()
    frames_apart = [abs(i - j) for i, j in source.teacher.asked]
    assert source.counts()["refused pairs"] == sum(apart > 3 for apart in frames_apart) > 0
    assert source.counts()["taught pairs"] == sum(apart <= 3 for apart in frames_apart) > 0


def test_footage_that_gives_nothing_is_a_bad_sample_and_says_why(videos, tmp_path):
    with pytest.raises(InputError, match=r"20 clips in a row .* pan refuses all pairs of [abc] at frame \d+.*expected"):
        drawn(taught(videos, reach=0))
    short = write_pan(tmp_path / "short", 7, frames=2)
    with pytest.raises(InputError, match="short has no shot of 3 frames"):
        drawn(taught([short]))
    with pytest.raises(InputError, match="no video given"):
        Footage([])


def test_a_missing_video_is_worked_around_and_counted(videos, tmp_path):
    data = DataConfig(
        views=(2, 2), images_per_batch=2, tokens=(9, 12), pairs_per_scene=2, unlabelled_share=1.0, workers=1
    )
    config = TrainConfig(name="test", model=TINY, data=data, steps=12)
    tally = Tally(1.0)
    source = taught([*videos, tmp_path / "gone.mp4"])
    batches = list(iterate_batches(config, 0, source, torch.device("cpu"), tally=tally))
    assert len(batches) == 12 and tally.bad > 0
    assert tally.records()["taught pairs"] >= 12 and 0 < tally.records()["unread"] < 1


def test_the_end_of_every_shot_is_held_out(videos):
    source = TaughtClips(Footage(videos, held_out=0.5), PanTeacher(), working_side=112)
    names = {name for seed in range(6) for scene in drawn(source, seed).names for name in scene}
    assert names and all(int(Path(name).stem) < FRAMES / 2 for name in names)


def test_shots_are_found_once(videos, tmp_path, monkeypatch):
    first = Footage(videos, cache=tmp_path).shots(0)
    monkeypatch.setattr("flow3r.data.taught.find_shots", lambda sequence: pytest.fail("they are in the cache"))
    assert Footage(videos, cache=tmp_path).shots(0) == first == ((0, FRAMES),)


def test_pairs_that_are_not_wanted_are_not_asked_for(videos, store):
    source = taught(videos)
    assert drawn(source, pairs=0).flow is None and not source.teacher.asked
    assert drawn(LabelClips(store), pairs=0).flow is None


def test_a_teacher_on_an_accelerator_is_asked_in_the_main_process(store, videos):
    assert not hybrid(store, videos).in_process
    source = hybrid(store, videos)
    source.taught.teacher.device = torch.device("cuda")
    assert source.in_process and source.taught.in_process


def test_a_store_of_other_videos_is_named(store, videos):
    check_store_matches(store, videos[:2])
    with pytest.raises(LabelStoreError, match=r"no labels of 1 of 3 videos \(c\).* label them into this store"):
        check_store_matches(store, videos)
