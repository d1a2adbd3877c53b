"""Vanilla knowledge distillation (Hinton, Vinyals & Dean 2015, arXiv 1503.02531)."""

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


class KDArgs(SofteningArgs):
    """Vanilla KD; the defaults are the CIFAR-100 recipe's."""

    name: Literal["kd"] = "kd"
    softening: PositiveFloat = 4.0
    """τ of the student, and of the teacher unless set below."""
    weight: Weight = constant(0.9)
    """Weight of the KL term; a number, or value, warmup, end, shape."""
    label_weight: Weight = constant(0.1)
    """Weight of the cross-entropy with the labels."""


class KD(LogitObjective):
    """label_weight · cross-entropy + weight · τ² · KL(teacher ‖ student), row by row."""

    name = "kd"
    args_class = KDArgs
    args: KDArgs
    needs = Needs(logits="sparse")
    row_wise = True
    teacher_logits = "used"
    calibration = "once, in the target: T multiplies the teacher's softening"

    def compare(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `kd`."""
        softening, teacher_softening = self.softenings
        loss = softened_kl(
            student, teacher, softening=softening, teacher_softening=teacher_softening
        )
        return {"kd": self.args.weight.at(progress) * loss}


def softened_kl(
    student: Signal, teacher: Signal, *, softening: float, teacher_softening: float
) -> Float[Tensor, " rows"]:
    """τ² · KL divergence from the teacher's to the student's softened prediction, per row, in nats.

    The factor τ² keeps the gradient's size independent of the softening (Hinton 2015, §2.1).
    With two softenings it is the student's: then a calibration temperature folded into the
    teacher's softening changes the target and nothing else.

    Args:
        teacher: dense or sparse; no gradient should flow into it.
        softening: τ of the student, > 0.
        teacher_softening: τ of the teacher, > 0.

    Examples:
        >>> import torch
        >>> z = Signal(torch.tensor([[2.0, 0.0, -1.0]]))
        >>> float(softened_kl(z, z, softening=4.0, teacher_softening=4.0))
        0.0
    """
    prediction, target = log_probabilities(
        student, teacher, softening=softening, teacher_softening=teacher_softening
    )
    return softening**2 * F.kl_div(prediction, target, reduction="none", log_target=True).sum(-1)
