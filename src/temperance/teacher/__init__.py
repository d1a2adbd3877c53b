"""Teachers: sources of signals, raw or calibrated; live, cached or out of fold."""

from temperance.teacher.cached import CachedTeacher, cacheable, fill, load_cache, save_cache
from temperance.teacher.calibrated import LiveTeacher, NoTeacher, Teacher
from temperance.teacher.folds import OutOfFoldTeacher
from temperance.teacher.sparse import divided, top_k_signal

__all__ = [
    "CachedTeacher",
    "LiveTeacher",
    "NoTeacher",
    "OutOfFoldTeacher",
    "Teacher",
    "cacheable",
    "divided",
    "fill",
    "load_cache",
    "save_cache",
    "top_k_signal",
]
