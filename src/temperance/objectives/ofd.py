"""Overhaul of feature distillation (Heo et al., ICCV 2019, arXiv 1904.01866)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor, nn

from temperance.objectives.activations import pooled_to_smaller
from temperance.objectives.base import Pair
from temperance.objectives.connectors import BatchNorm
from temperance.objectives.feature_base import FeatureArgs, FeatureObjective
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows


class OFDArgs(FeatureArgs):
    """Overhaul of feature distillation; the weight is the CIFAR-100 recipe's."""

    name: Literal["ofd"] = "ofd"
    weight: Weight = constant(1e-3)
    """Weight of the sum over the levels; 1e-4 on ImageNet."""


class OFD(FeatureObjective):
    """label_weight · cross-entropy + weight · Σ partial L2 distance / 2^(n − i) over the levels
    i = 1 … n, row by row.

    The student's map passes a learned 1×1 convolution and a batch normalisation, the teacher's a
    margin ReLU, max(x, m), with a negative margin per channel: the mean of its negative responses.
    It is known beforehand where a teacher tap is an `nn.BatchNorm2d`; else it is the mean over the
    batches seen so far in training, this one among them, on all processes. The method is made for
    activations before a ReLU: behind one nothing is negative, the margin is 0, and the student is
    asked for no more than to be below 0 where the teacher is silent. Set `teacher_taps` to the
    normalisations before the ReLUs where the model has them, and `student_taps` likewise.

    The connectors normalise over the batch in training, as most students do themselves; apart from
    that, and from a margin that still settles, a row's loss depends on that row alone.

    Differences from the published code: it runs the teacher in training mode, here it is in
    evaluation mode as all teachers are; it sets the margin to −3 standard deviations where fewer
    than 1 in 1000 responses are negative, here the expectation holds there too. Maps of different
    sizes are averaged to the smaller.
    """

    name = "ofd"
    args_class = OFDArgs
    args: OFDArgs
    needs = Needs(features="maps")
    level = "all"
    row_wise = True

    def make_adapters(
        self, student: Sequence[torch.Size], teacher: Sequence[torch.Size], pair: Pair
    ) -> None:
        """A connector and a margin per level."""
        assert pair.teacher is not None
        self.connectors = nn.ModuleList(
            _connector(own[1], others[1]) for own, others in zip(student, teacher, strict=True)
        )
        modules = dict(pair.teacher.model.named_modules())
        self.margins = nn.ModuleList(
            _Margin(shape[1], modules.get(tap))  # None: the tap is an input
            for tap, shape in zip(self.teacher_taps, teacher, strict=True)
        )

    def compare(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `ofd`."""
        losses = []
        levels = zip(self.connectors, self.margins, student, teacher, strict=True)
        for i, (connector, margin, *level) in enumerate(levels, start=1):
            own, others = pooled_to_smaller(*level)
            distance = partial_l2(connector(own), others, margin(level[1]))
            losses.append(distance / 2 ** (len(student) - i))
        return {"ofd": self.args.weight.at(progress) * torch.stack(losses).sum(0)}


def partial_l2(
    student: Float[Tensor, "rows channels height width"],
    teacher: Float[Tensor, "rows channels height width"],
    margin: Float[Tensor, " channels"],
) -> Float[Tensor, " rows"]:
    """Σ (student − max(teacher, margin))² per row, without what is negative in both and lower in
    the student (Heo et al. 2019, §3).

    Args:
        teacher: before its ReLU; no gradient should flow into it.
        margin: ≤ 0.

    Examples:
        >>> student = torch.tensor([-9.0, -1.0, 1.0]).view(1, 3, 1, 1)
        >>> teacher = torch.tensor([-9.0, -9.0, 3.0]).view(1, 3, 1, 1)
        >>> partial_l2(student, teacher, torch.full((3,), -2.0)).tolist()  # 0 + 1² + 2²
        [5.0]
    """
    target = teacher.maximum(margin.to(teacher.dtype)[:, None, None])
    counts = (student > target) | (target > 0)
    difference = torch.where(counts, student - target, torch.zeros_like(target))
    return (difference**2).flatten(1).sum(1)


def expected_negative(
    mean: Float[Tensor, " channels"], deviation: Float[Tensor, " channels"]
) -> Float[Tensor, " channels"]:
    """E[x | x < 0] of x ~ N(mean, deviation²), ≤ 0: the margin behind a batch normalisation.

    mean − deviation · φ(a) / Φ(−a) with a = mean / deviation; 0 for a constant that is not
    negative.

    Args:
        deviation: of either sign, as a normalisation's weight is.

    Examples:
        >>> expected_negative(torch.zeros(1), torch.ones(1))  # −√(2 / π)
        tensor([-0.7979])
    """
    exact, spread = mean.double(), deviation.double().abs().clamp(min=1e-30)
    # φ(a) / Φ(−a) = √(2 / π) / erfcx(a / √2), which holds where both are 0 in floating point.
    scaled: Tensor = torch.special.erfcx(exact / spread / math.sqrt(2))
    return (exact - spread * math.sqrt(2 / math.pi) / scaled).clamp(max=0).to(mean.dtype)


class _Margin(nn.Module):
    """The mean of a teacher channel's negative responses."""

    mean: Tensor
    count: Tensor

    def __init__(self, channels: int, module: nn.Module | None) -> None:
        super().__init__()
        self.known = isinstance(module, nn.BatchNorm2d)
        mean = torch.zeros(channels)
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            mean = expected_negative(module.bias.detach().cpu(), module.weight.detach().cpu())
        elif self.known:
            mean = expected_negative(mean, torch.ones_like(mean))
        self.register_buffer("mean", mean)
        self.register_buffer("count", torch.zeros(channels, dtype=torch.int64))

    @torch.no_grad()
    def forward(self, teacher: Tensor) -> Tensor:
        """The margin per channel, which has learned from these responses in training."""
        if self.training and not self.known:
            negative = teacher < 0
            count = negative.sum((0, 2, 3))
            total = teacher.where(negative, torch.zeros_like(teacher)).sum((0, 2, 3))
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(count)
                torch.distributed.all_reduce(total)
            self.count += count
            # The change of the running mean; 0 where no response was ever negative.
            change = (total - count * self.mean) / self.count.clamp(min=1)
            self.mean += change.to(self.mean.dtype)
        return self.mean


def _connector(before: int, after: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 1, bias=False)
    nn.init.normal_(convolution.weight, std=math.sqrt(2 / after))
    return nn.Sequential(convolution, BatchNorm(after))
