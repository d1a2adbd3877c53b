"""Decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv 2203.08679)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from temperance.objectives.base import LogitObjective, SofteningArgs
from temperance.objectives.weights import Weight, WeightArgs, constant
from temperance.rows import Needs, Rows, Signal


class DKDArgs(SofteningArgs):
    """Decoupled KD; the defaults are the CIFAR-100 recipe's.

    The authors set β per pair of models: 2, 6 or 8 on CIFAR-100, 0.5 or 2 (at τ = 1) on ImageNet.
    """

    name: Literal["dkd"] = "dkd"
    softening: PositiveFloat = 4.0
    """τ of the student, and of the teacher unless set below."""
    alpha: NonNegativeFloat = 1.0
    """α, of the target class against all others (TCKD)."""
    beta: NonNegativeFloat = 8.0
    """β, of the other classes among themselves (NCKD)."""
    weight: Weight = WeightArgs(value=1.0, warmup=20 / 240)
    """Weight of both terms; rises over the first 20 of 240 epochs."""
    label_weight: Weight = constant(1.0)
    """Weight of the cross-entropy with the labels."""


class DKD(LogitObjective):
    """label_weight · cross-entropy + weight · (α · TCKD + β · NCKD), row by row (eq. 7).

    The authors' code steps the warm-up once per epoch; here it rises with every step.
    """

    name = "dkd"
    args_class = DKDArgs
    args: DKDArgs
    needs = Needs(logits="dense", targets="required", soft_targets=False)
    row_wise = True
    teacher_logits = "used"
    calibration = "twice: the target's confidence (TCKD), the sharpness among the others (NCKD)"

    def compare(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The losses `target_kd` and `non_target_kd`."""
        assert rows.targets is not None
        softening, teacher_softening = self.softenings
        target, non_target = decoupled_kl(
            student.logits,
            teacher.logits,
            rows.targets,
            softening=softening,
            teacher_softening=teacher_softening,
        )
        weight = self.args.weight.at(progress)
        return {
            "target_kd": weight * self.args.alpha * target,
            "non_target_kd": weight * self.args.beta * non_target,
        }


def decoupled_kl(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    softening: float,
    teacher_softening: float,
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """τ² · TCKD and τ² · NCKD, the two parts of KD's divergence, per row, in nats, ≥ 0.

    TCKD is the KL divergence between (p(y), 1 − p(y)) of teacher and student, NCKD the one between
    their softmaxes over the classes other than y. KD is TCKD + (1 − p(y) of the teacher) · NCKD
    (Zhao et al. 2022, eq. 6). With two classes NCKD is 0.

    The authors' code takes the log of a sum of probabilities, which is −∞ for a model that is
    certain, and subtracts 1000 from the target's logit, which does not remove a target that leads
    by more. Here both are exact: they stay logits.

    Args:
        teacher: no gradient should flow into it.
        targets: from 0 to classes − 1.
        softening: τ of the student, > 0; the factor τ² is its.
        teacher_softening: τ of the teacher, > 0.

    Examples:
        >>> z = torch.tensor([[2.0, 0.0, -1.0]])
        >>> target, non_target = decoupled_kl(
        ...     z, z + torch.tensor([5.0, 0.0, 0.0]), torch.tensor([0]),
        ...     softening=4.0, teacher_softening=4.0,
        ... )
        >>> round(float(target), 3), float(non_target)
        (2.677, 0.0)
    """
    student, teacher = student / softening, teacher / teacher_softening
    target = _kl(_binary(student, targets), _binary(teacher, targets))
    non_target = _kl(
        F.log_softmax(without_target(student, targets), dim=1),
        F.log_softmax(without_target(teacher, targets), dim=1),
    )
    return softening**2 * target, softening**2 * non_target


def without_target(
    logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"]
) -> Float[Tensor, "rows others"]:
    """The logits of all classes but the row's target, in order.

    Examples:
        >>> without_target(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1])).tolist()
        [[1.0, 3.0]]
    """
    # Gathered rather than masked with −∞, which turns into NaN where it meets another.
    position = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, position + (position >= targets[:, None]))


def target_log_odds(
    logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """log p(y) − log(1 − p(y)): its sigmoid is the target's probability, exact near 0 and 1.

    Examples:
        >>> target_log_odds(torch.tensor([[50.0, 0.0]]), torch.tensor([0])).tolist()
        [50.0]
    """
    own = logits.gather(1, targets[:, None]).squeeze(1)
    return own - without_target(logits, targets).logsumexp(1)


def _binary(
    logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"]
) -> Float[Tensor, "rows 2"]:
    """log p(y) and log(1 − p(y))."""
    log_odds = target_log_odds(logits, targets)
    return torch.stack([F.logsigmoid(log_odds), F.logsigmoid(-log_odds)], dim=1)


def _kl(
    prediction: Float[Tensor, "rows events"], target: Float[Tensor, "rows events"]
) -> Float[Tensor, " rows"]:
    return F.kl_div(prediction, target, reduction="none", log_target=True).sum(1)
