"""Variational information distillation (Ahn et al., CVPR 2019, arXiv 1904.05835)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveFloat, model_validator
from torch import Tensor, nn

from temperance.objectives.activations import pooled_to_smaller
from temperance.objectives.base import Pair
from temperance.objectives.connectors import check_maps_or_vectors
from temperance.objectives.feature_base import FeatureArgs, FeatureObjective
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows


class VIDArgs(FeatureArgs):
    """Variational information distillation; weight and variances are the published code's."""

    name: Literal["vid"] = "vid"
    initial_variance: PositiveFloat = 5.0
    """σ² of every channel at the beginning; it is learned."""
    variance_floor: PositiveFloat = 1e-5
    """What σ² cannot fall below."""
    weight: Weight = constant(1.0)
    """Weight of the sum over the levels."""

    @model_validator(mode="after")
    def _variances(self) -> Self:
        if self.initial_variance <= self.variance_floor:
            raise ValueError("initial_variance has to be above variance_floor")
        return self


class VID(FeatureObjective):
    """label_weight · cross-entropy + weight · Σ −log q(teacher | student) over the levels, row by
    row.

    q is a Gaussian for each teacher activation: its mean comes from the student's activation by
    three 1×1 convolutions (linear layers for vectors) with ReLU between and as many channels as the
    teacher, its variance is learned per channel. The loss can be negative.

    The paper sums over channels and positions; here, as in the published code, it is the mean,
    which the weight of 1 goes with. One widespread implementation keeps the variances in a plain
    list, so that they are never optimised; here they are parameters.
    """

    name = "vid"
    args_class = VIDArgs
    args: VIDArgs
    needs = Needs(features="any")
    level = "all"
    row_wise = True

    def make_adapters(
        self, student: Sequence[torch.Size], teacher: Sequence[torch.Size], pair: Pair
    ) -> None:
        """A regressor and variances per level."""
        check_maps_or_vectors(self.name, student, teacher)
        self.regressors = nn.ModuleList(
            _Regressor(
                own[1],
                others[1],
                maps=len(own) == 4,
                initial_variance=self.args.initial_variance,
                variance_floor=self.args.variance_floor,
            )
            for own, others in zip(student, teacher, strict=True)
        )

    def compare(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `vid`."""
        losses = []
        for regressor, own, others in zip(self.regressors, student, teacher, strict=True):
            if own.ndim == 4:
                own, others = pooled_to_smaller(own, others)
            regressor = cast(_Regressor, regressor)
            losses.append(gaussian_nll(regressor(own), others, regressor.variance))
        return {"vid": self.args.weight.at(progress) * torch.stack(losses).sum(0)}


def gaussian_nll(
    mean: Float[Tensor, "rows channels ..."],
    teacher: Float[Tensor, "rows channels ..."],
    variance: Float[Tensor, " channels"],
) -> Float[Tensor, " rows"]:
    """½ · [(mean − teacher)² / σ² + log σ²], the mean over channels and positions, per row.

    The negative log-density of the teacher's activations without the constant ½ log 2π, in nats
    per activation; an upper bound of what the student does not know of them (Ahn et al. 2019, §2).

    Args:
        mean: of each activation, as predicted from the student.
        teacher: no gradient should flow into it.
        variance: σ² per channel, > 0.

    Examples:
        >>> gaussian_nll(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), torch.ones(2)).tolist()
        [1.25]
    """
    variance = variance.view(1, -1, *[1] * (mean.ndim - 2))
    loss = ((mean - teacher) ** 2 / variance + variance.log()) / 2
    return loss.flatten(1).mean(1)


class _Regressor(nn.Module):
    """Mean and variance of the teacher's activation, given the student's."""

    def __init__(
        self,
        before: int,
        after: int,
        *,
        maps: bool,
        initial_variance: float,
        variance_floor: float,
    ) -> None:
        super().__init__()

        def layer(inputs: int) -> nn.Module:
            if maps:
                return nn.Conv2d(inputs, after, 1, bias=False)
            return nn.Linear(inputs, after, bias=False)

        self.mean = nn.Sequential(layer(before), nn.ReLU(), layer(after), nn.ReLU(), layer(after))
        self.variance_floor = variance_floor
        # softplus⁻¹(x) = x + log(1 − e⁻ˣ)
        above = torch.tensor(initial_variance - variance_floor, dtype=torch.float64)
        raw = above + torch.log(-torch.expm1(-above))
        self.raw_variance = nn.Parameter(torch.full((after,), float(raw)))

    @property
    def variance(self) -> Tensor:
        return F.softplus(self.raw_variance) + self.variance_floor

    def forward(self, x: Tensor) -> Tensor:
        return self.mean(x)  # type: ignore[no-any-return]
