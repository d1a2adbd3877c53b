"""Softenings that make every row's target as informative (CIST, Luong et al. 2026)."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from temperance.objectives.base import LogitObjective, MethodArgs
from temperance.objectives.ctkd import softened_kl_at
from temperance.objectives.transforms import TransformArgs
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows, Signal


class CISTArgs(MethodArgs):
    """CIST as we read it; the defaults are ours, near those of KD."""

    name: Literal["cist"] = "cist"
    ratio: PositiveFloat = 4.0
    """Highest logit of the student over its softening, in every row; higher is sharper."""
    teacher_ratio: PositiveFloat | None = None
    """Likewise of the teacher; null: the student's."""
    confidence_power: NonNegativeFloat = 1.0
    """How the weight of a row grows with the teacher's confidence; 0: not at all."""
    difficulty_power: NonNegativeFloat = 1.0
    """How it grows with what the student lacks in that class; 0: not at all."""
    transforms: tuple[TransformArgs, ...] = ()
    """What is done to the teacher's logits before they are compared, in this order."""
    weight: Weight = constant(0.9)
    """Weight of the KL term."""
    label_weight: Weight = constant(0.1)
    """Weight of the cross-entropy with the labels."""


class CIST(LogitObjective):
    """label_weight · cross-entropy + weight · w · τ² · KL(teacher ‖ student), row by row, with a
    softening per row and model ("Consistently Informative Soft-Label Temperature for Knowledge
    Distillation", arXiv 2605.20357).

    From the paper: separate softenings per row for teacher and student; that the entropy of a
    target is governed by the ratio of the highest logit to the softening, which should therefore
    be the same in every row; and a weight that follows the teacher's confidence and the student's
    difficulty. Its equations, settings and code were not to be had, so all that makes these exact
    is our reading, and results need not be the paper's:

    - softening = (highest logit − mean logit) / ratio, for each model from its own logits. The mean
      is subtracted because a softmax does not see a shift.
    - The softening and the weight are constants to the gradient; the factor τ² is the student's, as
      in KD, and 1 in a row whose logits are all the same.
    - w = confidence^a · difficulty^b, at softening 1: the teacher's highest probability, and what
      the student's probability of that class lacks to 1 (`row_weights`). No label is needed.
    """

    name = "cist"
    args_class = CISTArgs
    args: CISTArgs
    needs = Needs(logits="dense")
    row_wise = True
    teacher_logits: Literal["none", "used", "scale_invariant"] = "used"
    calibration = "in the weights of rows only: no temperature changes the targets"
    caution = (
        "the softening of each row undoes a calibration temperature, of the whole set or per row;"
        " what is left of it is the confidence that weights the row"
    )

    def __init__(self, args: CISTArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        if self.args.confidence_power == 0 and not self.args.transforms:
            self.teacher_logits = "scale_invariant"
            self.calibration = "not by a positive factor per row, so by no temperature"

    def compare(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `cist`."""
        loss = consistent_kl(
            student.logits,
            teacher.logits,
            ratio=self.args.ratio,
            teacher_ratio=self.args.teacher_ratio or self.args.ratio,
        )
        weights = row_weights(
            student.logits,
            teacher.logits,
            confidence_power=self.args.confidence_power,
            difficulty_power=self.args.difficulty_power,
        )
        return {"cist": self.args.weight.at(progress) * weights * loss}


def consistent_kl(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    *,
    ratio: float,
    teacher_ratio: float,
) -> Float[Tensor, " rows"]:
    """τ² · KL divergence from the teacher's to the student's prediction, per row, in nats, each
    softened until its highest logit above the mean is `ratio` (our reading of CIST).

    Invariant to a shift of a row of either model, and to a positive factor on a row of the teacher.
    With two classes every target is the same up to the order of the classes.

    Args:
        ratio: of the student, > 0.
        teacher_ratio: of the teacher, > 0.

    Examples:
        >>> student, teacher = torch.tensor([[1.0, -1.0]]), torch.tensor([[-9.0, 9.0]])
        >>> loss = consistent_kl(student, teacher, ratio=1.0, teacher_ratio=1.0)
        >>> [round(value, 4) for value in loss.tolist()]  # 2 · tanh(1)
        [1.5232]
    """
    return softened_kl_at(
        # Relative to the highest, so that a small softening does not enlarge what they share.
        student - student.detach().amax(1, keepdim=True),
        teacher - teacher.detach().amax(1, keepdim=True),
        _softening(student, ratio),
        teacher_softening=_softening(teacher, teacher_ratio),
    )


def row_weights(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    *,
    confidence_power: float,
    difficulty_power: float,
) -> Float[Tensor, " rows"]:
    """p_teacher(c)^a · (1 − p_student(c))^b with c the teacher's class, at softening 1, without
    gradient; from 0 to 1 (our reading of CIST's weights).

    Args:
        confidence_power: a, ≥ 0.
        difficulty_power: b, ≥ 0.

    Examples:
        >>> weights = row_weights(
        ...     torch.tensor([[0.0, 0.0]]),
        ...     torch.tensor([[9e9, 0.0]]),
        ...     confidence_power=1.0,
        ...     difficulty_power=2.0,
        ... )
        >>> [round(weight, 4) for weight in weights.tolist()]  # 1 · ½²
        [0.25]
    """
    log_confidence, chosen = F.log_softmax(teacher.detach(), dim=1).max(1, keepdim=True)
    others = F.log_softmax(student.detach(), dim=1).scatter(1, chosen, -torch.inf)
    # Summed over the others rather than 1 − p: that is zero before it should be.
    log_difficulty = others.logsumexp(1)
    return (confidence_power * log_confidence[:, 0] + difficulty_power * log_difficulty).exp()


def _softening(logits: Tensor, ratio: float) -> Tensor:
    """Of each row, (rows, 1), so that its highest logit above the mean becomes `ratio`."""
    logits = logits.detach()
    # Both differences are to the highest logit: a constant row gives exactly zero.
    height = (logits.amax(1, keepdim=True) - logits).mean(1, keepdim=True)
    is_constant = height < torch.finfo(height.dtype).tiny
    return torch.where(is_constant, 1.0, height / ratio)
