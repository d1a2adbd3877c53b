"""Weighted transformed teacher matching (Zheng & Yang, ICLR 2024, arXiv 2402.11148)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from temperance.objectives.base import LogitObjective, MethodArgs
from temperance.objectives.transforms import TransformArgs
from temperance.objectives.ttm import transformed_teacher_kl
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows, Signal


class WTTMArgs(MethodArgs):
    """WTTM; the defaults are the paper's for VGG-13 → VGG-8 on CIFAR-100 (Table 8)."""

    name: Literal["wttm"] = "wttm"
    exponent: float = Field(default=0.1, gt=0, le=1)
    """γ of the power transform: the teacher's softening is 1/γ, the student has none."""
    transforms: tuple[TransformArgs, ...] = ()
    """What is done to the teacher's logits before they are compared, in this order."""
    weight: Weight = constant(2.25)
    """Weight of the KL term (β), beside each row's own; the paper tunes it to each pair."""
    label_weight: Weight = constant(1.0)
    """Weight of the cross-entropy with the labels."""


class WTTM(LogitObjective):
    """label_weight · cross-entropy + weight · Σ pᵞ · KL(pᵞ / Σ pᵞ ‖ student), row by row."""

    name = "wttm"
    args_class = WTTMArgs
    args: WTTMArgs
    needs = Needs(logits="dense")
    row_wise = True
    teacher_logits = "used"
    calibration = "twice: T divides the target's exponent, and raises each row's weight"
    caution = (
        "a teacher softened by its calibration weighs more in every row: compare arms at the same"
        " mean weight, or tune `weight` for each"
    )

    def compare(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `wttm`."""
        loss = power_sum(teacher.logits, exponent=self.args.exponent) * transformed_teacher_kl(
            student, teacher, exponent=self.args.exponent
        )
        return {"wttm": self.args.weight.at(progress) * loss}


def power_sum(logits: Float[Tensor, "rows classes"], *, exponent: float) -> Float[Tensor, " rows"]:
    """U = Σ pᵞ of each row's prediction p, by which WTTM weighs the row's loss.

    From 1 for a certain prediction to K¹⁻ᵞ for a uniform one of K classes (Zheng & Yang 2024,
    eq. 22): rows that the teacher finds hard count more. The weights are not normalised over the
    batch (eq. 23, and the authors' code).

    Args:
        exponent: γ, in (0, 1].

    Examples:
        >>> import torch
        >>> power_sum(torch.tensor([[0.0, 0.0, 0.0, 0.0], [99.0, 0.0, 0.0, 0.0]]), exponent=0.5)
        tensor([2., 1.])
    """
    return (exponent * F.log_softmax(logits, dim=-1)).logsumexp(-1).exp()
