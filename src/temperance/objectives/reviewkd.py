"""Knowledge review (Chen et al., CVPR 2021, arXiv 2104.09044)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from temperance.objectives.base import Pair
from temperance.objectives.connectors import BatchNorm
from temperance.objectives.feature_base import FeatureArgs, FeatureObjective
from temperance.objectives.weights import Weight, WeightArgs
from temperance.rows import Needs, Rows

PYRAMID = (4, 2, 1)
"""Heights and widths at which two maps are compared, beside their own."""


class ReviewKDArgs(FeatureArgs):
    """Knowledge review; the defaults are the CIFAR-100 recipe's.

    The authors' weight depends on the pair: 5 for wide ResNets and ResNets of width 4, 8 for
    resnet32x4 → ShuffleNetV2, 0.6 for resnet56 → resnet20, 1 for resnet110 → resnet32; on ImageNet
    1 (ResNet) or 8 (MobileNet).
    """

    name: Literal["reviewkd"] = "reviewkd"
    pooled: bool = True
    """Compare the mean over the last map, too, as a further level of size 1, as the published code
    does for classification."""
    max_channels: PositiveInt = 512
    """Channels in which levels are fused: those of the student's last, or this if it has more."""
    weight: Weight = WeightArgs(value=5.0, warmup=20 / 240)
    """Weight of the sum over the levels; rises over the first 20 of 240 epochs."""


class ReviewKD(FeatureObjective):
    """label_weight · cross-entropy + weight · Σ hierarchical context loss over the levels, row by
    row.

    From the deepest level to the first, the student's map is fused with what was fused before, by
    learned attention over the two, and compared with the teacher's map of that level: each level
    of the teacher teaches all levels of the student behind it.

    The fusions normalise over the batch in training, as most students do themselves; apart from
    that a row's loss depends on that row alone.

    Differences from the published code: shapes are found by a look at the models, where it lists
    them per pair; it takes the teacher's activations before the last ReLU of a stage (set
    `teacher_taps` for that where the model has a module there), here they are stages' outputs; it
    steps the warm-up once per epoch, here it rises with every step.
    """

    name = "reviewkd"
    args_class = ReviewKDArgs
    args: ReviewKDArgs
    needs = Needs(features="maps")
    level = "all"
    row_wise = True

    def make_adapters(
        self, student: Sequence[torch.Size], teacher: Sequence[torch.Size], pair: Pair
    ) -> None:
        """One fusion per level."""
        own, others = ([shape[1] for shape in shapes] for shapes in (student, teacher))
        if self.args.pooled:
            own, others = [*own, own[-1]], [*others, others[-1]]
        middle = min(self.args.max_channels, own[-1])
        self.fusions = nn.ModuleList(
            _Fusion(before, middle, after, deepest=i == len(own) - 1)
            for i, (before, after) in enumerate(zip(own, others, strict=True))
        )

    def compare(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `reviewkd`."""
        if self.args.pooled:
            student, teacher = ([*maps, _mean_map(maps[-1])] for maps in (student, teacher))
        losses = []
        fused: Tensor | None = None
        for fusion, own, others in zip(
            reversed(self.fusions), reversed(student), reversed(teacher), strict=True
        ):
            fused, guess = fusion(own, fused, others.shape[2:])
            losses.append(hierarchical_context_loss(guess, others))
        return {"reviewkd": self.args.weight.at(progress) * torch.stack(losses).sum(0)}


def hierarchical_context_loss(
    student: Float[Tensor, "rows channels height width"],
    teacher: Float[Tensor, "rows channels height width"],
) -> Float[Tensor, " rows"]:
    """Mean squared difference of two maps and of their 4×4, 2×2 and 1×1 average pools, per row.

    The weighted mean of these, with weights 1, ½, ¼, ⅛; grids that are not smaller than the map
    are left out, and the next takes their weight (HCL, Chen et al. 2021).

    Args:
        teacher: no gradient should flow into it.

    Examples:
        >>> student = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]])
        >>> float(hierarchical_context_loss(student, torch.zeros(1, 1, 2, 2)))  # (1 + ½ · 0) / 1½
        0.6666666865348816
    """
    losses, weights = [_mean_square(student - teacher)], [1.0]
    for size in PYRAMID:
        if size < min(student.shape[2:]):
            losses.append(_mean_square(F.adaptive_avg_pool2d(student - teacher, size)))
            weights.append(weights[-1] / 2)
    weighted = [weight * loss for weight, loss in zip(weights, losses, strict=True)]
    return torch.stack(weighted).sum(0) / sum(weights)


class _Fusion(nn.Module):
    """Attention-based fusion (ABF) of a level of the student with the deeper ones."""

    def __init__(self, before: int, middle: int, after: int, *, deepest: bool) -> None:
        super().__init__()
        self.inner = _normalised(nn.Conv2d(before, middle, 1, bias=False))
        self.attention = None if deepest else nn.Conv2d(2 * middle, 2, 1)
        self.outer = _normalised(nn.Conv2d(middle, after, 3, padding=1, bias=False))

    def forward(
        self, own: Tensor, deeper: Tensor | None, size: torch.Size
    ) -> tuple[Tensor, Tensor]:
        """What the level before is fused with, and what the teacher's map is compared with."""
        fused: Tensor = self.inner(own)
        if self.attention is not None:
            assert deeper is not None
            deeper = _resized(deeper, fused.shape[2:])
            attention = self.attention(torch.cat([fused, deeper], dim=1)).sigmoid()
            fused = fused * attention[:, :1] + deeper * attention[:, 1:]
        fused = _resized(fused, size)
        return fused, self.outer(fused)


def _normalised(convolution: nn.Conv2d) -> nn.Sequential:
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, BatchNorm(convolution.out_channels))


def _mean_map(maps: Tensor) -> Tensor:
    return maps.mean((2, 3), keepdim=True)


def _resized(maps: Tensor, size: torch.Size) -> Tensor:
    return maps if maps.shape[2:] == size else F.interpolate(maps, tuple(size), mode="nearest")


def _mean_square(difference: Tensor) -> Tensor:
    return (difference**2).flatten(1).mean(1)
