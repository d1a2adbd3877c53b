"""Multi-level logit distillation (Jin, Wang & Lin, CVPR 2023, "Multi-Level Logit Distillation")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import PositiveFloat
from torch import Tensor

from temperance.objectives.base import LogitObjective, SofteningArgs
from temperance.objectives.kd import softened_kl
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows, Signal

Softenings = Sequence[tuple[float, float]]
"""Pairs of the student's τ and the teacher's."""

STRONG_SOFTENINGS = 3
"""How many of the softenings the published code uses for the strong view."""


class MLKDArgs(SofteningArgs):
    """Multi-level KD; the defaults are the published CIFAR-100 code's."""

    name: Literal["mlkd"] = "mlkd"
    variant: Literal["paper", "code"] = "paper"
    """The three levels on the batch as it is; or what the published code computes, on two views of
    each sample, the weakly augmented ones first."""
    softening: PositiveFloat = 4.0
    """τ of the student, and of the teacher unless set below."""
    other_softenings: tuple[PositiveFloat, ...] = (3.0, 5.0, 2.0, 6.0)
    """Further τ of the student at which the predictions are compared as well. The teacher's are in
    the same ratio to them as `teacher_softening` is to `softening`."""
    instance_weight: Weight = constant(0.9)
    """Weight of the divergences between predictions."""
    batch_weight: Weight = constant(0.9)
    """Weight of the differences between similarities of rows."""
    class_weight: Weight = constant(0.9)
    """Weight of the differences between similarities of classes."""
    label_weight: Weight = constant(0.1)
    """Weight of the cross-entropy with the labels; in `code`, of its sum over the two views."""


class MLKD(LogitObjective):
    """label_weight · cross-entropy + the weighted instance, batch and class levels, each summed
    over all softenings.

    The batch and the class level are scalars over the local batch: the first grows with the number
    of rows, the second with its square, and both as if all rows had the same weight. With the
    variant `code` the instance level is such a scalar too.
    """

    name = "mlkd"
    args_class = MLKDArgs
    args: MLKDArgs
    needs = Needs(logits="dense")
    row_wise = False
    teacher_logits = "used"
    calibration = "in the targets of all three levels: T multiplies every softening of the teacher"
    caution = (
        "its softenings are an average over a range already, so a calibrated teacher moves the"
        " range; the variant 'code' also counts rows below the median confidence, at softening 1"
    )

    def __init__(self, args: MLKDArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        if self.args.variant == "code":
            self.needs = replace(self.needs, views=2)

    def compare(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The losses `instance_level`, `batch_level` and `class_level`."""
        own, teachers = self.softenings
        softenings = [(tau, tau * teachers / own) for tau in (own, *self.args.other_softenings)]
        levels = published_levels if self.args.variant == "code" else prediction_levels
        instance, batch, classes = levels(student.logits, teacher.logits, softenings)
        return {
            "instance_level": self.args.instance_weight.at(progress) * instance,
            "batch_level": self.args.batch_weight.at(progress) * batch,
            "class_level": self.args.class_weight.at(progress) * classes,
        }

    def _label_loss(self, logits: Tensor, targets: Int[Tensor, " rows"]) -> Tensor:
        loss = super()._label_loss(logits, targets)
        # The published code adds the two views' means, and a mean over all rows halves that.
        return 2 * loss if self.args.variant == "code" else loss


def prediction_levels(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    softenings: Softenings,
) -> tuple[Float[Tensor, " rows"], Float[Tensor, ""], Float[Tensor, ""]]:
    """The instance, batch and class level (Jin et al. 2023), each a sum over softenings, ≥ 0.

    Of predictions P (rows × classes) of teacher t and student s, B rows and C classes:
    instance τ² · KL(t ‖ s) per row, in nats; batch ‖P_t P_tᵀ − P_s P_sᵀ‖² / B; class
    ‖P_tᵀ P_t − P_sᵀ P_s‖² / C, both Frobenius norms and without τ².

    The paper's text was not at hand: the formulas are its authors' code's for one view, the factor
    τ² among them, without masks by the teacher's confidence (see `published_levels`).

    Args:
        teacher: no gradient should flow into it.
        softenings: τ of the student and τ of the teacher, > 0; the factor τ² is the student's.

    Examples:
        >>> student, teacher = torch.zeros(2, 2), torch.tensor([[9e9, 0.0], [0.0, 9e9]])
        >>> _, batch, classes = prediction_levels(student, teacher, [(1.0, 1.0)])
        >>> float(batch), float(classes)  # (2 · ½² + 2 · ½²) / 2
        (0.5, 0.5)
    """
    divergence = torch.stack([_divergence(student, teacher, pair) for pair in softenings]).sum(0)
    batch = torch.stack([_batch_level(student, teacher, pair) for pair in softenings]).sum()
    classes = torch.stack([_class_level(student, teacher, pair) for pair in softenings]).sum()
    return divergence, batch, classes


def published_levels(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    softenings: Softenings,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """The three levels as the authors' code computes them from a weak and a strong view.

    It differs from what it seems to intend, and the number is reproduced as it is
    (github.com/Jin-Ying/Multi-Level-Logit-Distillation, mdistiller/distillers/KD_ours.py):

    - The masks are to select the half of the rows, and of the classes, in which the teacher is less
      confident (up to the median, at softening 1, of the weak view). They multiply losses that are
      averaged already, so they select nothing: they scale all by the share that they would keep.
    - The instance level of the strong view takes its logits at the first three softenings only,
      and at the others those of the weak view again, unscaled.
    - Batch and class level of the strong view are computed and dropped.

    Args:
        student: the weak view of every sample, then the strong view in the same order.
        teacher: likewise; no gradient should flow into it.
        softenings: τ of the student and τ of the teacher, > 0.

    Examples:
        >>> z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> [float(level) for level in published_levels(z, z, [(4.0, 4.0)])]
        [0.0, 0.0, 0.0]
    """
    weak, strong = student.chunk(2)
    teacher_weak, teacher_strong = teacher.chunk(2)
    belief = F.softmax(teacher_weak, dim=1)
    share_of_rows = _share_up_to_the_median(belief.amax(1))
    share_of_classes = _share_up_to_the_median(belief.sum(0))

    of_weak = [_divergence(weak, teacher_weak, pair).mean() for pair in softenings]
    of_strong = [
        _divergence(strong, teacher_strong, pair).mean() for pair in softenings[:STRONG_SOFTENINGS]
    ]
    instance = torch.stack(
        [*(share_of_rows * loss for loss in of_weak), *of_strong, *of_weak[STRONG_SOFTENINGS:]]
    ).sum()
    batch = torch.stack([_batch_level(weak, teacher_weak, pair) for pair in softenings]).sum()
    classes = torch.stack([_class_level(weak, teacher_weak, pair) for pair in softenings]).sum()
    return instance, share_of_rows * batch, share_of_classes * classes


def _share_up_to_the_median(values: Tensor) -> Tensor:
    return (values <= values.quantile(0.5)).to(values.dtype).mean()


def _divergence(student: Tensor, teacher: Tensor, softenings: tuple[float, float]) -> Tensor:
    softening, teacher_softening = softenings
    return softened_kl(
        Signal(student),
        Signal(teacher),
        softening=softening,
        teacher_softening=teacher_softening,
    )


def _batch_level(student: Tensor, teacher: Tensor, softenings: tuple[float, float]) -> Tensor:
    prediction, target = _predictions(student, teacher, softenings)
    return (target @ target.T - prediction @ prediction.T).square().sum() / len(student)


def _class_level(student: Tensor, teacher: Tensor, softenings: tuple[float, float]) -> Tensor:
    prediction, target = _predictions(student, teacher, softenings)
    return (target.T @ target - prediction.T @ prediction).square().sum() / student.shape[1]


def _predictions(
    student: Tensor, teacher: Tensor, softenings: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    softening, teacher_softening = softenings
    return F.softmax(student / softening, dim=1), F.softmax(teacher / teacher_softening, dim=1)
