"""Distillation by the reverse KL divergence, student ‖ teacher."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor

from temperance.objectives.base import LogitObjective, SofteningArgs
from temperance.objectives.softened import log_probabilities
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows, Signal


class ReverseKLArgs(SofteningArgs):
    """Reverse KL; the defaults are vanilla KD's, so that the two differ in the direction alone."""

    name: Literal["reverse-kl"] = "reverse-kl"
    softening: PositiveFloat = 4.0
    """τ of the student, and of the teacher unless set below."""
    weight: Weight = constant(0.9)
    """Weight of the KL term."""
    label_weight: Weight = constant(0.1)
    """Weight of the cross-entropy with the labels."""


class ReverseKL(LogitObjective):
    """label_weight · cross-entropy + weight · τ² · KL(student ‖ teacher), row by row."""

    name = "reverse-kl"
    args_class = ReverseKLArgs
    args: ReverseKLArgs
    needs = Needs(logits="sparse")
    row_wise = True
    teacher_logits = "used"
    calibration = "once, in the target: T multiplies the teacher's softening"
    caution = (
        "the loss grows with the sharpness of the teacher: what a student gives to classes that"
        " the teacher excludes costs in proportion to 1/T"
    )

    def compare(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `reverse_kl`."""
        softening, teacher_softening = self.softenings
        loss = softened_reverse_kl(
            student, teacher, softening=softening, teacher_softening=teacher_softening
        )
        return {"reverse_kl": self.args.weight.at(progress) * loss}


def softened_reverse_kl(
    student: Signal, teacher: Signal, *, softening: float, teacher_softening: float
) -> Float[Tensor, " rows"]:
    """τ² · KL divergence from the student's to the teacher's softened prediction, per row, in nats.

    Σ q log(q / p) with q the student's and p the teacher's. It seeks modes: unlike KD it does not
    ask a student to cover every class that the teacher thinks possible. Token by token it is the
    reverse KL of Agarwal et al. 2024 (arXiv 2306.13649, §2), which has no softening; the factor τ²
    is carried over from KD, with the student's τ. MiniLLM (Gu et al. 2024, arXiv 2306.08543)
    takes it over whole generated sequences, which is not what this does.

    Args:
        teacher: dense or sparse; no gradient should flow into it.
        softening: τ of the student, > 0.
        teacher_softening: τ of the teacher, > 0.

    Raises:
        UserError: if a sparse teacher's log-sum-exp is of another softening.

    Examples:
        >>> import torch
        >>> student, teacher = Signal(torch.zeros(1, 2)), Signal(torch.tensor([[2.0, 0.0]]))
        >>> loss = softened_reverse_kl(student, teacher, softening=1.0, teacher_softening=1.0)
        >>> round(float(loss), 4)
        0.4338
    """
    prediction, target = log_probabilities(
        student, teacher, softening=softening, teacher_softening=teacher_softening
    )
    return softening**2 * F.kl_div(target, prediction, reduction="none", log_target=True).sum(-1)
