"""L1 fits against every line there is, a linear programme, and points with gross errors."""

import itertools

import numpy as np
import pytest
import torch

from flow3r.geometry.align import apply_similarity
from flow3r.geometry.se3 import rotation_from_axis_angle
from flow3r.metrics.robust import robust_similarity, scale_and_shift


def objective(line: tuple[float, float], x: torch.Tensor, y: torch.Tensor) -> float:
    return (line[0] * x + line[1] - y).abs().sum().item()


def depths(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 1 + 5 * torch.rand(count, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    return x, 3 * x - 1 + noise**3


@pytest.mark.parametrize("seed", range(8))
def test_no_line_through_two_points_has_a_smaller_sum(seed: int) -> None:
    x, y = depths(13 + seed % 2, seed)  # a best line goes through two points
    if seed >= 4:
        x, y = x.round(), y.round()  # with ties
    best = min(
        objective((slope := ((y[i] - y[j]) / (x[i] - x[j])).item(), (y[i] - slope * x[i]).item()), x, y)
        for i, j in itertools.combinations(range(len(x)), 2)
        if x[i] != x[j]
    )
    assert objective(scale_and_shift(x, y), x, y) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_sum_is_that_of_the_linear_programme(seed: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    x, y = depths(60, seed)
    # min Σ e with e ≥ ±(s x + t - y).
    side = np.column_stack([x.numpy(), np.ones(60)])
    upper = np.block([[side, -np.eye(60)], [-side, -np.eye(60)]])
    cost = np.concatenate([[0, 0], np.ones(60)])
    free = [(None, None)] * 2 + [(0, None)] * 60
    solution = optimize.linprog(cost, upper, np.concatenate([y, -y]), bounds=free)
    assert objective(scale_and_shift(x, y), x, y) == pytest.approx(solution.fun, rel=1e-9)


def test_a_line_is_found_whatever_its_unit_and_whatever_a_minority_says() -> None:
    x, _ = depths(101, 0)
    for scale, shift in ((2.0, -1.0), (1e5, 3e6), (1e-4, 2.0), (-0.5, 9.0)):
        y = scale * x + shift
        y[::3] += 100.0 * abs(scale)
        assert scale_and_shift(x, y) == pytest.approx((scale, shift), rel=1e-9)


def test_depths_that_do_not_vary_get_the_median() -> None:
    y = torch.tensor([1.0, 2.0, 7.0])
    assert scale_and_shift(torch.full((3,), 0.3), y) == (0.0, 2.0)
    assert scale_and_shift(y, torch.full((3,), 4.0)) == (0.0, 4.0)
    assert scale_and_shift(y[:1], y[1:2]) == (0.0, 2.0)
    for broken in (y[:0], y * torch.nan):
        with pytest.raises(ValueError, match="finite"):
            scale_and_shift(broken, broken)


def test_a_moving_quarter_does_not_drag_a_robust_similarity() -> None:
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    rotation = rotation_from_axis_angle(torch.tensor([0.3, 1.0, -0.2], dtype=torch.float64))
    truth = (torch.tensor(2.5).double(), rotation, torch.tensor([1.0, -4.0, 2.0]).double())
    target = apply_similarity(truth, source)
    target[::4] += 3.0
    for found, expected in zip(robust_similarity(source, target), truth):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
