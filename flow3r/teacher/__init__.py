"""Teachers: off-the-shelf sources of flow behind one protocol (flow3r.types.Teacher)."""

from flow3r.errors import InputError
from flow3r.teacher.classical import ClassicalTeacher
from flow3r.types import Teacher

TEACHERS = {"classical": ClassicalTeacher}


def teacher_called(name: str) -> Teacher:
    """A new teacher. Raises InputError for an unknown name."""
    if name not in TEACHERS:
        raise InputError(f"no teacher is called {name!r}; expected one of {', '.join(TEACHERS)}")
    return TEACHERS[name]()
