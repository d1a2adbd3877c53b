"""DIST: relations between classes and between rows instead of an exact match (NeurIPS 2022)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor

from temperance.objectives.base import LogitObjective, SofteningArgs
from temperance.objectives.softened import log_probabilities
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows, Signal

Variant = Literal["paper", "code"]


class DISTArgs(SofteningArgs):
    """DIST; the defaults are the CIFAR-100 recipe's. The ImageNet recipe has τ = 1."""

    name: Literal["dist"] = "dist"
    softening: PositiveFloat = 4.0
    """τ of the student, and of the teacher unless set below."""
    inter_weight: Weight = constant(2.0)
    """β, weight of the relation between the classes of a row."""
    intra_weight: Weight = constant(2.0)
    """γ, weight of the relation between the rows of a class."""
    label_weight: Weight = constant(1.0)
    """Weight of the cross-entropy with the labels."""
    variant: Variant = "paper"
    """Pearson's correlation, or the published code's, which 1e-8 in the denominator turns to 0
    where probabilities hardly vary."""


class DIST(LogitObjective):
    """label_weight · cross-entropy + β · τ² · inter-class + γ · τ² · intra-class (Huang et al.,
    "Knowledge Distillation from A Stronger Teacher", arXiv 2205.10536).

    The inter-class loss is one per row. The intra-class loss is a scalar over the local batch,
    since it correlates the rows of each class: it depends on the batch size, and is 0 for one row.
    """

    name = "dist"
    args_class = DISTArgs
    args: DISTArgs
    needs = Needs(logits="dense")
    row_wise = False
    teacher_logits = "used"
    calibration = "mildly: correlations see the shape of the probabilities, not their range"

    def compare(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The losses `inter_class`, per row, and `intra_class`, a scalar."""
        softening, teacher_softening = self.softenings
        of_rows = inter_class_loss(
            student.logits,
            teacher.logits,
            softening=softening,
            teacher_softening=teacher_softening,
            variant=self.args.variant,
        )
        of_classes = intra_class_loss(
            student.logits,
            teacher.logits,
            softening=softening,
            teacher_softening=teacher_softening,
            variant=self.args.variant,
        )
        return {
            "inter_class": self.args.inter_weight.at(progress) * of_rows,
            "intra_class": self.args.intra_weight.at(progress) * of_classes,
        }


def inter_class_loss(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    *,
    softening: float,
    teacher_softening: float,
    variant: Variant = "paper",
) -> Float[Tensor, " rows"]:
    """τ² · (1 − Pearson correlation over the classes) of the two softened predictions, per row.

    From 0, in perfect linear relation, to 2 τ². The factor τ² (of the student) is the published
    code's; at the paper's softening of 1 on ImageNet there is none to see.

    A prediction without any variance has no correlation. Where both have none the loss is 0; where
    one has none it is τ², with a gradient of zero. The published code (`code`) gives τ² for both,
    and adds 1e-8 to the product of the norms: then the loss of classes that are improbable in
    every row is τ² whatever they do, and its gradient at a constant student is of order 1e8.

    Args:
        teacher: no gradient should flow into it.
        softening: τ of the student, > 0.
        teacher_softening: τ of the teacher, > 0.

    Examples:
        >>> student = torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 0.0]])
        >>> teacher = torch.tensor([[5.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
        >>> loss = inter_class_loss(student, teacher, softening=2.0, teacher_softening=1.0)
        >>> [round(value, 4) for value in loss.tolist()]  # 2 τ², 0, τ²
        [8.0, 0.0, 4.0]
    """
    prediction, target = log_probabilities(
        Signal(student), Signal(teacher), softening=softening, teacher_softening=teacher_softening
    )
    return softening**2 * _distance(prediction, target, 1, variant)


def intra_class_loss(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    *,
    softening: float,
    teacher_softening: float,
    variant: Variant = "paper",
) -> Float[Tensor, ""]:
    """τ² · the mean over classes of 1 − Pearson correlation over the rows: `inter_class_loss` of
    the transposed probabilities.

    Not a sum over rows: it correlates the local batch as it is given, without weights of rows.

    Examples:
        >>> student, teacher = torch.tensor([[0.0, 2.0], [0.0, -2.0]]), torch.zeros(2, 2)
        >>> float(intra_class_loss(student, teacher, softening=1.0, teacher_softening=1.0))
        1.0
    """
    prediction, target = log_probabilities(
        Signal(student), Signal(teacher), softening=softening, teacher_softening=teacher_softening
    )
    return softening**2 * _distance(prediction, target, 0, variant).mean()


def _distance(prediction: Tensor, target: Tensor, dim: int, variant: Variant) -> Tensor:
    """1 − Pearson correlation along `dim`, given logs of probabilities."""
    if variant == "code":
        one, other = (_centred(log.exp(), dim) for log in (prediction, target))
        norms = [torch.linalg.vector_norm(deviations, dim=dim) for deviations in (one, other)]
        published: Tensor = 1 - (one * other).sum(dim) / (norms[0] * norms[1] + 1e-8)
        return published
    one, one_is_constant = _direction(prediction, dim)
    other, other_is_constant = _direction(target, dim)
    # Of unit vectors, half the squared distance is 1 − their product, without cancellation.
    half = (one - other).square().sum(dim) / 2
    return half + (one_is_constant != other_is_constant).to(half.dtype) / 2


def _direction(log_probability: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Deviations from the mean, of length 1 or, where there are none, 0; and where that is.

    A correlation does not see the scale, so each step may choose it: relative to the largest
    probability tiny ones are neither lost nor rounded, and relative to the largest deviation the
    squares cannot underflow. For the same reason no gradient is lost with that of the scales.
    """
    highest = log_probability.detach().amax(dim, keepdim=True)
    deviations = _centred((log_probability - highest).expm1(), dim)
    largest = deviations.detach().abs().amax(dim, keepdim=True)
    is_constant = largest < torch.finfo(largest.dtype).tiny ** 0.5
    scaled = deviations / torch.where(is_constant, 1.0, largest)
    squares = scaled.square().sum(dim, keepdim=True)
    unit = scaled * torch.where(is_constant, 1.0, squares).rsqrt()
    return torch.where(is_constant, 0.0, unit), is_constant.squeeze(dim)


def _centred(values: Tensor, dim: int) -> Tensor:
    return values - values.mean(dim, keepdim=True)
