"""Flow composition, local correlation and sparse features by their definitions."""

import numpy as np
import pytest
from made_media import texture as pattern

from flow3r.teacher.dense import compose, erode, local_correlation, local_residual, pull, texture
from flow3r.teacher.features import epipolar_inliers, find_features, match_features


def constant(x: float, y: float, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    return np.broadcast_to(np.float32([x, y]), (*size, 2)).copy()


def test_pull_reads_where_the_flow_leads():
    y, x = np.mgrid[:40, :60].astype(np.float32)
    read = pull(np.dstack([x, y]), constant(2.25, -1.5))
    np.testing.assert_allclose(read[5:-5, 5:-5], np.dstack([x + 2.25, y - 1.5])[5:-5, 5:-5], atol=0.02)


def test_composition_follows_one_flow_then_the_other():
    y, x = np.mgrid[:40, :60].astype(np.float32)
    first, second = constant(3, -2), np.dstack([0.1 * x, 0.05 * y])
    expected = np.dstack([3 + 0.1 * (x + 3), -2 + 0.05 * (y - 2)])
    np.testing.assert_allclose(compose(first, second)[5:-5, 5:-5], expected[5:-5, 5:-5], atol=0.01)


def test_correlation_is_blind_to_gain_and_offset_and_deaf_to_flatness():
    a = pattern(60, 80, seed=1)[..., 0] // 2 + 60
    assert local_correlation(a, (1.4 * a - 30).astype(np.uint8)).min() > 0.9
    assert np.median(np.abs(local_correlation(a, pattern(60, 80, seed=2)[..., 0]))) < 0.5
    flat = np.full((60, 80), 90, np.uint8)
    assert np.abs(local_correlation(flat, flat)).max() < 0.1
    assert local_correlation(a, 255 - a).max() < -0.9


def test_correlation_is_pearsons():
    a, b = pattern(30, 30, seed=1)[..., 0], pattern(30, 30, seed=1)[..., 1] // 2 + pattern(30, 30, seed=1)[..., 0] // 2
    window = np.s_[10:19, 4:13]
    expected = np.corrcoef(a[window].ravel(), b[window].ravel())[0, 1]
    assert local_correlation(a, b)[14, 8] == pytest.approx(expected, abs=0.01)


def test_a_residual_is_the_standard_deviation_of_the_difference_and_rounding_leaves_half_a_level_at_most():
    a, b = pattern(30, 30, seed=1)[..., 0], pattern(30, 30, seed=2)[..., 0]
    window = np.s_[10:19, 4:13]
    expected = (a[window].astype(np.float64) - b[window]).std()
    assert local_residual(a, b)[14, 8] == pytest.approx(expected, rel=1e-3)
    assert local_residual(a // 2, a // 2 + 40).max() < 1e-3
    smooth = np.random.default_rng(0).uniform(80, 120, (200, 200))
    rounded = (np.rint(smooth + shift).astype(np.uint8) for shift in (0.0, 0.5))
    assert np.median(local_residual(*rounded)) == pytest.approx(0.5, abs=0.05)


def test_ramps_and_straight_edges_have_no_texture_and_noise_of_one_level_has_a_quarter():
    y, x = np.mgrid[:60, :80]
    inner = np.s_[10:-10, 10:-10]
    assert texture((2 * x + y).astype(np.uint8))[inner].max() < 1e-3
    assert texture(np.where(x < 40, 60, 160).astype(np.uint8))[inner].max() < 1e-3
    noisy = np.rint(120 + np.random.default_rng(0).normal(size=(200, 200))).astype(np.uint8)
    assert 0.15 < np.median(texture(noisy)) < 0.3
    assert np.median(texture(pattern(60, 80, seed=1)[..., 0])) > 10


def test_texture_is_the_weakest_variation_of_the_gradient():
    """Scharr's derivative, of noise, by its definition."""
    image = np.random.default_rng(1).integers(0, 256, (40, 40)).astype(np.uint8)
    smooth, step = np.array([3, 10, 3]) / 16, np.array([-1, 0, 1]) / 2
    kernels = np.outer(smooth, step), np.outer(step, smooth)
    windows = np.lib.stride_tricks.sliding_window_view(image.astype(np.float64), (3, 3))
    gradient = np.stack([np.einsum("yxij,ij->yx", windows, kernel) for kernel in kernels])  # of the pixels [1:-1]
    about = gradient[:, 12:27, 10:25].reshape(2, -1)  # 15 x 15 about (20, 18)
    expected = np.linalg.eigvalsh(np.cov(about, bias=True))[0]
    assert texture(image)[20, 18] == pytest.approx(expected, rel=1e-3)


def test_erosion_takes_off_the_rim_but_not_at_the_border():
    mask = np.zeros((20, 20), dtype=bool)
    mask[:10, 5:15] = True
    expected = np.zeros_like(mask)
    expected[:9, 6:14] = True
    np.testing.assert_array_equal(erode(mask, 1), expected)


def test_features_of_a_shifted_image_match_with_the_shift():
    image = pattern(200, 260, seed=4, coarseness=1.0)
    a, b = image[10:170, 10:230, 0], image[17:177, 22:242, 0]
    matches = match_features(find_features(a), find_features(b))
    assert len(matches) > 50
    shift = matches[:, 0] - matches[:, 1]
    assert (np.abs(shift - [12, 7]).max(1) < 0.5).mean() > 0.95


def test_nothing_to_match_is_no_error():
    blank = find_features(np.zeros((60, 80), np.uint8))
    assert len(blank.points) == 0
    assert match_features(blank, blank).shape == (0, 2, 2)
    assert epipolar_inliers(match_features(blank, blank)) is None


def test_points_that_do_not_move_are_no_error():
    """OpenCV may raise on them."""
    points = np.random.default_rng(0).uniform(0, 100, (60, 2)).astype(np.float32)
    still = epipolar_inliers(np.stack([points, points], axis=1))
    assert still is None or len(still) <= 60
