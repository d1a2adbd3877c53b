"""The generalised Jensen-Shannon divergence of GKD (Agarwal et al. 2024, arXiv 2306.13649)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, PositiveFloat
from torch import Tensor

from temperance.objectives.base import LogitObjective, SofteningArgs
from temperance.objectives.softened import log_probabilities
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows, Signal


class JensenShannonArgs(SofteningArgs):
    """Generalised Jensen-Shannon; the defaults are GKD's: no softening, no labels."""

    name: Literal["jensen-shannon"] = "jensen-shannon"
    beta: float = Field(default=0.5, gt=0, lt=1)
    """Share of the teacher in the mixture: towards 0 as KD, towards 1 as the reverse KL."""
    softening: PositiveFloat = 1.0
    """τ of the student, and of the teacher unless set below."""
    weight: Weight = constant(1.0)
    """Weight of the divergence."""
    label_weight: Weight = constant(0.0)
    """Weight of the cross-entropy with the labels."""


class JensenShannon(LogitObjective):
    """label_weight · cross-entropy + weight · τ² · JSD(β) of teacher and student, row by row."""

    name = "jensen-shannon"
    args_class = JensenShannonArgs
    args: JensenShannonArgs
    needs = Needs(logits="sparse")
    row_wise = True
    teacher_logits = "used"
    calibration = "once, in the target: T multiplies the teacher's softening"

    def compare(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `jensen_shannon`."""
        softening, teacher_softening = self.softenings
        loss = softened_jensen_shannon(
            student,
            teacher,
            beta=self.args.beta,
            softening=softening,
            teacher_softening=teacher_softening,
        )
        return {"jensen_shannon": self.args.weight.at(progress) * loss}


def softened_jensen_shannon(
    student: Signal, teacher: Signal, *, beta: float, softening: float, teacher_softening: float
) -> Float[Tensor, " rows"]:
    """τ² · the generalised Jensen-Shannon divergence of the softened predictions, per row, in nats.

    β KL(p ‖ m) + (1 − β) KL(q ‖ m) with the mixture m = β p + (1 − β) q of the teacher's p and the
    student's q (Agarwal et al. 2024, eq. 1). Before the factor τ² it is at most the entropy of
    (β, 1 − β), log 2 for β = 0.5, however far the two are apart. Divided by β it tends to
    KL(p ‖ q), KD's, for β → 0; divided by 1 − β to KL(q ‖ p), the reverse KL, for β → 1. It is not
    divided here: near either end the weight has to make up for it.

    The paper trains without softening; the factor τ², with the student's τ, is carried over from
    KD. Published code often reads β = 0 and β = 1 as the two KL divergences themselves, where the
    equation is zero; here these are `kd` and `reverse-kl`.

    Args:
        teacher: dense or sparse; no gradient should flow into it.
        beta: share of the teacher in the mixture, in (0, 1).
        softening: τ of the student, > 0.
        teacher_softening: τ of the teacher, > 0.

    Raises:
        UserError: if a sparse teacher's log-sum-exp is of another softening.

    Examples:
        >>> student, teacher = (Signal(torch.tensor([z])) for z in ([50.0, 0.0], [0.0, 50.0]))
        >>> loss = softened_jensen_shannon(
        ...     student, teacher, beta=0.5, softening=1.0, teacher_softening=1.0
        ... )
        >>> round(float(loss), 4) == round(math.log(2), 4)
        True
    """
    prediction, target = log_probabilities(
        student, teacher, softening=softening, teacher_softening=teacher_softening
    )
    mixture = torch.logaddexp(target + math.log(beta), prediction + math.log1p(-beta))
    from_teacher = F.kl_div(mixture, target, reduction="none", log_target=True).sum(-1)
    from_student = F.kl_div(mixture, prediction, reduction="none", log_target=True).sum(-1)
    return softening**2 * (beta * from_teacher + (1 - beta) * from_student)
