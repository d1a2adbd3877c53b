"""Training on labels alone: teachers, and the baseline that a distilled student has to beat."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from temperance.objectives.base import MethodArgs, Objective
from temperance.rows import Needs, Rows, Signal


class LabelsArgs(MethodArgs):
    """Cross-entropy with the labels."""

    name: Literal["labels"] = "labels"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each target that is spread over all classes (Szegedy et al. 2016)."""


class Labels(Objective):
    """Cross-entropy with the labels, row by row; the teacher is not asked."""

    name = "labels"
    args_class = LabelsArgs
    args: LabelsArgs
    needs = Needs(targets="required")
    row_wise = True
    teacher_logits = "none"
    calibration = "not at all: there is no teacher"

    def terms(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """Nothing beside the labels."""
        return {}

    def _label_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        smoothing = self.args.label_smoothing
        return F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
