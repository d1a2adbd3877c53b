"""The loop that trains a student, or a teacher on labels alone: read it top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import ClassVar, Self

from pydantic import NonNegativeFloat, PositiveInt, model_validator
from torch import nn

from temperance.config import Args
from temperance.errors import Interrupted, UserError
from temperance.models.features import Tapped
from temperance.objectives import Objective
from temperance.run import Run
from temperance.tasks import ClassificationTask
from temperance.teacher import Teacher
from temperance.training.best_epoch import BestEpoch
from temperance.training.engine import Engine
from temperance.training.learner import Learner
from temperance.training.optimisation import (
    CosineArgs,
    OptimizerArgs,
    ScheduleArgs,
    SGDArgs,
    build_optimizer,
    rate_factor,
)
from temperance.training.progress import Progress


class TrainingArgs(Args):
    """How long and how fast to learn."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"checkpoint_seconds"})

    epochs: PositiveInt = 60
    """How often every training image is seen."""
    batch_size: PositiveInt = 64
    """Images per step over all devices."""
    micro_batches: PositiveInt = 1
    """Parts in which each device works a batch off, one after the other, to save memory. Row-wise
    losses stay what they are; BatchNorm, and losses over the batch, see one part at a time."""
    optimizer: OptimizerArgs = SGDArgs()
    schedule: ScheduleArgs = CosineArgs()
    validate_every: PositiveInt = 1
    """Epochs between two evaluations on the validation split."""
    patience: PositiveInt | None = None
    """Evaluations without a lower validation NLL after which training ends; the epoch of the lowest
    is then kept in place of the last. null: train all epochs and keep the last."""
    snapshots: tuple[PositiveInt, ...] = ()
    """Epochs after which the model is also saved, as `student@EPOCH`; the last one is `student`."""
    checkpoint_seconds: NonNegativeFloat = 60.0
    """Time between two checkpoints; 0 writes one after every step."""

    @model_validator(mode="after")
    def _snapshots_come_about(self) -> Self:
        late = [epoch for epoch in self.snapshots if epoch >= self.epochs]
        if late:
            raise ValueError(
                f"a snapshot after epoch {late[0]} of {self.epochs}: they come before the last,"
                " which is the student itself"
            )
        if self.snapshots and self.patience:
            raise ValueError("with patience the training may end before a snapshot: choose one")
        return self


def train_student(
    task: ClassificationTask,
    student: nn.Module,
    teacher: Teacher,
    objective: Objective,
    args: TrainingArgs,
    engine: Engine,
    run: Run,
    validate: Callable[[nn.Module], dict[str, float]],
    label: str = "training",
    snapshot: Callable[[int], None] | None = None,
) -> nn.Module:
    """Train `student` until the schedule or the patience ends.

    Interrupted at any step and started again on the same run folder, it continues as if nothing
    had happened: order, views, random state and optimiser are functions of what is saved.

    Args:
        teacher: gives a signal for every batch, raw or calibrated; `NoTeacher()` for labels alone.
        objective: losses of both signals and the rows; built for this student and teacher.
        run: folder that receives checkpoints and, per epoch, one line of metrics with mean losses.
        validate: named numbers of the student on held-out images, asked between epochs; with
            patience, `validation_nll` among them.
        snapshot: saves the student as it is after an epoch; called after those in `args.snapshots`.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint written.
        UserError: if the checkpoint in `run` cannot be read, the disk is full, or the loss is no
            longer finite.
    """
    steps = args.epochs * task.steps_per_epoch
    learner = Learner(Tapped(student, objective.student_taps), objective)
    state = engine.start(learner, build_optimizer(args.optimizer, learner), steps)
    checkpoint = run.folder / "checkpoints" / "last.pt"
    if checkpoint.is_file():
        engine.restore(state, checkpoint)
    run.keep_metrics_until(state.step)
    best = None
    if args.patience:
        best = BestEpoch(run, patience=args.patience, until=state.step)
    state.module.train()

    progress = Progress(label, step=state.step, steps=steps, batch_size=task.batch_size)
    saved = time.monotonic()
    for batch in progress.timed(task.batches(start=state.step, steps=steps)):
        if best and best.enough:
            break
        size = engine.weigh(task.rows(batch))
        parts = list(batch.split(args.micro_batches))
        for part in parts:
            with engine.accumulating(state, last=part is parts[-1]):
                rows = task.rows(part)
                with engine.autocast():
                    losses = objective(
                        student=task.signal(state.module, part),
                        teacher=teacher.signal(task, part),
                        rows=rows,
                        progress=state.progress,
                    )
                engine.backward(state, losses, rows, size)
        rate = args.optimizer.lr * rate_factor(args.schedule, state.step, steps)
        shares = engine.update(state, rate)

        if state.step % task.steps_per_epoch == 0:
            epoch = state.step // task.steps_per_epoch
            measured = engine.epoch_losses(state, task.steps_per_epoch)
            if not all(map(math.isfinite, measured.values())):
                raise UserError(
                    f"{label} diverged: the loss is {measured} after epoch {epoch}",
                    where="training.optimizer.lr",
                    mend="Lower it",
                )
            if epoch % args.validate_every == 0 or epoch == args.epochs:
                measured |= validate(student)
                if best:  # what the first process found, in all of them: they stop together
                    nll = engine.fabric.broadcast(measured["validation_nll"])
                    best.see(student, epoch, nll)
            run.log_metrics(
                step=state.step, epoch=epoch, rate=rate, **measured, **progress.rates(state.step)
            )
            if snapshot and epoch in args.snapshots:
                snapshot(epoch)
        progress.show(state.step, shares)
        interrupted = engine.agree(engine.interrupted)
        if interrupted or engine.agree(time.monotonic() - saved >= args.checkpoint_seconds):
            engine.save(state, checkpoint)
            if best:
                best.forget_others()
            saved = time.monotonic()
        if interrupted:
            progress.close()
            raise Interrupted(f"{label} stopped at step {state.step} of {steps}")
    progress.close()
    engine.barrier()
    if best:
        best.restore(student)
    return student
