"""How sure a mean is: bootstrap over sequences, paired differences of two methods, the exact sign test.

The sequence is the cluster: its draws show the same place and stay together.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 10_000  # ours
LEVEL = 0.95
SEED = 0  # ours: the same rows give the same interval
FEW = 10  # ours: below this an interval needs a caveat (Bonn 5 sequences, NRGBD 9)
CHUNK = 2_000_000  # resampled sequences at a time: 16 MB

Values = Mapping[str, Mapping[int, float]]  # of one measure: sequence -> draw -> value


@dataclass(frozen=True)
class Interval:
    """A mean over all draws of all sequences, and the percentile interval of it; NaN with fewer than two sequences."""

    mean: float
    low: float
    high: float
    sequences: int
    samples: int


@dataclass(frozen=True)
class Difference:
    """How one method differs from another on the samples that both have: first minus second."""

    interval: Interval
    wins: int  # sequences on which the first is better, over all their draws
    losses: int
    ties: int
    p: float  # two-sided exact sign test of wins against losses


def mean_intervals(measures: Mapping[str, Values], resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Interval]:
    """The interval of every measure's mean, all from the same resampled sequences."""
    sequences = sorted({sequence for values in measures.values() for sequence in values})
    if not sequences:
        return {}
    sums, counts = np.zeros((2, len(sequences), len(measures)))
    for column, values in enumerate(measures.values()):
        for row, sequence in enumerate(sequences):
            draws = values.get(sequence, {})
            sums[row, column], counts[row, column] = math.fsum(draws.values()), len(draws)
    low, high = _percentiles(sums, counts, resamples, seed)
    return {
        name: Interval(
            mean=float(sums[:, k].sum() / counts[:, k].sum()),
            low=float(low[k]),
            high=float(high[k]),
            sequences=int((counts[:, k] > 0).sum()),
            samples=int(counts[:, k].sum()),
        )
        for k, name in enumerate(measures)
        if counts[:, k].any()
    }


def paired_differences(
    first: Mapping[str, Values],
    second: Mapping[str, Values],
    better: Mapping[str, Literal["higher", "lower"]],
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Difference]:
    """Compare two methods, measure by measure, on the samples that both have."""
    gaps = {
        name: {
            sequence: {draw: value - second[name][sequence][draw] for draw, value in draws.items() if draw in theirs}
            for sequence, draws in values.items()
            if (theirs := second[name].get(sequence, {})).keys() & draws.keys()
        }
        for name, values in first.items()
        if name in second
    }
    compared = {}
    for name, interval in mean_intervals(gaps, resamples, seed).items():
        sign = 1 if better[name] == "higher" else -1
        means = [sign * math.fsum(draws.values()) for draws in gaps[name].values()]
        wins, losses = sum(mean > 0 for mean in means), sum(mean < 0 for mean in means)
        compared[name] = Difference(interval, wins, losses, len(means) - wins - losses, sign_test(wins, losses))
    return compared


def sign_test(wins: int, losses: int) -> float:
    """The two-sided exact p-value of so uneven a split of fair coins; ties are left out before."""
    n, at_most, ways = wins + losses, 0, 1
    for k in range(min(wins, losses) + 1):
        at_most += ways  # n over k
        ways = ways * (n - k) // (k + 1)
    return min(1.0, 2 * at_most / 2**n)


def _percentiles(
    sums: Float[np.ndarray, "n m"], counts: Float[np.ndarray, "n m"], resamples: int, seed: int
) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
    """The bounds of the means of M measures over N sequences drawn with replacement, N at a time.

    A resample that holds no sequence of a measure says nothing about it.
    """
    means = np.concatenate(
        [_ratio(weights @ sums, weights @ counts) for weights in resampled_counts(len(sums), resamples, seed)]
    )
    outside = 100 * (1 - LEVEL) / 2
    several = (counts > 0).sum(0) > 1
    low, high = np.full((2, sums.shape[1]), np.nan)
    if several.any():
        low[several], high[several] = np.nanpercentile(means[:, several], [outside, 100 - outside], axis=0)
    return low, high


def _ratio(sums: Float[np.ndarray, "r m"], counts: Float[np.ndarray, "r m"]) -> Float[np.ndarray, "r m"]:
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def resampled_counts(n: int, resamples: int, seed: int) -> Iterator[Float[np.ndarray, "r n"]]:
    """How often each of N sequences is drawn in each resample, some resamples at a time."""
    random = np.random.Generator(np.random.PCG64(seed))
    at_once = max(1, CHUNK // n)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn: Int[np.ndarray, "r n"] = random.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(float)
