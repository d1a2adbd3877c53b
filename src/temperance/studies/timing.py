"""How long a step and a forward pass take here: measured on random images, without any data."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from temperance.calibration import TemperatureScaling, calibration_report
from temperance.config import Args
from temperance.data import ImageSet, Splits
from temperance.data.images import DatasetFacts
from temperance.models import ImageClassifier, ModelArgs, create_model, load_model
from temperance.models.features import Tapped
from temperance.objectives import get_objective
from temperance.tasks import ClassificationTask
from temperance.teacher import CachedTeacher, LiveTeacher, NoTeacher, Teacher
from temperance.training import Engine, Recipe, fresh_student
from temperance.training.learner import Learner
from temperance.training.optimisation import build_optimizer

LONG_ENOUGH = 0.25  # seconds: what takes longer is told from fewer images than a whole batch
REPEATS = 3  # of a whole batch that is faster
PREDICTED_AT_ONCE = 512  # images, as `predict` does
REPORTED = 2_000  # rows, at most, of the reports that are timed

AnyModel = ModelArgs | Path
"""What a model is, or where it lies."""


class ModelCost(NamedTuple):
    """What a model takes."""

    forward: float
    """Seconds per image, in eval mode."""
    bytes: int
    """Of its weights and statistics."""


class Stopwatch:
    """Times whatever it is asked about once.

    Args:
        facts: shape and classes of the images.
        engine: where to compute.
    """

    def __init__(self, facts: DatasetFacts, engine: Engine) -> None:
        self.facts, self.engine = facts, engine
        self.timed = 0
        """How many trainings were timed."""
        self.model = cache(self._model)
        self.step = cache(self._step)
        self.short_report = cache(self._short_report)

    def _model(self, given: AnyModel) -> ModelCost:
        """A forward pass of a model, and its size."""
        model = self._make(given).to(self.engine.device).eval()
        images = self._images(PREDICTED_AT_ONCE).images.to(self.engine.device)

        def predict(n: int) -> None:
            with torch.no_grad():
                model(images[:n]).cpu()

        size = sum(tensor.nbytes for tensor in model.state_dict().values())
        return ModelCost(seconds_each(predict, PREDICTED_AT_ONCE), size)

    def _step(self, recipe: Recipe, objective: Args, teacher: AnyModel | None) -> float:
        """Seconds per image of a training step.

        Args:
            recipe: the student's, or the teacher's own.
            teacher: asked in every step if the objective compares activations, else its answers
                are there already; None for labels alone.
        """
        self.timed += 1
        batch = recipe.training.batch_size
        images = self._images(batch)
        splits = Splits(*(images,) * 5)
        method = get_objective(objective)
        source: Teacher = NoTeacher()
        if teacher is not None:
            # Not 1, so that what a calibrated teacher's signal costs is there.
            calibrator = TemperatureScaling.from_temperature(2.0).to(self.engine.device)
            if method.needs.features == "none":
                logits = torch.randn(1, batch, self.facts.classes, device=self.engine.device)
                source = CachedTeacher(logits, images.ids, calibrator)
            else:
                source = LiveTeacher(self._make(teacher).to(self.engine.device), calibrator)
        model = fresh_student(recipe, splits, source, method, seed=0, engine=self.engine)
        source.tap(method.teacher_taps)
        learner = Learner(Tapped(model, method.student_taps), method)
        optimizer = build_optimizer(recipe.training.optimizer, learner)
        state = self.engine.start(learner, optimizer, steps=1)
        state.module.train()

        def steps(n: int) -> None:
            task = ClassificationTask(
                images.take(images.ids[:n]), views=recipe.augment, batch_size=n, seed=0,
                device=self.engine.device, views_per_batch=method.needs.views,
            )  # fmt: skip
            for batch in task.batches(start=0, steps=1):
                rows = task.rows(batch)
                with self.engine.autocast():
                    losses = method(
                        student=task.signal(state.module, batch),
                        teacher=source.signal(task, batch),
                        rows=rows,
                        progress=0.5,
                    )
                self.engine.backward(state, losses, rows, self.engine.weigh(rows))
                shares = self.engine.update(state, recipe.training.optimizer.lr)
                [float(share) for share in shares.values()]  # waits for the device

        return seconds_each(steps, batch)

    def report(self, rows: int, *, intervals: bool = False) -> float:
        """Seconds of a calibration report."""
        few = min(rows, REPORTED)
        return self.short_report(few, intervals) * rows / few if few else 0.0

    def _short_report(self, rows: int, intervals: bool) -> float:
        logits = torch.randn(rows, self.facts.classes)
        targets = torch.arange(rows) % self.facts.classes
        return _timed(lambda n: calibration_report(logits, targets, intervals=intervals), rows)

    def _make(self, given: AnyModel) -> ImageClassifier:
        facts = self.facts
        if isinstance(given, Path):
            return load_model(given, classes=facts.classes)
        return create_model(
            given,
            channels=facts.channels,
            input_size=(facts.height, facts.width),
            classes=self._classes,
            mean=[0.5] * facts.channels,
            std=[0.25] * facts.channels,
            seed=0,
        )

    @property
    def _classes(self) -> tuple[str, ...]:
        return tuple(str(label) for label in range(self.facts.classes))

    def _images(self, n: int) -> ImageSet:
        """Noise, all classes in turn."""
        shape = (n, self.facts.channels, self.facts.height, self.facts.width)
        ids = torch.arange(n)
        images: Tensor = torch.randint(256, shape, dtype=torch.uint8)
        return ImageSet(images, ids % self.facts.classes, ids, self._classes)


def seconds_each(work: Callable[[int], object], whole: int) -> float:
    """Seconds per image of `work(n)` on `whole` images.

    Begins with two images and doubles them until that takes a quarter of a second, so that the
    largest models are told from a few images, a little too slow rather than never.
    """
    n = min(2, whole)
    work(n)  # warms up: memory, kernels
    while True:
        seconds = _timed(work, n)
        if seconds >= LONG_ENOUGH or n == whole:
            break
        n = min(2 * n, whole)
    if seconds < LONG_ENOUGH:
        seconds = min(seconds, *(_timed(work, n) for _ in range(REPEATS - 1)))
    return seconds / n


def _timed(work: Callable[[int], object], n: int) -> float:
    started = time.perf_counter()
    work(n)
    return time.perf_counter() - started
