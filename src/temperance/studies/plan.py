"""What a study consists of: its settings, its arms, and the students that they ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from temperance.calibration import TemperatureArgs
from temperance.config import Args
from temperance.data import DataArgs, SplitArgs
from temperance.objectives import ObjectiveArgs, get_objective
from temperance.objectives.combined import CombinedArgs
from temperance.objectives.kd import KDArgs
from temperance.objectives.labels import LabelsArgs
from temperance.training import CalibrationArgs, EngineArgs, Recipe

ArmName = Literal[
    "labels", "labels+calibration", "raw", "calibrated", "under-confident", "constant-T"
]

ARMS: dict[ArmName, str] = {
    "labels": "no teacher; labels of train only",
    "labels+calibration": "no teacher; labels of train + calibration: equal labels",
    "raw": "teacher as it is",
    "calibrated": "teacher at its fitted temperature T",
    "under-confident": "teacher at T × the under-confidence factor",
    "constant-T": "teacher at one temperature for all: the geometric mean of the fitted T",
}
WITHOUT_TEACHER: tuple[ArmName, ...] = ("labels", "labels+calibration")
EQUAL_LABELS: ArmName = "labels+calibration"


class StudyArgs(Args):
    """A paired comparison of arms over replicates that redraw split, teacher, T and student."""

    # A study grows by these: every training in it has an identity of its own.
    without_effect: ClassVar[frozenset[str]] = frozenset(
        {"arms", "objectives", "softenings", "replicates", "margin"}
    )

    data: DataArgs = DataArgs()
    split: SplitArgs = SplitArgs()
    """Its seed is the first replicate's; the others count up from it."""
    teacher: Recipe = Recipe()
    teacher_objective: LabelsArgs = LabelsArgs()
    student: Recipe = Recipe()
    objectives: tuple[ObjectiveArgs, ...] = (KDArgs(),)
    """Names, or mappings with a name and settings; each is an arm's way to learn from a teacher."""
    calibration: CalibrationArgs = CalibrationArgs(fit="cross-fit", underconfidence=2.0)
    arms: tuple[ArmName, ...] = tuple(ARMS)
    softenings: tuple[PositiveFloat, ...] = (1.0, 4.0)
    """τ of every objective that has one; empty: each objective's own."""
    replicates: PositiveInt = 5
    """How often everything is redrawn; fewer than 5 get no intervals."""
    teacher_seed: NonNegativeInt = 0
    """Of the first replicate's teacher; the others count up from it."""
    student_seed: NonNegativeInt = 0
    """Of the first replicate's students; the same for all arms of a replicate."""
    margin: NonNegativeFloat = Field(default=0.5)
    """Percentage points of accuracy below which a difference does not matter in practice."""
    engine: EngineArgs = EngineArgs()

    @field_validator("arms", "objectives")
    @classmethod
    def _some(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if not value:
            raise ValueError("needs at least one entry")
        return value

    @field_validator("arms", "softenings")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"needs each entry only once, got {list(value)}")
        return value

    @field_validator("calibration")
    @classmethod
    def _has_a_temperature(cls, calibration: CalibrationArgs) -> CalibrationArgs:
        if not isinstance(calibration.calibrator, TemperatureArgs):
            raise ValueError(
                "the arms of a study multiply and exchange temperatures, so its calibrator is"
                f" 'temperature', not '{calibration.calibrator.name}'"
            )
        return calibration

    @property
    def named_objectives(self) -> dict[str, Args]:
        """The objectives by name, sums by those of their parts; the second is called NAME-2."""
        named: dict[str, Args] = {}
        seen: Counter[str] = Counter()
        for objective in self.objectives:
            parts = objective.parts if isinstance(objective, CombinedArgs) else [objective]
            name = "+".join(part.name for part in parts)
            seen[name] += 1
            named[name if seen[name] == 1 else f"{name}-{seen[name]}"] = objective
        return named


@dataclass(frozen=True)
class PlannedStudent:
    """One student to train."""

    replicate: int
    arm: ArmName
    objective: str | None
    """None where there is no teacher."""
    softening: float | None
    """None where there is no teacher, or the objective's own is used."""

    @property
    def name(self) -> str:
        """Short, unique within a study, and fit for a folder."""
        objective = "" if self.objective is None else f"-{self.objective}"
        tau = "" if self.softening is None else f"-tau{self.softening:g}"
        return f"r{self.replicate}-{self.arm}{objective}{tau}"


def planned_students(args: StudyArgs) -> list[PlannedStudent]:
    """Every student of the study, replicate by replicate.

    An objective that calibration cannot touch learns from the raw teacher only: its students of
    the other arms would be the same.
    """
    taught: list[tuple[ArmName, str, float | None]] = []
    for name, settings in args.named_objectives.items():
        softens = "softening" in type(settings).model_fields and args.softenings
        softenings: Sequence[float | None] = args.softenings if softens else (None,)
        used = get_objective(settings).teacher_logits == "used"
        for arm in args.arms:
            if arm not in WITHOUT_TEACHER and (used or arm == "raw"):
                taught += [(arm, name, softening) for softening in softenings]
    alone = [arm for arm in args.arms if arm in WITHOUT_TEACHER]
    return [
        student
        for replicate in range(args.replicates)
        for student in (
            *(PlannedStudent(replicate, arm, None, None) for arm in alone),
            *(PlannedStudent(replicate, *one) for one in taught),
        )
    ]


def trainings(args: StudyArgs) -> int:
    """How many models the study trains: teachers, fold teachers and students."""
    fold_teachers = args.calibration.folds if args.calibration.fit == "cross-fit" else 0
    return args.replicates * (1 + fold_teachers) + len(planned_students(args))
