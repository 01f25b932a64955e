"""viewer.html: what it holds, that it needs nothing else, and what a browser shows."""

import base64
import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from frames_on_disk import again_and_again
from synthetic_room import room_reconstruction

from flow3r.export.html import FURTHEST, MOST_FRAMES, POINT_BUDGET, embedded_json, write_html
from flow3r.export.points import select_points

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
POINT = np.dtype([("xyz", "<i2", 3), ("rgb", "u1", 3), ("confidence", "u1"), ("frame", "<u2")])


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of its scripts by id."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self._open = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self._open = dict(attributes).get("id", "main")
            assert self._open not in self.scripts
            self.scripts[self._open] = ""

    def handle_endtag(self, tag):
        if tag == "script":
            self._open = None

    def handle_data(self, data):
        if self._open is not None:
            self.scripts[self._open] += data


def page_of(room, tmp_path, **thresholds):
    points = select_points(room, **thresholds)
    count = write_html(room, points, tmp_path / "viewer.html")
    page = Page((tmp_path / "viewer.html").read_text(encoding="utf-8"))
    packed = np.frombuffer(base64.b64decode(page.scripts["points"], validate=True), POINT)
    assert len(packed) == count
    return page, json.loads(page.scripts["scene"]), packed, points


def test_the_payload_is_the_points_to_quantisation(tmp_path):
    room = room_reconstruction(fit="pad")
    _, scene, packed, points = page_of(room, tmp_path, confidence_percentile=10)
    assert len(packed) == len(points)
    positions = np.array(scene["origin"]) + scene["unit"] * packed["xyz"]
    assert np.abs(positions - points.positions).max() <= 0.5001 * scene["unit"]
    assert scene["unit"] < 2e-4 * np.ptp(points.positions, axis=0).max()
    np.testing.assert_array_equal(packed["rgb"], points.colours)
    np.testing.assert_allclose(packed["confidence"] / 255, points.confidence, atol=0.5001 / 255)
    np.testing.assert_array_equal(packed["frame"], points.frames)
    assert scene["left_out"] == room.valid.sum() - len(points)


def test_cameras_times_names_and_units_are_in_the_page(tmp_path):
    room = room_reconstruction()
    _, scene, _, _ = page_of(room, tmp_path)
    assert [frame["name"] for frame in scene["frames"]] == list(room.names)
    assert [frame["time"] for frame in scene["frames"]] == pytest.approx(room.timestamps.tolist())
    np.testing.assert_allclose([frame["pose"] for frame in scene["frames"]], room.world_from_camera[:, :3], atol=1e-8)
    k, (height, width) = room.original_intrinsics[0], room.original_sizes[0]
    corners = np.array(scene["frames"][0]["corners"]) * k[[0, 1], [0, 1]] + k[:2, 2]
    np.testing.assert_allclose(corners, [[0, 0], [width, 0], [width, height], [0, height]], atol=1e-5)
    still = dataclasses.replace(room, timestamps=room.frame_indices.astype(float))
    assert [frame["time"] for frame in page_of(still, tmp_path)[1]["frames"]] == [None] * 3
    assert "relative units" in scene["units"] and "metre" not in scene["units"]
    assert "metres" in page_of(dataclasses.replace(room, scale="metric"), tmp_path)[1]["units"]


def test_the_page_needs_nothing_but_itself(tmp_path):
    page, *_ = page_of(room_reconstruction(), tmp_path)
    assert not [attributes for _, attributes in page.elements if {"src", "href", "srcset", "action"} & set(attributes)]
    assert not [tag for tag, _ in page.elements if tag in ("link", "iframe", "img", "object", "embed", "base")]
    text = (tmp_path / "viewer.html").read_text(encoding="utf-8").replace(page.scripts["points"], "")
    for word in ("http:", "https:", "//cdn", "url(", "@import", "fetch(", "import ", "XMLHttpRequest", "WebSocket"):
        assert word not in text.replace("<!DOCTYPE html>", ""), word
    (policy,) = [a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none'")


def test_names_from_outside_cannot_become_code(tmp_path):
    hostile = '</script><script>alert(1)</script><!--\u2028 %%points%% "\\'
    room = dataclasses.replace(room_reconstruction(), names=(hostile,) * 3, source=hostile)
    page, scene, _, _ = page_of(room, tmp_path)
    plain, *_ = page_of(room_reconstruction(), tmp_path)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert set(page.scripts) == set(plain.scripts)
    assert scene["title"] == hostile and scene["frames"][1]["name"] == hostile
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", page.scripts["main"])
    assert not {"<", ">", "&"} & set(embedded_json({"<&>": "</script>"}))


def test_a_budget_keeps_the_file_small_enough_to_mail(tmp_path):
    room = room_reconstruction(count=8, grid=(168, 182))
    _, scene, packed, points = page_of(room, tmp_path)
    assert len(points) > len(packed) == POINT_BUDGET
    assert scene["left_out"] == len(points) - POINT_BUDGET
    assert (tmp_path / "viewer.html").stat().st_size < 3.5e6


def test_a_point_at_the_horizon_does_not_take_the_precision_of_the_others(tmp_path):
    room = room_reconstruction()
    points = room.points.copy()
    points[0, 0, 0] = [0, 0, 50 * FURTHEST * np.median(room.depth)]
    _, scene, packed, _ = page_of(dataclasses.replace(room, points=points), tmp_path)
    assert len(packed) == room.valid.sum() - 1 and scene["left_out"] == 1
    assert scene["unit"] < 1e-3


def test_of_more_frames_than_a_browser_holds_every_other_one_has_a_camera(tmp_path):
    long = again_and_again(room_reconstruction(grid=(14, 14)), 2 * MOST_FRAMES - 1)
    _, scene, packed, points = page_of(long, tmp_path)
    assert [frame["name"] for frame in scene["frames"]] == list(long.names[::2])
    assert len(scene["frames"]) == MOST_FRAMES and "one camera for every 2 frames" in scene["units"]
    shown = points.at_most(POINT_BUDGET)
    np.testing.assert_array_equal(packed["frame"], shown.frames // 2)
    assert scene["left_out"] == long.valid.sum() - len(shown)


def test_a_long_way_from_the_first_camera_points_are_still_shown(tmp_path):
    room = room_reconstruction()
    away = np.array([0, 0, 5 * FURTHEST * np.median(room.depth)])
    poses, points = room.world_from_camera.copy(), room.points.copy()
    poses[2, :3, 3] += away
    points[2] += away.astype(np.float32)
    _, scene, packed, _ = page_of(dataclasses.replace(room, world_from_camera=poses, points=points), tmp_path)
    assert (packed["frame"] == 2).sum() == room.valid[2].sum() and scene["left_out"] == 0


def test_the_program_is_short_enough_to_read(repository):
    assert len((repository / "flow3r/export/viewer.js").read_text().splitlines()) <= 300


def screenshot(tmp_path, fragment, size=(800, 600)):
    """The viewer in headless Chromium, opened from disk, as RGB."""
    from PIL import Image

    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: the viewer is checked by its payload alone")
    picture = tmp_path / "screenshot.png"
    flags = (
        "--headless --no-sandbox --disable-gpu-sandbox --use-gl=angle --use-angle=swiftshader --hide-scrollbars "
        "--enable-unsafe-swiftshader --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --virtual-time-budget=1000"
    )
    paths = [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", f"--window-size={size[0]},{size[1]}"]
    address = (tmp_path / "viewer.html").as_uri() + fragment
    done = subprocess.run([CHROMIUM, *flags.split(), *paths, address], capture_output=True, text=True, timeout=400)
    assert picture.is_file(), done.stderr[-2000:]
    return np.asarray(Image.open(picture).convert("RGB")).astype(int)


def coloured(picture, colour, tolerance=40):
    """(y, x) of the pixels of about this colour."""
    return np.argwhere(np.abs(picture - colour).max(axis=-1) < tolerance)


def test_a_browser_shows_the_scene_upright_from_behind_the_first_camera(tmp_path):
    room = room_reconstruction(count=4, grid=(84, 112))
    page_of(room, tmp_path)
    picture = screenshot(tmp_path, "")
    red, blue = coloured(picture, [220, 50, 40]), coloured(picture, [40, 60, 220])
    assert len(red) > 10_000 and len(blue) > 10_000
    assert np.median(red[:, 0]) < np.median(blue[:, 0]) - 100
    # The frustum of the first camera is drawn in front of the scene, below its middle, and not at the top.
    frustum = coloured(picture, [255, 242, 191], 25)
    assert len(frustum) > 20 and 200 < np.median(frustum[:, 1]) < 600 and np.median(frustum[:, 0]) > 250


def test_through_a_camera_the_browser_shows_what_the_camera_saw(tmp_path):
    room = room_reconstruction(count=3, grid=(84, 112), original=(300, 400))
    corners = np.array([[[230, 40, 40], [40, 200, 40]], [[40, 80, 230], [230, 200, 40]]], dtype=np.uint8)
    colours = np.repeat(corners.repeat(42, axis=0).repeat(56, axis=1)[None], 3, axis=0)
    page_of(dataclasses.replace(room, colours=colours), tmp_path)
    picture = screenshot(tmp_path, "#view=camera&mode=frame&frame=3", size=(800, 600))
    # Away from the panel at the right and from the axes at the lower left.
    for y, x, colour in ((150, 200, corners[0, 0]), (150, 450, corners[0, 1]), (420, 200, corners[1, 0]),
                         (450, 450, corners[1, 1])):  # fmt: skip
        assert np.abs(picture[y, x] - colour).max() < 12, (y, x)
