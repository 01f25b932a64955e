"""The form of a claim about arms of the experiments: who is better than whom, by which measure, on which worlds."""

from dataclasses import dataclass
from typing import Literal

Table = Literal["table1", "table4", "table5", "table6", "table7", "limits"]
TABLES: tuple[Table, ...] = ("table1", "table4", "table5", "table6", "table7", "limits")

POSE, POINTS = "auc@30", "mse"  # one measure each decides; AUC@30 combines RRA and RTA (paper, appendix C)
FLOW, FLOW_SHARE = "aepe", "5px"


@dataclass(frozen=True)
class Side:
    """The runs of one arm, and the worlds that they are measured on."""

    arm: str
    regime: str = "dynamic"
    family: str = "vggt"
    split: Literal["test", "train"] = "test"


@dataclass(frozen=True)
class Hypothesis:
    """A claim: by `measure`, the mean of `better` is better than the mean of `worse`."""

    id: str
    table: Table
    claim: str
    source: str  # a section or table of the paper, or "ours"
    measure: str
    better: tuple[Side, ...]  # empty: `worse` stands alone, which only `grows_with` allows
    worse: tuple[Side, ...]
    grows_with: str | None = None  # a fact of the world: the more of it, the larger the difference
    presupposes: str | None = None  # id of a claim without which this one says nothing


@dataclass(frozen=True)
class Conjunction:
    """A claim that is the sum of others."""

    id: str
    table: Table
    claim: str
    source: str
    parts: tuple[str, ...]  # ids


_OF = {POSE: "poses", POINTS: "points", FLOW: "flow", FLOW_SHARE: "flow, by its share within 5 px,"}


def claims(
    table: Table,
    name: str,
    claim: str,
    source: str,
    better: Side | tuple[Side, ...],
    worse: Side | tuple[Side, ...],
    measures: tuple[str, ...] = (POSE, POINTS),
    presupposes: str | None = None,
) -> tuple[Hypothesis, ...]:
    """The same claim by several measures. `claim` names what is measured as {what}; `presupposes` lacks the measure."""
    sides = [side if isinstance(side, tuple) else (side,) for side in (better, worse)]
    return tuple(
        Hypothesis(
            id=f"{table}/{name}/{measure}",
            table=table,
            claim=claim.format(what=_OF[measure]),
            source=source,
            measure=measure,
            better=sides[0],
            worse=sides[1],
            presupposes=f"{presupposes}/{measure}" if presupposes else None,
        )
        for measure in measures
    )
