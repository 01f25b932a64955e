"""Flow metrics by hand, and the homography floor on flows that are homographies."""

import math

import pytest
import torch

from flow3r.geometry.camera import pixel_grid
from flow3r.metrics.flow import flow_errors, homography_flow, scored_pixels


def homography(height: int, width: int, tilt: float = 5e-4) -> torch.Tensor:
    """The flow of one moderate projective map."""
    matrix = torch.tensor([[1.02, 0.03, 2.0], [-0.02, 0.97, -1.5], [tilt, -tilt, 1.0]], dtype=torch.float64)
    grid = pixel_grid(height, width, dtype=torch.float64)
    mapped = torch.cat([grid, torch.ones_like(grid[..., :1])], dim=-1) @ matrix.T
    return (mapped[..., :2] / mapped[..., 2:] - grid)[None]


def test_errors_by_hand() -> None:
    truth = torch.zeros(1, 10, 100, 2)
    prediction = truth.clone()
    prediction[..., :25, 0] = 2.0
    prediction[..., 25:50, 1] = 4.0
    errors = flow_errors(prediction, truth, None)
    assert errors.aepe == pytest.approx(1.5)
    assert errors.aepe_of_diagonal == pytest.approx(100 * 1.5 / math.hypot(10, 100))
    assert errors.within_pixels == pytest.approx((50.0, 75.0, 100.0))
    assert errors.within_width == pytest.approx((50.0, 50.0, 100.0))  # 1, 2 and 5 px, strictly
    assert errors.skipped == 0 and errors.failed == 0


def test_pairs_count_alike_and_empty_ones_are_skipped_and_counted() -> None:
    truth = torch.zeros(3, 4, 5, 2)
    prediction = torch.stack([torch.full((4, 5, 2), value) for value in (3.0, 0.0, 9.0)])
    covisible = torch.ones(3, 4, 5)
    covisible[0, 1:] = 0.5  # five pixels are left; 0.5 itself is not covisible
    covisible[2] = 0.0
    errors = flow_errors(prediction, truth, covisible)
    assert errors.per_pair == pytest.approx((3 * math.sqrt(2), 0.0))
    assert errors.aepe == pytest.approx(1.5 * math.sqrt(2)) and errors.skipped == 1
    assert flow_errors(prediction, truth, torch.zeros(3, 4, 5)) is None


def test_targets_outside_the_image_are_not_scored() -> None:
    truth = torch.zeros(1, 4, 6, 2)
    truth[..., 0] = 2.0  # the two right-hand columns leave
    prediction = truth.clone()
    prediction[:, :, 4:] = 50.0
    assert flow_errors(prediction, truth, torch.ones(1, 4, 6)).aepe == 0.0


def test_parts_average_to_the_whole_by_their_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, prediction = (3 * torch.randn(1, 9, 12, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    dynamic = torch.rand(1, 9, 12, generator=generator) < 0.3
    whole, moving, still = (flow_errors(prediction, truth, None, part) for part in (None, dynamic, ~dynamic))
    mask = scored_pixels(truth, None)
    counts = [(mask & part).sum().item() for part in (dynamic, ~dynamic)]
    for measure in (lambda errors: errors.aepe, lambda errors: errors.within_pixels[2]):
        expected = sum(n * measure(part) for n, part in zip(counts, (moving, still))) / sum(counts)
        assert measure(whole) == pytest.approx(expected, rel=1e-12)
    assert flow_errors(prediction, truth, None, torch.zeros_like(dynamic)) is None


def test_isotropic_noise_gives_the_mean_and_the_shares_of_a_rayleigh_distribution() -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.zeros(2, 80, 100, 2, dtype=torch.float64)
    errors = flow_errors(3.0 * torch.randn(truth.shape, generator=generator, dtype=torch.float64), truth, None)
    assert errors.aepe == pytest.approx(3.0 * math.sqrt(math.pi / 2), rel=0.02)
    expected = [100 * (1 - math.exp(-(threshold**2) / 18)) for threshold in (1, 3, 5)]
    assert errors.within_pixels == pytest.approx(expected, abs=1.0)


def test_a_broken_prediction_is_wrong_by_a_diagonal() -> None:
    truth = torch.zeros(1, 3, 4, 2)
    prediction = truth.clone()
    prediction[0, 0, :, 1] = torch.nan
    errors = flow_errors(prediction, truth, None)
    assert errors.aepe == pytest.approx(5.0 / 3) and errors.failed == pytest.approx(1 / 3)
    assert errors.within_pixels[2] == pytest.approx(200 / 3)


def test_the_floor_is_exact_on_a_homography() -> None:
    flow = homography(40, 56)
    torch.testing.assert_close(homography_flow(flow, None), flow, atol=1e-6, rtol=0)
    torch.testing.assert_close(homography_flow(flow.float(), None), flow.float(), atol=1e-3, rtol=0)


def test_the_floor_sees_only_covisible_pixels() -> None:
    flow = homography(40, 56)
    damaged, covisible = flow.clone(), torch.ones(1, 40, 56)
    damaged[:, 5:25, 10:40] += 7.0
    covisible[:, 5:25, 10:40] = 0.0
    torch.testing.assert_close(homography_flow(damaged, covisible), flow, atol=1e-6, rtol=0)


def test_the_floor_minimises_the_mean_error_not_its_square() -> None:
    flow = homography(40, 56)
    damaged = flow.clone()
    damaged[:, 5:20, 10:40] += 7.0  # an object: a fifth of the pixels
    damaged += 0.05 * torch.randn(damaged.shape, dtype=torch.float64)
    error = flow_errors(homography_flow(damaged, None), damaged, None).aepe
    truth = flow_errors(flow, damaged, None).aepe
    assert error <= truth
    shift = damaged.flatten(1, 2).median(1).values[:, None, None].expand_as(damaged)
    assert error < flow_errors(shift, damaged, None).aepe


def test_few_or_no_pixels_still_have_a_floor() -> None:
    flow, covisible = homography(12, 12).repeat(2, 1, 1, 1), torch.zeros(2, 12, 12)
    covisible[0, 4, 4:7] = 1.0
    floor = homography_flow(flow, covisible)
    assert floor.isfinite().all() and (floor[1] == 0).all()
    assert flow_errors(floor[:1], flow[:1], covisible[:1]).aepe < 0.1
    assert homography_flow(flow[:0], covisible[:0]).shape == (0, 12, 12, 2)
    assert flow_errors(flow[:0], flow[:0], covisible[:0]) is None


@pytest.mark.parametrize("seed", range(3))
def test_every_error_equals_loops_over_pixels(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = 4 * torch.randn(2, 7, 9, 2, generator=generator, dtype=torch.float64)
    prediction = truth + 2 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    covisible = torch.rand(2, 7, 9, generator=generator)
    means, shares = [], []
    for pair in range(2):
        errors = []
        for y in range(7):
            for x in range(9):
                u, v = truth[pair, y, x].tolist()
                if covisible[pair, y, x] > 0.5 and 0 <= x + 0.5 + u < 9 and 0 <= y + 0.5 + v < 7:
                    errors.append(math.dist(prediction[pair, y, x].tolist(), (u, v)))
        means.append(sum(errors) / len(errors))
        shares.append(100 * sum(error < 3 for error in errors) / len(errors))
    found = flow_errors(prediction, truth, covisible)
    assert found.aepe == pytest.approx(sum(means) / 2, rel=1e-9)
    assert found.aepe_of_diagonal == pytest.approx(50 * sum(means) / math.hypot(7, 9), rel=1e-9)
    assert found.within_pixels[1] == pytest.approx(sum(shares) / 2, rel=1e-9)
