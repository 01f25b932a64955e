"""Point metrics on clouds whose errors are known in closed form."""

import math

import numpy as np
import pytest
import torch

from flow3r.geometry.se3 import rotation_from_axis_angle
from flow3r.metrics.points import PI3, PointProfile, f_score, point_errors, point_errors_by_part, spread, unit_length


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


def numpy_point_errors(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The definitions written out: Umeyama 1991 and full matrices of distances."""
    prediction, truth = prediction.reshape(-1, 3), truth.reshape(-1, 3)
    x, y = prediction - prediction.mean(0), truth - truth.mean(0)
    u, d, vt = np.linalg.svd(y.T @ x / len(x))
    fix = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    moved = np.trace(np.diag(d) @ fix) / (x**2).sum(1).mean() * x @ (u @ fix @ vt).T
    s = np.linalg.norm(y, axis=1).mean()
    matrix = np.linalg.norm(moved[:, None] - y[None], axis=-1) / s
    accuracy, completeness = matrix.min(1), matrix.min(0)
    pair = np.linalg.norm(moved - y, axis=1) / s
    values = {
        "mse": pair.mean(),
        "mse_squared": (pair**2).mean(),
        "rmse": np.sqrt((pair**2).mean()),
        "accuracy": accuracy.mean(),
        "completeness": completeness.mean(),
        "chamfer": (accuracy.mean() + completeness.mean()) / 2,
        "chamfer_squared": (accuracy**2).mean() + (completeness**2).mean(),
        "scale": s,
    }
    for name, threshold in (("f2", 0.02), ("f5", 0.05)):
        precision, recall = (accuracy < threshold).mean(), (completeness < threshold).mean()
        values[name] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return values


@pytest.mark.parametrize("seed", range(3))
def test_every_error_equals_brute_force(seed: int) -> None:
    truth = cloud(2, 10, 15, seed)
    prediction = 0.3 * (truth + 0.05 * cloud(2, 10, 15, seed + 20)) - 7
    errors = point_errors(prediction, truth, everywhere(truth))
    expected = numpy_point_errors(prediction.numpy(), truth.numpy())
    assert {name: getattr(errors, name) for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert errors.unit == errors.scale and errors.points == 300 and errors.normals is None


def test_the_order_of_pixels_and_views_does_not_matter() -> None:
    truth, prediction = cloud(), cloud() + 0.1 * cloud(seed=1)
    one = point_errors(prediction, truth, everywhere(truth))
    other = point_errors(prediction.flip(0, 2), truth.flip(0, 2), everywhere(truth))
    names = [name for name, value in vars(one).items() if isinstance(value, float)]
    assert [getattr(one, name) for name in names] == pytest.approx([getattr(other, name) for name in names], rel=1e-9)


def test_units_are_lengths_of_the_true_cloud() -> None:
    box = torch.tensor([[x, y, z] for x in (0.0, 3.0) for y in (0.0, 4.0) for z in (0.0, 12.0)], dtype=torch.float64)
    origin = torch.tensor([1.5, 2.0, 6.0], dtype=torch.float64)
    for unit, length in (("spread", 6.5), ("median", 6.5), ("diagonal", 13.0), ("extent", 12.0), ("truth", 1.0)):
        assert unit_length(box, unit) == pytest.approx(length), unit
    assert unit_length(box, "first_camera", origin) == pytest.approx(6.5)
    with pytest.raises(ValueError, match="first camera"):
        unit_length(box, "first_camera")


def test_another_unit_divides_every_length_and_the_thresholds_alike() -> None:
    truth, prediction = cloud(), cloud() + 0.05 * cloud(seed=1)
    spread_out = point_errors(prediction, truth, everywhere(truth))
    raw = point_errors(prediction, truth, everywhere(truth), profile=PointProfile(unit="truth"))
    for name in ("mse", "rmse", "accuracy", "completeness_median", "chamfer"):
        assert getattr(raw, name) == pytest.approx(spread_out.scale * getattr(spread_out, name), rel=1e-9), name
    assert raw.chamfer_squared == pytest.approx(spread_out.scale**2 * spread_out.chamfer_squared, rel=1e-9)
    assert raw.scale == spread_out.scale and raw.unit == 1.0 and raw.f5 <= spread_out.f5


def test_the_alignment_is_the_scale_from_prediction_to_truth() -> None:
    truth = cloud()
    assert point_errors(truth / 3.7, truth, everywhere(truth)).alignment == pytest.approx(3.7)


def surface(views: int = 2) -> torch.Tensor:
    """A wavy sheet in metres."""
    x, y = torch.meshgrid(torch.linspace(0, 2, 20), torch.linspace(0, 3, 25), indexing="ij")
    sheet = torch.stack([x, y, 0.3 * torch.sin(2 * x) * torch.cos(3 * y)], dim=-1).double()
    return torch.stack([sheet + 0.013 * view for view in range(views)])


def test_pi3_profile_is_in_metres_with_icp_and_normals() -> None:
    truth = surface()
    perfect = point_errors(0.2 * truth + 1, truth, everywhere(truth), profile=PI3)
    assert perfect.chamfer < 1e-9 and perfect.f2 == 1.0 and perfect.unit == 1.0
    assert perfect.normals.mean == pytest.approx(1.0, abs=1e-4)  # neighbours at equal distance may change places
    # A block of far outliers drags the similarity; ICP, which sees only pairs within 10 cm, recovers from part of it.
    prediction = truth.clone()
    prediction[0, :3, :3] += 2.0
    plain = point_errors(prediction, truth, everywhere(truth), profile=PointProfile(unit="truth"))
    refined = point_errors(prediction, truth, everywhere(truth), profile=PI3)
    assert refined.completeness < plain.completeness and refined.accuracy_median < plain.accuracy_median
    assert refined.mse == plain.mse  # corresponding points are compared under the similarity alone


def test_robust_alignment_ignores_a_moving_part() -> None:
    truth = cloud()
    prediction = truth.clone()
    prediction[0, :5] += 3.0
    moving = torch.zeros_like(everywhere(truth))
    moving[0, :5] = True
    robust = PointProfile(robust=True)
    parts = point_errors_by_part(prediction, truth, everywhere(truth), {"static": ~moving}, profile=robust)
    assert parts["static"].mse < 1e-6 and parts["all"].mse > 0.1
    assert point_errors_by_part(prediction, truth, everywhere(truth), {"static": ~moving})["static"].mse > 0.1


@pytest.mark.parametrize("budget", [None, 400])
def test_parts_that_tile_the_sample_average_to_the_whole(budget: int | None) -> None:
    truth, prediction = cloud(), cloud() + 0.1 * cloud(seed=1)
    dynamic = torch.rand(truth.shape[:-1], generator=torch.Generator().manual_seed(0)) < 0.3
    masks = {"dynamic": dynamic, "static": ~dynamic, "sky": torch.zeros_like(dynamic)}
    found = point_errors_by_part(prediction, truth, everywhere(truth), masks, budget=budget)
    assert list(found) == ["all", "dynamic", "static"]
    assert found["all"] == point_errors(prediction, truth, everywhere(truth), budget=budget)
    parts = found["dynamic"], found["static"]
    assert sum(part.points for part in parts) == found["all"].points == (budget or 1000)
    for name in ("accuracy", "completeness", "chamfer_squared"):
        expected = sum(part.points * getattr(part, name) for part in parts) / found["all"].points
        assert getattr(found["all"], name) == pytest.approx(expected, rel=1e-9), name
    share = dynamic.double().mean().item()
    expected = share * found["dynamic"].mse + (1 - share) * found["static"].mse
    assert found["all"].mse == pytest.approx(expected, rel=1e-9)


def test_a_part_without_a_finite_prediction_fails_alone() -> None:
    truth = cloud()
    prediction, dynamic = truth.clone(), torch.zeros_like(everywhere(truth))
    dynamic[0, :4] = True
    prediction[dynamic] = torch.nan
    found = point_errors_by_part(prediction, truth, everywhere(truth), {"dynamic": dynamic, "static": ~dynamic})
    assert "no prediction of this part" in found["dynamic"].failed and found["dynamic"].dropped == 1.0
    assert found["dynamic"].mse == 1.0 and found["dynamic"].f5 == 0.0
    assert found["static"].failed == found["all"].failed == "" and found["all"].dropped == pytest.approx(0.1)


def test_a_failure_in_metres_is_as_large_as_the_scene() -> None:
    truth = 10 * cloud()
    failed = point_errors(truth * torch.nan, truth, everywhere(truth), profile=PI3)
    assert failed.mse == failed.chamfer == pytest.approx(spread(truth.flatten(0, 2)))
    assert failed.rmse**2 == pytest.approx(failed.mse_squared) and failed.normals.mean == 0.0
