"""What is packed comes back as it was, from a folder, a URL, and by WebDataset itself."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_media import numbered_frame, write_video
from posed_on_disk import write_posed

from flow3r.data.datasets.dataset import Dataset
from flow3r.data.datasets.packed import PACKED, described
from flow3r.data.datasets.posed_folders import POSED_FOLDERS
from flow3r.data.datasets.vkitti2 import VKITTI2
from flow3r.data.frame import Sequence
from flow3r.data.inspect_dataset import dataset_of
from flow3r.data.pack import pack
from flow3r.data.video import content_sha256
from flow3r.errors import InputError

webdataset = pytest.importorskip("webdataset", reason="needs flow3r[scale]")


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    for name in ("a", "b.with.dots"):
        write_posed(tmp_path / "scenes" / name)
    return tmp_path / "scenes"


def check_same(packed: Sequence, original: Sequence) -> None:
    assert isinstance(packed, Sequence) and packed.name == original.name
    np.testing.assert_array_equal(packed.timestamps(), original.timestamps())
    numbers = range(len(original))
    for got, expected in zip(packed.frames(numbers), original.frames(numbers), strict=True):
        assert (got.name, got.timestamp) == (expected.name, expected.timestamp)
        for label in ("image", "depth", "intrinsics", "world_from_camera"):
            a, b = getattr(got, label), getattr(expected, label)
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_array_equal(a, b)
                assert a.dtype == b.dtype


def packed(scenes: Path, out: Path | str, dataset: Dataset = POSED_FOLDERS, **options) -> list[Sequence]:
    pack(dataset, POSED_FOLDERS.sequences(scenes), out, **options)
    return list(PACKED.sequences(out))


@pytest.mark.parametrize("shard_bytes", [2**30, 1])
def test_frames_come_back_exactly_from_one_shard_and_from_many(scenes: Path, tmp_path: Path, shard_bytes: int):
    found = packed(scenes, tmp_path / "out", shard_bytes=shard_bytes)
    assert len(list((tmp_path / "out").glob("*.tar"))) == (1 if shard_bytes > 1 else 6)
    for one, other in zip(found, POSED_FOLDERS.sequences(scenes), strict=True):
        check_same(one, other)


def test_frames_come_back_exactly_from_a_url(scenes: Path):
    found = packed(scenes, "memory://bucket/packed")
    for one, other in zip(found, POSED_FOLDERS.sequences(scenes), strict=True):
        check_same(one, other)
    with pytest.raises(InputError, match="is not empty"):
        packed(scenes, "memory://bucket/packed")


def test_what_was_said_of_the_dataset_is_kept(scenes: Path, tmp_path: Path):
    packed(scenes, tmp_path / "out", VKITTI2)
    again = dataset_of(tmp_path / "out")
    assert (again.licence, again.rigid, again.scale) == (VKITTI2.licence, VKITTI2.rigid, VKITTI2.scale)
    assert again.name == described(tmp_path / "out").name == "packed"


def test_webdataset_reads_the_shards(scenes: Path, tmp_path: Path):
    packed(scenes, tmp_path / "out")
    read = webdataset.WebDataset(str(tmp_path / "out" / "000000.tar"), shardshuffle=False).decode("rgb8")
    original = [frame for sequence in POSED_FOLDERS.sequences(scenes) for frame in sequence.frames(range(3))]
    for sample, frame in zip(read, original, strict=True):
        np.testing.assert_array_equal(sample["png"], frame.image)
        np.testing.assert_array_equal(sample["depth.npz"]["depth"], frame.depth)
        assert sample["json"]["world_from_camera"] == frame.world_from_camera.tolist()


def test_videos_are_packed_as_the_files_that_they_are(tmp_path: Path):
    from flow3r.data.datasets.videos import VIDEOS

    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", [numbered_frame(k) for k in range(5)])
    (original,) = VIDEOS.sequences(tmp_path / "videos")
    pack(VIDEOS, [original], tmp_path / "out")
    (found,) = PACKED.sequences(tmp_path / "out")
    assert content_sha256(found) == content_sha256(original) and described(tmp_path / "out").labels == "none"
    check_same(found, original)


def test_a_sequence_that_cannot_be_read_costs_only_itself(scenes: Path, tmp_path: Path):
    (scenes / "a" / "2.png").write_bytes(b"")
    result = pack(POSED_FOLDERS, POSED_FOLDERS.sequences(scenes), tmp_path / "out")
    assert result.sequences == 1 and "2.png" in result.unreadable["a"]
    assert [sequence.name for sequence in PACKED.sequences(tmp_path / "out")] == ["b.with.dots"]


def test_nothing_is_overwritten_and_nothing_half_written_is_left(scenes: Path, tmp_path: Path):
    packed(scenes, tmp_path / "out")
    with pytest.raises(InputError, match="exists; expected a new folder"):
        packed(scenes, tmp_path / "out")
    with pytest.raises(InputError, match="nothing to pack"):
        pack(POSED_FOLDERS, [], tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_damage_is_named(scenes: Path, tmp_path: Path):
    first, *_ = packed(scenes, tmp_path / "out")
    shard = tmp_path / "out" / "000000.tar"
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"000000\.tar: ends at"):
        list(first.frames([0]))
    index = tmp_path / "out" / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"packed": 99}))
    with pytest.raises(InputError, match="version 99"):
        PACKED.sequences(tmp_path / "out")
