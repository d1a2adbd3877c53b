"""Carry a study out: teachers → their folds → temperatures → students, and the tables of them.

Every run has a folder named after what it is and after its identity, so a study that was
interrupted, or to which anything was added, runs only what is missing.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from temperance.data import Dataset
from temperance.errors import UserError
from temperance.models import load_model, weights_of, weights_sha256
from temperance.objectives import get_objective
from temperance.run import Run
from temperance.studies.arms import POOL_WIDE
from temperance.studies.executors import executor
from temperance.studies.monitor import Monitor
from temperance.studies.plan import PlannedStudent, StudyArgs, planned_students
from temperance.studies.pool import PlannedTeacher, PlannedTraining
from temperance.studies.registration import register
from temperance.studies.schedule import Job, Outcome, Task, carry_out
from temperance.studies.statistics import geometric_mean
from temperance.studies.store import Store
from temperance.studies.treatments import (
    SOFTENED,
    NotApplicableError,
    Source,
    StudentTraining,
    TeacherRecord,
    effective_softening,
    student_training,
)
from temperance.studies.worker import (
    FoldTraining,
    Measurement,
    TeacherTraining,
    Worker,
)
from temperance.training import Engine

logger = logging.getLogger("temperance")


@dataclass(frozen=True)
class StudyResult:
    """Tables with one row per teacher and one row per student, and what there is not."""

    teachers: pd.DataFrame
    students: pd.DataFrame
    missing: pd.DataFrame
    """Runs that failed, are blocked by one that did, or are impossible: key, state, why."""


def run_study(
    args: StudyArgs,
    dataset: Dataset,
    engine: Engine,
    run: Run,
    load: Callable[[], Dataset],
) -> StudyResult:
    """Carry out what is missing of a study, and write its tables.

    Writes `teachers`, `students` and `missing`, each as CSV and Parquet.

    Args:
        load: loads the dataset in another process.

    Raises:
        Interrupted: after Ctrl-C, everything done so far being on disk.
        UserError: if another process is carrying it out, or other comparisons were registered.
    """
    store = Store(run)
    with store.driven():
        register(run, args.primary, args.secondary)
        _tell_of_what_calibration_cannot_touch(args)
        jobs = Jobs(args, dataset.fingerprint, store)
        if args.executor.name == "local" and args.executor.workers == 1:
            make: Callable[[], Worker] = partial(Worker, args, dataset, run.folder, engine)
        else:
            make = partial(Worker, _with_threads(args), load, run.folder.resolve())
        monitor = Monitor(run, store)
        with executor(args.executor, make, run.folder) as carrying_out:
            outcomes = carry_out(
                jobs.all(),
                carrying_out,
                found=finder(store),
                settled=monitor.settled,
                shown=monitor.shown,
                interrupted=lambda: engine.interrupted,
            )
        result = jobs.tables(outcomes)
        for name in ("teachers", "students", "missing"):
            store.write_table(name, getattr(result, name))
        store.forget_locks()
    return result


class Jobs:
    """Every job of a study, and the tables of what they have come to.

    Args:
        fingerprint: of the data.
    """

    def __init__(self, args: StudyArgs, fingerprint: str, store: Store) -> None:
        self.args, self.fingerprint, self.store = args, fingerprint, store
        self.cross_fit = args.calibration.fit == "cross-fit"
        self.students = planned_students(args)
        self.truth = _truth(args)
        self.folders: dict[str, str] = {}
        """Of the runs, by the key of their job."""
        self.pool: dict[str, float] | None = None
        """Temperatures of all teachers, once they are measured."""
        self.trainings: dict[str, StudentTraining] = {}
        """Of the students whose teacher is there, by the key of their job."""

    def all(self) -> list[Job]:
        """In the order in which they are to be done."""
        trainings = dict.fromkeys(teacher.training for teacher in self.args.teachers)
        trained = [training for training in trainings if training.recipe.weights is None]
        jobs = [self._training(training) for training in trained]
        if self.cross_fit:
            for training in trained:
                jobs += [self._fold(training, fold) for fold in range(self._folds)]
        elif "raw+calibration" in self.args.arms:
            jobs += [self._training(training, on_all=True) for training in trained]
        jobs += [self._measurement(teacher) for teacher in self.args.teachers]
        return jobs + [self._student(planned) for planned in self.students]

    def tables(self, outcomes: Mapping[str, Outcome]) -> StudyResult:
        """The tables, and what is missing from them."""
        temperatures = self._temperatures(outcomes)
        constant = geometric_mean(list(temperatures.values())) if temperatures else math.nan
        teachers, students = [], []
        for teacher in self.args.teachers:
            outcome = outcomes[_measured(teacher)]
            if outcome.state == "done":
                training = outcomes.get(_trained(teacher.training))
                teachers.append(
                    {
                        **_who(teacher),
                        **outcome.value["row"],
                        "constant_T": constant,
                        "seconds": training.value["seconds"] if training else 0.0,
                        "sha256": outcome.value["sha256"],
                        "run": self.folders[_measured(teacher)],
                    }
                )
        for planned in self.students:
            outcome = outcomes[planned.name]
            if outcome.state == "done":
                students.append(self._row(planned, outcome.value))
        missing = [
            {"run": key, "state": outcome.state, "why": outcome.error}
            for key, outcome in outcomes.items()
            if outcome.state != "done"
        ]
        columns = ["run", "state", "why"]
        return StudyResult(
            pd.DataFrame(teachers), pd.DataFrame(students), pd.DataFrame(missing, columns=columns)
        )

    def _row(self, planned: PlannedStudent, result: Mapping[str, Any]) -> dict[str, Any]:
        cell, teacher = planned.cell, planned.teacher
        training = self.trainings[planned.name]
        softening = math.nan
        if planned.arm in SOFTENED:
            assert training.temperature is not None
            softening = effective_softening(self.args, planned, training.temperature)
        return {
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
            **result["row"],
            "run": self.folders[planned.name],
        }

    @property
    def _folds(self) -> int:
        return self.args.calibration.folds

    def _facts(self, training: PlannedTraining) -> dict[str, Any]:
        """What identifies a teacher beside its recipe."""
        return {
            "split": self._split(training.replicate),
            "data": self.fingerprint,
            "seed": self.args.teacher_seed + training.replicate,
        }

    def _split(self, replicate: int) -> dict[str, Any]:
        return {**self.args.split.model_dump(), "seed": self.args.split.seed + replicate}

    def _training(self, training: PlannedTraining, *, on_all: bool = False) -> Job:
        rows = "train+calibration" if on_all or self.cross_fit else "train"
        name = training.name + ("+calibration" if on_all else "")
        folder = self.store.name(name, training.recipe, rows=rows, **self._facts(training))
        task = Task("teacher", TeacherTraining(training, on_all), folder)
        return self._fixed(_trained(training, on_all=on_all), task)

    def _fold(self, training: PlannedTraining, fold: int) -> Job:
        folder = self.store.name(
            f"{training.name}-fold{fold}", training.recipe, fold=fold, folds=self._folds,
            **self._facts(training),
        )  # fmt: skip
        task = Task("fold", FoldTraining(training, fold), folder)
        return self._fixed(_fold(training, fold), task)

    def _fixed(self, key: str, task: Task) -> Job:
        """A job that waits for nothing."""
        self.folders[key] = task.folder
        return Job(key, task.kind, lambda _: task)

    def _measurement(self, teacher: PlannedTeacher) -> Job:
        training = teacher.training
        folds = [_fold(training, fold) for fold in range(self._folds if self.cross_fit else 0)]
        given = training.recipe.weights
        needs = ([] if given else [_trained(training)]) + folds
        measurement = Measurement(
            teacher,
            "" if given else self.folders[_trained(training)],
            tuple(self.folders[fold] for fold in folds),
        )
        facts = {"weights": _sha256(given)} if given else {"trained": measurement.trained}
        folder = self.store.name(
            f"{teacher.name}-measured", self.args.calibration, epoch=teacher.epoch,
            folds_of=measurement.folds, **facts, **self._facts(training),
        )  # fmt: skip
        task = Task("measure", measurement, folder)
        self.folders[_measured(teacher)] = folder
        return Job(_measured(teacher), "measure", lambda _: task, needs)

    def _student(self, planned: PlannedStudent) -> Job:
        def prepare(outcomes: Mapping[str, Outcome]) -> Task:
            constant, permuted = self._pool_temperatures(planned, outcomes)
            training = student_training(
                self.args, planned, self._record(planned, outcomes), constant, permuted, self.truth
            )
            facts = training.facts(self._split(planned.replicate), self.fingerprint)
            folder = self.store.name(training.name, training.recipe, **facts)
            self.trainings[planned.name], self.folders[planned.name] = training, folder
            return Task("student", training, folder)

        needs, after = [], []
        if planned.teacher is not None:
            needs = [_measured(planned.teacher)]
            if planned.arm == "raw+calibration" and not self.cross_fit:
                needs.append(_trained(planned.teacher.training, on_all=True))
            if planned.arm in POOL_WIDE:
                after = [_measured(teacher) for teacher in self.args.teachers]
        return Job(planned.name, "student", prepare, needs, after)

    def _record(
        self, planned: PlannedStudent, outcomes: Mapping[str, Outcome]
    ) -> TeacherRecord | None:
        """What is known of its teacher, once that is measured."""
        teacher = planned.teacher
        if teacher is None:
            return None
        measured = outcomes[_measured(teacher)].value
        on_all = _trained(teacher.training, on_all=True)
        return TeacherRecord(
            name=teacher.name,
            folder=self.folders[_measured(teacher)],
            sha256=measured["sha256"],
            temperature=measured["row"]["T"],
            folds=tuple(
                self.folders[_fold(teacher.training, fold)]
                for fold in range(self._folds if self.cross_fit else 0)
            ),
            epoch=teacher.epoch,
            trained_on_all=self.folders[on_all] if on_all in outcomes else None,
        )

    def _pool_temperatures(
        self, planned: PlannedStudent, outcomes: Mapping[str, Outcome]
    ) -> tuple[float | None, float | None]:
        """For the arms that have them: the pool's temperature, and another teacher's."""
        if planned.arm not in POOL_WIDE or planned.teacher is None:
            return None, None
        if self.pool is None:  # these arms wait for all teachers, so it does not change any more
            self.pool = self._temperatures(outcomes)
        own, temperatures = planned.teacher, self.pool
        others = (
            temperatures[teacher.name]
            for teacher in self._turned(own)
            if teacher.name in temperatures and teacher.training != own.training
        )
        permuted = next(others, None)
        if permuted is None and planned.arm == "permuted-T":
            raise NotApplicableError("no other teacher has a temperature", where=own.name)
        return geometric_mean(list(temperatures.values())), permuted

    def _turned(self, own: PlannedTeacher) -> list[PlannedTeacher]:
        """All teachers from half the pool away from this one: its permutation has no fixed point,
        and two states of one training have as good as the same temperature."""
        teachers = self.args.teachers
        start = teachers.index(own) + max(1, len(teachers) // 2)
        return [teachers[(start + step) % len(teachers)] for step in range(len(teachers))]

    def _temperatures(self, outcomes: Mapping[str, Outcome]) -> dict[str, float]:
        """Fitted, of the teachers that there are."""
        measured = {teacher.name: outcomes[_measured(teacher)] for teacher in self.args.teachers}
        return {
            name: outcome.value["row"]["T"]
            for name, outcome in measured.items()
            if outcome.state == "done"
        }


def finder(store: Store) -> Callable[[Task], Outcome | None]:
    """Says what is there of a task: its result or its failure; what is damaged is done again."""

    def found(task: Task) -> Outcome | None:
        try:
            result = store.result(task.folder)
            failure = None if result else store.error(task.folder)
        except UserError as damaged:
            logger.warning("%s: %s; the run is done again", damaged.where, damaged.what)
            store.forget(task.folder)
            return None
        if result is not None:
            return Outcome("done", result)
        if failure is not None:
            return Outcome("failed", error=failure["error"])
        return None

    return found


def _number(value: float | None) -> float:
    """For a column that is a number even where all its rows have none."""
    return math.nan if value is None else value


def _with_threads(args: StudyArgs) -> StudyArgs:
    """The settings for one of several workers: it gets its share of the cores."""
    executor_args = args.executor
    share = max(1, (os.cpu_count() or 1) // executor_args.workers)
    threads = executor_args.cpus_per_run if executor_args.name == "ray" else share
    engine = args.engine.model_copy(update={"threads": args.engine.threads or threads})
    return args.model_copy(update={"engine": engine})


def _trained(training: PlannedTraining, *, on_all: bool = False) -> str:
    return f"{training.name}, trained" + (" on train+calibration" if on_all else "")


def _fold(training: PlannedTraining, fold: int) -> str:
    return f"{training.name}, fold {fold + 1}"


def _measured(teacher: PlannedTeacher) -> str:
    return f"{teacher.name}, measured"


def _who(teacher: PlannedTeacher) -> dict[str, Any]:
    """The columns that say which teacher a row is about."""
    return {
        "teacher": teacher.name,
        "family": teacher.family,
        "recipe": teacher.training.recipe.name,
        "replicate": teacher.training.replicate,
        "checkpoint": _number(teacher.epoch),
    }


def _sha256(weights: Path) -> str:
    return weights_sha256(load_model(weights_of(weights)))


def _truth(args: StudyArgs) -> Source | None:
    """The known truth as a teacher, where the labels were drawn from one."""
    if args.data.truth is None:
        return None
    path = args.data.truth
    folder = weights_of(path)
    return Source("truth", str(folder), _sha256(path), args.data.truth_softening)


def _tell_of_what_calibration_cannot_touch(args: StudyArgs) -> None:
    for name, settings in args.named_objectives.items():
        if get_objective(settings).teacher_logits != "used":
            logger.info("'%s' learns from the raw teacher only: calibration cannot touch it", name)
