"""Training on labels alone: teachers, and the baseline that a distilled student has to beat."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from temperance.config import Args
from temperance.rows import Needs, Rows, Signal


class LabelsArgs(Args):
    """Cross-entropy with the labels."""

    name: Literal["labels"] = "labels"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each target that is spread over all classes (Szegedy et al. 2016)."""


class Labels:
    """Cross-entropy with the labels, row by row; the teacher is not asked."""

    needs = Needs(logits="none", targets="required")
    row_wise = True
    teacher_logits = "none"

    def __init__(self, args: LabelsArgs) -> None:
        self.args = args

    def __call__(
        self, student: Signal, teacher: Signal | None, rows: Rows, progress: float
    ) -> dict[str, Float[Tensor, " rows"]]:
        """The loss `labels`."""
        assert rows.targets is not None
        return {
            "labels": F.cross_entropy(
                student.logits,
                rows.targets,
                reduction="none",
                label_smoothing=self.args.label_smoothing,
            )
        }
