"""Tables of studies whose truth is known: what is planned, with accuracies that a test sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from temperance.studies.plan import PlannedStudent, StudyArgs, planned_students
from temperance.studies.treatments import (
    SOFTENED,
    NotApplicableError,
    TeacherRecord,
    effective_softening,
    student_training,
)

Points = Callable[[PlannedStudent], float]


def teachers_of(
    args: StudyArgs, temperatures: Mapping[str, float] | None = None, **columns: Any
) -> pd.DataFrame:
    """The teachers' table; T is 2 where none is given, and `columns` replace what is made up."""
    rng = np.random.default_rng(0)
    rows = []
    for teacher in args.teachers:
        accuracy, gap = rng.uniform(0.7, 0.9), rng.uniform(-0.1, 0.1)
        rows.append(
            {
                "teacher": teacher.name,
                "family": teacher.family,
                "recipe": teacher.training.recipe.name,
                "replicate": teacher.training.replicate,
                "checkpoint": math.nan if teacher.epoch is None else teacher.epoch,
                "rows": 400,
                "accuracy": accuracy,
                "confidence": accuracy + gap,
                "nll": 0.8 + gap**2 + rng.normal(0, 0.02),
                "brier": 0.3 + gap**2 + rng.normal(0, 0.02),
                "ece": abs(gap) + 0.01,
                "gap": gap,
                "ace": 0.01 + rng.uniform(0, 0.01),
                "ace_change": 0.5,
                "T": (temperatures or {}).get(teacher.name, 2.0),
                "T_se_log": 0.05,
                "status": "converged",
                "fragile": False,
                "ece_calibrated": 0.01,
                "gap_calibrated": 0.0,
                "train_accuracy": 1.0,
                "train_gap": -0.01,
                "test_accuracy": accuracy,
                "test_gap": gap,
                "refinement": 0.8 + rng.normal(0, 0.02),
                "calibration": gap**2,
                "constant_T": 2.0,
                "seconds": 1.0,
                "sha256": teacher.name,
            }
        )
    return pd.DataFrame(rows).assign(**columns)


def students_of(
    args: StudyArgs,
    points: Points | None = None,
    validation: Points | None = None,
    temperatures: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """The students' table: 80 % accuracy plus what `points` and `validation` say, in points.

    Every teacher is harder or easier for all arms: only pairing sees through that.
    """
    rows = []
    places = {teacher.name: place for place, teacher in enumerate(args.teachers)}
    for planned in planned_students(args):
        teacher, cell = planned.teacher, planned.cell
        hard = 3 * math.sin(planned.replicate + (places[teacher.name] if teacher else 0))
        if teacher is not None and {"labels", "labels+calibration"} & set(args.arms):
            hard = 3 * math.sin(planned.replicate)  # the labels' students are the replicate's
        record = None
        if teacher is not None:
            T = (temperatures or {}).get(teacher.name, 2.0)
            record = TeacherRecord(teacher.name, "measured", teacher.name, T, ("fold",))
        try:
            training = student_training(args, planned, record, constant=2.0, permuted=3.0)
        except NotApplicableError:
            continue
        softening = math.nan
        if planned.arm in SOFTENED and training.temperature is not None:
            softening = effective_softening(args, planned, training.temperature)
        accuracy = 0.8 + (hard + (points(planned) if points else 0)) / 100
        rows.append(
            {
                "teacher": teacher.name if teacher else None,
                "family": teacher.family if teacher else None,
                "replicate": planned.replicate,
                "arm": planned.arm,
                "factor": _number(planned.factor),
                "objective": cell.objective if cell else None,
                "softening": _number(cell.softening if cell else None),
                "teacher_softening": softening,
                "T": _number(training.temperature),
                "student": planned.student,
                "transfer": cell.transfer if cell else None,
                "seed": planned.seed,
                "objective_parameters": 0,
                "train_rows": 300,
                "test_rows": 1000,
                "accuracy": accuracy,
                "nll": 2 - accuracy,
                "brier": 1 - accuracy,
                "ece": 0.02,
                "gap": 0.01,
                "T_student": 1.1,
                "nll_calibrated": 1.9 - accuracy,
                "ece_calibrated": 0.01,
                "gap_calibrated": 0.001,
                "validation_accuracy": 0.8 + (validation(planned) if validation else 0) / 100,
                "best_epoch": 3,
                "best_validation_accuracy": 0.81,
                "seconds": 0.5,
                "run": planned.name,
            }
        )
    return pd.DataFrame(rows)


def nothing_missing() -> pd.DataFrame:
    """The table of missing runs of a study that is whole."""
    return pd.DataFrame([], columns=["run", "state", "why"])


def _number(value: float | None) -> float:
    return math.nan if value is None else value
