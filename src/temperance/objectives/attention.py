"""Attention transfer (Zagoruyko & Komodakis 2017, arXiv 1612.03928): where a network looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from temperance.objectives.activations import pooled_to_smaller, rescaled, unit_length
from temperance.objectives.feature_base import FeatureArgs, FeatureObjective
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows


class AttentionArgs(FeatureArgs):
    """Attention transfer; the defaults are the paper's."""

    name: Literal["at"] = "at"
    variant: Literal["paper", "code"] = "paper"
    """Half the distance of the two attention maps, or its square as in the authors' code."""
    power: float = Field(default=2.0, ge=1)
    """p of the attention map Σ |activation|ᵖ over the channels."""
    weight: Weight = constant(1000.0)
    """10³ as in the paper and in the code; the division by the map's elements is in the loss."""


class AttentionTransfer(FeatureObjective):
    """weight · Σ over the pairs of `attention_loss`, row by row.

    The paper's β is 10³ divided by the elements of the map and by the batch size. The first
    division is in the loss, per pair of maps, and the second is the mean over the rows.
    """

    name = "at"
    args_class = AttentionArgs
    args: AttentionArgs
    needs = Needs(features="maps")
    row_wise = True
    level = "all"

    def compare(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `at`, summed over the pairs."""
        losses = [
            attention_loss(ours, theirs, variant=self.args.variant, power=self.args.power)
            for ours, theirs in zip(student, teacher, strict=True)
        ]
        return {"at": self.args.weight.at(progress) * torch.stack(losses).sum(0)}


def attention_loss(
    student: Float[Tensor, "rows channels_s height_s width_s"],
    teacher: Float[Tensor, "rows channels_t height_t width_t"],
    *,
    variant: Literal["paper", "code"] = "paper",
    power: float = 2.0,
) -> Float[Tensor, " rows"]:
    """Distance of two attention maps of unit length, divided by their number of elements.

    With d = Q_s / ‖Q_s‖ − Q_t / ‖Q_t‖, Q the flattened Σ |activation|ᵖ over the channels and n its
    elements: ‖d‖ / (2 n) for "paper" (eq. 2, β left to the weight but for its 1 / n), and
    ‖d‖² / n for "code" (github.com/szagoruyko/attention-transfer, which takes a mean over the
    channels; the normalisation makes that the same). ‖d‖ is from 0 to √2.

    Where the sizes differ, "paper" pools the larger attention map to the smaller (it says that maps
    can be interpolated), "code" pools the activations, as RepDistiller and mdistiller do; their
    odd powers keep the sign of an activation, here its magnitude is taken as in the paper.

    Args:
        student: activations of any scale, which does not matter.
        power: p, ≥ 1.

    Examples:
        >>> left, top = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]), torch.eye(2).reshape(1, 1, 2, 2)
        >>> attention_loss(left, top), attention_loss(left, top, variant="code")
        (tensor([0.1250]), tensor([0.2500]))
    """
    if variant == "code":
        student, teacher = pooled_to_smaller(student, teacher)
    ours, theirs = pooled_to_smaller(_attention(student, power), _attention(teacher, power))
    difference = unit_length(ours.flatten(1), 1) - unit_length(theirs.flatten(1), 1)
    if variant == "code":
        return difference.square().mean(1)
    # The gradient of the length is zero where the length is.
    length: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return length / (2 * difference.shape[1])


def _attention(
    activations: Float[Tensor, "rows channels height width"], power: float
) -> Float[Tensor, "rows 1 height width"]:
    return rescaled(activations, (1, 2, 3)).abs().pow(power).sum(1, keepdim=True)
