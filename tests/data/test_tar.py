"""Members of tar archives are read where they lie, as if they were files of their own."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from made_media import number_of, numbered_frame, write_video
from PIL import Image

from flow3r.data.decode import VideoDecoder
from flow3r.data.images import image_size, read_image
from flow3r.data.tar import sample_key, tar_members
from flow3r.errors import InputError
from flow3r.files import FilePart, sha256_of_file


def packed(archive: Path, *files: Path, mode: str = "w") -> Path:
    with tarfile.open(archive, mode) as content:
        for file in files:
            content.add(file, f"./{file.name}")
    return archive


def test_members_are_listed_in_order_without_folders_and_links(tmp_path):
    files = [tmp_path / name for name in ("b.txt", "a.txt")]
    for file in files:
        file.write_text(file.name)
    (tmp_path / "inner").mkdir()
    (tmp_path / "link").symlink_to(files[0])
    members = tar_members(packed(tmp_path / "all.tar", *files, tmp_path / "inner", tmp_path / "link"))
    assert [member.name for member in members] == ["b.txt", "a.txt"]
    assert [member.read() for member in members] == [b"b.txt", b"a.txt"]
    assert str(members[0]) == f"{tmp_path / 'all.tar'}/b.txt"


def test_videos_and_images_are_those_of_the_files(tmp_path):
    """The folder's name has what ffmpeg's address of a part is made of."""
    folder = tmp_path / "a,b:c d"
    folder.mkdir()
    videos = [write_video(folder / f"{k}.mp4", [numbered_frame(n) for n in range(k, k + 20)]) for k in (0, 20)]
    image = folder / "image.png"
    Image.fromarray(numbered_frame(7)).save(image)
    members = tar_members(packed(folder / "all.tar", *videos, image))
    for k, (member, video) in enumerate(zip(members, videos)):
        assert sha256_of_file(member) == sha256_of_file(video)
        with VideoDecoder(member) as decoder:
            index = decoder.read_index()
            numbers = [number_of(decoder.frame_at(index.pts[n], index)) for n in (3, 11)]
        assert len(index.pts) == 20 and index.damage is None and numbers == [20 * k + 3, 20 * k + 11]
    np.testing.assert_array_equal(read_image(members[2]), read_image(image))
    assert image_size(members[2]) == (48, 80)


def test_keys_end_at_the_first_dot_of_the_name():
    names = {"a.mp4": "a", "a.b/c.left.mp4": "a.b/c", "x/y": "x/y", "000.meta.json": "000"}
    assert {name: sample_key(name) for name in names} == names


def test_archives_that_cannot_be_read_in_place_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    compressed = packed(tmp_path / "a.tar", tmp_path / "a.txt", mode="w:gz")
    with pytest.raises(InputError, match=r"a\.tar: not a tar archive.*compressed"):
        tar_members(compressed)
    with pytest.raises(InputError, match=r"missing\.tar"):
        tar_members(tmp_path / "missing.tar")


def test_a_member_that_was_cut_short_costs_only_itself(tmp_path):
    videos = [write_video(tmp_path / f"{k}.mp4", [numbered_frame(n) for n in range(10)]) for k in range(2)]
    archive = packed(tmp_path / "all.tar", *videos)
    _, cut = tar_members(archive)
    with open(archive, "rb+") as file:
        file.truncate(cut.offset + cut.size // 2)
    with pytest.warns(UserWarning, match=r"all\.tar: cut short or damaged after 2 files"):
        members = tar_members(archive)
    with VideoDecoder(members[0]) as decoder:
        assert len(decoder.read_index().pts) == 10
    with pytest.raises(InputError, match=r"all\.tar/1\.mp4"), VideoDecoder(members[1]) as decoder:
        decoder.read_index()
    image = FilePart(str(archive), 0, 512, "0.png")
    with pytest.raises(InputError, match=r"all\.tar/0\.png"):
        read_image(image)
