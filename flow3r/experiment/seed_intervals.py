"""How sure a mean over few seeds and many worlds is: the hierarchical bootstrap of rule 2 in hypotheses.py.

All seeds share their worlds, so that a drawn world counts for all of them. Every statistic is first taken of each seed
alone, in each draw of worlds; then seeds are drawn, and the widened deviation of their mean from that of all is added.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from flow3r.eval.tables.intervals import LEVEL, RESAMPLES, SEED, resampled_counts


@dataclass(frozen=True)
class Drawn:
    """A statistic of each of S seeds: as it is, and in each of R draws of worlds."""

    point: Float[np.ndarray, "S"]
    draws: Float[np.ndarray, "R S"]

    def __sub__(self, other: "Drawn") -> "Drawn":
        """Of statistics over different worlds, drawn apart."""
        return Drawn(self.point - other.point, self.draws - other.draws)


@dataclass(frozen=True)
class SeedInterval:
    """The mean over seeds and its interval. With one seed the interval is over worlds alone, and too narrow."""

    mean: float
    low: float
    high: float
    seeds: int


def drawn_means(values: Float[np.ndarray, "S W"], resamples: int = RESAMPLES, part: int = 0) -> Drawn:
    """The mean over the W worlds of each of S seeds; NaN where a world has no value. `part`: another draw of worlds."""
    known = ~np.isnan(values)
    counts = _world_counts(values.shape[1], resamples, part)
    sums = np.where(known, values, 0.0)
    if known.all():
        return Drawn(values.mean(1), counts @ values.T / values.shape[1])
    number = known.astype(float)
    return Drawn(_ratio(sums.sum(1), number.sum(1)), _ratio(counts @ sums.T, counts @ number.T))


def drawn_correlations(
    values: Float[np.ndarray, "S W"], fact: Float[np.ndarray, "W"], resamples: int = RESAMPLES
) -> Drawn:
    """Spearman's rank correlation over worlds of each seed's values with a fact. Ranks are those among all worlds."""
    columns = [_weighted_correlation(row, fact, resamples) for row in values]
    return Drawn(np.array([point for point, _ in columns]), np.stack([draws for _, draws in columns], 1))


def seed_interval(drawn: Drawn, level: float = LEVEL) -> SeedInterval:
    """Draw seeds on top of worlds. Raises ValueError without any seed."""
    seeds = len(drawn.point)
    if not seeds:
        raise ValueError("no seed to take an interval of")
    means = drawn.draws.mean(1)
    if seeds > 1:
        picked = np.concatenate(list(resampled_counts(seeds, len(means), SEED + 1))) / seeds
        deviation = (picked * drawn.draws).sum(1) - means
        means = means + widening(seeds, level) * _share_of_seeds(drawn) * deviation
    outside = 100 * (1 - level) / 2
    low, high = np.nanpercentile(means, [outside, 100 - outside])
    return SeedInterval(float(drawn.point.mean()), float(low), float(high), seeds)


def _share_of_seeds(drawn: Drawn) -> float:
    """How much of the deviation of seeds from their mean is their own, and not that of the worlds drawn for them."""
    own = drawn.draws - drawn.draws.mean(1, keepdims=True)
    seeds, between = len(drawn.point), drawn.point.var(ddof=1)
    by_worlds = np.nanvar(own, 0).mean() * seeds / (seeds - 1)
    return math.sqrt(max(0.0, 1 - by_worlds / between)) if between > 0 else 0.0


def widening(seeds: int, level: float = LEVEL) -> float:
    """What deviations of drawn seeds are multiplied by, so that few Gaussian seeds get the interval of Student's t."""
    from scipy.special import ndtri, stdtrit

    above = (1 + level) / 2
    return float(stdtrit(seeds - 1, above) / ndtri(above) * math.sqrt(seeds / (seeds - 1)))


def ranks(values: Float[np.ndarray, "W"]) -> Float[np.ndarray, "W"]:
    """From 0, equal values at their mean rank; NaN stays NaN."""
    known = ~np.isnan(values)
    _, place, count = np.unique(values[known], return_inverse=True, return_counts=True)
    ranked = np.full(len(values), np.nan)
    ranked[known] = (np.cumsum(count) - (count + 1) / 2)[place]
    return ranked


def _weighted_correlation(
    values: Float[np.ndarray, "W"], fact: Float[np.ndarray, "W"], resamples: int
) -> tuple[float, Float[np.ndarray, "R"]]:
    known = ~np.isnan(values) & ~np.isnan(fact)
    x, y = (np.where(known, np.nan_to_num(ranks(np.where(known, v, np.nan))), 0.0) for v in (values, fact))
    x, y = (np.where(known, v - v[known].mean(), 0.0) for v in (x, y))  # so that squares lose no digits
    columns = np.stack([known, x, y, x * y, x * x, y * y], 1)
    counts = np.concatenate([np.ones((1, len(values))), _world_counts(len(values), resamples, 0)])
    number, sx, sy, sxy, sxx, syy = (counts @ columns).T
    covariance = number * sxy - sx * sy
    spread = np.sqrt(np.maximum(number * sxx - sx**2, 0) * np.maximum(number * syy - sy**2, 0))
    found = _ratio(covariance, spread)
    return float(found[0]), found[1:]


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


@lru_cache(maxsize=3)  # 40 MB for 500 worlds: all claims of a table ask for the same
def _world_counts(worlds: int, resamples: int, part: int) -> Float[np.ndarray, "R W"]:
    return np.concatenate(list(resampled_counts(worlds, resamples, SEED + 2 + part)))
