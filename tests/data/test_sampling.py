"""What is drawn is deterministic, stays within shots and strides, and is connected by labels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flow3r.data.sampling import draw_clip, label_pairs, split_shots, spread_indices


@given(st.integers(1, 300), st.integers(1, 40))
def test_spread_indices_reach_from_end_to_end(count, maximum):
    indices = spread_indices(count, maximum)
    assert len(indices) == len(set(indices)) == min(count, maximum)
    assert indices == sorted(indices)
    if maximum > 1:
        assert (indices[0], indices[-1]) == (0, count - 1)
        if count > 1:
            assert np.ptp(np.diff(indices)) <= 1


def test_segments_tile_the_shots_and_cross_no_cut():
    shots = ((0, 30), (30, 31), (31, 200), (200, 202))
    segments = split_shots(shots, 64)
    assert all(2 <= stop - start <= 64 for start, stop in segments)
    covered = [frame for start, stop in segments for frame in range(start, stop)]
    assert covered == [frame for frame in range(202) if frame != 30]  # a shot of one frame has no pair
    for start, stop in segments:
        assert any(a <= start and stop <= b for a, b in shots)


@given(st.integers(2, 64), st.floats(5, 120), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_label_pairs_come_both_ways_within_the_strides(count, rate, seed):
    timestamps = 7 + np.arange(count) / rate
    pairs = label_pairs(timestamps, strides=(0.05, 0.8), seed=seed)
    strides = np.abs(np.diff(timestamps[pairs], axis=1))
    steps = np.abs(np.diff(pairs, axis=1))
    assert len(pairs) > 0
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
    assert {(j, i) for i, j in pairs.tolist()} == {(i, j) for i, j in pairs.tolist()}
    assert 1 <= steps.min() <= steps.max() <= 32
    assert ((strides <= 0.8 + 0.5 / rate) | (steps == 1)).all()
    np.testing.assert_array_equal(pairs, label_pairs(timestamps, strides=(0.05, 0.8), seed=seed))


def test_strides_are_spread_evenly_over_their_logarithms():
    pairs = label_pairs(np.arange(2000) / 100, strides=(0.01, 0.32), pairs_per_frame=1.0)
    steps = np.abs(np.diff(pairs, axis=1))[:, 0]
    shares = np.histogram(np.log2(steps), bins=[-0.5, 0.5, 1.5, 2.5, 3.5, 5.1])[0] / len(steps)
    assert shares.min() > 0.07
    assert np.abs(np.histogram(pairs[:, 0], bins=5)[0] / len(pairs) - 0.2).max() < 0.02  # and pairs over the segment


def test_without_a_clock_frames_are_taken_as_a_video():
    pairs = label_pairs(np.arange(50.0), seed=3)
    np.testing.assert_array_equal(pairs, label_pairs(np.arange(50) / 25, seed=3))
    assert np.abs(np.diff(pairs, axis=1)).max() > 8


def test_variable_frame_rates_are_sampled_in_seconds():
    timestamps = np.concatenate([np.arange(40) * 0.01, 0.4 + np.arange(24) * 0.2])
    pairs = label_pairs(timestamps, strides=(0.1, 0.4))
    strides = np.abs(np.diff(timestamps[pairs], axis=1))
    assert strides.min() > 0.04
    assert strides.max() < 0.51


@pytest.mark.parametrize("views", [2, 4, 7])
def test_clips_are_connected_frames_with_labelled_pairs_among_them(views):
    pairs = torch.from_numpy(label_pairs(np.arange(40) / 25, seed=1))
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        frames, rows = draw_clip(pairs, views, 6, generator)
        assert len(frames) == views
        assert (frames.diff() > 0).all()
        assert len(rows) == 6
        chosen = pairs[rows]
        assert torch.isin(chosen, frames).all()
        available = int(torch.isin(pairs, frames).all(dim=1).sum())
        assert len(rows.unique()) == min(6, available)
        reached, among = {int(frames[0])}, pairs[torch.isin(pairs, frames).all(dim=1)].tolist()
        for _ in frames:
            reached |= {j for i, j in among if i in reached}
        assert reached == set(frames.tolist())


def test_a_clip_that_labels_do_not_connect_is_none():
    pairs = torch.tensor([[0, 1], [1, 0], [5, 6]])
    assert draw_clip(pairs, 3, 2, torch.Generator()) is None
    assert draw_clip(pairs[:0], 2, 2, torch.Generator()) is None
    frames, rows = draw_clip(pairs[2:], 2, 3, torch.Generator())
    assert (frames.tolist(), rows.tolist()) == ([5, 6], [0, 0, 0])
