"""Neuron selectivity transfer (Huang & Wang 2017, arXiv 1707.01219): what channels respond to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.objectives.activations import pooled_to_smaller, unit_length
from temperance.objectives.feature_base import FeatureArgs, FeatureObjective
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows


class NSTArgs(FeatureArgs):
    """Neuron selectivity transfer; the defaults are those of the authors' code."""

    name: Literal["nst"] = "nst"
    kernel: Literal["polynomial", "linear", "gaussian"] = "polynomial"
    """Of two channels' maps x and y: (x · y)², x · y, or exp(−‖x − y‖² / 2σ²)."""
    weight: Weight = constant(50.0)
    """Of the squared discrepancy, as in the authors' code, RepDistiller and mdistiller; the paper
    writes λ / 2 in front of it, so a λ of 50 there is a weight of 25 here."""


class NST(FeatureObjective):
    """weight · Σ over the pairs of `selectivity_loss`, row by row.

    Compared are the last maps, as in the authors' code; RepDistiller and mdistiller take the last
    of every spatial size (set the taps).
    """

    name = "nst"
    args_class = NSTArgs
    args: NSTArgs
    needs = Needs(features="maps")
    row_wise = True
    level = "last"

    def compare(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `nst`, summed over the pairs."""
        losses = [
            selectivity_loss(ours, theirs, kernel=self.args.kernel)
            for ours, theirs in zip(student, teacher, strict=True)
        ]
        return {"nst": self.args.weight.at(progress) * torch.stack(losses).sum(0)}


def selectivity_loss(
    student: Float[Tensor, "rows channels_s height_s width_s"],
    teacher: Float[Tensor, "rows channels_t height_t width_t"],
    *,
    kernel: Literal["polynomial", "linear", "gaussian"] = "polynomial",
) -> Float[Tensor, " rows"]:
    """Squared maximum mean discrepancy of the student's and the teacher's channels, from 0 to 2.

    Each channel's flattened map, scaled to unit length, is one sample of its network's
    distribution; the kernels are the paper's, the polynomial with d = 2 and c = 0. The scale of a
    channel does not matter, nor their order or number. A channel that is zero everywhere stays so.

    σ² of the Gaussian kernel is the mean squared distance of the pairs of a student's and a
    teacher's channel, in each row and without a gradient; the paper does not say which pairs.

    Where the sizes differ the larger map is average-pooled to the smaller. The authors' code leaves
    out the teacher's own term, which is constant; here it is in, so that 0 means equal.

    Memory is ~ rows · channels², not times the pixels too as in RepDistiller and mdistiller.

    Examples:
        >>> left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 3.0]]]])
        >>> selectivity_loss(left, right), selectivity_loss(left, left)
        (tensor([2.]), tensor([0.]))
    """
    student, teacher = pooled_to_smaller(student, teacher)
    ours, theirs = (unit_length(maps.flatten(2), 2) for maps in (student, teacher))
    if kernel == "linear":
        # The mean of x · y over all pairs is the product of the means, so this is exact.
        return (ours.mean(1) - theirs.mean(1)).square().sum(1)
    pairs = ((ours, ours), (theirs, theirs), (ours, theirs))
    if kernel == "polynomial":
        within, of_teacher, across = ((x @ y.mT).square().mean((1, 2)) for x, y in pairs)
        return within + of_teacher - 2 * across
    distances = [_squared_distances(x, y) for x, y in pairs]
    variance = distances[2].detach().mean((1, 2), keepdim=True)
    # All channels alike: every distance is zero, whatever it is divided by.
    variance = variance.masked_fill(variance == 0, 1)
    within, of_teacher, across = (
        (-distance / (2 * variance)).exp().mean((1, 2)) for distance in distances
    )
    return within + of_teacher - 2 * across


def _squared_distances(
    x: Float[Tensor, "rows channels_x pixels"], y: Float[Tensor, "rows channels_y pixels"]
) -> Float[Tensor, "rows channels_x channels_y"]:
    # From inner products: of vectors of length 1 (or 0) they lose nothing that matters.
    return x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None, :] - 2 * x @ y.mT
