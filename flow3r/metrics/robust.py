"""Fits that minimise sums of absolute errors, in float64: a line between depths, a similarity between points."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flow3r.geometry.align import apply_similarity, umeyama

REWEIGHTINGS = 50  # ours; the fit stops when it no longer improves


def scale_and_shift(prediction: Float[Tensor, "n"], truth: Float[Tensor, "n"]) -> tuple[float, float]:
    """The (s, t) that minimise Σ |s prediction + t - truth|, exactly: no other line has a smaller sum.

    For every s the best t is a median of the residuals, which leaves a convex function of s alone; its minimum is
    bracketed and halved by the sign of its subgradient, down to the resolution of float64. A prediction that does not
    vary says nothing: scale 0 and the truth's median. Raises ValueError for empty and non-finite input.
    """
    x, y = prediction.detach().cpu().double().numpy(), truth.detach().cpu().double().numpy()
    if not len(x) or not np.isfinite(x + y).all():
        raise ValueError(f"a line needs finite depths; got {len(x)} pairs, {np.isfinite(x + y).sum()} of them finite")
    origin = _lower_median(x)
    x = x - origin
    if not x.any() or np.ptp(y) == 0:
        return 0.0, _lower_median(y)
    centred = x - x.mean()
    middle = float((centred * y).mean() / np.square(centred).mean())
    width = 0.1 * float(y.std() / x.std())
    low, high = _bracket(x, y, middle, width)
    while low < (middle := 0.5 * (low + high)) < high:
        slope = _subgradient(x, y, middle)
        if slope == 0:
            low = high = middle
        elif slope > 0:
            high = middle
        else:
            low = middle
    scale = min((low, high), key=lambda s: np.abs(y - s * x - _lower_median(y - s * x)).sum())
    return scale, _lower_median(y - scale * x) - scale * origin


def _bracket(x: np.ndarray, y: np.ndarray, middle: float, width: float) -> tuple[float, float]:
    """Slopes on both sides of the minimum, sought from `middle` in doubling steps."""
    low, high = middle - width, middle + width
    step = width
    while _subgradient(x, y, low) > 0:
        low, high, step = low - 2 * step, low, 2 * step
    step = width
    while _subgradient(x, y, high) < 0:
        low, high, step = high, high + 2 * step, 2 * step
    return low, high


def _subgradient(x: np.ndarray, y: np.ndarray, scale: float) -> float:
    """A subgradient in s of min_t Σ |s x + t - y|: residuals of exactly 0 share the sign that balances the others."""
    residual = y - scale * x
    sign = np.sign(_lower_median(residual) - residual)
    zero = sign == 0
    balance = min(max(-sign.sum() / zero.sum(), -1.0), 1.0)
    return float(x @ sign + balance * x[zero].sum())


def _lower_median(values: np.ndarray) -> float:
    index = (len(values) - 1) // 2
    return float(np.partition(values, index)[index])


def robust_similarity(
    source: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "3 3"], Float[Tensor, "3"]]:
    """The similarity (s, R, t) of least Σ ‖s R source + t - target‖, by reweighted least squares from Umeyama's.

    A second opinion on scenes whose moving part drags the least-squares fit along. The sum never ends above that of the
    start.
    """
    source, target = source.double(), target.double()
    best = umeyama(source, target)
    error = (apply_similarity(best, source) - target).norm(dim=-1)
    for _ in range(REWEIGHTINGS):
        floor = 1e-9 * error.mean().clamp_min(torch.finfo(error.dtype).tiny)
        candidate = umeyama(source, target, 1 / error.clamp_min(floor))
        distance = (apply_similarity(candidate, source) - target).norm(dim=-1)
        if not distance.sum() < error.sum() * (1 - 1e-12):
            break
        best, error = candidate, distance
    return best
