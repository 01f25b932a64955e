"""Teachers: off-the-shelf sources of flow behind one protocol (flow3r.types.Teacher)."""

from flow3r.teacher.classical import ClassicalTeacher

TEACHERS = {"classical": ClassicalTeacher}
