"""The pixels that have a point, and quantiles of their values, which never stand in memory together."""

import dataclasses

import numpy as np
import pytest
from frames_on_disk import WatchedStack, again_and_again, on_disk
from synthetic_room import room_reconstruction

from flow3r.export.cameras import typical_depth
from flow3r.export.known import known_pixels, known_values, quantile_of_known

ROOM = room_reconstruction(fit="pad")
RANDOM = np.random.default_rng(0)
VALUES = {
    "even": RANDOM.random(ROOM.depth.shape),
    "wide": np.exp(RANDOM.normal(0, 20, ROOM.depth.shape)).clip(1e-7, 6e4),
    "few": RANDOM.integers(0, 4, ROOM.depth.shape) / 3,
    "one": np.full(ROOM.depth.shape, 0.7),
    "tiny": np.where(RANDOM.random(ROOM.depth.shape) < 0.5, 0, 1e-45),
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", VALUES)
def test_a_quantile_is_that_of_all_values_together(kind, dtype):
    room = dataclasses.replace(ROOM, confidence=VALUES[kind].astype(dtype))
    known = room.confidence[room.valid]
    for share in (0, 0.1, 0.25, 1 / 3, 0.5, 0.987, 1):
        expected = np.quantile(known.astype(np.float64), share)
        assert quantile_of_known(room, "confidence", share) == pytest.approx(float(dtype(expected)), rel=1e-3, abs=0)
        count = (known >= dtype(quantile_of_known(room, "confidence", share))).sum()
        assert count == (known >= dtype(expected)).sum()


def test_the_typical_depth_is_the_median_of_the_known_ones(tmp_path):
    depth = ROOM.depth.copy()
    depth[:, :10] = 0
    depth[:, 10:12] = -1
    room = dataclasses.replace(ROOM, depth=depth)
    known = ROOM.valid & (depth > 0)
    assert typical_depth(room) == pytest.approx(np.median(depth[known]), rel=1e-7)
    assert typical_depth(on_disk(room, tmp_path)) == typical_depth(room)
    np.testing.assert_array_equal(np.stack([known_pixels(room, frame) for frame in range(3)]), known)
    np.testing.assert_array_equal(np.concatenate(list(known_values(room, "depth"))), depth[known])
    assert typical_depth(dataclasses.replace(room, valid=np.zeros_like(room.valid))) == 1
    assert quantile_of_known(dataclasses.replace(room, depth=-ROOM.depth), "depth", 0.5) is None


def test_a_quantile_holds_one_frame_at_a_time(tmp_path):
    typical_depth(on_disk(again_and_again(ROOM, 20), tmp_path, WatchedStack))
    assert 1 <= WatchedStack.most <= 3  # depth twice, and valid
