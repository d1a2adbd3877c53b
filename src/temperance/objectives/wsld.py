"""Weighted soft label distillation (Zhou et al., ICLR 2021, arXiv 2102.00650)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from temperance.objectives.base import LogitObjective, SofteningArgs
from temperance.objectives.dkd import target_log_odds
from temperance.objectives.kd import softened_kl
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows, Signal


class WSLDArgs(SofteningArgs):
    """Weighted soft labels; the defaults are the CIFAR-100 recipe's.

    The authors' code for ImageNet has τ = 2 and weight 2.5.
    """

    name: Literal["wsld"] = "wsld"
    softening: PositiveFloat = 4.0
    """τ of the student, and of the teacher unless set below; a row's weight is always at 1."""
    epsilon: NonNegativeFloat = 0.0
    """Added to the teacher's cross-entropy in a row's weight: 0 in the paper, 1e-7 in the authors'
    code, which lowers the weight of rows where both are certain of the label."""
    weight: Weight = constant(2.25)
    """α, the weight of the distillation term."""
    label_weight: Weight = constant(1.0)
    """Weight of the cross-entropy with the labels."""


class WSLD(LogitObjective):
    """label_weight · cross-entropy + weight · (a row's weight) · KD, row by row.

    KD is τ² times the KL divergence, as in `kd`. The authors' code has the cross-entropy with the
    softened teacher: more by a row's weight times τ² times the teacher's entropy, and of the same
    gradient, since the weight is held fixed.
    """

    name = "wsld"
    args_class = WSLDArgs
    args: WSLDArgs
    needs = Needs(logits="dense", targets="required", soft_targets=False)
    row_wise = True
    teacher_logits = "used"
    calibration = "twice: in the target, and by the teacher's loss on the label in a row's weight"
    caution = (
        "a row's weight is at softening 1, so a teacher calibrated by a temperature is not one of"
        " another softening; where it is right and certain, T > 1 raises its loss and the row"
        " counts less"
    )

    def compare(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `wsld`."""
        assert rows.targets is not None
        softening, teacher_softening = self.softenings
        row_weight = soft_label_weight(
            student.logits, teacher.logits, rows.targets, epsilon=self.args.epsilon
        )
        loss = softened_kl(
            student, teacher, softening=softening, teacher_softening=teacher_softening
        )
        return {"wsld": self.args.weight.at(progress) * row_weight * loss}


def soft_label_weight(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    epsilon: float = 0.0,
) -> Float[Tensor, " rows"]:
    """1 − exp(−CE_student / CE_teacher), how much a row's soft label counts, in [0, 1].

    CE are cross-entropies with the label at softening 1 (Zhou et al. 2021, L_wsl). A row counts
    little where the student already does better on its label than the teacher. The weight is
    detached: no gradient flows through it.

    In the limits it is 0 where the student is certain of the label, and 1 where only the teacher
    is. Where both are (p(y) rounds to 1 although its complement is tracked down to 1e-38) it is 0:
    the student has nothing to learn there.

    Args:
        targets: from 0 to classes − 1.
        epsilon: added to the teacher's cross-entropy, ≥ 0.

    Examples:
        >>> z = torch.tensor([[1.0, 0.0, 0.0]])
        >>> round(float(soft_label_weight(z, z, torch.tensor([0]))), 4)  # 1 − 1/e
        0.6321
    """
    # −log sigmoid of the log-odds: log-sum-exp less logit rounds to 0 from p(y) = 1 − 1e-8 on.
    student_loss, teacher_loss = (
        -F.logsigmoid(target_log_odds(logits.detach(), targets)) for logits in (student, teacher)
    )
    weight = -torch.expm1(-student_loss / (teacher_loss + epsilon))
    return torch.where(student_loss == 0, 0.0, weight)
