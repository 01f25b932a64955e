"""Point metrics on clouds whose errors are known in closed form."""

import math

import pytest
import torch

from flow3r.geometry.se3 import rotation_from_axis_angle
from flow3r.metrics.points import f_score, nearest_distances, point_errors, spread


def cloud(views: int = 2, height: int = 20, width: int = 25, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(views, height, width, 3, generator=generator, dtype=torch.float64) + 4


def everywhere(points: torch.Tensor) -> torch.Tensor:
    return torch.ones(points.shape[:-1], dtype=torch.bool)


def test_truth_under_any_similarity_is_perfect() -> None:
    truth = cloud()
    rotation = rotation_from_axis_angle(torch.tensor([0.3, -2.0, 0.7], dtype=torch.float64))
    for scale in (1e-3, 1.0, 50.0):
        errors = point_errors(scale * truth @ rotation.T + 100, truth, everywhere(truth))
        assert errors.mse < 1e-8 and errors.chamfer < 1e-8
        assert errors.f2 == errors.f5 == 1.0 and errors.failed == "" and errors.dropped == 0


def test_scores_do_not_depend_on_the_unit_or_frame_of_the_truth() -> None:
    truth, prediction = cloud(), cloud() + 0.1 * cloud(seed=1)
    rotation = rotation_from_axis_angle(torch.tensor([1.0, 0.2, 0.0], dtype=torch.float64))
    one = point_errors(prediction, truth, everywhere(truth))
    other = point_errors(prediction, 7 * truth @ rotation.T - 3, everywhere(truth))
    for name in ("mse", "mse_squared", "accuracy", "completeness", "chamfer", "f2", "f5"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9), name
    assert other.scale == pytest.approx(7 * one.scale)


def test_isotropic_noise_gives_the_mean_of_a_maxwell_distribution() -> None:
    truth = cloud(2, 60, 80)
    sigma = 0.01
    noise = sigma * (cloud(2, 60, 80, seed=5) - 4)
    errors = point_errors(truth + noise, truth, everywhere(truth))
    expected = sigma * math.sqrt(8 / math.pi) / spread(truth.flatten(0, 2))
    assert errors.mse == pytest.approx(expected, rel=0.02)
    assert errors.mse_squared == pytest.approx(3 * (sigma / errors.scale) ** 2, rel=0.03)


def test_spread_is_the_mean_distance_to_the_centroid() -> None:
    corners = torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 2, 0], [2, 2, 0]])
    assert spread(corners) == pytest.approx(math.sqrt(2))


def test_nearest_distances_equal_brute_force() -> None:
    one, other = cloud(1, 15, 10).flatten(0, 2), cloud(1, 12, 11, seed=3).flatten(0, 2)
    forth, back = nearest_distances(one, other)
    distance = torch.cdist(one, other)
    torch.testing.assert_close(forth, distance.min(1).values)
    torch.testing.assert_close(back, distance.min(0).values)


def test_f_score_by_hand() -> None:
    assert f_score(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0]), 0.5) == pytest.approx(2 * 0.5 / 1.5)
    assert f_score(torch.tensor([0.5]), torch.tensor([0.0]), 0.5) == 0.0  # strict, and precision 0
    assert f_score(torch.tensor([1.0]), torch.tensor([1.0]), 0.5) == 0.0


def test_a_surface_seen_at_half_its_extent_loses_recall_but_not_accuracy() -> None:
    x, y = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="xy")
    truth = torch.stack([x, y, 0.1 * x.sin()], dim=-1)[None].double()
    # Every right-hand pixel is predicted on its mirror image on the left: symmetric, so the fit leaves the left alone.
    half = truth.clone()
    half[:, :, 20:] = torch.nan
    errors = point_errors(half, truth, everywhere(truth))
    assert errors.dropped == 0.5 and errors.mse < 1e-9 and errors.accuracy < 1e-9
    assert errors.f2 == pytest.approx(2 * 0.5 / 1.5)  # precision 1, recall 1/2: neighbours are farther than 2 % of s
    assert errors.completeness > 0.1


def test_unknown_truth_does_not_count() -> None:
    truth = cloud()
    prediction, valid = truth.clone(), everywhere(truth)
    prediction[0, 3:8], valid[0, 3:8] = 1e6, False
    assert point_errors(prediction, truth, valid).mse < 1e-9


def test_a_budget_keeps_the_mse_and_a_perfect_score_and_is_repeatable() -> None:
    truth, prediction = cloud(), cloud() + 0.1 * cloud(seed=1)
    full, part = (point_errors(prediction, truth, everywhere(truth), budget=budget) for budget in (None, 300))
    assert part.mse == full.mse and part.accuracy != full.accuracy
    assert part == point_errors(prediction, truth, everywhere(truth), budget=300)
    assert part != point_errors(prediction, truth, everywhere(truth), budget=300, seed=1)
    assert point_errors(3 * truth, truth, everywhere(truth), budget=300).f2 == 1.0


def test_failures_have_the_worst_values_and_a_reason() -> None:
    truth = cloud()
    few = everywhere(truth)
    few[:, 1:] = False
    cases = {
        "50 valid": point_errors(truth, truth, few),
        "finite": point_errors(truth * torch.nan, truth, everywhere(truth)),
        "one spot": point_errors(torch.ones_like(truth), truth, everywhere(truth)),
        "0 valid": point_errors(truth, truth, ~everywhere(truth)),
    }
    for reason, errors in cases.items():
        assert reason in errors.failed
        assert (errors.mse, errors.accuracy, errors.completeness, errors.chamfer) == (1, 1, 1, 1)
        assert errors.f2 == errors.f5 == 0
    assert cases["finite"].dropped == 1.0
