"""Shards are files of a store like others, wherever they are, for us and for WebDataset; damage is noticed."""

import dataclasses
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from test_labels import SETTINGS, make_segment

from flow3r.data.clips import LabelClips
from flow3r.data.labels import LabelStore
from flow3r.data.mixture import Wanted, stream
from flow3r.data.shards import read_shard, write_shard
from flow3r.errors import LabelStoreError


@pytest.fixture
def loose(tmp_path) -> LabelStore:
    store = LabelStore(tmp_path / "loose", SETTINGS)
    for k in range(4):
        segment = make_segment(first=10 * k, seed=k)
        store.write(dataclasses.replace(segment, info=dataclasses.replace(segment.info, source_sha256=f"{k:064d}")))
    return store


@pytest.fixture
def packed(loose, tmp_path) -> LabelStore:
    files = sorted(Path(loose.folder).glob("*.labels"))
    store = LabelStore(tmp_path / "packed", SETTINGS)
    for k in range(2):
        write_shard(tmp_path / "packed" / f"shard-{k}.tar", {"sources": [str(k)]}, files[2 * k : 2 * k + 2])
    return store


def test_a_packed_store_holds_what_the_files_held(loose, packed):
    assert packed.segments() == loose.segments()
    for segment in loose.segments():
        np.testing.assert_array_equal(packed.images(segment, [0, 2]), loose.images(segment, [0, 2]))
        here, there = packed.flow(segment, [2, 0]), loose.flow(segment, [2, 0])
        torch.testing.assert_close(here.displacement, there.displacement, rtol=0, atol=0)
        assert packed.made_with(segment) == SETTINGS


def test_a_store_behind_a_url_is_read_like_a_folder(packed):
    fsspec = pytest.importorskip("fsspec")
    system, url = fsspec.filesystem("memory"), "memory://bucket/labels"
    for file in Path(packed.folder).iterdir():
        system.pipe(f"/bucket/labels/{file.name}", file.read_bytes())
    remote = LabelStore(url)
    assert remote.segments() == packed.segments()
    segment = remote.segments()[3]
    there, here = remote.clip(segment, [0, 3], [2]), packed.clip(segment, [0, 3], [2])
    torch.testing.assert_close(there.images, here.images, rtol=0, atol=0)
    torch.testing.assert_close(there.flow.displacement, here.flow.displacement, rtol=0, atol=0)
    with pytest.raises(LabelStoreError, match="not a label store"):
        LabelStore("memory://bucket/nothing")
    with pytest.raises(LabelStoreError, match="written to a folder"):
        LabelStore(url, SETTINGS)


def test_batches_depend_on_the_step_and_not_on_where_the_store_is(loose, packed):
    """So that a resumed run draws what an uninterrupted one would have."""
    wanted = Wanted(step=7, scenes=3, views=2, size=(28, 42), pairs=2)
    drawn = [LabelClips(store).draw(wanted, stream(0, 7, "clips")) for store in (loose, packed, packed)]
    for other in drawn[1:]:
        assert other.names == drawn[0].names
        torch.testing.assert_close(other.images, drawn[0].images, rtol=0, atol=0)
        torch.testing.assert_close(other.flow.displacement, drawn[0].flow.displacement, rtol=0, atol=0)
    assert LabelClips(packed).draw(wanted, stream(0, 8, "clips")).names != drawn[0].names


def test_the_same_files_make_the_same_shard(loose, tmp_path):
    files = sorted(Path(loose.folder).glob("*.labels"))
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / name, {"sources": []}, files)
        files[0].touch()
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_any_tar_reads_it(packed, loose):
    path = Path(packed.folder) / "shard-0.tar"
    first = sorted(Path(loose.folder).glob("*.labels"))[0]
    with tarfile.open(path) as shard:
        names = shard.getnames()
        assert names[1:] == ["000000.labels", "000001.labels"]
        assert shard.extractfile(names[1]).read() == first.read_bytes()
        assert json.loads(shard.extractfile(names[0]).read())["report"] == {"sources": ["0"]}


def test_webdataset_reads_it(packed, loose):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed (flow3r[scale])")
    found = list(webdataset.WebDataset(str(Path(packed.folder) / "shard-1.tar"), shardshuffle=False))
    content = {sample["__key__"]: sample["labels"] for sample in found if "labels" in sample}
    last = sorted(Path(loose.folder).glob("*.labels"))[3]
    assert content["000001"] == last.read_bytes()


def test_a_segment_that_is_there_twice_counts_once(loose, packed):
    for file in Path(loose.folder).glob("*.labels"):
        (Path(packed.folder) / file.name).write_bytes(file.read_bytes())
    assert LabelStore(packed.folder).segments() == loose.segments()


def test_every_flipped_byte_is_noticed(packed):
    path = Path(packed.folder) / "shard-0.tar"
    whole = path.read_bytes()
    base = read_shard(str(path)).segments[0][1]
    places = [*range(0, 100, 7), *np.linspace(512, base.offset - 1025, 60).astype(int).tolist()]
    places += np.linspace(base.offset, base.offset + base.size - 1, 60).astype(int).tolist()
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(LabelStoreError, match=path.name):
            store = LabelStore(packed.folder)
            for segment in store.segments():
                store.images(segment, range(4))
                store.flow(segment, range(3))


@pytest.mark.parametrize("kept", [0, 300, 700, 4000])
def test_a_cut_shard_is_noticed(packed, kept):
    path = Path(packed.folder) / "shard-1.tar"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(LabelStoreError, match=path.name):
        store = LabelStore(packed.folder)
        for segment in store.segments():
            store.flow(segment, range(3))
