"""Depth metrics by hand, against numpy written out, and what an alignment can and cannot hide."""

import math

import numpy as np
import pytest
import torch

from flow3r.metrics.depth import NEAREST, depth_errors
from flow3r.metrics.robust import scale_and_shift


def depths(seed: int = 0, views: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """A true depth in [1, 6] and a prediction of half of it, with noise."""
    generator = torch.Generator().manual_seed(seed)
    truth = 1 + 5 * torch.rand(views, 6, 7, generator=generator, dtype=torch.float64)
    noise = 1 + 0.3 * torch.rand(views, 6, 7, generator=generator, dtype=torch.float64)
    return 0.5 * truth * noise, truth


def everywhere(truth: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(truth, dtype=torch.bool)


def test_depth_errors_up_to_scale_and_by_hand() -> None:
    truth = 1 + torch.rand(2, 6, 7, dtype=torch.float64)
    valid = torch.ones_like(truth, dtype=torch.bool)
    perfect = depth_errors(0.2 * truth, truth, valid)
    assert perfect.abs_rel < 1e-12 and perfect.delta == 100.0 and perfect.scale == pytest.approx(5.0)
    # One scale for the whole sequence: the second view is three times too far, and the first decides.
    truth = torch.ones(2, 4, 4, dtype=torch.float64)
    truth[0, 0, 0] = 0.0
    prediction = torch.stack([torch.ones(4, 4), torch.full((4, 4), 0.1)]).double()
    errors = depth_errors(prediction, truth, torch.ones_like(truth, dtype=torch.bool))
    assert errors.scale == pytest.approx(1.0) and errors.pixels == 31
    assert errors.abs_rel == pytest.approx(0.9 * 16 / 31) and errors.delta == pytest.approx(100 * 15 / 31)


def test_broken_depth_counts_as_none() -> None:
    truth = torch.full((1, 2, 2), 2.0)
    prediction = torch.tensor([[[1.0, torch.nan], [-1.0, 1.0]]])
    errors = depth_errors(prediction, truth, torch.ones(1, 2, 2, dtype=torch.bool))
    assert errors.scale == pytest.approx(2.0)
    assert errors.abs_rel == pytest.approx(0.5, abs=1e-5) and errors.delta == 50.0
    assert "no pixel" in depth_errors(prediction, torch.zeros(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)).failed
    assert "positive" in depth_errors(-truth, truth, torch.ones(1, 2, 2, dtype=torch.bool)).failed


@pytest.mark.parametrize("alignment", ["scale", "scale_and_shift", "metric", "median"])
def test_every_measure_equals_numpy_written_out(alignment: str) -> None:
    prediction, truth = depths()
    errors = depth_errors(prediction, truth, everywhere(truth), alignment)
    if alignment == "scale_and_shift":
        scale, shift = scale_and_shift(prediction.flatten(), truth.flatten())
    else:
        ratio = (truth / prediction).flatten()
        sums = [(s * prediction - truth).abs().sum().item() for s in ratio]
        scale, shift = {"scale": ratio[int(np.argmin(sums))].item(), "metric": 1.0, "median": None}[alignment], 0.0
    if scale is None:
        scale = (truth.flatten(1).median(1).values / prediction.flatten(1).median(1).values)[:, None, None].numpy()
    aligned, true = scale * prediction.numpy() + shift, truth.numpy()
    assert errors.scale == pytest.approx(np.mean(scale), rel=1e-9) and errors.shift == pytest.approx(shift, rel=1e-9)
    assert errors.abs_rel == pytest.approx(np.mean(np.abs(aligned - true) / true), rel=1e-9)
    assert errors.squared_rel == pytest.approx(np.mean((aligned - true) ** 2 / true), rel=1e-9)
    assert errors.rmse == pytest.approx(math.sqrt(np.mean((aligned - true) ** 2)), rel=1e-9)
    assert errors.log_rmse == pytest.approx(math.sqrt(np.mean(np.log(aligned / true) ** 2)), rel=1e-9)
    assert errors.delta == pytest.approx(100 * np.mean(np.maximum(aligned / true, true / aligned) < 1.25))


def test_each_alignment_hides_what_it_fits_and_no_more() -> None:
    _, truth = depths()
    per_image = torch.tensor([0.5, 3.0], dtype=torch.float64)[:, None, None] * truth
    found = {
        name: {alignment: depth_errors(prediction, truth, everywhere(truth), alignment).abs_rel for alignment in hidden}
        for name, prediction, hidden in (
            ("metric", truth, ("metric", "scale", "scale_and_shift", "median")),
            ("scaled", 0.2 * truth, ("scale", "scale_and_shift", "median")),
            ("shifted", 0.2 * truth - 7.0, ("scale_and_shift",)),
            ("by image", per_image, ("median",)),
        )
    }
    assert all(value < 1e-12 for values in found.values() for value in values.values())
    assert depth_errors(0.2 * truth, truth, everywhere(truth), "metric").abs_rel == pytest.approx(0.8)
    assert depth_errors(0.2 * truth + 1, truth, everywhere(truth), "scale").abs_rel > 0.01
    assert depth_errors(per_image, truth, everywhere(truth), "scale").abs_rel > 0.1


def test_true_depth_beyond_the_limit_is_not_scored_and_aligned_depth_is_clipped() -> None:
    truth = torch.full((1, 2, 4), 10.0)
    truth[0, 0] = 80.0
    prediction = truth.clone()
    prediction[0, 1, 0] = 25.0
    errors = depth_errors(prediction, truth, everywhere(truth), farthest=70.0, clip=20.0)
    assert errors.pixels == 4 and errors.abs_rel == pytest.approx((20 - 10) / 10 / 4)
    assert depth_errors(prediction, truth, everywhere(truth), farthest=5.0).failed == "no pixel has a true depth"


def test_parts_share_one_alignment_and_average_to_the_whole() -> None:
    prediction, truth = depths()
    dynamic = torch.zeros_like(truth, dtype=torch.bool)
    dynamic[:, :2] = True
    whole, moving, still = (
        depth_errors(prediction, truth, everywhere(truth), among=part) for part in (None, dynamic, ~dynamic)
    )
    assert whole.scale == moving.scale == still.scale and moving.pixels + still.pixels == whole.pixels
    weighted = (moving.abs_rel * moving.pixels + still.abs_rel * still.pixels) / whole.pixels
    assert weighted == pytest.approx(whole.abs_rel, rel=1e-12)


def test_a_sequence_without_truth_has_no_pixels_and_says_why() -> None:
    prediction, truth = depths()
    empty = depth_errors(prediction, 0 * truth, everywhere(truth))
    assert empty.failed and empty.pixels == 0 and empty.abs_rel == 1.0 and math.isnan(empty.rmse)


@pytest.mark.parametrize("alignment", ["scale", "scale_and_shift", "metric", "median"])
def test_a_prediction_without_a_finite_depth_is_the_worst(alignment: str) -> None:
    _, truth = depths()
    errors = depth_errors(truth * torch.nan, truth, everywhere(truth), alignment)
    assert errors.failed == "no predicted depth is positive" and errors.delta == 0.0
    assert errors.abs_rel == pytest.approx(1.0, abs=NEAREST)
