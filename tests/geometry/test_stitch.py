"""Stitching: known similarities are recovered whatever a third of the points say, and a loop takes back its drift."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flow3r.geometry.se3 import (
    axis_angle_from_rotation,
    from_parts,
    invert,
    rotation_angle,
    rotation_from_axis_angle,
    rotation_from_quaternion,
    transform_points,
)
from flow3r.geometry.stitch import (
    PosedPoints,
    blend,
    chain,
    close_loops,
    move_cameras,
    overlap_similarity,
    robust_similarity,
    similarity,
    similarity_parts,
)


def random_similarity(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    scale = (1.5 * torch.randn(shape, **draw)).exp()
    return similarity(
        scale, rotation_from_quaternion(torch.randn(*shape, 4, **draw)), 5 * torch.randn(*shape, 3, **draw)
    )


def points_of(seed, count=60):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed + 1000), dtype=torch.float64)


def assert_same(found, expected, share=1e-6):
    """Equal to within a share of the scale."""
    scale, rotation, translation = similarity_parts(invert_similarity(expected) @ found)
    assert abs(scale.log()) < share and rotation_angle(rotation) < 2 * share, (scale, rotation)
    assert translation.norm() < 10 * share


def invert_similarity(matrix):
    return torch.linalg.inv(matrix)


@given(st.integers(0, 10_000), st.sampled_from([3, 4, 60]))
@settings(deadline=None, max_examples=20)
def test_a_known_similarity_is_recovered(seed, count):
    expected, source = random_similarity(seed), points_of(seed, count)
    fit = robust_similarity(source, transform_points(expected, source))
    assert_same(fit.target_from_source, expected)
    assert fit.residual < 1e-6


@given(st.integers(0, 10_000), st.sampled_from([1.0, 100.0, 1e6]))
@settings(deadline=None, max_examples=20)
def test_thirty_percent_of_gross_outliers_do_not_matter(seed, size):
    """Neither scattered ones nor ones that agree on another similarity."""
    expected, source = random_similarity(seed), points_of(seed, 100)
    target = transform_points(expected, source)
    scattered, agreeing = target.clone(), target.clone()
    scattered[:30] += size * points_of(seed + 1, 30)
    agreeing[:30] = size * transform_points(random_similarity(seed + 2), source[:30])
    for wrong in (scattered, agreeing):
        assert_same(robust_similarity(source, wrong).target_from_source, expected)


def test_noise_on_the_rest_is_averaged_as_by_least_squares():
    expected, source = random_similarity(1), points_of(1, 2000)
    scale, _, _ = similarity_parts(expected)
    target = transform_points(expected, source) + 0.05 * scale * points_of(2, 2000)
    target[:600] += 50 * scale
    fit = robust_similarity(source, target)
    assert_same(fit.target_from_source, expected, share=0.005)
    assert 0.05 < fit.residual / scale < 0.5


def test_points_of_weight_zero_say_nothing_and_none_at_all_is_refused():
    expected, source = random_similarity(3), points_of(3)
    target, weight = transform_points(expected, source), torch.ones(60, dtype=torch.float64)
    target[20:], weight[20:] = torch.nan, 0
    assert_same(robust_similarity(source, target, weight).target_from_source, expected)
    with pytest.raises(ValueError, match="positive weight"):
        robust_similarity(source, target, torch.zeros(60))


def test_degenerate_sets_get_a_similarity_that_carries_them_over():
    line = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None] * torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    expected = random_similarity(4)
    target = transform_points(expected, line)
    fit = robust_similarity(line, target).target_from_source
    torch.testing.assert_close(transform_points(fit, line), target)
    same = robust_similarity(line[:1].expand(5, 3), target[3:4].expand(5, 3)).target_from_source
    torch.testing.assert_close(same, from_parts(torch.eye(3, dtype=torch.float64), target[3] - line[0]))


def test_the_error_grows_with_the_reach_of_a_point():
    """Far points that err with their depth do not outvote near ones."""
    expected, source = random_similarity(5), points_of(5, 400)
    source[200:] *= 100
    target = transform_points(expected, source)
    scale, _, _ = similarity_parts(expected)
    target[200:] += scale * points_of(6, 200)
    reach = torch.cat([torch.full((200,), 0.01), torch.full((200,), 1.0)]) * scale
    near = robust_similarity(source, target, reach=reach).target_from_source
    error = (transform_points(near, source[:200]) - target[:200]).norm(dim=-1).mean() / scale
    assert error < 0.02


def walls(poses, size=(12, 16)):
    """Points of a bumpy wall, in the axes of every camera."""
    generator = torch.Generator().manual_seed(7)
    depth = 3 + torch.rand(len(poses), *size, generator=generator, dtype=torch.float64)
    y, x = torch.meshgrid(torch.linspace(-0.6, 0.6, size[0]), torch.linspace(-0.8, 0.8, size[1]), indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1).double()
    return rays * depth[..., None]


def path(count, step=0.3):
    turn = rotation_from_axis_angle(torch.tensor([0.0, 0.1, 0.02], dtype=torch.float64) * torch.arange(count)[:, None])
    return from_parts(turn, step * torch.stack([torch.arange(count).double()] * 3, dim=-1))


def two_windows(frames, seed=8, noise=0.0):
    """Frames as two windows see them, and the similarity from the first to the second."""
    expected, poses = random_similarity(seed), path(frames)
    local = walls(poses)
    scale, _, _ = similarity_parts(expected)
    generator = torch.Generator().manual_seed(seed)
    wobble = 1 + noise * torch.randn(local.shape[:-1], generator=generator, dtype=torch.float64)
    weight = torch.ones_like(local[..., 0])
    other = PosedPoints(scale * local * wobble[..., None], weight, move_cameras(expected, poses))
    return PosedPoints(local, weight, poses), other, expected


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_overlapping_frames_tell_where_a_window_stands_even_a_single_one(frames):
    source, target, expected = two_windows(frames)
    fit = overlap_similarity(source, target)
    assert_same(fit.target_from_source, expected)
    assert fit.residual < 1e-6


def test_wrong_depth_on_a_third_of_an_overlap_and_a_lost_camera_do_not_move_it():
    source, target, expected = two_windows(5, noise=0.01)
    target.local_points[:, :4] *= 1.7
    target.world_from_camera[2] = path(9)[8]
    fit = overlap_similarity(source, target)
    assert_same(fit.target_from_source, expected, share=0.005)


def test_without_any_confidence_the_points_in_front_count_alike():
    source, target, expected = two_windows(2)
    blind = PosedPoints(source.local_points, torch.zeros_like(source.weight), source.world_from_camera)
    assert_same(overlap_similarity(blind, target).target_from_source, expected)


def test_cameras_move_with_their_world_and_stay_rigid():
    poses, moved_by = path(4), random_similarity(9)
    moved = move_cameras(moved_by, poses)
    torch.testing.assert_close(moved @ invert(moved), torch.eye(4, dtype=torch.float64).expand(4, 4, 4))
    torch.testing.assert_close(moved[:, :3, 3], transform_points(moved_by, poses[:, :3, 3]))
    scale, _, _ = similarity_parts(moved_by)
    ahead = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(
        transform_points(moved, scale * ahead.expand(4, 1, 3)),
        transform_points(moved_by.expand(4, 4, 4), transform_points(poses, ahead.expand(4, 1, 3))),
    )


def test_a_chain_places_every_window_in_the_first():
    steps = random_similarity(10, 3)
    placed = chain(steps)
    torch.testing.assert_close(placed[0], torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(placed[3], steps[0] @ steps[1] @ steps[2])


def ring(count=24, radius=10.0):
    """Windows, each at a scale of its own, around a ring that comes back to its start."""
    angle = torch.arange(count, dtype=torch.float64) * (2 * torch.pi / count)
    zero = torch.zeros_like(angle)
    turn = rotation_from_axis_angle(torch.stack([zero, angle, zero], dim=-1))
    centre = radius * torch.stack([angle.cos() - 1, zero, angle.sin()], dim=-1)
    scale = (0.5 * torch.sin(3 * angle)).exp()
    return similarity(scale, turn, centre)


def drifting(truth, seed=11, turn=0.01, growth=0.01, shift=0.02):
    """The chain of the truth's steps, each with an error of its own."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.linalg.inv(truth[:-1]) @ truth[1:]
    count = len(steps)
    draw = {"generator": generator, "dtype": torch.float64}
    error = similarity(
        (growth * torch.randn(count, **draw)).exp(),
        rotation_from_axis_angle(turn * torch.randn(count, 3, **draw)),
        shift * torch.randn(count, 3, **draw),
    )
    return chain(steps @ error)


def off(found, truth):
    return (found[:, :3, 3] - truth[:, :3, 3]).norm(dim=-1).square().mean().sqrt()


def test_a_loop_takes_back_most_of_the_drift_and_nothing_from_an_exact_chain():
    truth = ring()
    pairs = torch.tensor([[0, 22], [1, 23]])
    measured = torch.linalg.inv(truth[pairs[:, 0]]) @ truth[pairs[:, 1]]
    drifted = drifting(truth)
    closed = close_loops(drifted, pairs, measured)
    assert off(closed, truth) < 0.35 * off(drifted, truth)
    torch.testing.assert_close(closed[0], drifted[0])
    ends = torch.linalg.inv(closed[pairs[:, 0]]) @ closed[pairs[:, 1]]
    assert (ends - measured)[:, :3, 3].norm(dim=-1).max() < 0.2 * (drifted - truth)[-1, :3, 3].norm()
    torch.testing.assert_close(close_loops(truth, pairs, measured), truth)
    torch.testing.assert_close(close_loops(drifted, pairs[:0], measured[:0]), drifted)


def test_one_false_loop_among_true_ones_does_less_harm_than_no_loop():
    truth = ring()
    pairs = torch.tensor([[0, 21], [0, 22], [1, 23], [2, 23], [5, 15]])
    measured = torch.linalg.inv(truth[pairs[:, 0]]) @ truth[pairs[:, 1]]
    measured[4] = random_similarity(12)
    drifted = drifting(truth)
    assert off(close_loops(drifted, pairs, measured), truth) < off(drifted, truth)


def test_closing_does_not_depend_on_the_units_of_the_world_or_of_the_windows():
    truth = ring()
    pairs = torch.tensor([[0, 23]])
    measured = torch.linalg.inv(truth[pairs[:, 0]]) @ truth[pairs[:, 1]]
    drifted = drifting(truth)
    closed = close_loops(drifted, pairs, measured)
    larger = torch.diag(torch.tensor([7.0, 7.0, 7.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(close_loops(larger @ drifted, pairs, measured), larger @ closed)
    own = torch.diag_embed(torch.cat([torch.rand(24, 1).expand(24, 3) + 0.5, torch.ones(24, 1)], dim=1)).double()
    in_own = torch.linalg.inv(own[pairs[:, 0]]) @ measured @ own[pairs[:, 1]]
    torch.testing.assert_close(close_loops(drifted @ own, pairs, in_own), closed @ own)


def test_a_blend_goes_through_its_similarities_and_evenly_from_each_to_the_next():
    given = ring()[:4]
    torch.testing.assert_close(blend(given, torch.tensor([0.0, 3.0, 1.0])), given[[0, 3, 1]])
    (between,) = blend(given, torch.tensor([1.5]))
    for side in (1, 2):
        _, turn, _ = similarity_parts(invert_similarity(given[side]) @ between)
        torch.testing.assert_close(rotation_angle(turn), torch.tensor(torch.pi / 24).double(), rtol=0.1, atol=0)


def test_an_axis_and_its_angle_are_read_back_from_the_rotation():
    for size in (0.0, 1e-9, 1e-3, 1.0, 3.14):
        axis = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=-1)
        torch.testing.assert_close(axis_angle_from_rotation(rotation_from_axis_angle(size * axis)), size * axis)
