"""Vanilla knowledge distillation (Hinton, Vinyals & Dean 2015, arXiv 1503.02531)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from temperance.config import Args
from temperance.rows import Needs, Rows, Signal


class KDArgs(Args):
    """Vanilla KD; the defaults are the CIFAR-100 recipe's."""

    name: Literal["kd"] = "kd"
    softening: PositiveFloat = 4.0
    """τ of the student, and of the teacher unless set below."""
    teacher_softening: PositiveFloat | None = None
    """τ of the teacher, if it is to differ from the student's."""
    weight: NonNegativeFloat = 0.9
    """Weight of the KL term."""
    label_weight: NonNegativeFloat = 0.1
    """Weight of the cross-entropy with the labels."""


class KD:
    """label_weight · cross-entropy + weight · τ² · KL(teacher ‖ student), row by row."""

    needs = Needs(logits="dense", targets="optional")
    row_wise = True
    teacher_logits = "used"

    def __init__(self, args: KDArgs) -> None:
        self.args = args

    def __call__(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Float[Tensor, " rows"]]:
        """Losses `kd` and, where there are targets, `labels`, already weighted."""
        args = self.args
        losses = {
            "kd": args.weight
            * softened_kl(
                student.logits,
                teacher.logits,
                softening=args.softening,
                teacher_softening=args.teacher_softening or args.softening,
            )
        }
        if rows.targets is not None:
            losses["labels"] = args.label_weight * F.cross_entropy(
                student.logits, rows.targets, reduction="none"
            )
        return losses


def softened_kl(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    *,
    softening: float,
    teacher_softening: float,
) -> Float[Tensor, " rows"]:
    """KL divergence from the teacher's to the student's softened prediction, per row, in nats.

    The factor τ² keeps the gradient's size independent of the softening (Hinton 2015, §2.1).
    With two softenings it is the student's: then a calibration temperature folded into the
    teacher's softening changes the target and nothing else.

    Args:
        student: logits of the student.
        teacher: logits of the teacher, calibrated or raw; no gradient flows into them.
        softening: τ of the student, > 0.
        teacher_softening: τ of the teacher, > 0.

    Examples:
        >>> import torch
        >>> z = torch.tensor([[2.0, 0.0, -1.0]])
        >>> float(softened_kl(z, z, softening=4.0, teacher_softening=4.0))
        0.0
    """
    target = F.log_softmax(teacher.detach() / teacher_softening, dim=-1)
    prediction = F.log_softmax(student / softening, dim=-1)
    return softening**2 * F.kl_div(prediction, target, reduction="none", log_target=True).sum(-1)
