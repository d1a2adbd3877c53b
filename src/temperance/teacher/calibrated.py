"""Teachers as sources of signals; the calibrator is applied here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from temperance.errors import UserError
from temperance.models.features import ModelProbe, Tapped, probe
from temperance.rows import Signal


class GivesSignals(Protocol):
    """The part of a task that a teacher needs: how a model is asked about a batch."""

    def signal(self, model: nn.Module, batch: Any) -> Signal:
        """What the model says about the batch."""
        ...


class Teacher(Protocol):
    """What the training loop asks for every batch, and an objective before the first."""

    def probe(self, inputs: Tensor) -> ModelProbe | None:
        """What the model looks like from inside; None if there is no teacher."""
        ...

    def tap(self, taps: Sequence[str]) -> None:
        """From now on the signals carry the activations at these places."""
        ...

    def signal(self, task: GivesSignals, batch: Any) -> Signal | None:
        """What the teacher says about the batch; None if there is no teacher."""
        ...


class NoTeacher:
    """For training on labels alone."""

    def probe(self, inputs: Tensor) -> None:
        """Nothing to look at."""
        return None

    def tap(self, taps: Sequence[str]) -> None:
        """Nothing to tap.

        Raises:
            UserError: if there is something to tap all the same.
        """
        if taps:
            raise UserError("there is no teacher to tap", where="objective")

    def signal(self, task: GivesSignals, batch: Any) -> None:
        """Nothing to say."""
        return None


def apply_calibrator(raw: Signal, calibrator: nn.Module | None) -> Signal:
    """What a teacher says, once calibrated; as it is without a calibrator."""
    if calibrator is None:
        return raw
    return Signal(calibrator(raw.logits), raw_logits=raw.logits, features=raw.features)


class LiveTeacher:
    """A frozen model that is run on every batch, raw or calibrated.

    An objective cannot tell the two apart, except by the `raw_logits` beside a calibrated
    teacher's logits.

    Args:
        model: the teacher; put into eval mode and frozen.
        calibrator: from logits to logits; None for the raw teacher.
    """

    def __init__(self, model: nn.Module, calibrator: nn.Module | None = None) -> None:
        self.model = Tapped(model).eval().requires_grad_(False)
        self.calibrator = calibrator

    def probe(self, inputs: Tensor) -> ModelProbe:
        """What the model looks like from inside, as it answers these inputs."""
        return probe(self.model.model, inputs)

    def tap(self, taps: Sequence[str]) -> None:
        """From now on the signals carry the activations at these places.

        Raises:
            UserError: if there is no such place; it lists those that there are.
        """
        self.model.tap(taps)

    @torch.no_grad()
    def signal(self, task: GivesSignals, batch: Any) -> Signal:
        """The teacher's signal for the batch, calibrated if it has a calibrator."""
        return apply_calibrator(task.signal(self.model, batch), self.calibrator)
