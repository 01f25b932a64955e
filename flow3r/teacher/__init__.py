"""Teachers: off-the-shelf sources of flow behind one protocol (flow3r.types.Teacher), each known by a name."""

import difflib
from typing import Any

from flow3r.errors import InputError
from flow3r.teacher.classical import ClassicalTeacher
from flow3r.teacher.consensus import ConsensusTeacher
from flow3r.teacher.cotracker import CotrackerTeacher
from flow3r.teacher.exact import ExactTeacher
from flow3r.teacher.ptlflow import PtlflowTeacher
from flow3r.teacher.raft import RaftTeacher
from flow3r.teacher.roma import RomaTeacher, RomaV2Teacher
from flow3r.teacher.ufm import UfmTeacher
from flow3r.types import Teacher

TEACHERS = {
    "classical": ClassicalTeacher,
    "exact": ExactTeacher,
    "ufm": UfmTeacher,
    "raft": RaftTeacher,
    "roma": RomaTeacher,
    "romav2": RomaV2Teacher,
    "cotracker": CotrackerTeacher,
}


def teacher_called(name: str, **options: Any) -> Teacher:
    """A new teacher by its name: one of TEACHERS, `ptlflow:<model>`, or `consensus:<a>+<b>`, with fields as options.

    The options of a consensus go to itself, not to its teachers. Raises InputError for an unknown name or option, a
    package that is not installed, and `exact` without `geometry`; CheckpointError for weights that are not there and
    may not be downloaded, since their licence was not accepted.
    """
    kind, _, rest = name.partition(":")
    if kind == "ptlflow" and rest:
        return _made(PtlflowTeacher, name, model=rest, **options)
    if kind == "consensus" and rest:
        return _made(
            ConsensusTeacher, name, teachers=tuple(teacher_called(part) for part in rest.split("+")), **options
        )
    if name == "exact" and "geometry" not in options:
        raise InputError(
            "the teacher exact needs geometry: in Python teacher_called('exact', geometry=views), with the depth, "
            "intrinsics and poses of the very frames that it labels"
        )
    if name in TEACHERS:
        return _made(TEACHERS[name], name, **options)
    names = [*TEACHERS, "ptlflow:<model>", "consensus:<a>+<b>"]
    near = difflib.get_close_matches(name.lower(), [*TEACHERS, "ptlflow", "consensus"], n=1)
    meant = next((known for known in names if near and known.split(":")[0] == near[0]), None)
    guess = f"; did you mean {meant}?" if meant else ";"
    raise InputError(f"no teacher is called {name!r}{guess} expected one of {', '.join(names)}")


def _made(kind: type, name: str, **options: Any) -> Teacher:
    try:
        teacher = kind(**options)
    except TypeError as error:
        raise InputError(f"teacher {name}: {error}; expected its fields as options") from None
    _ = teacher.parameters  # at the door rather than at the first clip: without its package or weights there are none
    return teacher
