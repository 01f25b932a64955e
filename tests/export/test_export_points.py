"""Which pixels become points."""

import dataclasses

import numpy as np
import pytest
from frames_on_disk import on_disk
from synthetic_room import room_reconstruction

from flow3r.errors import InputError
from flow3r.export.points import select_points


def test_all_valid_pixels_become_points_in_order_with_their_own_values():
    room = room_reconstruction(fit="pad")
    points = select_points(room)
    assert len(points) == room.valid.sum()
    columns, rows = (points.pixels - 0.5).astype(int).T
    np.testing.assert_array_equal(points.positions, room.points[points.frames, rows, columns])
    np.testing.assert_array_equal(points.colours, room.colours[points.frames, rows, columns])
    order = (points.frames * 1000 + rows) * 1000 + columns
    assert (np.diff(order) > 0).all()


def test_the_absolute_and_the_percentile_threshold_are_two_things():
    room = room_reconstruction()
    confidence = room.confidence[room.valid]
    absolute = select_points(room, min_confidence=0.5)
    assert len(absolute) == (confidence >= 0.5).sum() and absolute.confidence.min() >= 0.5
    share = select_points(room, confidence_percentile=30)
    assert len(share) / len(confidence) == pytest.approx(0.7, abs=0.01)
    both = select_points(room, min_confidence=0.5, confidence_percentile=30)
    assert len(both) == min(len(absolute), len(share))


def test_a_budget_takes_an_even_choice_and_always_the_same():
    points = select_points(room_reconstruction())
    few = points.at_most(500)
    assert len(few) == 500
    np.testing.assert_array_equal(few.positions, points.at_most(500).positions)
    assert (np.diff(few.frames) >= 0).all()
    shares = np.bincount(few.frames) / 500
    np.testing.assert_allclose(shares, 1 / 3, atol=0.08)
    assert points.at_most(10**9) is points
    np.testing.assert_array_equal(points.at_most(2000).at_most(500).positions, few.positions)


@pytest.mark.parametrize("budget", [1, 50, 3000, 10**6])
def test_a_budget_while_frames_are_read_is_a_budget_on_all_points(tmp_path, budget):
    room = room_reconstruction(count=6)
    every = select_points(room, min_confidence=0.5)
    assert every.above == len(every) < every.known == room.valid.sum()
    for same in (room, on_disk(room, tmp_path)):
        few = select_points(same, min_confidence=0.5, budget=budget)
        for name, expected in vars(every.at_most(budget)).items():
            np.testing.assert_array_equal(getattr(few, name), expected)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ({"min_confidence": 1.5}, "absolute confidence in"),
        ({"confidence_percentile": 100.0}, "percentage in"),
        ({"min_confidence": 1.0}, "lower min_confidence"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(thresholds, message):
    with pytest.raises(InputError, match=message):
        select_points(room_reconstruction(), **thresholds)


def test_a_reconstruction_without_points_is_refused():
    room = room_reconstruction()
    with pytest.raises(InputError, match="no valid point"):
        select_points(dataclasses.replace(room, valid=np.zeros_like(room.valid)))
