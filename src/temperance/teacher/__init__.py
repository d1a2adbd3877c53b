"""Teachers: sources of signals, raw or calibrated."""

from temperance.teacher.calibrated import LiveTeacher, NoTeacher, Teacher

__all__ = ["LiveTeacher", "NoTeacher", "Teacher"]
