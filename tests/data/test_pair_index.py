"""The index of a store has every pair once, with what choosing needs, and says where it is."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_labels import SETTINGS, make_segment

from flow3r.data.clips import LabelClips
from flow3r.data.label_files import LabelFile
from flow3r.data.labels import LabelStore
from flow3r.data.pair_index import PairIndex, draw_pairs_where, write_pair_index
from flow3r.data.shards import write_shard
from flow3r.errors import LabelStoreError
from flow3r.files import FilePart
from flow3r.teacher.audit import audit

pytest.importorskip("pyarrow", reason="pyarrow is not installed (flow3r[scale])")
EVERY = ("source", "source_sha256", "file", "offset", "size", "row", "i", "j", "seconds", "covisible", "flow")


@pytest.fixture
def store(tmp_path) -> LabelStore:
    """A segment in a shard, and one that is a file."""
    made, store = LabelStore(tmp_path / "made", SETTINGS), LabelStore(tmp_path / "store", SETTINGS)
    write_shard(tmp_path / "store" / "shard-0.tar", {"sources": []}, [made.write(make_segment(first=10))])
    store.write(make_segment(first=20))
    write_pair_index(store)
    return store


def test_every_pair_has_one_row_that_says_where_it_is(store):
    columns = PairIndex.read(store.folder, EVERY).columns
    rows = [{name: columns[name][k] for name in EVERY} for k in range(6)]
    assert all(len(column) == 6 for column in columns.values())
    segments = {segment.indices[0]: segment for segment in store.segments()}
    for row in rows:
        size = None if row["size"] < 0 else int(row["size"])
        file = LabelFile.open(FilePart(str(Path(store.folder) / row["file"]), int(row["offset"]), size))
        indices = file.header["segment"]["indices"]
        i, j = file.header["segment"]["pairs"][row["row"]]
        assert (indices[i], indices[j]) == (row["i"], row["j"])
        assert row["seconds"] == pytest.approx(0.04 * (row["j"] - row["i"]), abs=1e-5)
        assert segments[indices[0]].source == row["source"]
    assert {row["file"].split(".")[-1] for row in rows} == {"tar", "labels"}


def test_a_copy_in_another_shard_is_left_out_whatever_is_labelled_first(tmp_path):
    """Same bytes, two names, two shards: whoever draws, by index or by headers, sees them once."""
    made = LabelStore(tmp_path / "made", SETTINGS)
    segments = {name: make_segment() for name in ("zebra", "alley")}
    for order in (("zebra", "alley"), ("alley", "zebra")):
        store = LabelStore(tmp_path / "-".join(order), SETTINGS)
        for name in order:
            info = dataclasses.replace(segments[name].info, source=name)
            file = made.write(dataclasses.replace(segments[name], info=info))
            shard = {"zebra": "shard-0.tar", "alley": "shard-1.tar"}[name]
            write_shard(Path(store.folder) / shard, {"sources": [name], "failures": [], "skipped": []}, [file])
        kept, copies = store.distinct()
        assert [segment.source for segment in kept] == ["zebra"] and copies == {"alley": "zebra"}
        write_pair_index(store)
        assert set(PairIndex.read(store.folder, ["source"]).columns["source"].astype(str)) == {"zebra"}
        assert LabelClips(store).training_count == len(PairIndex.read(store.folder)) == 3
        table = {check.name: check for check in audit(store.folder).checks}
        assert table["the index has every pair once"].wrong == ()
        assert "1 sources left out, copies of others" in table["the index has every pair once"].value


def test_pairs_are_chosen_by_time_covisibility_and_motion(store):
    index = PairIndex.read(store.folder)
    assert len(index) == 6
    assert index.where().all()
    assert index.where(seconds=(0.1, 0.2)).sum() == 2  # 0 and 3 of both segments
    assert not index.where(covisible=(0.6, 1.0)).any()
    share = 3.25 / math.hypot(28, 42)
    assert index.where(flow=(0.99 * share, 1.01 * share)).all()
    assert not index.where(flow=(1.01 * share, 1.0)).any()


def test_draws_depend_on_their_generator_alone(store):
    chosen = PairIndex.read(store.folder).where(seconds=(0.1, 0.2))
    draws = [draw_pairs_where(chosen, 20, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    assert set(draws[0]) == set(np.flatnonzero(chosen))
    with pytest.raises(LabelStoreError, match="widen"):
        draw_pairs_where(chosen & False, 1, torch.Generator())


def test_what_is_missing_or_damaged_is_said(store):
    path = Path(store.folder) / "index.parquet"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(LabelStoreError, match="makes a new one"):
        PairIndex.read(store.folder)
    path.unlink()
    with pytest.raises(LabelStoreError, match="has no index"):
        PairIndex.read(store.folder)


def test_a_url_is_read_like_a_folder(store):
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/indexed/index.parquet", (Path(store.folder) / "index.parquet").read_bytes())
    assert len(PairIndex.read("memory://indexed")) == 6
