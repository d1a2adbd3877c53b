"""Softmax regression representation learning (Yang et al., ICLR 2021).

"Knowledge distillation via softmax regression representation learning", openreview ZzwDy_wiWv.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from temperance.errors import UserError
from temperance.objectives.base import Pair
from temperance.objectives.connectors import BatchNorm
from temperance.objectives.feature_base import FeatureArgs, FeatureObjective
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows


class SRRLArgs(FeatureArgs):
    """Softmax regression representation learning; weights of 1 as in the published code."""

    name: Literal["srrl"] = "srrl"
    rectify: bool = True
    """End the connector with a ReLU, as published: right for a teacher whose embedding is behind
    one, wrong for one whose embedding can be negative (a vision transformer's)."""
    feature_weight: Weight = constant(1.0)
    """α, weight of the distance of the embeddings."""
    weight: Weight = constant(1.0)
    """β, weight of the distance of what the teacher's head makes of them."""


class SRRL(FeatureObjective):
    """label_weight · cross-entropy + feature_weight · L_FM + weight · L_SR, row by row (eq. 8).

    The student's embedding passes a learned connector (linear, batch normalisation, ReLU) to the
    teacher's size. L_FM compares the two embeddings (eq. 3), L_SR the two sets of logits that the
    teacher's frozen head gives for them (eq. 7): the teacher's own logits before any calibrator.

    The connector normalises over the batch in training, as most students do themselves; apart from
    that a row's loss depends on that row alone.

    Differences between paper and published code: the paper's squared norms are means over units and
    classes there, as here, which the weights of 1 go with; its connector works on the last map
    before this is averaged, here on the embedding.
    """

    name = "srrl"
    args_class = SRRLArgs
    args: SRRLArgs
    needs = Needs(features="embeddings")
    level = "embedding"
    row_wise = True
    calibration = "not at all: it regresses the raw logits through the teacher's own head"

    def make_adapters(
        self, student: Sequence[torch.Size], teacher: Sequence[torch.Size], pair: Pair
    ) -> None:
        """The connector; the teacher's head is looked up."""
        assert pair.teacher is not None
        before, after = student[0][1], teacher[0][1]
        head = pair.teacher.head and pair.teacher.model.get_submodule(pair.teacher.head)
        if not isinstance(head, nn.Linear) or head.in_features != after:
            raise UserError(
                "gives embeddings to the linear layer that makes the teacher's logits, and"
                + (
                    f" it takes {head.in_features} units, not {after}"
                    if isinstance(head, nn.Linear)
                    else " the teacher has none"
                ),
                where=f"objective '{self.name}'",
                mend="Set teacher_taps to what its head gets, or use another objective",
            )
        linear = nn.Linear(before, after, bias=False)
        nn.init.normal_(linear.weight, std=math.sqrt(2 / after))
        self.connector = nn.Sequential(linear, BatchNorm(after))
        if self.args.rectify:
            self.connector.append(nn.ReLU())
        # In a tuple: as a submodule it would be trained and checkpointed with the student.
        self._teacher_head = (head,)

    def compare(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The losses `srrl_features` and `srrl`."""
        guess = self.connector(student[0])
        features, logits = representation_losses(
            guess, teacher[0], self._teacher_head[0].weight.detach().to(guess)
        )
        return {
            "srrl_features": self.args.feature_weight.at(progress) * features,
            "srrl": self.args.weight.at(progress) * logits,
        }


def representation_losses(
    student: Float[Tensor, "rows units"],
    teacher: Float[Tensor, "rows units"],
    head: Float[Tensor, "classes units"],
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """‖h_t − h_s‖² / units and ‖W h_t − W h_s‖² / classes per row, ≥ 0 (Yang et al. 2021, eq. 3
    and 7).

    W h_t are the teacher's raw logits, up to the head's bias, which the difference cancels.

    Args:
        student: embeddings of the teacher's size.
        teacher: no gradient should flow into it.
        head: W, the weight of the teacher's last layer.

    Examples:
        >>> student, teacher = torch.tensor([[1.0, 1.0]]), torch.zeros(1, 2)
        >>> head = torch.tensor([[1.0, -1.0], [2.0, 0.0]])
        >>> [float(loss) for loss in representation_losses(student, teacher, head)]
        [1.0, 2.0]
    """
    difference = student - teacher
    return (difference**2).mean(1), ((difference @ head.T) ** 2).mean(1)
