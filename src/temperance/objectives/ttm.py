"""Transformed teacher matching (Zheng & Yang, ICLR 2024, arXiv 2402.11148)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor

from temperance.objectives.base import LogitObjective, MethodArgs
from temperance.objectives.softened import log_probabilities
from temperance.objectives.transforms import TransformArgs
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows, Signal


class TTMArgs(MethodArgs):
    """TTM; the defaults are the paper's for VGG-13 → VGG-8 on CIFAR-100 (Table 8)."""

    name: Literal["ttm"] = "ttm"
    exponent: PositiveFloat = 0.1
    """γ of the power transform: the teacher's softening is 1/γ, the student has none."""
    transforms: tuple[TransformArgs, ...] = ()
    """What is done to the teacher's logits before they are compared, in this order."""
    weight: Weight = constant(45.0)
    """Weight of the KL term (β); the paper tunes it to each pair of models, from 7 to 101."""
    label_weight: Weight = constant(1.0)
    """Weight of the cross-entropy with the labels."""


class TTM(LogitObjective):
    """label_weight · cross-entropy + weight · KL(pᵞ / Σ pᵞ ‖ student), row by row.

    As a control it is the precise meaning of an under-confident teacher: at softening 1, a
    teacher that is under-confident by a factor u (its logits divided by u) is TTM with γ = 1/u.
    """

    name = "ttm"
    args_class = TTMArgs
    args: TTMArgs
    needs = Needs(logits="sparse")
    row_wise = True
    teacher_logits = "used"
    calibration = (
        "once, in the target: T divides the exponent; KD at τ = 1 from a teacher under-confident"
        " by a factor u is TTM with γ = 1/u"
    )

    def compare(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `ttm`."""
        loss = transformed_teacher_kl(student, teacher, exponent=self.args.exponent)
        return {"ttm": self.args.weight.at(progress) * loss}


def transformed_teacher_kl(
    student: Signal, teacher: Signal, *, exponent: float
) -> Float[Tensor, " rows"]:
    """KL divergence from the power-transformed teacher to the student as it is, per row, in nats.

    The target is pᵞ / Σ pᵞ with p the teacher's prediction (Zheng & Yang 2024, eq. 7), which is
    the teacher softened by 1/γ (eq. 9); the student is not softened and there is no factor τ²
    (eq. 2). So it is KD with softening 1 and teacher softening 1/γ. Compared with KD at τ = 1/γ on
    both sides it adds a reward for the student's Rényi entropy (eq. 15).

    Args:
        teacher: dense, or sparse of softening 1/γ; no gradient should flow into it.
        exponent: γ, > 0; below 1 it smooths.

    Raises:
        UserError: if a sparse teacher's log-sum-exp is of another softening.

    Examples:
        >>> import torch
        >>> student, teacher = Signal(torch.zeros(1, 2)), Signal(torch.tensor([[2.0, 0.0]]))
        >>> round(float(transformed_teacher_kl(student, teacher, exponent=0.5)), 4)
        0.1109
    """
    prediction, target = log_probabilities(
        student, teacher, softening=1.0, teacher_softening=1 / exponent
    )
    return F.kl_div(prediction, target, reduction="none", log_target=True).sum(-1)
