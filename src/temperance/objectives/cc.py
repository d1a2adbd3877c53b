"""Correlation congruence (Peng et al., ICCV 2019, arXiv 1904.01802)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from temperance.errors import UserError
from temperance.objectives.activations import unit_length
from temperance.objectives.base import Pair
from temperance.objectives.feature_base import FeatureArgs, FeatureObjective
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows


class CCArgs(FeatureArgs):
    """Correlation congruence; the defaults are those that yoshitomo-matsubara/torchdistill gives
    for the paper.

    The paper adds vanilla KD to it (eq. 7): `kd+cc`.
    """

    name: Literal["cc"] = "cc"
    variant: Literal["paper", "code"] = "paper"
    """paper: the batch's correlation matrices are compared; code: what a widely used repository
    computes instead, products of the distances of neighbouring rows (its weight is 0.02)."""
    kernel: Literal["gaussian", "bilinear"] = "gaussian"
    """How two rows correlate (variant paper)."""
    gamma: PositiveFloat = 0.4
    """γ of the Gaussian kernel exp(−γ‖x − y‖²)."""
    order: PositiveInt = 2
    """P, the last power in the Gaussian kernel's Taylor series."""
    embedding_size: PositiveInt | None = 128
    """Units of the learned linear layers on top of both embeddings; null: compare these as they
    are."""
    weight: Weight = constant(0.003)
    """Weight of the correlation term."""


class CC(FeatureObjective):
    """label_weight · cross-entropy + weight · distance of the correlations within the batch.

    A scalar over the local batch: what is compared are pairs of rows.

    Both embeddings pass a learned linear layer first, the teacher's too, as published. These layers
    learn to make the loss small as well, which they can do without the student: `embedding_size`
    null rules that out (with the variant paper the sizes need not match).
    """

    name = "cc"
    args_class = CCArgs
    args: CCArgs
    needs = Needs(features="embeddings")
    level = "embedding"
    row_wise = False

    def make_adapters(
        self, student: Sequence[torch.Size], teacher: Sequence[torch.Size], pair: Pair
    ) -> None:
        """A linear layer on top of each embedding."""
        (own,), (others,) = student, teacher
        size = self.args.embedding_size
        if size is None and self.args.variant == "code" and own[1] != others[1]:
            raise UserError(
                f"subtracts embeddings, and the student's has {own[1]} units, the teacher's"
                f" {others[1]}",
                where=f"objective '{self.name}'",
                mend="Set embedding_size to a number, or variant to 'paper'",
            )
        self.student_embedding = nn.Identity() if size is None else nn.Linear(own[1], size)
        self.teacher_embedding = nn.Identity() if size is None else nn.Linear(others[1], size)

    def compare(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `cc`."""
        own = self.student_embedding(student[0])
        others = self.teacher_embedding(teacher[0])
        if self.args.variant == "code":
            loss = neighbour_product(own, others)
        else:
            order = self.args.order if self.args.kernel == "gaussian" else None
            loss = correlation_distance(own, others, gamma=self.args.gamma, order=order)
        return {"cc": self.args.weight.at(progress) * loss}


def correlation_distance(
    student: Float[Tensor, "rows units_s"],
    teacher: Float[Tensor, "rows units_t"],
    *,
    gamma: float,
    order: int | None,
) -> Float[Tensor, ""]:
    """‖C_s − C_t‖² / n² of the n × n correlation matrices of the rows, ≥ 0.

    With an order P, correlation is the Gaussian kernel exp(−γ‖x − y‖²) of unit vectors, its Taylor
    series cut after P: exp(−2γ) · Σ_p (2γ)^p / p! · (x · y)^p, p from 0 to P. Without one it is
    x · y. Rows are divided by their length in both, which the factor exp(−2γ) presumes; one public
    implementation leaves that out, and takes the norm of the difference where the paper squares it.

    Args:
        teacher: of any number of units.
        gamma: γ, > 0; without meaning where there is no order.
        order: P, or None for the bilinear kernel.

    Examples:
        >>> student, teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.ones(2, 3)
        >>> round(float(correlation_distance(student, teacher, gamma=0.4, order=None)), 4)
        0.5
        >>> float(correlation_distance(student, student, gamma=0.4, order=2))
        0.0
    """
    own, others = (_correlations(unit_length(x, 1), gamma, order) for x in (student, teacher))
    return ((own - others) ** 2).mean()


def neighbour_product(
    student: Float[Tensor, "rows units"], teacher: Float[Tensor, "rows units"]
) -> Float[Tensor, ""]:
    """The mean over neighbouring rows i, i + 1 of Σ |Δ_i| · |Δ_{i+1}|, Δ = student − teacher.

    What HobbitLong/RepDistiller computes under the name of the method. It depends on the order of
    the rows, and vanishes where every other row agrees. A single row has no neighbour: 0.

    Examples:
        >>> student = torch.tensor([[1.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
        >>> float(neighbour_product(student, torch.zeros(3, 2)))
        1.0
    """
    distance = (student - teacher).abs()
    return (distance[:-1] * distance[1:]).sum() / max(1, len(distance) - 1)


def _correlations(
    rows: Float[Tensor, "rows units"], gamma: float, order: int | None
) -> Float[Tensor, "rows rows"]:
    cosine = rows @ rows.T
    if order is None:
        return cosine
    terms = [(2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(terms).sum(0)
