"""Normalised knowledge distillation (Yang et al., ICCV 2023, arXiv 2303.13005)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from temperance.objectives.base import LogitObjective, SofteningArgs
from temperance.objectives.dkd import target_log_odds, without_target
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows, Signal


class NKDArgs(SofteningArgs):
    """Normalised KD; the defaults are the ImageNet recipe's.

    The authors' configuration for CIFAR-100 has τ = 3 and γ = 3.5.
    """

    name: Literal["nkd"] = "nkd"
    softening: PositiveFloat = 1.0
    """τ of the student among the classes other than the target, and of the teacher unless set
    below; the target's term is always at 1."""
    gamma: NonNegativeFloat = 1.5
    """γ, of the classes other than the target."""
    weight: Weight = constant(1.0)
    """Weight of both terms."""
    label_weight: Weight = constant(1.0)
    """Weight of the cross-entropy with the labels."""


class NKD(LogitObjective):
    """label_weight · cross-entropy + weight · (target's term + γ · the others'), row by row."""

    name = "nkd"
    args_class = NKDArgs
    args: NKDArgs
    needs = Needs(logits="dense", targets="required", soft_targets=False)
    row_wise = True
    teacher_logits = "used"
    calibration = (
        "twice: p(label) weights the target's term, the sharpness among the others is their target"
    )
    caution = (
        "the softening does not reach the target's term, so a teacher calibrated by a temperature"
        " is not one of another softening: where it is right, T > 1 also lowers the weight p(label)"
    )

    def compare(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The losses `target_nkd` and `non_target_nkd`."""
        assert rows.targets is not None
        softening, teacher_softening = self.softenings
        target, non_target = normalized_cross_entropies(
            student.logits,
            teacher.logits,
            rows.targets,
            softening=softening,
            teacher_softening=teacher_softening,
        )
        weight = self.args.weight.at(progress)
        return {
            "target_nkd": weight * target,
            "non_target_nkd": weight * self.args.gamma * non_target,
        }


def normalized_cross_entropies(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    softening: float,
    teacher_softening: float,
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The two parts of the NKD loss (Yang et al. 2023, L_NKD) per row, in nats, ≥ 0.

    For label y, the target's part is −p_teacher(y) · log p_student(y), both at softening 1. It is
    a cross-entropy with the label that the teacher's confidence weights, so its minimum is a
    student that is certain of the label, not one that agrees with the teacher.
    The others' part is τ² times the cross-entropy between the softmaxes over the classes other
    than y, both normalised to 1. It is lowest, at τ² times the teacher's entropy among them, where
    they agree; with two classes it is 0.

    Paper and authors' code agree; an early version of the code left the target among the others
    by mistake (github.com/yzd-v/cls_KD, issue 16).

    Args:
        teacher: no gradient should flow into it.
        targets: from 0 to classes − 1.
        softening: τ of the student, > 0; the factor τ² is its.
        teacher_softening: τ of the teacher, > 0.

    Examples:
        >>> import torch
        >>> z = torch.tensor([[2.0, 0.0, 0.0]])
        >>> target, non_target = normalized_cross_entropies(
        ...     z, z, torch.tensor([0]), softening=1.0, teacher_softening=1.0
        ... )
        >>> round(float(target), 4), round(float(non_target), 4)  # −p log p, log 2
        (0.1885, 0.6931)
    """
    confidence = target_log_odds(teacher, targets).sigmoid()
    target = -confidence * F.logsigmoid(target_log_odds(student, targets))
    wanted = F.softmax(without_target(teacher / teacher_softening, targets), dim=1)
    log_probability = F.log_softmax(without_target(student / softening, targets), dim=1)
    return target, -(softening**2) * (wanted * log_probability).sum(1)
