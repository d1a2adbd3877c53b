"""Curriculum temperature: a softening learned against the student (Li et al., AAAI 2023)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from temperance.errors import UserError
from temperance.objectives.base import LogitObjective, MethodArgs, Pair
from temperance.objectives.transforms import TransformArgs
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows, Signal


class CTKDArgs(MethodArgs):
    """Curriculum temperature KD; the defaults are the CIFAR-100 recipe's."""

    name: Literal["ctkd"] = "ctkd"
    variant: Literal["global", "instance"] = "global"
    """One softening for all rows, or one per row that a small network finds from both logits."""
    softening_start: PositiveFloat = 1.0
    """Lowest softening of the student."""
    softening_range: PositiveFloat = 20.0
    """How far above the lowest it can rise."""
    teacher_softening_ratio: PositiveFloat = 1.0
    """Softening of the teacher, as a multiple of the student's."""
    reversal: NonNegativeFloat = 1.0
    """λ, how strongly the softening learns against the student once the curriculum is over."""
    curriculum: float = Field(default=10 / 240, ge=0, le=1)
    """Share of the training over which λ rises from zero; the recipe's is 10 of 240 epochs."""
    hidden: PositiveInt = 64
    """Units of the network of the variant `instance`."""
    transforms: tuple[TransformArgs, ...] = ()
    """What is done to the teacher's logits before they are compared, in this order."""
    weight: Weight = constant(0.9)
    """Weight of the KL term; the softening's gradient is multiplied by it too."""
    label_weight: Weight = constant(0.1)
    """Weight of the cross-entropy with the labels."""


class CTKD(LogitObjective):
    """label_weight · cross-entropy + weight · τ² · KL(teacher ‖ student) at a learned τ, row by
    row ("Curriculum Temperature for Knowledge Distillation", arXiv 2211.16231).

    τ = start + range · sigmoid(θ), and θ learns to raise the loss that the student learns to lower:
    its gradient is reversed, with a strength λ that rises from 0 (`reversal_strength`). θ starts
    at 1, so τ at 15.6.

    For the variant `instance` the paper has a perceptron of two layers take both predictions. Its
    width, its activation (ReLU), and that it looks at logits, without normalising them over the
    batch, are our choice; it starts at the θ of the variant `global`, and the student gets no
    gradient through it.

    Here λ follows `progress`; in the authors' code it has its value of an epoch's end all through
    that epoch. That code also gives θ the network's weight decay, which pulls τ to the middle of
    its range; this engine gives it none.
    """

    name = "ctkd"
    args_class = CTKDArgs
    args: CTKDArgs
    needs = Needs(logits="dense")
    row_wise = True
    teacher_logits = "used"
    calibration = "in the target, and in what τ learns: T multiplies the teacher's softening"
    caution = (
        "the softening that is learned makes up for a part of a calibration temperature; at a fixed"
        " ratio of the softenings it cannot make up for all of it"
    )

    def __init__(self, args: CTKDArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        self.theta: nn.Parameter | None = None
        self.network: nn.Module | None = None
        if self.args.variant == "global":
            self.theta = nn.Parameter(torch.ones(()))

    def adapt(self, pair: Pair) -> None:
        """Make the network of the variant `instance`."""
        if self.args.variant == "instance":
            last = nn.Linear(self.args.hidden, 1)
            nn.init.zeros_(last.weight)
            nn.init.ones_(last.bias)
            first = nn.Linear(2 * pair.student.classes, self.args.hidden)
            self.network = nn.Sequential(first, nn.ReLU(), last)

    def compare(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `ctkd`."""
        strength = self.args.reversal * reversal_strength(progress, self.args.curriculum)
        theta = against(self._theta(student, teacher), strength)
        softening = self.args.softening_start + self.args.softening_range * theta.sigmoid()
        loss = softened_kl_at(
            student.logits,
            teacher.logits,
            softening,
            teacher_softening=softening * self.args.teacher_softening_ratio,
        )
        return {"ctkd": self.args.weight.at(progress) * loss}

    def _theta(self, student: Signal, teacher: Signal) -> Tensor:
        if self.theta is not None:
            return self.theta
        if self.network is None:
            raise UserError(
                "does not know yet how many classes its network looks at",
                where="objective 'ctkd'",
                mend="Call its build (or temperance.attach) with the student and the teacher first",
            )
        logits = torch.cat([teacher.logits, student.logits.detach()], dim=1)
        dtype = next(self.network.parameters()).dtype
        theta: Tensor = self.network(logits.to(dtype))
        return theta


def reversal_strength(progress: float, curriculum: float) -> float:
    """λ, from 0 to 1 along half a cosine while a share `curriculum` of the training is done (Li et
    al. 2023, eq. 11 with λ_min = 0, λ_max = 1).

    Examples:
        >>> [reversal_strength(progress, 0.5) for progress in (0.0, 0.25, 0.5, 1.0)]
        [0.0, 0.5, 1.0, 1.0]
    """
    done = 1.0 if progress >= curriculum else progress / curriculum
    return round((1 - math.cos(math.pi * done)) / 2, 12)


def against(value: Tensor, strength: float) -> Tensor:
    """The same value, with a gradient of −strength times its own (gradient reversal, Ganin &
    Lempitsky 2015): what learns by it raises the loss.

    Examples:
        >>> theta = torch.tensor(3.0, requires_grad=True)
        >>> against(theta, 0.5).square().backward()
        >>> float(theta.grad)
        -3.0
    """
    # The bracket is exactly zero, so only the gradient changes.
    return value.detach() + strength * (value.detach() - value)


def softened_kl_at(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    softening: Float[Tensor, ""] | Float[Tensor, "rows 1"],
    *,
    teacher_softening: Float[Tensor, ""] | Float[Tensor, "rows 1"],
) -> Float[Tensor, " rows"]:
    """τ² · KL divergence from the teacher's to the student's softened prediction, per row, in nats:
    `softened_kl` for softenings that are tensors, of all rows or of each.

    Args:
        softening: τ of the student, > 0, with its gradient; the factor τ² is its.
        teacher_softening: τ of the teacher, > 0.

    Examples:
        >>> z = torch.tensor([[2.0, 0.0, -1.0]])
        >>> tau = torch.tensor(4.0)
        >>> float(softened_kl_at(z, z, tau, teacher_softening=tau))
        0.0
    """
    prediction = F.log_softmax(student / softening, dim=1)
    target = F.log_softmax(teacher / teacher_softening, dim=1)
    divergence = F.kl_div(prediction, target, reduction="none", log_target=True)
    return (softening**2 * divergence).sum(1)
