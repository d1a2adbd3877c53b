"""Relational KD (Park et al., CVPR 2019, arXiv 1904.05068): distances and angles among rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from temperance.objectives.activations import unit_length
from temperance.objectives.feature_base import FeatureArgs, FeatureObjective
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows


class RKDArgs(FeatureArgs):
    """Relational KD; the weights are the authors' for classification, 1 and 2 for retrieval."""

    name: Literal["rkd"] = "rkd"
    variant: Literal["paper", "code"] = "paper"
    """Mean over pairs and triplets of different rows, or over all rows² and rows³ as in the
    published code; what that adds is 0 (unless rows are at the same place), so it is smaller."""
    l2_normalize: bool = False
    """Scale embeddings to unit length first, as the authors' classification script and MMRazor do;
    RepDistiller and mdistiller do not."""
    distance_weight: Weight = constant(25.0)
    """Weight of the distance-wise loss."""
    angle_weight: Weight = constant(50.0)
    """Weight of the angle-wise loss, which takes memory and time ~ rows³."""


class RKD(FeatureObjective):
    """distance_weight · `rkd_distance_loss` + angle_weight · `rkd_angle_loss`.

    Both are scalars over the local batch. The paper writes sums over the pairs and triplets; its
    weights belong to the means that its code takes. Activations that are no vectors are flattened.
    """

    name = "rkd"
    args_class = RKDArgs
    args: RKDArgs
    needs = Needs(features="any")
    row_wise = False
    level = "embedding"

    def compare(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The losses `rkd_distance` and `rkd_angle`, each summed over the pairs of taps."""
        args, distances, angles = self.args, [], []
        for pair in zip(student, teacher, strict=True):
            ours, theirs = (
                unit_length(vectors, 1) if args.l2_normalize else vectors
                for vectors in (activations.flatten(1) for activations in pair)
            )
            distances.append(rkd_distance_loss(ours, theirs, variant=args.variant))
            angles.append(rkd_angle_loss(ours, theirs, variant=args.variant))
        return {
            "rkd_distance": args.distance_weight.at(progress) * torch.stack(distances).sum(),
            "rkd_angle": args.angle_weight.at(progress) * torch.stack(angles).sum(),
        }


def rkd_distance_loss(
    student: Float[Tensor, "rows units_s"],
    teacher: Float[Tensor, "rows units_t"],
    *,
    variant: Literal["paper", "code"] = "paper",
) -> Float[Tensor, ""]:
    """Mean Huber loss of the distances between rows, in units of their mean (Park 2019, eq. 5–8).

    The mean distance is over pairs of different rows. Neither scale matters. One row gives 0.
    Distances are taken from differences; the published code takes them from inner products, which
    cancel between rows that are close. Rows at the same place get no gradient from one another.

    Args:
        variant: "paper" divides by the rows · (rows − 1) pairs of different rows, "code" by rows².

    Examples:
        >>> line, corner = torch.tensor([[0.0], [1], [2]]), torch.tensor([[0.0, 0], [1, 0], [0, 1]])
        >>> round(float(rkd_distance_loss(line, corner)), 4)
        0.1075
    """
    n = len(student)
    pairs = n * (n - 1) if variant == "paper" else n * n
    loss = F.smooth_l1_loss(_distances(student), _distances(teacher), reduction="sum")
    return loss / max(pairs, 1)


def rkd_angle_loss(
    student: Float[Tensor, "rows units_s"],
    teacher: Float[Tensor, "rows units_t"],
    *,
    variant: Literal["paper", "code"] = "paper",
) -> Float[Tensor, ""]:
    """Mean Huber loss of the cosines of the angles that triplets of rows make (eq. 8–10).

    Neither scale matters. Fewer than three rows give 0. Two rows at the same place make no angle:
    its cosine is 0, without a gradient. Memory is ~ rows³ + rows² · units.

    Args:
        variant: "paper" is the mean over rows · (rows − 1) · (rows − 2) triplets of different rows,
            "code" over all rows³; the others of these are 0 unless rows are at the same place.

    Examples:
        >>> line, corner = torch.tensor([[0.0], [1], [2]]), torch.tensor([[0.0, 0], [1, 0], [0, 1]])
        >>> round(float(rkd_angle_loss(line, corner)), 4)
        0.5833
    """
    n = len(student)
    triplets = n * (n - 1) * (n - 2) if variant == "paper" else n**3
    ours, theirs = _cosines(student), _cosines(teacher)
    loss = F.smooth_l1_loss(ours, theirs, reduction="sum")
    if variant == "paper":
        # Of a triplet i, j, i the cosine is 1, but 0 where i and j are at the same place.
        same, of_teacher = (cosines.diagonal(dim1=1, dim2=2) for cosines in (ours, theirs))
        loss = loss - F.smooth_l1_loss(same, of_teacher, reduction="sum")
    return loss / max(triplets, 1)


def _distances(vectors: Float[Tensor, "rows units"]) -> Float[Tensor, "rows rows"]:
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    n = len(vectors)
    mean = distances.sum() / max(n * (n - 1), 1)
    return distances / mean.masked_fill(mean == 0, torch.inf)


def _cosines(vectors: Float[Tensor, "rows units"]) -> Float[Tensor, "vertex rows rows"]:
    """Of the angle at each row, between the directions to any two."""
    directions = unit_length(vectors[None, :, :] - vectors[:, None, :], 2)
    return directions @ directions.mT
