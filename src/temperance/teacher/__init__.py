"""Teachers: sources of signals, raw or calibrated."""

from temperance.teacher.calibrated import LiveTeacher, NoTeacher, Teacher
from temperance.teacher.sparse import divided, top_k_signal

__all__ = ["LiveTeacher", "NoTeacher", "Teacher", "divided", "top_k_signal"]
