"""Areas under the accuracy curve: by hand, against histograms and sums written out, and their order."""

import math

import numpy as np
import pytest
import torch

from flow3r.metrics.curves import area_under_curve, curve_areas


def test_area_under_curve_by_hand() -> None:
    assert area_under_curve(torch.zeros(5)) == 100.0
    assert area_under_curve(torch.tensor([0.999])) == 100.0
    assert area_under_curve(torch.tensor([1.0])) == pytest.approx(100 * 29 / 30)
    assert area_under_curve(torch.tensor([29.5])) == pytest.approx(100 / 30)
    assert area_under_curve(torch.tensor([30.0])) == pytest.approx(100 / 30)  # numpy closes the last bin
    assert area_under_curve(torch.tensor([31.0, 180.0])) == 0.0
    assert area_under_curve(torch.tensor([0.5, 10.2, 50.0])) == pytest.approx(100 * (1 + 20 / 30 + 0) / 3)


def test_area_under_curve_is_the_mean_of_the_cumulative_histogram() -> None:
    errors = 40 * torch.rand(500, dtype=torch.float64)
    counts, _ = np.histogram(errors.numpy(), bins=np.arange(31))
    assert area_under_curve(errors) == pytest.approx(100 * np.mean(np.cumsum(counts) / 500))


@pytest.mark.parametrize("limit", [5, 15, 30])
def test_every_limit_equals_loops_over_pairs_and_bins(limit: int) -> None:
    errors = 1.5 * limit * torch.rand(200, generator=torch.Generator().manual_seed(limit), dtype=torch.float64)
    heights = [sum(error < threshold for error in errors.tolist()) / 200 for threshold in range(1, limit + 1)]
    assert area_under_curve(errors, limit) == pytest.approx(100 * sum(heights) / limit, rel=1e-9)


def random_errors(seed: int, pairs: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(45 * torch.rand(pairs, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("seed", range(3))
def test_every_area_equals_its_definition_written_out(seed: int) -> None:
    rotation, translation = random_errors(seed)
    areas = curve_areas(rotation, translation)
    worse = np.maximum(rotation.numpy(), translation.numpy())
    binned = np.cumsum(np.histogram(worse, bins=np.arange(31))[0]) / 400
    histc = torch.histc(torch.from_numpy(worse), bins=31, min=0, max=30).cumsum(0) / 400
    fine = np.linspace(0, 30, 30_001)
    accuracy = np.searchsorted(np.sort(worse), fine) / 400
    smaller = [
        min((rotation < t).double().mean().item(), (translation < t).double().mean().item()) for t in range(1, 31)
    ]
    assert areas.binned == pytest.approx(100 * binned.mean(), abs=1e-9)
    assert areas.histc == pytest.approx(100 * histc.mean().item(), abs=1e-9)
    assert areas.integral == pytest.approx(100 * accuracy.mean(), abs=0.01)
    assert areas.mean_accuracy == pytest.approx(100 * np.mean(smaller), abs=1e-9)
    assert areas.integral <= areas.binned <= areas.integral + 100 / 30
    assert areas.mean_accuracy >= areas.binned - 1e-9


def test_half_normal_errors_have_the_areas_of_their_distribution() -> None:
    # Quantiles of |N(0, 8 degrees)|; its distribution function is erf(e / (8 √2)).
    errors = 8 * math.sqrt(2) * torch.erfinv((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)
    areas = curve_areas(errors, torch.zeros_like(errors))
    cumulative = [math.erf(t / (8 * math.sqrt(2))) for t in range(1, 31)]
    assert areas.binned == pytest.approx(100 * np.mean(cumulative), abs=0.01)
    assert areas.mean_accuracy == pytest.approx(areas.binned, abs=0.01)  # one error alone: the smaller share is its
    assert areas.binned == pytest.approx(80.34, abs=0.1) and areas.integral == pytest.approx(78.70, abs=0.1)


def test_no_pair_has_no_area() -> None:
    areas = curve_areas(torch.zeros(0), torch.zeros(0))
    assert all(map(math.isnan, vars(areas).values()))
