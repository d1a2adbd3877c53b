"""What is done in a run of a study, in whichever process: teachers, folds, measures, students."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor

from temperance.calibration import (
    CalibrationReport,
    TemperatureScaling,
    calibration_report,
    distance_to_truth,
    fit_temperature,
    get_calibrator,
)
from temperance.data import Dataset, ImageSet, folds
from temperance.errors import UserError
from temperance.models import ImageClassifier, load_model, weights_of, weights_sha256
from temperance.objectives import get_objective
from temperance.run import Run, atomic
from temperance.studies.controls import matched
from temperance.studies.executors import STOP
from temperance.studies.plan import StudyArgs
from temperance.studies.pool import PlannedTeacher, PlannedTraining
from temperance.studies.schedule import Task
from temperance.studies.sources import Sources, held_out_of, state_of
from temperance.studies.store import HITS, RESULT, Store, read_checked
from temperance.studies.treatments import StudentTraining
from temperance.tasks import predict
from temperance.teacher import (
    NoTeacher,
)
from temperance.training import Engine, produce_student, without_fold
from temperance.training.student import load_predictions, save_predictions

logger = logging.getLogger("temperance")


class TeacherTraining(NamedTuple):
    """A teacher to train."""

    training: PlannedTraining
    on_all: bool
    """On train + calibration, although T is fitted on held-out rows."""


class FoldTraining(NamedTuple):
    """One teacher of a cross-fit."""

    training: PlannedTraining
    fold: int


@dataclass(frozen=True)
class Measurement:
    """A teacher to measure and to calibrate."""

    teacher: PlannedTeacher
    trained: str
    """Folder of its training; empty if it was given."""
    folds: tuple[str, ...] = ()
    """Folders of the folds' trainings; empty for a fit on held-out rows."""


class Worker:
    """Carries tasks out; keeps data and teachers in memory from one to the next.

    Args:
        args: the study's settings.
        dataset: its data; or how to load them, for another process.
        folder: of the study.
        engine: of this process; made from the settings if None.
    """

    def __init__(
        self,
        args: StudyArgs,
        dataset: Dataset | Callable[[], Dataset],
        folder: Path,
        engine: Engine | None = None,
    ) -> None:
        self.args = args
        self.engine = engine or Engine(args.engine)
        self.dataset = dataset if isinstance(dataset, Dataset) else dataset()
        self.store = Store(Run(folder))
        self.sources = Sources(args, self.dataset, self.store, self.engine.device)
        if engine is None:
            threading.Thread(target=self._listen, args=(folder / STOP,), daemon=True).start()

    def __call__(self, task: Task) -> dict[str, Any]:
        """Carry a task out, alone in its folder; what is done already is not done again.

        Returns:
            the run's result, as it is kept.

        Raises:
            Interrupted: if asked to stop, with a checkpoint written.
        """
        with self.store.locked(task.folder):
            done = self.store.result(task.folder)
            if done is not None:
                return done
            started = time.perf_counter()
            methods: dict[str, Callable[[Any, str], tuple[Run, dict[str, Any]]]] = {
                "teacher": self.train_teacher,
                "fold": self.train_fold,
                "measure": self.measure,
                "student": self.train_student,
            }
            run, result = methods[task.kind](task.about, task.folder)
            result["run_seconds"] = round(time.perf_counter() - started, 3)
            run.write_json(RESULT, result)
            return result

    # What is done.

    def train_teacher(self, planned: TeacherTraining, folder: str) -> tuple[Run, dict[str, Any]]:
        """A teacher on labels, with its snapshots."""
        training, on_all = planned
        rows = "train+calibration" if on_all else self.sources.taught
        run = self._open(folder, training.recipe)
        _, result = produce_student(
            training.recipe,
            self.sources.splits(training.replicate, rows),
            NoTeacher(),
            get_objective(training.recipe.objective),
            seed=self.args.teacher_seed + training.replicate,
            engine=self.engine,
            run=run,
            label=training.name,
            intervals=False,
        )
        return run, {"seconds": result["seconds"]}

    def train_fold(self, planned: FoldTraining, folder: str) -> tuple[Run, dict[str, Any]]:
        """One teacher of a cross-fit; what it says of the rows it has not seen is kept."""
        training, fold = planned
        run = self._open(folder, training.recipe)
        seed = self.args.teacher_seed + training.replicate
        splits = self.sources.splits(training.replicate, self.sources.taught)
        fold_of = folds(splits.train, self.args.calibration.folds, seed)
        seen, held_out = without_fold(splits, fold_of, fold, training.recipe)
        _, result = produce_student(
            training.recipe,
            seen,
            NoTeacher(),
            get_objective(training.recipe.objective),
            seed=seed,
            engine=self.engine,
            run=run,
            label=f"{training.name}, fold {fold + 1}/{self.args.calibration.folds}",
            test=False,
        )
        rows = splits.train.take(held_out)
        for epoch in (*training.recipe.training.snapshots, None):
            model = load_model(run.folder / state_of(epoch)).to(self.engine.device)
            logits, targets = predict(model, rows, device=self.engine.device)
            save_predictions(run, held_out_of(epoch), logits, targets, rows.ids)
        return run, {"seconds": result["seconds"]}

    def measure(self, planned: Measurement, folder: str) -> tuple[Run, dict[str, Any]]:
        """A teacher's calibration on rows that it has not seen, and its temperature."""
        teacher = planned.teacher
        run = self._open(folder, teacher.training.recipe)
        device = self.engine.device
        splits = self.sources.splits(teacher.training.replicate, self.sources.taught)
        model = self.sources.model(str(self._weights(planned)))
        if planned.folds:
            logits, targets = self.sources.out_of_fold(planned.folds, planned.teacher.epoch)
        elif len(splits.calibration):
            logits, targets = predict(model, splits.calibration, device=device)
        else:
            raise UserError(
                "the calibration split is empty",
                where="split.calibration",
                mend="Set it above 0, or calibration.fit=cross-fit",
            )
        fitted = get_calibrator(self.args.calibration.calibrator)
        fitted.fit(logits, targets, cross_fit=min(5, len(logits)))
        assert isinstance(fitted, TemperatureScaling)  # `StudyArgs` accepts no other
        fit = fitted.fit_report
        assert fit is not None
        assert fit.cross_fit is not None
        if not fit.usable and not self.args.calibration.force:
            raise UserError(
                f"teacher {teacher.name} cannot be calibrated on {fit.n} rows (status"
                f" '{fit.status}')",
                where="calibration",
                mend="Use more rows, or calibration.force=true to go on with T = 1",
            )
        before = calibration_report(logits, targets)
        after = calibration_report(fitted(logits), targets, intervals=False)
        taught = calibration_report(*predict(model, splits.train, device=device), intervals=False)
        test_logits, test_targets = predict(model, splits.test, device=device)
        test = calibration_report(test_logits, test_targets, intervals=False)
        run.write_json("measured.json", {"before": before.to_dict(), "after": after.to_dict()})
        return run, {
            "weights": self._kept_as(planned),
            "sha256": weights_sha256(model),
            "row": {
                **_teacher_row(before, after, taught, test, fitted),
                "refinement": fit.cross_fit.nll,
                "calibration": before.nll - fit.cross_fit.nll,
                **_truth_row(test_logits, splits.test),
            },
        }

    def train_student(self, training: StudentTraining, folder: str) -> tuple[Run, dict[str, Any]]:
        """A student, measured on test, raw and at its own temperature."""
        run = self._open(folder, training.recipe)
        splits = self.sources.splits(training.replicate, training.rows)
        settings = training.objective
        if training.control is not None:
            assert training.source is not None
            logits = self.sources.says(training.source, splits.train)
            settings = matched(
                training.control, settings, logits, training.control_softening,
                training.source.temperature,
            )  # fmt: skip
        objective = get_objective(settings)
        with_features = objective.needs.features != "none"
        teacher = self.sources.teacher(training, live=with_features)
        model, result = produce_student(
            training.recipe,
            splits,
            teacher,
            objective,
            seed=training.seed,
            engine=self.engine,
            run=run,
            label=training.name,
            intervals=False,
            labels=training.rows != "unlabelled",
        )
        test, validation = result["test"], result["validation"]
        self._keep_hits(run)
        return run, {
            "row": {
                "objective_parameters": result["objective_parameters"],
                "train_rows": len(splits.train),
                "test_rows": test["n"],
                "accuracy": test["accuracy"],
                "nll": test["nll"],
                "brier": test["brier"],
                "ece": test["ece"],
                "gap": test["gap"],
                **self._at_own_temperature(model, splits.validation, run),
                "validation_accuracy": validation.get("accuracy"),
                "best_epoch": validation.get("best_epoch"),
                "best_validation_accuracy": validation.get("best_accuracy"),
                "seconds": result["seconds"],
            }
        }

    # What that takes.

    def _open(self, folder: str, config: Any) -> Run:
        run = self.store.open(folder, config)
        try:
            read_checked(f"{run.folder}/result.json", "seconds")
        except UserError as damaged:
            logger.warning("%s: %s; the run is done again", damaged.where, damaged.what)
            (run.folder / "result.json").unlink()
        return run

    def _weights(self, planned: Measurement) -> Path:
        given = planned.teacher.training.recipe.weights
        if given is not None:
            return weights_of(given)
        return self.store.runs / planned.trained / state_of(planned.teacher.epoch)

    def _kept_as(self, planned: Measurement) -> str:
        """Where its weights are, seen from the study's folder, which may be moved."""
        weights = self._weights(planned)
        if planned.trained:
            return weights.relative_to(self.store.study.folder).as_posix()
        return str(weights.resolve())

    def _keep_hits(self, run: Run) -> None:
        """Which test rows the student is right about, small enough to read for every student."""
        tensors = load_file(run.folder / "predictions" / "test.safetensors")
        hits = tensors["logits"].argmax(1) == tensors["targets"]
        content = save({"hits": hits.to(torch.uint8), "ids": tensors["ids"].to(torch.int32)})
        with atomic(run.path("predictions", HITS)) as temporary:
            temporary.write_bytes(content)

    def _at_own_temperature(
        self, model: ImageClassifier, validation: ImageSet, run: Run
    ) -> dict[str, float | None]:
        """A student's calibration on test after its own temperature, fitted on validation."""
        names = ("T_student", "nll_calibrated", "ece_calibrated", "gap_calibrated")
        test = load_predictions(run, "test")
        assert test is not None
        if not len(validation):
            return dict.fromkeys(names)
        fit = fit_temperature(*predict(model, validation, device=self.engine.device))
        if not fit.usable:
            return dict.fromkeys(names)
        logits, targets = test
        after = calibration_report(logits / fit.temperature, targets, intervals=False)
        return dict(zip(names, (fit.temperature, after.nll, after.ece, after.gap), strict=True))

    def _listen(self, stop: Path) -> None:
        """Interrupt what is running when the driver asks to stop."""
        while True:
            self.engine.interrupted = self.engine.interrupted or stop.exists()
            time.sleep(0.5)


def _truth_row(logits: Float[Tensor, "rows classes"], rows: ImageSet) -> dict[str, float]:
    """Distances from the known truth on test; nothing where it is not known."""
    if rows.truth is None:
        return {}
    distances = distance_to_truth(logits, rows.truth)
    return {f"truth_{name}": value for name, value in distances._asdict().items()}


def _teacher_row(
    before: CalibrationReport,
    after: CalibrationReport,
    taught: CalibrationReport,
    test: CalibrationReport,
    fitted: TemperatureScaling,
) -> dict[str, Any]:
    """A teacher raw and calibrated on rows it has not seen, on the rows it teaches, and on test."""
    fit = fitted.fit_report
    assert fit is not None
    power = before.ace_power
    return {
        "rows": before.n,
        "accuracy": before.accuracy,
        "confidence": before.confidence,
        "nll": before.nll,
        "brier": before.brier,
        "ece": before.ece,
        "gap": before.gap,
        "ace": before.ace,
        "ace_change": None if power is None else min(power.change, power.change_sharpened),
        "T": fitted.temperature,
        "T_se_log": fit.se_log_temperature,
        "status": fit.status,
        "fragile": fit.fragile,
        "ece_calibrated": after.ece,
        "gap_calibrated": after.gap,
        "train_accuracy": taught.accuracy,
        "train_gap": taught.gap,
        "test_accuracy": test.accuracy,
        "test_gap": test.gap,
    }
