"""FitNet hints (Romero et al. 2015, arXiv 1412.6550): regress a teacher's middle activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from temperance.errors import UserError
from temperance.objectives.activations import pooled_to_smaller
from temperance.objectives.base import Pair
from temperance.objectives.feature_base import FeatureArgs, FeatureObjective
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows


class FitNetArgs(FeatureArgs):
    """FitNet hints; the weight is that of RepDistiller and mdistiller."""

    name: Literal["fitnet"] = "fitnet"
    regressor: Literal["linear", "convreg"] = "linear"
    """What leads from the student's activation to the teacher's: a linear map, or the published
    code's convolution, BatchNorm and ReLU (feature maps only)."""
    weight: Weight = constant(100.0)
    """Weight of the mean squared error."""


class FitNet(FeatureObjective):
    """weight · mean squared error of regressor(student) and teacher, row by row (eq. 3).

    Differences from the paper, all of them as in RepDistiller and mdistiller: hint and labels are
    trained together (the paper trains the student up to its guided layer on the hint alone, then
    all of it by KD); the error is a mean over the elements (the paper: half their sum), which is
    what the weight belongs to.

    The regressor `linear` is a linear layer for vectors and token sequences and a 1×1 convolution
    for maps, with a bias. At equal sizes that is the paper's, but for its nonlinearity: the paper
    gives the regressor that of the hint layer, and a tap may be in front of it. At different sizes
    the larger map is average-pooled to the smaller, where the paper takes a kernel as large as the
    difference.
    `convreg` is the published code's: a 3×3 convolution of stride 2 where the student's map is
    twice the teacher's, a 4×4 transposed one where it is half, otherwise the paper's kernel; then
    BatchNorm and ReLU. So it never reaches a teacher's negative values (in a pre-activation network
    a stage gives such), and its BatchNorm, like a student's, sees the local batch.
    """

    name = "fitnet"
    args_class = FitNetArgs
    args: FitNetArgs
    needs = Needs(features="any")
    row_wise = True
    level = "middle"

    def make_adapters(
        self, student: Sequence[torch.Size], teacher: Sequence[torch.Size], pair: Pair
    ) -> None:
        """One regressor per pair."""
        make = _linear if self.args.regressor == "linear" else _convreg
        regressors = []
        for ours, theirs in zip(student, teacher, strict=True):
            if len(ours) != len(theirs):
                raise _no_regressor(ours, theirs, "Tap both at maps or both at vectors")
            regressors.append(make(ours, theirs))
        self.regressors = nn.ModuleList(regressors)

    def compare(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `fitnet`, summed over the pairs."""
        losses = []
        for regressor, ours, theirs in zip(self.regressors, student, teacher, strict=True):
            if ours.ndim == 4 and self.args.regressor == "linear":
                ours, theirs = pooled_to_smaller(ours, theirs)
            losses.append(hint_loss(regressor(ours), theirs))
        return {"fitnet": self.args.weight.at(progress) * torch.stack(losses).sum(0)}


def hint_loss(
    prediction: Float[Tensor, "rows ..."], hint: Float[Tensor, "rows ..."]
) -> Float[Tensor, " rows"]:
    """Mean over a row's elements of the squared error, ≥ 0 (Romero et al. 2015, eq. 3).

    Args:
        prediction: the student's activation after the regressor.
        hint: the teacher's, of the same shape.

    Examples:
        >>> hint_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]]))
        tensor([2.])
    """
    return (prediction - hint).square().flatten(1).mean(1)


def _linear(student: torch.Size, teacher: torch.Size) -> nn.Module:
    if len(student) == 4:
        return nn.Conv2d(student[1], teacher[1], 1)
    if student[1:-1] != teacher[1:-1]:
        raise _no_regressor(student, teacher, "Tap both where they have as many tokens")
    return nn.Linear(student[-1], teacher[-1])


def _convreg(student: torch.Size, teacher: torch.Size) -> nn.Module:
    if len(student) != 4:
        raise _no_regressor(student, teacher, "Set regressor to linear")
    (height, width), (to_height, to_width) = student[2:], teacher[2:]
    channels = student[1], teacher[1]
    convolution: nn.Module
    if (height, width) == (2 * to_height, 2 * to_width):
        convolution = nn.Conv2d(*channels, 3, stride=2, padding=1)
    elif (2 * height, 2 * width) == (to_height, to_width):
        convolution = nn.ConvTranspose2d(*channels, 4, stride=2, padding=1)
    elif height >= to_height and width >= to_width:
        convolution = nn.Conv2d(*channels, (1 + height - to_height, 1 + width - to_width))
    else:
        raise _no_regressor(student, teacher, "Set regressor to linear")
    return nn.Sequential(convolution, nn.BatchNorm2d(teacher[1]), nn.ReLU())


def _no_regressor(student: torch.Size, teacher: torch.Size, mend: str) -> UserError:
    return UserError(
        f"has no such regressor from {tuple(student)} to {tuple(teacher)} (rows first)",
        where="objective 'fitnet'",
        mend=mend,
    )
