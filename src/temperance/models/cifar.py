"""The CIFAR family of the distillation literature: ResNet-d, ResNet-dxk, WRN-d-w.

Widths, strides and initialisation are those of Tian et al. 2020 (CRD, arXiv 1910.10699), whose
recipe the field compares on: convolutions start as Kaiming normal over fan-out.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ResNet(nn.Module):
    """ResNet for small images (He et al. 2016, §4.2), with basic blocks in three stages.

    Args:
        depth: layers, 6n + 2.
        width_factor: k of ResNet-dxk, whose stages have 16k, 32k and 64k channels behind a stem of
            8k; ResNet-d (k = 1) has a stem of 16.
    """

    def __init__(self, channels: int, n_classes: int, *, depth: int, width_factor: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        stem = max(16, 8 * width_factor)
        widths = [stem, *(width_factor * width for width in (16, 32, 64))]
        self.stem = nn.Sequential(_conv(channels, stem), nn.BatchNorm2d(stem), nn.ReLU())
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    _BasicBlock(widths[i], widths[i + 1], stride=2 if i else 1),
                    *(_BasicBlock(widths[i + 1], widths[i + 1]) for _ in range(blocks - 1)),
                )
                for i in range(3)
            )
        )
        self.head = nn.Linear(widths[-1], n_classes)
        _initialise(self)

    def forward(self, x: Float[Tensor, "rows channels h w"]) -> Float[Tensor, "rows classes"]:
        """Logits."""
        return self.head(self.stages(self.stem(x)).mean((2, 3)))  # type: ignore[no-any-return]


class WideResNet(nn.Module):
    """WRN-d-w (Zagoruyko & Komodakis 2016), pre-activation, without dropout.

    Args:
        depth: layers, 6n + 4.
        width: stages have 16w, 32w and 64w channels behind a stem of 16.
    """

    def __init__(self, channels: int, n_classes: int, *, depth: int, width: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.stem = _conv(channels, 16)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    _PreActivationBlock(widths[i], widths[i + 1], stride=2 if i else 1),
                    *(_PreActivationBlock(widths[i + 1], widths[i + 1]) for _ in range(blocks - 1)),
                )
                for i in range(3)
            )
        )
        self.norm = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(widths[-1], n_classes)
        _initialise(self)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Float[Tensor, "rows channels h w"]) -> Float[Tensor, "rows classes"]:
        """Logits."""
        x = F.relu(self.norm(self.stages(self.stem(x))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class _BasicBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(before, after, stride), nn.BatchNorm2d(after)
        self.conv2, self.norm2 = _conv(after, after), nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class _PreActivationBlock(nn.Module):
    """BatchNorm and ReLU come first, and once: a second call would update the statistics twice."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(before), _conv(before, after, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(after), _conv(after, after)
        self.shortcut = None if before == after else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        out: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        # Where the width changes, the shortcut too starts from the activated input.
        residual: Tensor = x if self.shortcut is None else self.shortcut(active)
        return out + residual


def _conv(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False)


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
