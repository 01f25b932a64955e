"""Which arms are run in which regimes for which table of the paper."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from flow3r.errors import InputError
from flow3r.experiment.arms import BASE, FAMILIES, Family

_MAIN = (
    "3d-sup",
    "flow-factored",
    "flow-tracking",
    "flow-projective",
    "3d-sup-exposures",
    "flow-projective+sceneflow",
)
_BOTTLENECK = ("flow-factored-pose", "flow-factored-camera8", "flow-factored-camera32")
_SHARED = ("3d-sup-shared", "flow-factored-shared")


@dataclass(frozen=True)
class Part:
    """Some arms of a family in a regime; each is run with every seed."""

    family: Family
    regime: str
    arms: tuple[str, ...]


_TABLE_1 = (
    Part("vggt", "dynamic", (BASE, *_MAIN)),
    Part("vggt", "static", (BASE, *_MAIN)),
    Part("vggt", "transfer", (BASE, *_MAIN)),
    Part("vggt", "dynamic", (*_BOTTLENECK, *_SHARED, "flow-factored-teacher", "flow-factored-corrected")),
)
TABLES: dict[str, tuple[Part, ...]] = {
    "table1": _TABLE_1,
    "table4": (
        Part("vggt", "dynamic", (BASE, "3d-sup", "flow-factored")),
        Part("vggt", "dynamic-10", ("flow-factored",)),
        Part("vggt", "dynamic-20", ("flow-factored",)),
        Part("vggt", "dynamic-4x-labelled", (BASE, "3d-sup")),
    ),
    "table5": tuple(Part(family, "dynamic", (BASE, "3d-sup", "labelled-flow", "full")) for family in FAMILIES),
    "table6": _TABLE_1,  # another reading of the same runs
    "table7": (Part("vggt", "dynamic", (BASE, "3d-sup", "pseudo-3d", "flow-factored-teacher", "flow-factored")),),
    "limits": (
        Part(
            "vggt",
            "dynamic",
            (
                "3d-sup",
                "flow-factored",
                "flow-factored-noise1",
                "flow-factored-noise3",
                "flow-factored-wrong20",
                "flow-factored-teacher",
                "flow-factored-corrected",
            ),
        ),
    ),
}


def parts_of(table: str, arms: Collection[str] = (), regimes: Collection[str] = ()) -> Iterator[Part]:
    """The parts of a table, of these arms and regimes alone if any are named.

    Raises InputError for a name that the table does not have.
    """
    if table not in TABLES:
        raise InputError(f"no table is called {table!r}; expected one of {', '.join(TABLES)}")
    parts = TABLES[table]
    for named, known in ((arms, {arm for part in parts for arm in part.arms}), (regimes, {p.regime for p in parts})):
        unknown = sorted(set(named) - known)
        if unknown:
            raise InputError(f"{table} has no {', '.join(unknown)}; expected some of {', '.join(sorted(known))}")
    for part in parts:
        chosen = tuple(arm for arm in part.arms if not arms or arm in arms)
        if chosen and (not regimes or part.regime in regimes):
            yield Part(part.family, part.regime, chosen)
