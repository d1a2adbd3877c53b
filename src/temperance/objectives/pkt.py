"""Probabilistic knowledge transfer (Passalis & Tefas, ECCV 2018, arXiv 1803.10837)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.objectives.activations import unit_length
from temperance.objectives.feature_base import FeatureArgs, FeatureObjective
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows

EPSILON = 1e-7
"""Of the published code; a similarity of "paper" is at least this."""


class PKTArgs(FeatureArgs):
    """Probabilistic knowledge transfer; the weight is RepDistiller's and mdistiller's."""

    name: Literal["pkt"] = "pkt"
    variant: Literal["paper", "code"] = "paper"
    """Neighbours are the other rows, or also the row itself as in the authors' code."""
    weight: Weight = constant(30000.0)
    """Weight of the divergence."""


class PKT(FeatureObjective):
    """weight · Σ over the pairs of `pkt_loss`: a scalar over the local batch.

    The paper has no weight: it trains on this loss alone. Activations that are no vectors are
    flattened.
    """

    name = "pkt"
    args_class = PKTArgs
    args: PKTArgs
    needs = Needs(features="any")
    row_wise = False
    level = "embedding"

    def compare(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `pkt`, summed over the pairs."""
        losses = [
            pkt_loss(ours.flatten(1), theirs.flatten(1), variant=self.args.variant)
            for ours, theirs in zip(student, teacher, strict=True)
        ]
        return {"pkt": self.args.weight.at(progress) * torch.stack(losses).sum()}


def pkt_loss(
    student: Float[Tensor, "rows units_s"],
    teacher: Float[Tensor, "rows units_t"],
    *,
    variant: Literal["paper", "code"] = "paper",
) -> Float[Tensor, ""]:
    """KL divergence from the teacher's to the student's neighbour probabilities / rows², in nats.

    Of row i, neighbour j has probability K(i, j) / Σ_k K(i, k) with K = (1 + cosine) / 2. "paper":
    j and k are the other rows. "code" (github.com/passalis/probabilistic_kt): i itself is among
    them, and an ε of 10⁻⁷ is added to each probability inside the logarithm. The paper sums over
    all i and j, the code takes the mean, which is what the weight belongs to; here both are
    divided by rows². One row gives 0. A vector of zeros has cosine 0 to all and no gradient, which
    is NaN in the published code.

    Examples:
        >>> square = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
        >>> bent = torch.tensor([[1.0, 0], [0, 1], [0, 1]])
        >>> round(float(pkt_loss(bent, square)), 4)
        0.1286
        >>> round(float(pkt_loss(bent, square, variant="code")), 4)
        0.0686
    """
    n = len(student)
    ours, theirs = _similarities(student), _similarities(teacher)
    if variant == "code":
        q, p = (kernel / kernel.sum(1, keepdim=True) for kernel in (ours, theirs))
        return (p * ((p + EPSILON).log() - (q + EPSILON).log())).sum() / n**2
    # Opposite vectors have similarity 0, of which there is no logarithm.
    ours, theirs = ours.clamp(min=EPSILON), theirs.clamp(min=EPSILON)
    others = 1 - torch.eye(n, dtype=ours.dtype, device=ours.device)
    # The least total is what it is with one other row; with none, all is multiplied by 0 below.
    total, of_teacher = (
        (kernel * others).sum(1, keepdim=True).clamp(min=EPSILON) for kernel in (ours, theirs)
    )
    divergence = (theirs.log() - of_teacher.log()) - (ours.log() - total.log())
    return (others * theirs / of_teacher * divergence).sum() / n**2


def _similarities(vectors: Float[Tensor, "rows units"]) -> Float[Tensor, "rows rows"]:
    units = unit_length(vectors, 1)
    # Rounding may put a cosine just below −1.
    return ((1 + units @ units.T) / 2).clamp(min=0)
