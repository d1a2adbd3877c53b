"""Models by name, each with the normalisation and input size that it expects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor, nn

from temperance.config import Args, one_of
from temperance.errors import UserError
from temperance.models.cifar import ResNet, WideResNet
from temperance.models.shufflenet import WIDTHS, small_shufflenet
from temperance.models.small import CNN, MLP

RESNET_DEPTHS = (8, 14, 20, 32, 44, 56, 110)
WRN_DEPTHS = (10, 16, 22, 28, 34, 40)


class MLPArgs(Args):
    """Fully connected layers."""

    name: Literal["mlp"] = "mlp"
    width: PositiveInt = 128
    """Units of each hidden layer."""
    depth: NonNegativeInt = 1
    """Hidden layers; 0 is logistic regression."""


class CNNArgs(Args):
    """A small convolutional network."""

    name: Literal["cnn"] = "cnn"
    width: PositiveInt = 16
    """Channels of the first block; each block doubles them."""
    blocks: int = Field(default=2, ge=1, le=4)
    """Convolution, ReLU, 2×2 pooling."""
    batch_norm: bool = True


class ResNetArgs(Args):
    """ResNet for small images; `resnet20` and `resnet8x4` are short for its settings."""

    name: Literal["resnet"] = "resnet"
    depth: int = 20
    """8, 14, 20, 32, 44, 56 or 110."""
    width_factor: PositiveInt = 1
    """The 4 of resnet8x4."""

    @field_validator("depth")
    @classmethod
    def _known(cls, depth: int) -> int:
        return _one_of_depths(depth, RESNET_DEPTHS, "resnet")


class WideResNetArgs(Args):
    """WRN-depth-width; `wrn-16-2` is short for its settings."""

    name: Literal["wrn"] = "wrn"
    depth: int = 16
    """10, 16, 22, 28, 34 or 40."""
    width: PositiveInt = 2
    """Factor on the channels 16, 32, 64."""

    @field_validator("depth")
    @classmethod
    def _known(cls, depth: int) -> int:
        return _one_of_depths(depth, WRN_DEPTHS, "wrn")


class ShuffleNetArgs(Args):
    """ShuffleNetV2 for small images."""

    name: Literal["shufflenet-v2"] = "shufflenet-v2"
    width: float = 1.0
    """Factor on the channels: 0.5, 1 or 1.5."""

    @field_validator("width")
    @classmethod
    def _known(cls, width: float) -> float:
        if width not in WIDTHS:
            raise ValueError(f"there is no shufflenet-v2 of width {width:g}, only 0.5, 1 and 1.5")
        return width


def _one_of_depths(depth: int, depths: Sequence[int], family: str) -> int:
    if depth not in depths:
        raise ValueError(
            f"there is no {family} of depth {depth}, only {', '.join(map(str, depths))}"
        )
    return depth


def expand_model_name(name: str) -> dict[str, Any]:
    """The settings that a model's name is short for; nothing if it is not short for any.

    Examples:
        >>> expand_model_name("resnet8x4")
        {'name': 'resnet', 'depth': 8, 'width_factor': 4}
        >>> expand_model_name("wrn-16-2")
        {'name': 'wrn', 'depth': 16, 'width': 2}
    """
    if match := re.fullmatch(r"resnet-?(\d+)(?:x(\d+))?", name):
        return {"name": "resnet", "depth": int(match[1]), "width_factor": int(match[2] or 1)}
    if match := re.fullmatch(r"wrn-(\d+)-(\d+)", name):
        return {"name": "wrn", "depth": int(match[1]), "width": int(match[2])}
    return {}


if TYPE_CHECKING:
    ModelArgs = MLPArgs | CNNArgs | ResNetArgs | WideResNetArgs | ShuffleNetArgs
else:
    ModelArgs = one_of(
        MLPArgs, CNNArgs, ResNetArgs, WideResNetArgs, ShuffleNetArgs, expand=expand_model_name
    )


def list_models() -> list[str]:
    """The usual names; any wrn-d-w and resnet-dxk of the depths above works too."""
    return [
        "mlp",
        "cnn",
        *(f"resnet{depth}" for depth in RESNET_DEPTHS),
        "resnet8x4",
        "resnet32x4",
        "wrn-16-1",
        "wrn-16-2",
        "wrn-28-10",
        "wrn-40-1",
        "wrn-40-2",
        "shufflenet-v2",
    ]


class ImageClassifier(nn.Module):
    """A backbone with the input that it expects: it takes uint8 images and does the rest itself.

    So teacher and student may differ in size and normalisation, and each gets what it expects.

    Args:
        args: what the backbone is.
        channels: of the images.
        input_size: height and width that images are resized to, if theirs differ.
        classes: names of the logits.
        mean: per channel, of images in [0, 1]; subtracted. Default 0.
        std: likewise; divided by. Default 1.
    """

    mean: Float[Tensor, "channels 1 1"]
    std: Float[Tensor, "channels 1 1"]

    def __init__(
        self,
        args: ModelArgs,
        *,
        channels: int,
        input_size: tuple[int, int],
        classes: Sequence[str],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.args, self.channels = args, channels
        self.input_size, self.classes = input_size, tuple(classes)
        self.register_buffer("mean", _per_channel(mean or [0.0] * channels, channels))
        self.register_buffer("std", _per_channel(std or [1.0] * channels, channels))
        self.backbone = _backbone(args, channels, input_size, len(self.classes))

    def forward(
        self, images: UInt8[Tensor, "rows channels height width"]
    ) -> Float[Tensor, "rows classes"]:
        """Logits of images with values from 0 to 255.

        Raises:
            UserError: if the images have another number of channels than the model.
        """
        if images.shape[1] != self.channels:
            raise UserError(
                f"the model takes images of {self.channels} channel(s),"
                f" these have {images.shape[1]}",
                mend="Use a model that was trained on such images",
            )
        x = images.to(self.mean.dtype) / 255
        if x.shape[2:] != self.input_size:
            x = F.interpolate(x, self.input_size, mode="bilinear", antialias=True)
        return self.backbone((x - self.mean) / self.std)  # type: ignore[no-any-return]


def create_model(
    args: ModelArgs,
    *,
    channels: int,
    input_size: tuple[int, int],
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
) -> ImageClassifier:
    """A fresh model on the CPU; its weights are a function of `seed`, PyTorch's own stays as it is.

    Args:
        mean: per channel, of images in [0, 1]; as `channel_statistics` gives it.
        std: likewise, > 0.

    Examples:
        >>> model = create_model(MLPArgs(), channels=1, input_size=(8, 8), classes=("no", "yes"),
        ...                      mean=[0.5], std=[0.3], seed=0)
        >>> model(torch.zeros(5, 1, 8, 8, dtype=torch.uint8)).shape
        torch.Size([5, 2])
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed accelerators as well.
        torch.default_generator.manual_seed(seed)
        return ImageClassifier(
            args, channels=channels, input_size=input_size, classes=classes, mean=mean, std=std
        )


def channel_statistics(
    images: UInt8[Tensor, "rows channels height width"],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, with values from 0 to 255 taken as 0 to 1.

    Exact, from counts of the 256 values. A constant channel gets the deviation of one level, 1/255.

    Examples:
        >>> channel_statistics(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
        ((0.5,), (0.5,))
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256).cpu().double()
        mean = float(counts @ levels / counts.sum())
        deviation = float(counts @ (levels - mean) ** 2 / counts.sum()) ** 0.5
        means.append(mean)
        deviations.append(max(deviation, 1 / 255))
    return tuple(means), tuple(deviations)


def _per_channel(values: Sequence[float], channels: int) -> Float[Tensor, "channels 1 1"]:
    return torch.tensor(values, dtype=torch.float32).reshape(channels, 1, 1)


def _backbone(
    args: ModelArgs, channels: int, input_size: tuple[int, int], n_classes: int
) -> nn.Module:
    match args:
        case MLPArgs():
            pixels = channels * input_size[0] * input_size[1]
            return MLP(pixels, n_classes, width=args.width, depth=args.depth)
        case CNNArgs():
            return CNN(
                channels,
                n_classes,
                input_size=input_size,
                width=args.width,
                blocks=args.blocks,
                batch_norm=args.batch_norm,
            )
        case ResNetArgs():
            return ResNet(channels, n_classes, depth=args.depth, width_factor=args.width_factor)
        case WideResNetArgs():
            return WideResNet(channels, n_classes, depth=args.depth, width=args.width)
        case ShuffleNetArgs():
            return small_shufflenet(channels, n_classes, width=args.width)
