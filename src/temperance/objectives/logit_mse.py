"""Regression on the teacher's logits (Ba & Caruana 2014; Kim et al. 2021, arXiv 2105.08919)."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from temperance.objectives.base import LogitObjective, MethodArgs
from temperance.objectives.transforms import TransformArgs
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows, Signal


class LogitMSEArgs(MethodArgs):
    """Logit regression; the defaults are Kim et al.'s, who train without labels."""

    name: Literal["logit-mse"] = "logit-mse"
    over_classes: Literal["mean", "sum"] = "mean"
    """Mean or sum of the squared differences of a row."""
    centred: bool = False
    """Whether each row's mean is subtracted first, which a softmax would not see."""
    transforms: tuple[TransformArgs, ...] = ()
    """What is done to the teacher's logits before they are compared, in this order."""
    weight: Weight = constant(1.0)
    """Weight of the squared error."""
    label_weight: Weight = constant(0.0)
    """Weight of the cross-entropy with the labels."""


class LogitMSE(LogitObjective):
    """label_weight · cross-entropy + weight · squared difference of the logits, row by row."""

    name = "logit-mse"
    args_class = LogitMSEArgs
    args: LogitMSEArgs
    needs = Needs(logits="dense")
    row_wise = True
    teacher_logits = "used"
    calibration = "once, in the target: T divides the logits that are regressed on"
    caution = (
        "calibrating changes the scale of the regression's target, so the size of the loss as well"
        " as the student's own confidence; a transform or a calibrator that works on probabilities"
        " also moves each row's mean, which only `centred` ignores"
    )

    def compare(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `logit_mse`."""
        loss = squared_logit_error(
            student.logits,
            teacher.logits,
            over_classes=self.args.over_classes,
            centred=self.args.centred,
        )
        return {"logit_mse": self.args.weight.at(progress) * loss}


def squared_logit_error(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    *,
    over_classes: Literal["mean", "sum"] = "mean",
    centred: bool = False,
) -> Float[Tensor, " rows"]:
    """Squared difference of the logits, per row, in squared logits.

    Kim et al. 2021 write ‖z_s − z_t‖², the sum over classes, call it the mean squared error, and
    their published code takes the mean over classes, as here by default: with many classes the two
    differ in effect like learning rates. Ba & Caruana 2014 (eq. 1) have half of the sum.

    Centred, it is the limit of vanilla KD: τ² KL → mean / 2 for τ → ∞ on both sides (Hinton et al.
    2015, §2.1, for logits of zero mean). As the papers have it, it also pulls the row's mean to the
    teacher's.

    Args:
        over_classes: mean or sum of the squares.
        centred: whether each row's mean is subtracted first.

    Examples:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]])
        >>> squared_logit_error(student, teacher)
        tensor([5.])
        >>> squared_logit_error(student, teacher, centred=True)
        tensor([1.])
    """
    difference = student - teacher
    if centred:
        difference = difference - difference.mean(-1, keepdim=True)
    squares = difference.square()
    return squares.mean(-1) if over_classes == "mean" else squares.sum(-1)
