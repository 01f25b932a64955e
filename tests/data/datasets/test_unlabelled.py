"""Unlabelled videos are listed by their names in the dataset, opened when they are read, and never unpacked."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from made_media import number_of, numbered_frame, write_video
from PIL import Image

from flow3r.data.datasets.dataset import scenes_for_tests
from flow3r.data.datasets.epic_kitchens import EPIC_KITCHENS
from flow3r.data.datasets.kinetics700 import KINETICS700
from flow3r.data.datasets.spatialvid import SPATIALVID
from flow3r.data.datasets.videos import VIDEOS
from flow3r.data.frame import Sequence
from flow3r.data.video import VideoFile, content_sha256
from flow3r.errors import InputError

# The first rows of the table in epic-kitchens-100-annotations, and one of its extension.
EPIC_INFO = """video_id,duration,fps,resolution
P01_01,1652.152817,59.9400599400599,1920x1080
P01_101,1831.46,50.0,1920x1080
"""


def video(file: Path, first: int = 0, count: int = 6) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return write_video(file, [numbered_frame(first + k) for k in range(count)])


def shard(file: Path, *members: tuple[str, Path]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in members:
            archive.add(content, name)


def numbers(sequence: Sequence, indices: list[int]) -> list[int]:
    return [number_of(frame.image) for frame in sequence.frames(indices)]


def test_a_tree_with_folders_and_shards(tmp_path):
    clip, caption = video(tmp_path / "away" / "clip.mp4", 20), tmp_path / "away" / "caption.txt"
    caption.write_text("a clip")
    root = tmp_path / "root"
    video(root / "10.mp4"), video(root / "2.MP4", 40), video(root / "inner" / "a.mkv", 60)
    (root / "inner" / "notes.txt").write_text("")
    video(root / ".hidden" / "b.mp4")
    shard(root / "shard-000000.tar", ("x/000.mp4", clip), ("x/000.txt", caption), ("x/001.left.mp4", clip))
    found = VIDEOS.sequences(root)
    assert [v.name for v in found] == ["2", "10", "inner/a", "shard-000000/x/000", "shard-000000/x/001"]
    assert all(isinstance(v, VideoFile) and isinstance(v, Sequence) for v in found)
    assert [numbers(v, [1, 4])[0] for v in found] == [41, 1, 61, 21, 21]
    np.testing.assert_allclose(found[3].timestamps(), np.arange(6) / 25)
    assert found[3].sizes([0, 5]) == [(48, 80)] * 2
    frame = next(found[3].frames([2]))
    assert frame.depth is None and frame.intrinsics is None and frame.world_from_camera is None


def test_a_video_has_the_same_hash_in_a_shard(tmp_path):
    """So that labels made from one are found for the other."""
    clip = video(tmp_path / "clip.mp4")
    shard(tmp_path / "shards" / "0.tar", ("clip.mp4", clip))
    (packed,) = VIDEOS.sequences(tmp_path / "shards")
    assert content_sha256(packed) == content_sha256(VideoFile(clip))


def test_listing_opens_no_video(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    broken = VIDEOS.sequences(tmp_path)[0]
    with pytest.raises(InputError, match=r"a\.mp4"):
        len(broken)


def test_kinetics_with_and_without_classes(tmp_path):
    video(tmp_path / "train" / "abseiling" / "__NrybzYzUg_000415_000425.mp4")
    video(tmp_path / "val" / "-0aPcVjNaBU_000011_000021.mp4", 20)
    video(tmp_path / "elsewhere" / "a.mp4")
    train, val = KINETICS700.sequences(tmp_path)
    assert train.name == "train/abseiling/__NrybzYzUg_000415_000425"
    assert val.name == "val/-0aPcVjNaBU_000011_000021" and numbers(val, [0]) == [20]


def test_spatialvid(tmp_path):
    uuid = "0a00f99d-9d9a-5265-9548-e97a34c1302c"
    video(tmp_path / "videos" / "group_0001" / f"{uuid}.mp4")
    (tmp_path / "annotations" / "group_0001" / uuid).mkdir(parents=True)
    (clip,) = SPATIALVID.sequences(tmp_path)
    assert clip.name == f"group_0001/{uuid}" and len(clip) == 6
    assert SPATIALVID.held_out(tmp_path) == []  # or nothing were left
    video(tmp_path / "videos" / "group_0002" / f"{uuid.replace('0', '1')}.mp4")
    assert len(SPATIALVID.held_out(tmp_path)) == 1


def test_clips_that_are_added_leave_the_held_out_ones_where_they_are():
    first, all_of_them = ([f"scene{k}" for k in range(count)] for count in (2000, 4000))
    some, more = scenes_for_tests("a", first), scenes_for_tests("a", all_of_them)
    assert some == more & set(first) and 20 < len(some) < 60 < len(more) < 100
    assert scenes_for_tests("b", first) != some and scenes_for_tests("a", reversed(first)) == some
    assert [len(scenes_for_tests("a", first[:count])) for count in range(4)] == [0, 0, 1, 1]


def epic_frames(folder: Path, first: int, count: int) -> list[Path]:
    """Named from 1 on, as they are released."""
    folder.mkdir(parents=True)
    files = [folder / f"frame_{k + 1:010d}.jpg" for k in range(count)]
    for k, file in enumerate(files):
        Image.fromarray(numbered_frame(first + k)).save(file, quality=95)
    return files


def test_kitchens_as_video_frames_or_archived_frames(tmp_path):
    root = tmp_path / "EPIC-KITCHENS"
    video(root / "P01" / "videos" / "P01_01.MP4")
    epic_frames(root / "P01" / "rgb_frames" / "P01_01", 50, 3)
    epic_frames(root / "P01" / "rgb_frames" / "P01_101", 20, 12)
    files = epic_frames(tmp_path / "loose", 40, 12)
    shard(root / "P02" / "rgb_frames" / "P02_01.tar", *[(f"./{file.name}", file) for file in reversed(files)])
    (root / "EPIC_100_video_info.csv").write_text(EPIC_INFO)
    (root / "ConsentForms").mkdir()
    whole, unpacked, archived = EPIC_KITCHENS.sequences(tmp_path)
    assert [v.name for v in (whole, unpacked, archived)] == ["P01_01", "P01_101", "P02_01"]
    assert numbers(whole, [3]) == [3]
    assert numbers(unpacked, [0, 11]) == [20, 31] and numbers(archived, [0, 9]) == [40, 49]
    np.testing.assert_allclose(unpacked.timestamps(), np.arange(12) / 50)
    np.testing.assert_allclose(archived.timestamps(), np.arange(12))  # not in the table
    (frame,) = archived.frames([4])
    assert frame.name == "frame_0000000005.jpg" and archived.sizes([4]) == [(48, 80)]
    assert isinstance(archived, Sequence) and len(content_sha256(archived)) == 64


def test_kitchens_of_the_published_tests_are_held_out(tmp_path):
    for name in ("P01_01", "P01_101", "P02_01"):
        epic_frames(tmp_path / name[:3] / "rgb_frames" / name, 0, 1)
    assert EPIC_KITCHENS.held_out(tmp_path) == []
    (tmp_path / "EPIC_100_validation.csv").write_text("narration_id,video_id,verb\nP01_101_0,P01_101,open\n")
    (tmp_path / "EPIC_100_test_timestamps.csv").write_text("narration_id,video_id\nP02_01_0,P02_01\nP03_1_0,P03_1\n")
    assert EPIC_KITCHENS.held_out(tmp_path) == ["P01_101", "P02_01"]
    (tmp_path / "EPIC_100_validation.csv").write_text("narration_id,verb\nP01_101_0,open\n")
    with pytest.raises(InputError, match=r"EPIC_100_validation\.csv: line 2 has no video_id"):
        EPIC_KITCHENS.held_out(tmp_path)


@pytest.mark.parametrize("dataset", [VIDEOS, KINETICS700, SPATIALVID, EPIC_KITCHENS], ids=lambda dataset: dataset.name)
def test_roots_without_videos_are_named(tmp_path, dataset):
    assert dataset.labels == "none"
    with pytest.raises(InputError, match=r"nowhere: no such folder"):
        dataset.sequences(tmp_path / "nowhere")
    (tmp_path / "P01").mkdir()
    with pytest.raises(InputError, match=r"it holds P01|P01_01\.tar"):
        dataset.sequences(tmp_path)
