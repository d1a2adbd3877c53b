"""Small models for small images: seconds to train on one CPU thread."""

from __future__ import annotations

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from temperance.errors import UserError


class MLP(nn.Module):
    """Fully connected layers over the pixels.

    Args:
        pixels: channels × height × width.
        width: units of each hidden layer.
        depth: hidden layers; 0 is multinomial logistic regression.
    """

    def __init__(self, pixels: int, n_classes: int, *, width: int, depth: int) -> None:
        super().__init__()
        widths = [pixels, *[width] * depth]
        self.hidden = nn.Sequential(
            *(nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths))
        )
        self.head = nn.Linear(widths[-1], n_classes)

    def forward(self, x: Float[Tensor, "rows channels h w"]) -> Float[Tensor, "rows classes"]:
        """Logits."""
        return self.head(self.hidden(x.flatten(1)))  # type: ignore[no-any-return]


class CNN(nn.Module):
    """Blocks of 3×3 convolution, ReLU and 2×2 max-pooling, then one linear layer.

    Args:
        input_size: height and width; each block halves them.
        width: channels of the first block; each block doubles them.
        blocks: number of blocks.
        batch_norm: normalise before each ReLU.

    Raises:
        UserError: if the images are too small for that many blocks.
    """

    def __init__(
        self,
        channels: int,
        n_classes: int,
        *,
        input_size: tuple[int, int],
        width: int,
        blocks: int,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        height, breadth = (side // 2**blocks for side in input_size)
        if not height or not breadth:
            raise UserError(
                f"{blocks} blocks need images of at least {2**blocks}×{2**blocks} pixels,"
                f" these are {input_size[0]}×{input_size[1]}",
                where="model.blocks",
                mend="Use fewer blocks",
            )
        widths = [channels, *(width * 2**block for block in range(blocks))]
        self.stages = nn.Sequential(*(_block(a, b, batch_norm) for a, b in pairwise(widths)))
        self.head = nn.Linear(widths[-1] * height * breadth, n_classes)

    def forward(self, x: Float[Tensor, "rows channels h w"]) -> Float[Tensor, "rows classes"]:
        """Logits."""
        return self.head(self.stages(x).flatten(1))  # type: ignore[no-any-return]


def _block(before: int, after: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(before, after, 3, padding=1, bias=not batch_norm)]
    if batch_norm:
        layers.append(nn.BatchNorm2d(after))
    return nn.Sequential(*layers, nn.ReLU(), nn.MaxPool2d(2))
