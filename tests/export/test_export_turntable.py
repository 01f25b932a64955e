"""The video that goes round: as long and as large as asked for, of the scene, upright, the same every time."""

import dataclasses
from itertools import pairwise

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence
from synthetic_room import room_reconstruction

from flow3r.errors import InputError
from flow3r.export.arrays import save_arrays
from flow3r.export.movie import write_movie
from flow3r.export.ply import GREY, read_ply, write_ply
from flow3r.export.points import select_points
from flow3r.export.turntable import render_turntable

SMALL = {"seconds": 1.0, "rate": 4, "size": (48, 64), "supersample": 1}


def frames_of(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


def shares(image):
    """Of red (the room's upper half), blue (the lower) and white."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return [float(mask.mean()) for mask in (red - blue > 60, blue - red > 60, green > 200)]


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_the_video_has_the_frames_that_were_asked_for_and_shows_the_scene(tmp_path, suffix):
    made = render_turntable(room_reconstruction(), tmp_path / f"a{suffix}", **SMALL)
    frames = frames_of(made.path)
    assert len(frames) == made.frames == 4 and made.size == (48, 64) == frames[0].shape[:2]
    with av.open(str(made.path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 4 and stream.codec_context.name == {".mp4": "h264", ".webm": "vp9"}[suffix]
    for frame in frames:
        red, blue, _ = shares(frame)
        assert red > 0.01 and blue > 0.01 and red + blue < 1
    assert min(np.abs(a - b).mean() for a, b in pairwise(frames)) > 5  # it moves
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


def test_the_upper_half_of_the_room_is_above(tmp_path):
    render_turntable(room_reconstruction(), tmp_path / "a.mp4", **SMALL, elevation=0.0)
    for frame in frames_of(tmp_path / "a.mp4"):
        rows = np.arange(48)[:, None]
        red, blue = frame[..., 0] - frame[..., 2] > 60, frame[..., 2] - frame[..., 0] > 60
        assert (rows * red).sum() / red.sum() < (rows * blue).sum() / blue.sum() - 4


def test_a_video_a_folder_and_a_file_of_one_scene_are_the_same_bytes(tmp_path):
    room = room_reconstruction()
    save_arrays(room, tmp_path / "scene" / "reconstruction.npz")
    sources = room, tmp_path / "scene", str(tmp_path / "scene" / "reconstruction.npz")
    for number, source in enumerate(sources):
        render_turntable(source, tmp_path / f"{number}.mp4", **SMALL)
    assert len({(tmp_path / f"{number}.mp4").read_bytes() for number in range(3)}) == 1


def test_a_gif_has_its_frames_and_times(tmp_path):
    made = render_turntable(room_reconstruction(), tmp_path / "a.gif", **SMALL)
    with Image.open(made.path) as image:
        frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(image)]
        assert image.info["duration"] == 250 and image.info["loop"] == 0
    assert len(frames) == 4 and all(shares(frame)[0] > 0.02 for frame in frames)


def test_a_swing_begins_in_the_middle_and_comes_back(tmp_path):
    whole = {**SMALL, "rate": 8}
    render_turntable(room_reconstruction(), tmp_path / "a.gif", **whole, degrees=60.0)
    with Image.open(tmp_path / "a.gif") as image:
        frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(image)]
    assert np.abs(frames[1] - frames[3]).mean() < 1e-9 and np.abs(frames[1] - frames[5]).mean() > 1


def test_a_ply_looks_as_the_scene_it_was_written_from(tmp_path):
    room = room_reconstruction()
    write_ply(select_points(room), tmp_path / "scene.ply")
    made = render_turntable(tmp_path / "scene.ply", tmp_path / "a.mp4", **SMALL, elevation=0.0)
    assert made.points == room.valid.sum()
    first = frames_of(made.path)[0]
    red, blue, _ = shares(first)
    assert red > 0.02 and blue > 0.02
    upside_down = render_turntable(tmp_path / "scene.ply", tmp_path / "b.mp4", **SMALL, elevation=0.0, up="y")
    rows = np.arange(48)[:, None]
    heights = []
    for path in (made.path, upside_down.path):
        frame = frames_of(path)[0]
        heights.append((rows * (frame[..., 0] - frame[..., 2] > 60)).sum() / (frame[..., 0] - frame[..., 2] > 60).sum())
    assert heights[0] < 24 < heights[1]


def test_cameras_are_drawn_in_their_colour_unless_they_are_not_wanted(tmp_path):
    room = dataclasses.replace(room_reconstruction(), colours=np.full((3, 42, 56, 3), 128, np.uint8))
    for cameras in (True, False):
        made = render_turntable(room, tmp_path / "a.gif", **{**SMALL, "size": (96, 128)}, cameras=cameras)
        with Image.open(made.path) as image:
            frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(image)]
        orange = sum(int((frame[..., 0] - frame[..., 2] > 100).sum()) for frame in frames)
        assert (orange > 20) == cameras and (cameras or orange == 0)


def test_a_ply_is_read_back_and_has_a_colour_even_without_one(tmp_path):
    points = select_points(room_reconstruction())
    write_ply(points, tmp_path / "scene.ply")
    positions, colours = read_ply(tmp_path / "scene.ply")
    np.testing.assert_array_equal(positions.astype(np.float32), points.positions)
    np.testing.assert_array_equal(colours, points.colours)
    header = (
        "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    (tmp_path / "bare.ply").write_text(header + "0 0 1\n1 2 3\nnan 0 0\n")
    positions, colours = read_ply(tmp_path / "bare.ply")
    assert positions.tolist() == [[0, 0, 1], [1, 2, 3]] and (colours == GREY).all()


@pytest.mark.parametrize(
    ("out", "change", "said"),
    [
        ("a.avi", {}, r"'\.avi'; expected a name that ends in \.mp4, \.webm, \.gif"),
        ("a.mp4", {"size": (47, 64)}, "even sides"),
        ("a.mp4", {"seconds": 0.0}, "at least one frame"),
        ("a.mp4", {"degrees": 400.0}, r"degrees in \(0, 360\]"),
        ("a.mp4", {"up": "north"}, "expected one of x, y, z"),
        ("a.mp4", {"min_confidence": 0.9999}, "lower min_confidence"),
    ],
)
def test_what_cannot_be_made_is_named_and_nothing_is_left(tmp_path, out, change, said):
    with pytest.raises(InputError, match=said):
        render_turntable(room_reconstruction(), tmp_path / out, **{**SMALL, **change})
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_ply_is_named(tmp_path):
    (tmp_path / "bad.ply").write_bytes(b"nothing")
    for name in ("bad.ply", "absent.ply"):
        with pytest.raises(InputError, match=name):
            render_turntable(tmp_path / name, tmp_path / "a.mp4", **SMALL)


def test_a_video_that_breaks_off_leaves_no_file(tmp_path):
    def images():
        yield np.zeros((16, 16, 3), np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_movie(tmp_path / "a.mp4", images(), 4, (16, 16))
    assert not list(tmp_path.iterdir())
