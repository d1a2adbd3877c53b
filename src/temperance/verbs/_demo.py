"""`demo`: the smallest study: did calibrating the teacher help?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from temperance.data import DataArgs, SplitArgs
from temperance.models import MLPArgs
from temperance.studies.plan import StudyArgs
from temperance.studies.pool import StudentArgs, TeacherArgs
from temperance.training import AdamWArgs, EngineArgs, SGDArgs, TrainingArgs
from temperance.verbs._common import Config, Outcome, Place, settings
from temperance.verbs._study import carried_out
from temperance.verbs._study_report import compose

__all__ = ["DemoArgs", "compose", "demo"]


class DemoArgs(StudyArgs):
    """The built-in recipe: scikit-learn's digits, a teacher trained too long, a small student."""

    data: DataArgs = DataArgs(name="digits")
    split: SplitArgs = SplitArgs(test=0.7)
    teacher: TeacherArgs = TeacherArgs(
        model=MLPArgs(width=128),
        training=TrainingArgs(
            epochs=100, optimizer=SGDArgs(lr=0.1, weight_decay=0.0), validate_every=10
        ),
    )
    student: StudentArgs = StudentArgs(
        model=MLPArgs(width=16),
        training=TrainingArgs(epochs=40, optimizer=AdamWArgs(lr=3e-3), validate_every=5),
    )
    engine: EngineArgs = EngineArgs(threads=1)


def demo(
    config: Config = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    **values: Any,
) -> Outcome:
    """Teachers, temperatures and students over replicates; one table, two sentences, a report.

    Args:
        config: YAML file or mapping with the keys of `temperance config demo`; the defaults are
            the built-in recipe on scikit-learn's digits.
        out: run folder; by default the first free `runs/demo…`.
        resume: train what is missing in `out`.
        overwrite: replace the run in `out`.
        overrides: `key.sub=value` strings on top of `config`.
        values: the same keys as keyword arguments, on top of both.

    Raises:
        UserError: for settings, data or a folder that cannot be used.
        Interrupted: after Ctrl-C, everything done so far being on disk.
    """
    place = Place(out, resume, overwrite)
    return carried_out("demo", settings(DemoArgs, config, overrides, values, place), place)
