"""What the runs of a study take, added up by kind: nothing is loaded, trained or downloaded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from temperance.config import Args
from temperance.data import SplitArgs, steps_per_epoch
from temperance.data.images import DatasetFacts
from temperance.models import weights_of
from temperance.objectives import get_objective
from temperance.objectives.weight_matched import WeightMatchedArgs
from temperance.studies.arms import ARMS
from temperance.studies.plan import PlannedStudent, StudyArgs, planned_students
from temperance.studies.pool import PlannedTeacher, TeacherArgs
from temperance.studies.statistics import geometric_mean
from temperance.studies.timing import AnyModel, Stopwatch
from temperance.studies.treatments import (
    Source,
    StudentTraining,
    TeacherRecord,
    student_training,
)
from temperance.teacher import cacheable
from temperance.training import Recipe, TrainingArgs

PER_RUN = 0.2  # seconds to open a run's folder and to close it
RECORDS = 24_576  # bytes of a run's records: half a dozen files, a block of the disk each
PER_EPOCH = 200  # bytes of a line of metrics
HIT = 5  # bytes of whether a student is right about a test row


@dataclass
class Cost:
    """Of all runs of a kind."""

    kind: str
    runs: int = 0
    images: int = 0
    """Training images, as often as they are seen."""
    steps: int = 0
    teacher_images: int = 0
    """About how many images a teacher is asked."""
    seconds: float = 0.0
    """Of one run after the other."""
    bytes: int = 0
    """On disk when they are done."""


class StudyCosts:
    """Adds up what the runs of a study take."""

    def __init__(self, args: StudyArgs, facts: DatasetFacts, stopwatch: Stopwatch) -> None:
        self.args, self.facts, self.stopwatch = args, facts, stopwatch
        self.rows = split_sizes(args.split, facts)
        self.rows["train+calibration"] = self.rows["train"] + self.rows["calibration"]
        self.cross_fit = args.calibration.fit == "cross-fit"
        self.taught = "train+calibration" if self.cross_fit else "train"
        self.planned = planned_students(args)
        self.trainings = list(dict.fromkeys(teacher.training for teacher in args.teachers))
        self.stored: dict[str, int] = {}
        """Images that a teacher is asked about once, by what it is asked."""

    def costs(self) -> Iterator[Cost]:
        """By kind, in the order in which they are carried out."""
        own = [each.recipe for each in self.trainings if each.recipe.weights is None]
        yield self._teachers("teachers", own, self.taught)
        if not self.cross_fit and "raw+calibration" in self.args.arms:
            yield self._teachers("teachers on train + calibration", own, "train+calibration")
        if self.cross_fit:
            yield self._folds(own)
        yield self._measurements()
        yield from self._students()

    def _teachers(self, kind: str, recipes: Sequence[TeacherArgs], rows: str) -> Cost:
        cost = Cost(kind)
        for recipe in recipes:
            self._train(cost, recipe, self.rows[rows], recipe.objective, None)
            self._finish(cost, recipe)
            cost.bytes += len(_snapshots(recipe)) * self.stopwatch.model(recipe.model).bytes
        return cost

    def _folds(self, recipes: Sequence[TeacherArgs]) -> Cost:
        cost, folds = Cost("fold teachers"), self.args.calibration.folds
        held_out = self.rows[self.taught] / folds
        for recipe in recipes:
            states = 1 + len(_snapshots(recipe))
            model = self.stopwatch.model(recipe.model)
            for _ in range(folds):
                seen = self.rows[self.taught] - round(held_out)
                self._train(cost, recipe, seen, recipe.objective, None)
                asked = states * round(held_out)
                cost.teacher_images += asked
                cost.seconds += asked * model.forward
                cost.bytes += states * model.bytes + asked * self._prediction
        return cost

    def _measurements(self) -> Cost:
        cost, rows = Cost("measurements of teachers"), self.rows
        held_out = rows[self.taught] if self.cross_fit else rows["calibration"]
        asked = rows[self.taught] + rows["test"] + (0 if self.cross_fit else held_out)
        for teacher in self.args.teachers:
            cost.runs += 1
            cost.teacher_images += asked
            cost.seconds += (
                PER_RUN
                + asked * self.stopwatch.model(_model_of(teacher)).forward
                + 2 * self.stopwatch.report(held_out, intervals=True)
                + self.stopwatch.report(rows[self.taught])
                + self.stopwatch.report(rows["test"])
            )
            cost.bytes += RECORDS
        return cost

    def _students(self) -> Iterator[Cost]:
        costs = {arm: Cost(f"students: {arm}") for arm in ARMS}
        known: set[str] = set()
        for planned in self.planned:
            training = student_training(
                self.args, planned, *self._pretended(planned.teacher), truth=self._truth
            )
            facts = training.facts({}, "")
            key = training.name + json.dumps(facts, sort_keys=True, default=str)
            if key not in known:
                known.add(key)
                self._student(costs[planned.arm], planned, training)
        yield from costs.values()

    def _student(self, cost: Cost, planned: PlannedStudent, training: StudentTraining) -> None:
        recipe, source, rows = training.recipe, training.source, self.rows[training.rows]
        objective: Args = training.objective
        if planned.cell is not None:  # at whichever softening: it costs the same
            objective = self.args.named_objectives[planned.cell.objective]
            if planned.arm == "weight-matched":
                objective = WeightMatchedArgs(objective=objective)
        teacher = None if source is None else self._asked(source, planned)
        shown = self._train(cost, recipe, rows, objective, teacher)
        self._finish(cost, recipe)
        # Its own temperature, and which test rows it is right about.
        cost.seconds += self.rows["validation"] * self.stopwatch.model(recipe.model).forward
        cost.seconds += self.stopwatch.report(self.rows["test"])
        cost.bytes += HIT * self.rows["test"]
        if source is None or teacher is None:
            return
        asked = 0 if training.control is None else rows
        features = get_objective(objective).needs.features != "none"
        if features or source.kind == "folds" or not cacheable(recipe.augment):
            asked += shown
        else:
            views = max(1, recipe.augment.views)
            key = f"{source.sha256} {planned.replicate} {training.rows} {recipe.augment}"
            if key not in self.stored:
                self.stored[key] = views * rows
                asked += views * rows
                cost.bytes += rows * (views * 4 * self.facts.classes + 8)
        cost.teacher_images += asked
        cost.seconds += asked * self.stopwatch.model(teacher).forward

    def _train(
        self, cost: Cost, recipe: Recipe, rows: int, objective: Args, teacher: AnyModel | None
    ) -> int:
        """One training without what comes after it; returns how many images its batches hold."""
        method = get_objective(objective)
        epochs = recipe.training.epochs
        steps = epochs * steps_per_epoch(rows, recipe.training.batch_size)
        images = steps * min(rows, recipe.training.batch_size)
        shown = images * method.needs.views
        cost.runs += 1
        cost.steps += steps
        cost.images += images
        cost.seconds += PER_RUN + images * self._per_image(recipe, objective, teacher)
        cost.bytes += RECORDS + epochs * PER_EPOCH
        return shown

    def _per_image(self, recipe: Recipe, objective: Args, teacher: AnyModel | None) -> float:
        """Seconds of a step, without the teacher's share."""
        method = get_objective(objective)
        alike = essentials(recipe)
        if method.needs.features == "none":
            # The answers are there already, whoever gave them.
            return self.stopwatch.step(alike, objective, None if teacher is None else recipe.model)
        first = _model_of(self.args.teachers[0])
        forward = self.stopwatch.model(first).forward * method.needs.views
        return max(0.0, self.stopwatch.step(alike, objective, first) - forward)

    def _finish(self, cost: Cost, recipe: Recipe) -> None:
        """What a training ends with: validation on the way, test, weights, predictions."""
        training, model = recipe.training, self.stopwatch.model(recipe.model)
        validations = math.ceil(training.epochs / training.validate_every)
        images = validations * self.rows["validation"] + self.rows["test"]
        cost.seconds += images * model.forward + self.stopwatch.report(self.rows["test"])
        cost.bytes += model.bytes + self.rows["test"] * self._prediction

    @property
    def _prediction(self) -> int:
        """Bytes of what a model said about an image: logits, target, id."""
        return 4 * self.facts.classes + 16

    def _asked(self, source: Source, planned: PlannedStudent) -> AnyModel:
        if source.kind == "truth":
            return Path(source.folder)
        assert planned.teacher is not None
        return _model_of(planned.teacher)

    @cached_property
    def _temperatures(self) -> dict[str, float]:
        """Stand-ins for what is not fitted yet, no two alike and none a round number."""
        return {
            teacher.name: math.pi / 2 + math.sqrt(2) * number / 1000
            for number, teacher in enumerate(self.args.teachers)
        }

    @cached_property
    def _constant(self) -> float:
        return geometric_mean(list(self._temperatures.values()))

    def _pretended(
        self, teacher: PlannedTeacher | None
    ) -> tuple[TeacherRecord | None, float | None, float | None]:
        """What would be known of a teacher, the pool's temperature, and another teacher's."""
        if teacher is None:
            return None, None, None
        folds = range(self.args.calibration.folds if self.cross_fit else 0)
        record = TeacherRecord(
            name=teacher.name,
            folder=teacher.name,
            sha256=teacher.name,
            temperature=self._temperatures[teacher.name],
            folds=tuple(f"{teacher.training.name} {fold}" for fold in folds),
            trained_on_all=None if self.cross_fit else f"{teacher.training.name} on all",
        )
        return record, self._constant, math.e

    @cached_property
    def _truth(self) -> Source | None:
        data = self.args.data
        if data.truth is None:
            return None
        return Source("truth", str(weights_of(data.truth)), "truth", data.truth_softening)


def split_sizes(split: SplitArgs, facts: DatasetFacts) -> dict[str, int]:
    """Rows of every split, to within a row or two.

    Examples:
        >>> digits = DatasetFacts(train=1797, test=None, channels=1, height=8, width=8, classes=10)
        >>> split_sizes(SplitArgs(), digits)
        {'train': 958, 'validation': 120, 'calibration': 120, 'test': 599, 'unlabelled': 0}
    """
    test = round(split.test * facts.train) if facts.test is None else facts.test
    pool = facts.train - (test if facts.test is None else 0)
    validation, calibration = round(split.validation * pool), round(split.calibration * pool)
    train = pool - validation
    if split.calibration_source == "train":
        train -= calibration
    else:
        calibration = round(test / 2)
        test -= calibration
    labelled = round(split.labelled * train)
    return {
        "train": labelled,
        "validation": validation,
        "calibration": calibration,
        "test": test,
        "unlabelled": train - labelled,
    }


def essentials(recipe: Recipe) -> Recipe:
    """What decides how long a step of a recipe takes; the rest at its defaults."""
    training = recipe.training
    return Recipe(
        model=recipe.model,
        augment=recipe.augment,
        training=TrainingArgs(batch_size=training.batch_size, optimizer=type(training.optimizer)()),
    )


def _model_of(teacher: PlannedTeacher) -> AnyModel:
    recipe = teacher.training.recipe
    return recipe.model if recipe.weights is None else weights_of(recipe.weights)


def _snapshots(recipe: Recipe) -> tuple[int, ...]:
    return recipe.training.snapshots
