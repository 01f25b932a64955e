"""Clips by the index are those of the store, and only of the pairs that were chosen."""

import dataclasses

import numpy as np
import pytest
import torch
from test_labels import SETTINGS, make_segment

from flow3r.data import indexed
from flow3r.data.clips import LabelClips
from flow3r.data.indexed import IndexedClips, stored_clips
from flow3r.data.labels import LabelStore
from flow3r.data.mixture import Wanted, stream
from flow3r.data.pair_index import PairIndex, write_pair_index
from flow3r.data.shards import write_shard
from flow3r.errors import LabelStoreError
from flow3r.types import Flow

pytest.importorskip("pyarrow", reason="pyarrow is not installed (flow3r[scale])")
WANTED = Wanted(step=3, scenes=4, views=2, size=(28, 42), pairs=2)


@pytest.fixture
def store(tmp_path) -> LabelStore:
    """Two segments in a shard and one file, of other frames each."""
    made, store = LabelStore(tmp_path / "made", SETTINGS), LabelStore(tmp_path / "store", SETTINGS)
    files = [made.write(make_segment(first=10 * k, seed=k)) for k in range(2)]
    write_shard(tmp_path / "store" / "shard-0.tar", {}, files)
    store.write(make_segment(first=20, seed=2))
    write_pair_index(store)
    return store


def test_a_clip_is_what_the_store_holds(store):
    clips = IndexedClips(store.folder).draw(WANTED, stream(0, 3, "clips"))
    segments = {segment.names[0]: segment for segment in store.segments()}
    for scene, names in enumerate(clips.names):
        segment = next(s for s in segments.values() if names[0] in s.names)
        frames = [segment.names.index(name) for name in names]
        i, j = (frames[end] for end in clips.flow.pairs[scene, 0].tolist())
        truth = store.flow(segment, [segment.pairs.index((i, j))])
        torch.testing.assert_close(clips.flow.displacement[scene, 0], truth.displacement[0, 0], rtol=0, atol=0)
        images = torch.from_numpy(store.images(segment, frames)).movedim(-1, 1).float() / 255
        torch.testing.assert_close(clips.images[scene], images, rtol=0, atol=0)


def test_a_draw_depends_on_its_generator_alone(store):
    draws = [IndexedClips(store.folder).draw(WANTED, stream(0, step, "clips")) for step in (3, 3, 4)]
    assert draws[0].names == draws[1].names != draws[2].names
    torch.testing.assert_close(draws[0].images, draws[1].images, rtol=0, atol=0)


def test_all_segments_are_drawn_and_only_chosen_pairs(store):
    names = set()
    source = IndexedClips(store.folder)
    for step in range(8):
        names |= {name for clip in source.draw(WANTED, stream(0, step, "clips")).names for name in clip}
    assert {name[-2] for name in names} == {"0", "1", "2"}
    chosen = PairIndex.read(store.folder).where(seconds=(0.1, 0.2))
    few = IndexedClips(store.folder, chosen)
    assert len(few) == 3
    for clip in few.draw(WANTED, stream(0, 0, "clips")).names:
        assert int(clip[1][-2:]) - int(clip[0][-2:]) == 3
    with pytest.raises(LabelStoreError, match="no pair to train on"):
        IndexedClips(store.folder, np.zeros(9, dtype=bool))


def test_clips_are_of_the_grid_that_is_asked_for(store):
    small = Wanted(step=0, scenes=2, views=2, size=(14, 28), pairs=1)
    fitted = IndexedClips(store.folder).fit(small, stream(0, 0, "fit"))
    assert fitted.size == (28, 42)
    cropped = IndexedClips(store.folder, crop=0.5)
    assert cropped.fit(small, stream(0, 0, "fit")) == small
    assert cropped.draw(small, stream(0, 0, "clips")).images.shape == (2, 2, 3, 14, 28)


def test_clips_that_no_segment_has_are_refused(store):
    source, many = IndexedClips(store.folder), Wanted(step=0, scenes=1, views=5, size=(28, 42), pairs=1)
    with pytest.raises(LabelStoreError, match="what fit"):
        source.draw(many, stream(0, 0, "x"))
    fitted = source.fit(many, stream(0, 0, "fit"))
    assert fitted.views == LabelClips(store).fit(many, stream(0, 0, "fit")).views < 5
    assert source.draw(fitted, stream(0, 0, "x")).images.shape[1] == fitted.views


def test_the_one_segment_that_connects_enough_frames_is_found(tmp_path, monkeypatch):
    store = LabelStore(tmp_path, SETTINGS)
    for k in range(6):
        segment = make_segment(first=10 * k, seed=0)
        if k != 4:  # one pair each
            info = dataclasses.replace(segment.info, pairs=((0, 1),), covisible_share=(1.0,), median_flow=(1.0,))
            flow = Flow(torch.tensor([[[0, 1]]]), segment.flow.displacement[:, :1], segment.flow.covisible[:, :1])
            segment = dataclasses.replace(segment, info=info, flow=flow)
        store.write(segment)
    write_pair_index(store)
    monkeypatch.setattr(indexed, "TRIES", 0)
    source, wanted = IndexedClips(tmp_path), Wanted(step=0, scenes=3, views=3, size=(28, 42), pairs=1)
    assert source.fit(wanted, stream(0, 0, "fit")).views == 3
    clips = source.draw(wanted, stream(0, 0, "clips"))
    assert {int(name[-6:]) // 10 for clip in clips.names for name in clip} == {4}


def test_a_store_is_read_by_its_index_unless_shots_are_asked_for(store):
    assert isinstance(stored_clips(store.folder), IndexedClips)
    assert isinstance(stored_clips(store.folder, 0.2), LabelClips)
    (store.folder / "index.parquet").unlink()
    assert isinstance(stored_clips(store.folder), LabelClips)
