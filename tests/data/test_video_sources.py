"""What people mean by the videos, folders and patterns that they name."""

from pathlib import Path

import numpy as np
import pytest
from made_media import numbered_frame, write_video
from PIL import Image

from flow3r.data.video import list_sources, open_source
from flow3r.errors import InputError


def images(folder: Path, count: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / f"{k}.png")
    return folder


def videos(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        write_video(folder / name, [numbered_frame(k) for k in range(2)])
    return folder


def test_every_video_of_a_folder_is_a_source_in_natural_order(tmp_path):
    folder = videos(tmp_path / "clips", "10.mp4", "2.MP4", "3.mov")
    (folder / "notes.txt").write_text("")
    (folder / ".hidden.mp4").write_text("")
    found = list_sources([folder])
    assert [path.name for path in found] == ["2.MP4", "3.mov", "10.mp4"]
    assert [len(open_source(path)) for path in found] == [2, 2, 2]
    assert [path.name for path in list_sources([f"{folder}/*.m*"])] == ["3.mov", "10.mp4"]


def test_images_are_one_source_as_a_folder_a_pattern_or_by_themselves(tmp_path):
    folder = images(tmp_path / "frames", 3)
    for given in ([folder], [f"{folder}/*.png"], sorted(folder.iterdir())):
        (source,) = list_sources(given)
        assert len(open_source(source)) == 3


def test_folders_of_a_pattern_are_what_they_are_by_themselves(tmp_path):
    videos(tmp_path / "all" / "a", "1.mp4", "2.mp4")
    images(tmp_path / "all" / "b")
    assert [Path(source).name for source in list_sources([f"{tmp_path}/all/*"])] == ["1.mp4", "2.mp4", "b"]


def test_what_is_named_twice_is_one_source_and_any_name_may_be_a_videos(tmp_path):
    assert list_sources(["odd.name", "odd.name"]) == [Path("odd.name")]


def test_folders_that_do_not_say_what_they_are_are_refused(tmp_path):
    mixed = images(videos(tmp_path / "mixed", "1.mp4"))
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(InputError, match="1 videos and 2 images; expected one kind: name the videos"):
        list_sources([mixed])
    with pytest.raises(InputError, match="1 videos and 2 images; expected one kind"):
        open_source(mixed)
    with pytest.raises(InputError, match=r"holds videos, and no images; name one video, as .*clips/1\.mp4"):
        open_source(videos(tmp_path / "clips", "1.mp4", "2.mp4"))
    with pytest.raises(InputError, match=r"no videos and no images; it has folders: name them \(.*/empty/inner\)"):
        list_sources([tmp_path / "empty"])
    with pytest.raises(InputError, match="no file matches"):
        list_sources([f"{tmp_path}/*.mkv"])
    with pytest.raises(InputError, match="no video given"):
        list_sources([])
