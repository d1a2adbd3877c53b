"""Similarity-preserving KD (Tung & Mori, ICCV 2019, arXiv 1907.09682): which rows are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.objectives.activations import rescaled, unit_length
from temperance.objectives.feature_base import FeatureArgs, FeatureObjective
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows


class SPArgs(FeatureArgs):
    """Similarity-preserving KD; the defaults are the paper's."""

    name: Literal["sp"] = "sp"
    weight: Weight = constant(3000.0)
    """γ."""


class SP(FeatureObjective):
    """weight · Σ over the pairs of `similarity_loss`: a scalar over the local batch."""

    name = "sp"
    args_class = SPArgs
    args: SPArgs
    needs = Needs(features="any")
    row_wise = False
    level = "last"

    def compare(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `sp`, summed over the pairs."""
        losses = [
            similarity_loss(ours, theirs) for ours, theirs in zip(student, teacher, strict=True)
        ]
        return {"sp": self.args.weight.at(progress) * torch.stack(losses).sum()}


def similarity_loss(
    student: Float[Tensor, "rows ..."], teacher: Float[Tensor, "rows ..."]
) -> Float[Tensor, ""]:
    """‖G_t − G_s‖² / rows², from 0 to 4 / rows (Tung & Mori 2019, eq. 1–4).

    G holds the inner products of the flattened activations of any two rows, each of its rows then
    scaled to unit length. Student and teacher may differ in everything but the number of rows.

    A row whose activations are all zero has similarity 0 to all and gets no gradient through its
    own row of G; the published code's ε gives it one of up to 10¹².

    Examples:
        >>> apart, same = torch.eye(2), torch.ones(2, 1)
        >>> round(float(similarity_loss(apart, same)), 4)
        0.2929
    """
    difference = _similarities(teacher) - _similarities(student)
    return difference.square().sum() / len(student) ** 2


def _similarities(activations: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows rows"]:
    flat = rescaled(activations.flatten(1), (0, 1))
    return unit_length(flat @ flat.T, 1)
