"""What a study consists of: its settings, and the students that they ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from temperance.calibration import TemperatureArgs
from temperance.config import Args
from temperance.data import DataArgs, SplitArgs
from temperance.objectives import Objective, ObjectiveArgs, get_objective
from temperance.objectives.base import SofteningArgs
from temperance.objectives.combined import CombinedArgs
from temperance.objectives.kd import KDArgs
from temperance.studies.arms import DEFAULT, ENTROPY, RAW, WITHOUT_TEACHER, ArmName
from temperance.studies.executors import ExecutorArgs
from temperance.studies.pool import (
    PlannedTeacher,
    PoolArgs,
    StudentArgs,
    TeacherArgs,
    planned_teachers,
    resolve_pool,
)
from temperance.studies.registration import ContrastArgs, PrimaryArgs
from temperance.training import CalibrationArgs, EngineArgs

Transfer = Literal["in-sample", "out-of-fold", "unlabelled"]


class StudyArgs(Args):
    """Teachers × arms × objectives × students × seeds, compared in pairs."""

    # A study grows by these: every training in it has an identity of its own.
    without_effect: ClassVar[frozenset[str]] = frozenset(
        {
            *("arms", "objectives", "softenings", "grid", "underconfidence", "transfer"),
            *("pool", "students", "replicates", "student_seeds", "one_in"),
            *("secondary", "margin", "executor"),
        }
    )

    data: DataArgs = DataArgs()
    split: SplitArgs = SplitArgs()
    """Its seed is the first replicate's; the others count up from it."""
    teacher: TeacherArgs = TeacherArgs()
    """What all teachers share."""
    pool: PoolArgs = PoolArgs()
    """What sets the teachers apart."""
    student: StudentArgs = StudentArgs()
    """What all students share."""
    students: PoolArgs = PoolArgs()
    """What sets the students apart."""
    objectives: tuple[ObjectiveArgs, ...] = (KDArgs(),)
    """Names, or mappings with a name and settings; each is an arm's way to learn from a teacher."""
    calibration: CalibrationArgs = CalibrationArgs(fit="cross-fit")
    """`underconfidence` stays 1 here: it has a list of its own below."""
    arms: tuple[ArmName, ...] = DEFAULT
    underconfidence: tuple[PositiveFloat, ...] = (2.0,)
    """Factors of the arm `under-confident`."""
    softenings: tuple[PositiveFloat, ...] = (1.0, 4.0)
    """τ of every objective that has one; empty: each objective's own."""
    grid: tuple[PositiveFloat, ...] = (0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0, 5.66, 8.0, 11.3, 16.0)
    """Teacher softenings of the arm `grid`, for the alignment test."""
    transfer: tuple[Transfer, ...] = ("in-sample",)
    """Which rows a teacher labels for its students: those it was trained on; the same, each row by
    a teacher that has not seen it; or the unlabelled ones (`split.labelled` below 1), without the
    labels' loss."""
    replicates: PositiveInt = 5
    """How often everything is redrawn: split, teacher, T and student."""
    student_seeds: PositiveInt = 1
    """Students per teacher and cell, from different seeds."""
    teacher_seed: NonNegativeInt = 0
    """Of the first replicate's teachers; the others count up from it."""
    student_seed: NonNegativeInt = 0
    """Of the first replicate's students; the same for all arms of a replicate."""
    one_in: PositiveInt = 1
    """1: the full design. n: of the cells (objective, softening, student, transfer), every teacher
    gets one in n, in turn, so that all cells and teachers have the same share; arms stay whole."""
    primary: PrimaryArgs | None = None
    """The one comparison that was decided on beforehand; kept under a hash before the first student
    is trained. null: the best arm, chosen on validation, against labels at equal labels."""
    secondary: tuple[ContrastArgs, ...] = ()
    """Further comparisons decided on beforehand; their p-values are adjusted together (Holm)."""
    margin: NonNegativeFloat = Field(default=0.5)
    """Percentage points of accuracy below which a difference does not matter in practice."""
    executor: ExecutorArgs = ExecutorArgs()
    engine: EngineArgs = EngineArgs()

    @field_validator("arms", "objectives", "transfer")
    @classmethod
    def _not_empty_nor_twice(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if not values:
            raise ValueError("give at least one")
        if any(value in values[:place] for place, value in enumerate(values)):
            raise ValueError("one is given twice")
        return values

    @field_validator("softenings", "underconfidence", "grid")
    @classmethod
    def _not_twice(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(values)) < len(values):
            raise ValueError("one is given twice")
        return values

    @field_validator("calibration")
    @classmethod
    def _a_temperature(cls, calibration: CalibrationArgs) -> CalibrationArgs:
        if not isinstance(calibration.calibrator, TemperatureArgs):
            raise ValueError(
                "the arms of a study multiply and exchange temperatures, so its calibrator is"
                f" 'temperature', not '{calibration.calibrator.name}'"
            )
        if calibration.fit == "none":
            raise ValueError("a study needs a fitted temperature: held-out or cross-fit")
        if calibration.underconfidence != 1:
            raise ValueError("a study's factors are the list `underconfidence`, outside it")
        return calibration

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for problem in problems(self):
            raise ValueError(problem)
        return self

    @cached_property
    def teachers(self) -> list[PlannedTeacher]:
        """Every teacher of the study."""
        return planned_teachers(resolve_pool(self.teacher, self.pool), self.replicates)

    @cached_property
    def student_recipes(self) -> dict[str, StudentArgs]:
        """The students' recipes by name."""
        return {entry.name: entry for entry in resolve_pool(self.student, self.students)}

    @cached_property
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


class Cell(NamedTuple):
    """What arms are compared within."""

    objective: str
    softening: float | None
    """τ of the student; None if it is the objective's own."""
    student: str
    transfer: Transfer


@dataclass(frozen=True)
class PlannedStudent:
    """One student to train."""

    replicate: int
    seed: int
    """Which of the replicate's student seeds, counted from 0."""
    student: str
    """Name of its recipe."""
    arm: ArmName
    teacher: PlannedTeacher | None = None
    """None where there is none."""
    cell: Cell | None = None
    """None where there is no teacher."""
    factor: float | None = None
    """Of under-confidence; None for the other arms."""
    teacher_softening: float | None = None
    """Of the grid; None for the other arms."""

    @property
    def name(self) -> str:
        """What the table's row is called; unique within a study."""
        parts = [
            self.teacher.name if self.teacher else f"r{self.replicate}",
            self.student,
            self.arm,
        ]
        if self.cell:
            parts.append(self.cell.objective)
            if self.cell.softening is not None:
                parts.append(f"tau{self.cell.softening:g}")
            if self.cell.transfer != "in-sample":
                parts.append(self.cell.transfer)
        if self.factor is not None:
            parts.append(f"x{self.factor:g}")
        if self.teacher_softening is not None:
            parts.append(f"at{self.teacher_softening:g}")
        return "-".join([*parts, f"s{self.seed}"])


def planned_students(args: StudyArgs) -> list[PlannedStudent]:
    """Every student of the study, seed by seed, so that what is done early is balanced.

    An objective that calibration cannot touch learns from the raw teacher only: its students of
    the other arms would be the same.
    """
    objectives = {name: get_objective(given) for name, given in args.named_objectives.items()}
    cells = list(_cells(args, objectives))
    students = []
    for seed in range(args.student_seeds):
        students += [
            PlannedStudent(replicate, seed, student, arm)
            for replicate in range(args.replicates)
            for student in args.student_recipes
            for arm in args.arms
            if arm in WITHOUT_TEACHER
        ]
        students += [
            planned
            for place, teacher in enumerate(args.teachers)
            for number, cell in enumerate(cells)
            if (place + number) % args.one_in == 0
            for arm in args.arms
            if arm not in WITHOUT_TEACHER and _applies(arm, objectives[cell.objective])
            for planned in _versions(args, seed, teacher, cell, arm)
        ]
    return students


def _cells(args: StudyArgs, objectives: dict[str, Objective]) -> Iterator[Cell]:
    for name in objectives:
        settings = type(args.named_objectives[name])
        softens = "softening" in settings.model_fields and args.softenings
        for softening in args.softenings if softens else (None,):
            for student in args.student_recipes:
                for transfer in args.transfer:
                    yield Cell(name, softening, student, transfer)


def _applies(arm: ArmName, objective: Objective) -> bool:
    if arm in RAW:
        return True
    if objective.teacher_logits != "used":
        return False
    if arm in (*ENTROPY, "symmetric", "grid"):
        return isinstance(objective.args, SofteningArgs)
    return True


def _versions(
    args: StudyArgs, seed: int, teacher: PlannedTeacher, cell: Cell, arm: ArmName
) -> Iterator[PlannedStudent]:
    replicate = teacher.training.replicate
    one = PlannedStudent(replicate, seed, cell.student, arm, teacher, cell)
    if arm == "under-confident":
        for factor in args.underconfidence:
            yield PlannedStudent(replicate, seed, cell.student, arm, teacher, cell, factor)
    elif arm == "grid":
        for tau in args.grid:
            yield PlannedStudent(
                replicate, seed, cell.student, arm, teacher, cell, teacher_softening=tau
            )
    else:
        yield one


def problems(args: StudyArgs) -> Iterator[str]:
    """Combinations that cannot be carried out, each in a sentence; they are named before anything
    runs."""
    objectives = {name: get_objective(given) for name, given in args.named_objectives.items()}
    teachers, students = args.teachers, list(args.student_recipes)  # each setting of them exists
    taught = [arm for arm in args.arms if arm not in WITHOUT_TEACHER]
    if "permuted-T" in args.arms and len({t.training.name for t in teachers}) < 2:
        yield (
            "arms: 'permuted-T' needs the temperature of another teacher, and this study trains one"
            " (replicates, pool)"
        )
    for arm in ("under-confident", "grid"):
        values = args.underconfidence if arm == "under-confident" else args.grid
        if arm in args.arms and not values:
            yield f"arms: '{arm}' has no values to try (underconfidence, grid)"
    for arm in taught:
        if not any(_applies(arm, objective) for objective in objectives.values()):
            yield (
                f"arms: none of the objectives ({', '.join(objectives)}) can have the arm '{arm}':"
                " it needs one that compares logits with a softening"
            )
    if args.engine.devices > 1:
        yield (
            "engine.devices: a study trains every model on one device; run several at a time with"
            " executor.workers, or on a Ray cluster"
        )
    carved = args.split.calibration or args.split.calibration_source == "test"
    if args.calibration.fit == "held-out" and not carved:
        yield (
            "split.calibration: the calibration split is empty, and T is fitted on it; set it above"
            " 0, or calibration.fit=cross-fit"
        )
    if "bayes" in args.arms and args.data.truth is None:
        yield "arms: 'bayes' needs a known truth (data.truth)"
    if "unlabelled" in args.transfer and args.split.labelled == 1:
        yield "transfer: 'unlabelled' needs unlabelled rows (split.labelled below 1)"
    if "out-of-fold" in args.transfer and args.calibration.fit != "cross-fit":
        yield "transfer: 'out-of-fold' needs the teachers of the folds (calibration.fit=cross-fit)"
    for name, objective in objectives.items():
        if taught and objective.needs.logits == "none" and objective.needs.features == "none":
            yield f"objectives: '{name}' learns nothing from a teacher; its arm is 'labels'"
        if "out-of-fold" in args.transfer and objective.needs.features != "none":
            yield f"transfer: objective '{name}' compares activations, which folds do not share"
        if "unlabelled" in args.transfer and objective.needs.targets == "required":
            yield f"transfer: objective '{name}' needs labels, so it cannot be 'unlabelled'"
        if objective.needs.features != "none" and "weight-matched" in args.arms:
            yield f"arms: 'weight-matched' is for logits, and objective '{name}' compares more"
    given = [t for t in teachers if t.training.recipe.weights is not None]
    if given and args.replicates > 1:
        yield (
            f"replicates: teacher '{given[0].training.recipe.name}' is given, so it cannot be"
            " redrawn; give several teachers, or use student_seeds"
        )
    if given and (args.calibration.fit == "cross-fit" or "raw+calibration" in args.arms):
        yield (
            f"calibration.fit: teacher '{given[0].training.recipe.name}' is given, so it has no"
            " folds and is not trained again; use held-out, and no arm 'raw+calibration'"
        )
    for block in (*([args.primary] if args.primary else []), *args.secondary):
        yield from block.problems(args.arms, list(objectives), students)
        yield from _never_compared(args, objectives, block)


def _never_compared(
    args: StudyArgs, objectives: dict[str, Objective], block: ContrastArgs
) -> Iterator[str]:
    """What would leave a registered comparison without a student."""
    known = {
        "softening": args.softenings,
        "transfer": args.transfer,
        "factor": args.underconfidence,
    }
    for name, values in known.items():
        value = getattr(block, name)
        if value is not None and value not in values:
            there = ", ".join(str(value) for value in values) or "none"
            yield f"primary, secondary: the study has no {name} {value}. Known: {there}"
    if isinstance(block, PrimaryArgs) and block.analysis == "alignment":
        return
    objective = block.objective or next(iter(objectives))
    for arm in (block.arm, block.against):
        taught = arm not in WITHOUT_TEACHER and objective in objectives
        if taught and not _applies(arm, objectives[objective]):
            yield f"primary, secondary: objective '{objective}' has no arm '{arm}'; name another"


def trainings(args: StudyArgs) -> dict[str, int]:
    """How many models of each kind are trained: teachers, fold teachers, students."""
    own = {t.training.name for t in args.teachers if t.training.recipe.weights is None}
    folds = args.calibration.folds if args.calibration.fit == "cross-fit" else 0
    again = "raw+calibration" in args.arms and args.calibration.fit == "held-out"
    return {
        "teachers": len(own) * (1 + again),
        "fold teachers": len(own) * folds,
        "students": len(planned_students(args)),
    }
