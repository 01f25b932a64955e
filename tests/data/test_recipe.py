"""From a configuration that names datasets to the sources of a run, and the lists of what these may draw."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_posed import Room

from flow3r.config import DataConfig, SourceConfig
from flow3r.data.datasets.dataset import Dataset
from flow3r.data.indexed import IndexedClips
from flow3r.data.labels import LabelStore, Segment, SegmentInfo
from flow3r.data.mixture import Wanted
from flow3r.data.pack import pack
from flow3r.data.pair_index import write_pair_index
from flow3r.data.recipe import make_recipe
from flow3r.data.subsets import draw_subset, read_subset
from flow3r.errors import InputError
from flow3r.files import sha256_of_bytes
from flow3r.types import Flow, FlowLabels


@dataclass(frozen=True)
class CountingTeacher:
    """Flow: how many frames lie between, to the right. Longer ways than `reach` are refused."""

    reach: int = 1
    name: str = "counting"
    parameters: dict[str, Any] = field(default_factory=dict)

    def __call__(self, images: torch.Tensor, pairs: torch.Tensor) -> FlowLabels:
        between = (pairs[:, 1] - pairs[:, 0]).float()
        displacement = torch.zeros(1, len(pairs), *images.shape[2:], 2)
        displacement[0, ..., 0] = between[:, None, None]
        refusals = tuple("too far" if abs(way) > self.reach else "" for way in between.tolist())
        return FlowLabels(Flow(pairs[None], displacement, torch.ones(displacement.shape[:-1])), refusals)


WANTED = Wanted(step=0, scenes=2, views=2, size=(42, 56), pairs=2)


def dataset(name: str, labels: str = "posed", count: int = 20, **facts) -> Dataset:
    rooms = [Room(6, name=f"{name}_{k}") for k in range(count)]
    said = {"layout": "rooms", "licence": "none", "url": "", "citation": ""}
    return Dataset(name=name, title=name, sequences=lambda root: rooms, labels=labels, **said, **facts)


DATASETS = {
    "still": dataset("still", rigid=True, dense=True),
    "moving": dataset("moving"),
    "films": dataset("films", labels="none"),
    "megasam": dataset("megasam"),
}
DATA = DataConfig(
    labelled=(SourceConfig("still", 4, weight=2.0), SourceConfig("moving")),
    unlabelled=(SourceConfig("films"), SourceConfig("still", 3, skip=4)),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (*DATASETS, "films_megasam"):
        (tmp_path / name).mkdir()
    return tmp_path


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_every_source_gives_what_its_dataset_is_good_for(root):
    recipe = make_recipe(DATA, root, DATASETS, teacher=CountingTeacher(reach=1))
    (still, first), (moving, second) = recipe.labelled
    assert (first, second) == (2.0, 1.0) and len(recipe.clips) == 2
    exact, taught = (source.draw(WANTED, generator()) for source in (still, moving))
    assert exact.labelled and exact.dense.all() and taught.labelled and not taught.dense.any()
    assert exact.flow.displacement.norm(dim=-1).max() > 2  # geometry's
    steps = taught.flow.displacement[..., 0]
    assert set(np.unique(steps.numpy())) == {-1.0, 1.0}  # the teacher's, which counts views
    for source, _ in recipe.clips:
        clip = source.draw(source.fit(WANTED, generator()), generator())
        assert not clip.labelled and clip.flow is not None


def test_what_a_teacher_refuses_of_labelled_scenes_is_unknown(root):
    recipe = make_recipe(DATA, root, DATASETS, teacher=CountingTeacher(reach=0))
    assert recipe.labelled[1][0].draw(WANTED, generator()).flow.covisible.max() == 0


def test_labelled_and_unlabelled_parts_of_one_dataset_have_no_sequence_in_common_and_are_listed(root, tmp_path):
    held_out = {"films": dataclasses.replace(DATASETS["films"], held_out=lambda root: ["films_3"])}
    recipe = make_recipe(DATA, root, {**DATASETS, **held_out}, teacher=CountingTeacher())
    still, _, films, more = recipe.subsets
    every = [sequence.name for sequence in DATASETS["films"].sequences(root)]
    assert len(still.names) == 4 and len(more.names) == 3 and not set(still.names) & set(more.names)
    assert "films_3" not in films.names and "films_3" in draw_subset(SourceConfig("films"), every, test=()).names
    recipe.write_lists(tmp_path / "lists")
    files = sorted((tmp_path / "lists").iterdir())
    assert [file.name for file in files] == ["00_still.json", "01_moving.json", "02_films.json", "03_still.json"]
    assert read_subset(files[2]) == films


def test_pseudo_labels_are_read_from_a_folder_of_their_own(root):
    data = DataConfig(labelled=(SourceConfig("films", 3, labels="megasam"),))
    recipe = make_recipe(data, root, DATASETS)
    assert all(name.startswith("megasam") for name in recipe.subsets[0].names)


def test_flow_alone_cannot_be_learnt_where_something_moves_and_no_teacher_is_named(root):
    data = DataConfig(labelled=(SourceConfig("still"), SourceConfig("moving")))
    assert make_recipe(data, root, DATASETS).without_flow == ("moving",)
    with pytest.raises(InputError, match=r"^moving: something moves there"):
        make_recipe(data, root, DATASETS, trainable=("flow_head.",))
    assert make_recipe(data, root, DATASETS, trainable=("flow_head.",), teacher=CountingTeacher()).without_flow == ()


def test_all_that_is_missing_is_named_at_once(tmp_path):
    (tmp_path / "films").mkdir()
    data = DataConfig(labelled=(SourceConfig("still"), SourceConfig("films")), unlabelled=(SourceConfig("nothing"),))
    with pytest.raises(InputError) as told:
        make_recipe(data, tmp_path, DATASETS)
    for part in (
        f"{tmp_path / 'still'}: missing; expected still: rooms",
        "films: gives none; labelled training needs depth and cameras",
        "nothing: there is no reader for it",
        "nothing: is unlabelled; give label stores (--labels) or a teacher (--teacher)",
    ):
        assert part in str(told.value)


def test_labelled_scenes_in_which_something_moves_take_flow_from_a_store(root, tmp_path):
    data = DataConfig(labelled=(SourceConfig("moving", 2),))
    names = make_recipe(data, root, DATASETS).subsets[0].names
    store = LabelStore(tmp_path / "labels" / "moving", {"teacher": "counting"})
    for room in DATASETS["moving"].sequences(root):
        if room.name == names[0]:
            _write_segment(store, room, as_read=True)
    recipe = make_recipe(data, root, DATASETS, labels=tmp_path / "labels", trainable=("flow_head.",))
    assert recipe.without_flow == ()
    ((scenes, _),) = recipe.labelled
    drawn = [scenes.draw(dataclasses.replace(WANTED, scenes=1), generator().manual_seed(seed)) for seed in range(8)]
    seen = {views.flow.covisible.mean().item() > 0.5 for views in drawn}
    assert seen == {True, False} and all(views.labelled for views in drawn)  # the other sequence has no labels
    assert set(scenes.counts()) == {"stored pairs"}


def test_a_store_may_call_a_sequence_after_its_file(root, tmp_path):
    named = [Room(6, name=name) for name in ("a/one", "b/one", "a/two")]
    datasets = {"films": dataclasses.replace(DATASETS["films"], sequences=lambda root: named)}
    store = LabelStore(tmp_path / "labels" / "films", {"teacher": "counting"})
    for name in ("one", "two"):
        _write_segment(store, Room(6, name=name))
    data = DataConfig(unlabelled=(SourceConfig("films"),))
    ((clips, _),) = make_recipe(data, root, datasets, labels=tmp_path / "labels").clips
    drawn = {clips.draw(clips.fit(WANTED, generator()), generator().manual_seed(k)).names[0][0][:3] for k in range(9)}
    assert drawn == {"two"}  # which of both "one" is, nobody knows


def test_a_packed_copy_trains_as_the_original_does(root, tmp_path):
    pytest.importorskip("webdataset", reason="needs flow3r[scale]")
    held_out = dataclasses.replace(DATASETS["still"], held_out=lambda root: ["still_1"])
    few = held_out.sequences(root)[:4]
    datasets = {"still": dataclasses.replace(held_out, sequences=lambda root: few)}
    data = DataConfig(labelled=(SourceConfig("still"),))
    pack(datasets["still"], few, tmp_path / "copies" / "still", held_out=["still_1", "elsewhere"])
    original, copy = (make_recipe(data, folder, datasets) for folder in (root, tmp_path / "copies"))
    assert original.subsets == copy.subsets and len(copy.subsets[0].names) == 3
    (one, _), (other, _) = original.labelled[0], copy.labelled[0]
    expected, got = one.draw(WANTED, generator()), other.draw(WANTED, generator())
    for name in ("images", "depth", "intrinsics", "world_from_camera", "dense"):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), rtol=0, atol=0)
    torch.testing.assert_close(got.flow.displacement, expected.flow.displacement, rtol=0, atol=0)
    (tmp_path / "copies" / "still").rename(tmp_path / "copies" / "moving")
    with pytest.raises(InputError, match="moving: a packed copy of still; expected moving"):
        make_recipe(DataConfig(labelled=(SourceConfig("moving"),)), tmp_path / "copies", DATASETS)


def test_stored_labels_are_those_of_the_sequences_chosen_with_an_index_or_without(root, tmp_path):
    data = DataConfig(unlabelled=(SourceConfig("films", 2),), crop_clips=0.8)
    chosen = make_recipe(data, root, DATASETS, teacher=CountingTeacher()).subsets[0].names
    images = [room for room in DATASETS["films"].sequences(root) if room.name in (*chosen, "films_0", "films_1")]
    store = LabelStore(tmp_path / "labels" / "films", {"teacher": "counting"})
    for room in images:
        _write_segment(store, room)
    for indexed in (False, True):
        if indexed:
            pytest.importorskip("pyarrow", reason="an index of pairs needs pyarrow")
            write_pair_index(store)
        ((clips, _),) = make_recipe(data, root, DATASETS, labels=tmp_path / "labels").clips
        assert isinstance(clips, IndexedClips) == indexed
        seen = set()
        for seed in range(20):
            drawn = torch.Generator().manual_seed(seed)
            views = clips.draw(clips.fit(WANTED, drawn), drawn)
            seen |= {name.split(":")[0] for names in views.names for name in names}
        assert len(seen) > 0 and seen <= {f"{name}/{k}" for name in chosen for k in range(6)}


def _write_segment(store: LabelStore, room: Room, as_read: bool = False) -> None:
    frames = list(room.frames(range(len(room))))
    grid, pairs = (56, 84), ((0, 1), (1, 2), (2, 1))
    images = np.stack([np.zeros((*grid, 3), np.uint8) for _ in frames])
    info = SegmentInfo(
        source=room.name,
        source_sha256=sha256_of_bytes(room.name.encode()),
        shot=(0, len(frames)),
        indices=tuple(range(len(frames))),
        timestamps=tuple(frame.timestamp for frame in frames),
        names=tuple(frame.name if as_read else f"{room.name}/{k}" for k, frame in enumerate(frames)),
        original_sizes=((60, 100),) * len(frames),
        size=grid,
        model_from_original=(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),) * len(frames),
        pairs=pairs,
        covisible_share=(1.0,) * len(pairs),
        median_flow=(1.0,) * len(pairs),
        refusals=(),
    )
    flow = Flow(torch.tensor([pairs]), torch.ones(1, len(pairs), *grid, 2), torch.ones(1, len(pairs), *grid))
    store.write(Segment(info, images, flow))
