"""ShuffleNetV2 for small images, from torchvision's blocks."""

from __future__ import annotations

from torch import nn
from torchvision.models import ShuffleNetV2

WIDTHS = {  # channels of stem, three stages and last convolution (Ma et al. 2018, table 5)
    0.5: [24, 48, 96, 192, 1024],
    1.0: [24, 116, 232, 464, 1024],
    1.5: [24, 176, 352, 704, 1024],
}


def small_shufflenet(channels: int, n_classes: int, *, width: float) -> nn.Module:
    """ShuffleNetV2 (Ma et al. 2018) whose stem keeps the resolution.

    The stem is one 1×1 convolution without pooling, as in the published code of Tian et al. 2020
    (CRD), on whose recipe the field compares; the stages halve the image three times.

    Args:
        width: 0.5, 1.0 or 1.5.
    """
    network: nn.Module = ShuffleNetV2([4, 8, 4], WIDTHS[width], num_classes=n_classes)
    stem = WIDTHS[width][0]
    network.conv1 = nn.Sequential(
        nn.Conv2d(channels, stem, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU(inplace=True)
    )
    network.maxpool = nn.Identity()
    return network
