"""Carry a study out, one training after the other: teachers → calibrators → students.

Every training has a folder named after what it is and after its identity, so a study that was
interrupted, or to which replicates or arms were added, trains only what is missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from torch import nn

from temperance.calibration import (
    CalibrationReport,
    TemperatureScaling,
    calibration_report,
    get_calibrator,
)
from temperance.config import Args
from temperance.data import Dataset, Splits, make_splits
from temperance.models import ImageClassifier, weights_sha256
from temperance.objectives import Objective, get_objective
from temperance.run import Run, atomic, identity
from temperance.studies.plan import (
    WITHOUT_TEACHER,
    PlannedStudent,
    StudyArgs,
    planned_students,
    trainings,
)
from temperance.studies.statistics import geometric_mean
from temperance.tasks import predict
from temperance.teacher import LiveTeacher, NoTeacher, Teacher
from temperance.training import (
    Engine,
    fit_held_out,
    out_of_fold_logits,
    produce_student,
    usable,
)
from temperance.training.progress import clock

logger = logging.getLogger("temperance")


@dataclass(frozen=True)
class StudyTeacher:
    """A replicate's teacher, measured and calibrated."""

    model: ImageClassifier
    sha256: str
    calibrator: TemperatureScaling
    """At the fitted temperature, without the under-confidence factor."""
    splits: Splits
    """With the rows on which teacher and students are trained as `train`."""
    measured: Mapping[str, Any]
    """One row of the table of teachers."""


@dataclass(frozen=True)
class StudyResult:
    """Tables with one row per teacher and one row per student."""

    teachers: pd.DataFrame
    students: pd.DataFrame


def run_study(args: StudyArgs, dataset: Dataset, engine: Engine, run: Run) -> StudyResult:
    """Train every teacher, fit every temperature, train every student; skip what is done.

    Writes `teachers.csv`, `students.csv` and the same as Parquet.

    Raises:
        Interrupted: after Ctrl-C, everything done so far being on disk.
        UserError: if data and settings do not fit, or a teacher cannot be calibrated.
    """
    counter = _Counter(trainings(args))
    for name, settings in args.named_objectives.items():
        if get_objective(settings).teacher_logits != "used":
            logger.info("'%s' learns from the raw teacher only: calibration cannot touch it", name)
    teachers = [
        _prepare_teacher(args, dataset, replicate, engine, run, counter)
        for replicate in range(args.replicates)
    ]
    constant = geometric_mean([teacher.calibrator.temperature for teacher in teachers])
    students = [
        _train_student(
            args, planned, dataset, teachers[planned.replicate], constant, engine, run, counter
        )
        for planned in planned_students(args)
    ]
    result = StudyResult(
        pd.DataFrame([{**teacher.measured, "constant_T": constant} for teacher in teachers]),
        pd.DataFrame(students),
    )
    _write_table(run, "teachers", result.teachers)
    _write_table(run, "students", result.students)
    return result


class _Counter:
    """Says how far the study is."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.fresh, self.started = total, 0, 0, time.perf_counter()

    def starts(self, run: Run) -> str:
        """The label of the next training."""
        self.done += 1
        self.fresh += not (run.folder / "result.json").is_file()
        return f"[{self.done}/{self.total}] {run.folder.name.rpartition('-')[0]}"

    def says(self, label: str, accuracy: float | None) -> None:
        """Log one finished training."""
        left = (time.perf_counter() - self.started) / max(self.fresh, 1) * (self.total - self.done)
        found = "" if accuracy is None else f" · test accuracy {accuracy:.2%}"
        logger.info("%s%s · %s left", label, found, clock(left))


def _open(study: Run, name: str, config: Args, **facts: Any) -> Run:
    """The folder of one training inside the study; opened again if it is there."""
    digest = identity(config, **facts)
    folder = study.folder / "runs" / f"{name}-{digest}"
    return Run.open(
        folder, verb="study", config=config, identity=digest, resume=True, writes=study.writes
    )


def _prepare_teacher(
    args: StudyArgs, dataset: Dataset, replicate: int, engine: Engine, study: Run, counter: _Counter
) -> StudyTeacher:
    split_args = args.split.model_copy(update={"seed": args.split.seed + replicate})
    splits = make_splits(dataset, split_args)
    cross_fit = args.calibration.fit == "cross-fit"
    if cross_fit:
        # No label is held out: what would have been the calibration split is trained on.
        splits = replace(splits, train=splits.train.join(splits.calibration))
    seed = args.teacher_seed + replicate
    objective = get_objective(args.teacher_objective)

    def open_run(name: str, **facts: Any) -> Run:
        rows = {"split": split_args.model_dump(), "cross_fit": cross_fit}
        objective_facts = {"objective": args.teacher_objective.model_dump(), "seed": seed}
        return _open(
            study,
            f"r{replicate}-{name}",
            args.teacher,
            data=dataset.fingerprint,
            **rows,
            **objective_facts,
            **facts,
        )

    run = open_run("teacher")
    label = counter.starts(run)
    model, result = produce_student(
        args.teacher,
        splits,
        NoTeacher(),
        objective,
        seed=seed,
        engine=engine,
        run=run,
        label=label,
        intervals=False,
    )
    counter.says(label, result["test"]["accuracy"])

    if cross_fit:

        def open_fold(fold: int) -> Run:
            fold_run = open_run(f"fold{fold}", fold=fold, folds=args.calibration.folds)
            counter.says(counter.starts(fold_run), None)
            return fold_run

        logits, targets = out_of_fold_logits(
            args.teacher,
            objective,
            splits,
            k=args.calibration.folds,
            seed=seed,
            engine=engine,
            run=run,
            open_run=open_fold,
            label=label,
        )
        fitted = get_calibrator(args.calibration.calibrator).fit(logits, targets)
    else:
        fitted = fit_held_out(model, splits, args.calibration, engine)
        logits, targets = predict(model, splits.calibration, device=engine.device)
    assert isinstance(fitted, TemperatureScaling)  # `StudyArgs` accepts no other
    usable(fitted, args.calibration)  # refuses a degenerate fit

    before = calibration_report(logits, targets)
    after = calibration_report(fitted(logits), targets)
    taught_logits, taught_targets = predict(model, splits.train, device=engine.device)
    taught = calibration_report(taught_logits, taught_targets, intervals=False)
    run.write_json("measured.json", {"before": before.to_dict(), "after": after.to_dict()})
    measured = {
        "replicate": replicate,
        **_teacher_row(before, after, taught, fitted, result),
        "run": run.folder.name,
    }
    return StudyTeacher(model, weights_sha256(model), fitted, splits, measured)


def _teacher_row(
    before: CalibrationReport,
    after: CalibrationReport,
    taught: CalibrationReport,
    fitted: TemperatureScaling,
    result: Mapping[str, Any],
) -> dict[str, Any]:
    """A teacher raw and calibrated on rows it has not seen, on the rows it teaches, and on test."""
    fit = fitted.fit_report
    assert fit is not None
    return {
        "rows": before.n,
        "accuracy": before.accuracy,
        "nll": before.nll,
        "ece": before.ece,
        "gap": before.gap,
        "ace": before.ace,
        "T": fitted.temperature,
        "T_se_log": fit.se_log_temperature,
        "status": fit.status,
        "fragile": fit.fragile,
        "ece_calibrated": after.ece,
        "gap_calibrated": after.gap,
        "train_accuracy": taught.accuracy,
        "train_gap": taught.gap,
        "test_accuracy": result["test"]["accuracy"],
        "test_gap": result["test"]["gap"],
        "seconds": result["seconds"],
    }


def _train_student(
    args: StudyArgs,
    planned: PlannedStudent,
    dataset: Dataset,
    teacher: StudyTeacher,
    constant: float,
    engine: Engine,
    study: Run,
    counter: _Counter,
) -> dict[str, Any]:
    split_args = args.split.model_copy(update={"seed": args.split.seed + planned.replicate})
    splits = teacher.splits
    facts: dict[str, Any] = {
        "split": split_args.model_dump(),
        "data": dataset.fingerprint,
        "seed": args.student_seed + planned.replicate,
    }
    source: Teacher = NoTeacher()
    temperature = None
    if planned.arm in WITHOUT_TEACHER:
        splits = make_splits(dataset, split_args)
        if planned.arm == "labels+calibration":
            splits = replace(splits, train=splits.train.join(splits.calibration))
        settings: Args = args.teacher_objective.model_copy(update={"label_smoothing": 0.0})
    else:
        temperature = _temperature(planned, args, teacher, constant)
        calibrator = TemperatureScaling.from_temperature(temperature)
        source = _on_device(teacher.model, None if planned.arm == "raw" else calibrator, engine)
        settings = args.named_objectives[planned.objective or ""]
        if planned.softening is not None:
            settings = settings.model_copy(update={"softening": planned.softening})
        facts |= {"teacher": teacher.sha256, "T": temperature}
    facts |= {"objective": settings.model_dump(), "rows": len(splits.train)}
    objective: Objective = get_objective(settings)

    run = _open(study, planned.name, args.student, **facts)
    label = counter.starts(run)
    _, result = produce_student(
        args.student,
        splits,
        source,
        objective,
        seed=facts["seed"],
        engine=engine,
        run=run,
        label=label,
        intervals=False,
    )
    counter.says(label, result["test"]["accuracy"])
    test = result["test"]
    return {
        "replicate": planned.replicate,
        "arm": planned.arm,
        "objective": planned.objective,
        "softening": planned.softening,
        "T": temperature,
        "objective_parameters": result["objective_parameters"],
        "train_rows": result["rows"]["train"],
        "test_rows": test["n"],
        "accuracy": test["accuracy"],
        "nll": test["nll"],
        "ece": test["ece"],
        "gap": test["gap"],
        "validation_accuracy": result["validation"].get("accuracy"),
        "best_epoch": result["validation"].get("best_epoch"),
        "best_validation_accuracy": result["validation"].get("best_accuracy"),
        "seconds": result["seconds"],
        "run": run.folder.name,
    }


def _temperature(
    planned: PlannedStudent, args: StudyArgs, teacher: StudyTeacher, constant: float
) -> float:
    fitted = teacher.calibrator.temperature
    match planned.arm:
        case "calibrated":
            return fitted
        case "under-confident":
            return fitted * args.calibration.underconfidence
        case "constant-T":
            return constant
    return 1.0


def _on_device(model: ImageClassifier, calibrator: nn.Module | None, engine: Engine) -> LiveTeacher:
    moved = calibrator.to(engine.device) if calibrator is not None else None
    return LiveTeacher(model.to(engine.device), moved)


def _write_table(run: Run, name: str, table: pd.DataFrame) -> None:
    run.write(f"{name}.csv", table.to_csv(index=False))
    if run.writes:
        with atomic(run.path(f"{name}.parquet")) as temporary:
            table.to_parquet(temporary, index=False)
