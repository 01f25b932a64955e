"""What a teacher is not asked for: planted faults are found, and a clean pan is left alone."""

import numpy as np
import pytest
import torch
from made_media import texture

from flow3r.teacher.filters import FilterSettings, examine, hide

SETTINGS = FilterSettings()


@pytest.fixture
def pan() -> np.ndarray:
    """24 frames, 120 x 160, that move 3 px a frame."""
    canvas = texture(120, 240, seed=3, coarseness=2)
    return np.stack([canvas[:, 3 * k : 3 * k + 160] for k in range(24)])


def test_a_clean_pan_is_left_alone(pan):
    found = examine(pan, SETTINGS)
    assert (found.left_out, found.masked, found.still) == ({}, {}, False)
    assert not found.hidden.any()


def test_frames_that_show_nothing_are_named(pan):
    pan[5], pan[6], pan[7] = 2, 250, 128
    assert examine(pan, SETTINGS).left_out == {5: "black frame", 6: "white frame", 7: "frame of one colour"}


def test_repeated_frames_are_counted_once(pan):
    """24 fps shown at 30: every fifth frame is the one before it, but for the noise of a codec."""
    generator = np.random.default_rng(0)
    for k in range(5, 24, 5):
        pan[k] = np.clip(pan[k - 1] + generator.integers(-2, 3, pan[k].shape), 0, 255)
    assert examine(pan, SETTINGS).left_out == dict.fromkeys(range(5, 24, 5), "duplicate frame")


@pytest.mark.parametrize(("rows", "columns"), [((12, 14), (0, 0)), ((0, 0), (20, 18)), ((10, 10), (10, 10))])
def test_bars_are_found_to_the_pixel(pan, rows, columns):
    inside = np.zeros((120, 160), dtype=bool)
    inside[rows[0] : 120 - rows[1], columns[0] : 160 - columns[1]] = True
    found = examine(np.where(inside[..., None], np.maximum(pan, 40), 6).astype(np.uint8), SETTINGS)
    np.testing.assert_array_equal(found.hidden, ~inside)
    assert found.masked == {"bars": pytest.approx(1 - inside.mean())}


def test_a_narrow_dark_rim_is_no_bar(pan):
    pan[:, :2] = 6
    assert "bars" not in examine(pan, SETTINGS).masked


def test_a_logo_is_hidden_and_what_moves_is_not(pan):
    logo = texture(20, 40, seed=9, coarseness=1)
    pan[:, 90:110, 110:150] = logo
    found = examine(pan, SETTINGS)
    assert found.hidden[92:108, 112:148].mean() > 0.9
    assert found.hidden[:80].mean() == 0
    assert found.masked.keys() == {"static overlay"}


def test_an_edge_along_which_the_camera_moves_is_no_logo(pan):
    pan[:, 60:] //= 3
    assert "static overlay" not in examine(pan, SETTINGS).masked


def test_a_standing_camera_is_known_also_where_something_moves(pan):
    still = np.repeat(pan[:1], 24, axis=0)
    still[:, 80:, :60] = pan[:, 80:, :60]
    generator = np.random.default_rng(0)
    still = np.clip(still + generator.integers(-3, 4, still.shape), 0, 255).astype(np.uint8)
    found = examine(still, SETTINGS)
    assert found.still
    assert found.masked == {}  # everything stands still: nothing tells a logo from the scene


def test_what_leads_behind_a_logo_is_not_covisible_either():
    hidden = np.zeros((8, 10), dtype=bool)
    hidden[2:4, 6:8] = True
    flow = torch.zeros(8, 10, 2)
    flow[..., 0] = 3
    seen = hide(flow, torch.ones(8, 10), hidden)
    expected = np.ones((8, 10))
    expected[2:4, 6:8] = 0
    expected[2:4, 3:5] = 0
    np.testing.assert_array_equal(seen.numpy(), expected)


def test_one_frame_and_two_are_enough_to_ask(pan):
    for count in (1, 2):
        assert examine(pan[:count], SETTINGS).left_out == {}
