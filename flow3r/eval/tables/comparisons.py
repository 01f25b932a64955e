"""Two methods on the same samples, and each method by the stride of its frames."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from flow3r.eval.report import COLUMNS
from flow3r.eval.tables.collect import Results
from flow3r.eval.tables.intervals import Difference, paired_differences
from flow3r.eval.tables.paper import METRICS
from flow3r.eval.tables.result_tables import ordered, short, title_of
from flow3r.eval.tables.typeset import Grid, Sheet, arrow, bounds, method_name, number

MEASURES = tuple(dict.fromkeys(METRICS.values()))  # those that the paper prints
REFERENCES = ("flow3r", "flow3r-vggt", "nano")  # the first that was measured is compared with all others


@dataclass(frozen=True)
class Comparison:
    """One method against another on one benchmark, on the samples that both have."""

    benchmark: str
    profile: str
    method: str
    other: str
    differences: Mapping[str, Difference]  # by measure: method minus other


@dataclass(frozen=True)
class StrideBucket:
    """The draws of one method on one benchmark whose frames lie `stride` apart."""

    benchmark: str
    profile: str
    stride: int
    method: str
    samples: int
    means: Mapping[str, float]  # over all draws


def comparisons(results: Iterable[Results], reference: str | None = None) -> tuple[Comparison, ...]:
    """On each benchmark `reference` against every other method; where None, the first of REFERENCES that is there."""
    made = []
    for _, group in groupby(ordered(results), key=lambda r: (r.profile, r.benchmark)):
        by_method = {r.method: r for r in group}
        first = next(
            (by_method[name] for name in ((reference,) if reference else REFERENCES) if name in by_method), None
        )
        if first is not None:
            others = [r for r in by_method.values() if r is not first]
            made += [
                Comparison(first.benchmark, first.profile, first.method, r.method, compare(first, r)) for r in others
            ]
    return tuple(made)


def compare(first: Results, second: Results) -> dict[str, Difference]:
    """First minus second in the paper's measures, where both have them."""
    common = [column for column in MEASURES if column in first.columns and column in second.columns]
    values, others = ({column: r.values(column) for column in common} for r in (first, second))
    return paired_differences(values, others, {column: COLUMNS[column].better for column in common})


def stride_buckets(results: Iterable[Results]) -> tuple[StrideBucket, ...]:
    """By benchmark, stride and method, where a benchmark has frames of several strides."""
    made = []
    for (profile, benchmark), group in groupby(ordered(results), key=lambda r: (r.profile, r.benchmark)):
        rows = [(stride, row) for r in group for stride, row in r.by_stride().items()]
        if len({stride for stride, _ in rows}) > 1:
            for stride, row in sorted(rows, key=lambda bucket: (bucket[0], bucket[1].name)):
                means = {c: mean for c in COLUMNS if (mean := row.mean(c)) is not None}
                made.append(StrideBucket(benchmark, profile, stride, row.name, len(row.scores), means))
    return tuple(made)


def comparison_sheet(found: Sequence[Comparison]) -> Sheet:
    """One grid for each pair of methods on a benchmark."""
    header = ("", "difference", "95 %", "wins", "losses", "ties", "p (sign test)", "n")
    grids = []
    for comparison in found:
        names = " − ".join(map(method_name, (comparison.method, comparison.other)))
        heading = f"{names} on {title_of(comparison.benchmark)}, profile {comparison.profile}"
        grids.append(Grid(heading, header, tuple(_difference_lines(comparison.differences))))
    note = "Differences on the samples that both methods have, over all draws; wins and losses count sequences."
    return Sheet("Methods compared", tuple(grids), (note,))


def stride_sheet(buckets: Sequence[StrideBucket]) -> Sheet:
    """One grid for each benchmark and profile."""
    grids = []
    for (profile, benchmark), found in groupby(buckets, key=lambda b: (b.profile, b.benchmark)):
        group = list(found)
        columns = [c for c in MEASURES if any(c in b.means for b in group)]
        header = ("stride", "method", "samples", *(f"{COLUMNS[c].label} {arrow(c)}" for c in columns))
        lines = tuple(
            (
                *(str(b.stride), method_name(b.method), str(b.samples)),
                *(number(b.means.get(c), COLUMNS[c].digits) for c in columns),
            )
            for b in group
        )
        grids.append(Grid(f"{title_of(benchmark)}, profile {profile}", header, lines, left=2))
    return Sheet("By stride", tuple(grids), ("Means over all draws whose frames lie so many frames apart.",))


def comparison_records(found: Iterable[Comparison]) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {
            "benchmark": comparison.benchmark,
            "profile": comparison.profile,
            "method": comparison.method,
            "other": comparison.other,
            "column": column,
            "difference": short(d.interval.mean),
            "low": short(d.interval.low),
            "high": short(d.interval.high),
            "sequences": d.interval.sequences,
            "samples": d.interval.samples,
            "wins": d.wins,
            "losses": d.losses,
            "ties": d.ties,
            "p": short(d.p),
        }
        for comparison in found
        for column, d in comparison.differences.items()
    ]


def stride_records(buckets: Iterable[StrideBucket]) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {
            "benchmark": bucket.benchmark,
            "profile": bucket.profile,
            "method": bucket.method,
            "stride": bucket.stride,
            "samples": bucket.samples,
            "means": {c: short(mean) for c, mean in bucket.means.items()},
        }
        for bucket in buckets
    ]


def _difference_lines(differences: Mapping[str, Difference]) -> Iterator[tuple[str, ...]]:
    for column, d in differences.items():
        label, digits = f"{COLUMNS[column].label} {arrow(column)}", COLUMNS[column].digits
        interval = bounds(d.interval.low, d.interval.high, digits)
        counts = (str(d.wins), str(d.losses), str(d.ties), number(d.p, 3), str(d.interval.sequences))
        yield (label, number(d.interval.mean, digits, sign=True), interval, *counts)
