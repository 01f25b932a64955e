"""Alignment: known similarities are recovered, degenerate sets get an answer, the scale solver equals brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flow3r.geometry.align import apply_similarity, umeyama, weighted_median_scale
from flow3r.geometry.se3 import rotation_from_axis_angle, rotation_from_quaternion

small_integer = st.integers(-4, 4).map(float)
weights = st.sampled_from([0.0, 0.5, 1.0, 3.0])
samples = st.lists(st.tuples(small_integer, small_integer, weights), min_size=1, max_size=12)


def random_similarity(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scale = torch.rand(shape, dtype=torch.float64) * 5 + 0.1
    rotation = rotation_from_quaternion(torch.randn((*shape, 4), dtype=torch.float64))
    return scale, rotation, torch.randn((*shape, 3), dtype=torch.float64) * 10


def assert_proper(rotation: torch.Tensor) -> None:
    identity = torch.eye(3, dtype=rotation.dtype).expand_as(rotation)
    torch.testing.assert_close(rotation @ rotation.mT, identity, atol=1e-5, rtol=0)
    assert (torch.linalg.det(rotation) > 0).all()


def cost(similarity: tuple, source: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (weight * (apply_similarity(similarity, source) - target).square().sum(-1)).sum(-1)


def test_a_known_similarity_is_recovered_in_a_batch():
    similarity, source = random_similarity(4, 3), torch.randn(4, 3, 10, 3, dtype=torch.float64)
    found = umeyama(source, apply_similarity(similarity, source))
    for part, expected in zip(found, similarity):
        torch.testing.assert_close(part, expected)


def test_without_scale_the_rigid_motion_is_recovered_and_the_scale_is_one():
    _, rotation, translation = random_similarity()
    source = torch.randn(10, 3, dtype=torch.float64)
    found = umeyama(source, source @ rotation.mT + translation, with_scale=False)
    assert found[0] == 1
    torch.testing.assert_close(found[1], rotation)
    torch.testing.assert_close(found[2], translation)


def test_a_mirrored_set_gets_the_best_proper_similarity():
    source = torch.randn(12, 3, dtype=torch.float64)
    mirrored, weight = source * torch.tensor([1.0, 1.0, -1.0]), torch.rand(12, dtype=torch.float64)
    found = umeyama(source, mirrored, weight)
    assert_proper(found[1])
    best = cost(found, source, mirrored, weight)
    for spread in (1e-3, 0.1, 3.0):
        turn = rotation_from_axis_angle(spread * torch.randn(300, 3, dtype=torch.float64))
        scale = found[0] * (1 + spread * torch.randn(300, dtype=torch.float64))
        shift = found[2] + spread * torch.randn(300, 3, dtype=torch.float64)
        others = (scale, turn @ found[1], shift)
        assert (cost(others, source.expand(300, 12, 3), mirrored, weight) >= best - 1e-12).all()


def test_a_weight_of_zero_removes_and_a_weight_of_two_repeats():
    source, target = torch.randn(2, 6, 3, dtype=torch.float64)
    weight = torch.tensor([2.0, 1.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    kept = [0, 0, 1, 2, 4, 5]
    for part, expected in zip(umeyama(source, target, weight), umeyama(source[kept], target[kept])):
        torch.testing.assert_close(part, expected)


def test_outliers_of_weight_zero_do_not_matter():
    similarity, source = random_similarity(), torch.randn(9, 3, dtype=torch.float64)
    target, weight = apply_similarity(similarity, source), torch.ones(9, dtype=torch.float64)
    target[4], weight[4] = 1e6, 0
    for part, expected in zip(umeyama(source, target, weight), similarity):
        torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [2, 5])
def test_collinear_points_and_two_points_are_still_carried_onto_their_targets(count, dtype):
    line = torch.linspace(-1, 2, count, dtype=dtype)[:, None] * torch.tensor([0.3, -0.5, 0.8], dtype=dtype) + 0.7
    similarity = tuple(part.to(dtype) for part in random_similarity())
    target = apply_similarity(similarity, line)
    found = umeyama(line, target)
    assert_proper(found[1])
    torch.testing.assert_close(apply_similarity(found, line), target, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[0], similarity[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coincident_points_are_moved_by_a_rigid_motion_of_scale_one(dtype):
    """Also where the mean of equal points differs from them by rounding."""
    for count in (1, 2, 3, 7, 100):
        spot = torch.tensor([0.1, 123.456, -7.7], dtype=dtype).expand(count, 3)
        for target in (spot + 1, torch.randn(count, 3, dtype=dtype)):
            scale, rotation, translation = umeyama(spot, target)
            assert scale == 1
            assert_proper(rotation)
            moved = apply_similarity((scale, rotation, translation), spot)
            torch.testing.assert_close(moved.mean(0), target.mean(0), atol=1e-3, rtol=1e-3)


def test_no_weight_at_all_leaves_the_points_where_they_are():
    source, target = torch.randn(2, 5, 3)
    found = umeyama(source, target, torch.zeros(5))
    torch.testing.assert_close(apply_similarity(found, source), source)


def test_alignment_undoes_any_similarity_of_the_source():
    source, target = torch.randn(2, 8, 3, dtype=torch.float64)
    moved = apply_similarity(random_similarity(), source)
    aligned = apply_similarity(umeyama(source, target), source)
    torch.testing.assert_close(apply_similarity(umeyama(moved, target), moved), aligned)


def scale_cost(
    scale: torch.Tensor, prediction: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    return (weight * (scale[..., None] * prediction - truth).abs()).sum(-1)


@settings(max_examples=100, deadline=None)
@given(samples)
def test_the_median_scale_is_no_worse_than_any_ratio(rows):
    """The objective is piecewise linear with kinks at the ratios, so the best ratio is the global minimum."""
    prediction, truth, weight = torch.tensor(rows, dtype=torch.float64).unbind(-1)
    scale = weighted_median_scale(prediction, truth, weight)
    ratios = (truth / prediction)[(prediction != 0) & (weight > 0)]
    if ratios.numel() == 0:
        assert scale == 1
        return
    brute_force = scale_cost(ratios, prediction, truth, weight).min()
    assert scale_cost(scale, prediction, truth, weight) <= brute_force + 1e-9
    assert (ratios == scale).any()


def test_the_median_scale_equals_brute_force_on_many_reals():
    prediction, truth, weight = torch.randn(3, 20, 301, dtype=torch.float64)
    weight = weight.abs()
    scale = weighted_median_scale(prediction, truth, weight)
    costs = scale_cost((truth / prediction).T, prediction, truth, weight)
    best = (truth / prediction).T.gather(0, costs.argmin(0, keepdim=True))[0]
    torch.testing.assert_close(scale, best, atol=0, rtol=1e-12)


def test_the_median_scale_is_exact_under_outliers():
    prediction = torch.rand(1000, dtype=torch.float64) + 0.5
    truth = 2.5 * prediction
    truth[:400] *= torch.rand(400, dtype=torch.float64) * 20
    scale = weighted_median_scale(prediction, truth, torch.ones(1000, dtype=torch.float64))
    assert scale.item() == pytest.approx(2.5, rel=1e-12)


def test_the_median_scale_follows_its_arguments_scales():
    prediction, truth, weight = torch.randn(3, 41, dtype=torch.float64)
    weight = weight.abs()
    scale = weighted_median_scale(prediction, truth, weight)
    torch.testing.assert_close(weighted_median_scale(4 * prediction, truth, weight), scale / 4)
    torch.testing.assert_close(weighted_median_scale(prediction, 4 * truth, weight), scale * 4)
    torch.testing.assert_close(weighted_median_scale(prediction, truth, 4 * weight), scale)
    torch.testing.assert_close(weighted_median_scale(prediction, -truth, weight), -scale)


def test_a_negative_scale_and_zeros_of_either_side():
    prediction = torch.tensor([1.0, -2.0, 0.0, 3.0])
    ones = torch.ones(4)
    assert weighted_median_scale(prediction, -2 * prediction, ones) == -2
    assert weighted_median_scale(prediction, torch.zeros(4), ones) == 0
    assert weighted_median_scale(torch.zeros(4), prediction, ones) == 1
    assert weighted_median_scale(prediction, 2 * prediction, torch.zeros(4)) == 1


def test_the_median_scale_has_finite_gradients_whatever_is_masked():
    prediction = torch.tensor([[2.0, 1e-30, 0.0, 1.0], [0.0, 1e-30, 1e-38, 0.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]])
    scale = weighted_median_scale(prediction, torch.tensor([[6.0, 5.0, 5.0, 3.0], [5.0, 5.0, 5.0, 0.0]]), weight)
    assert scale.tolist() == [3, 1]
    scale.sum().backward()
    assert prediction.grad.isfinite().all()
