"""What several feature methods do to activations, safe for any scale and for zeros."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def pooled_to_smaller(
    student: Float[Tensor, "rows channels_s height_s width_s"],
    teacher: Float[Tensor, "rows channels_t height_t width_t"],
) -> tuple[Float[Tensor, "rows channels_s h w"], Float[Tensor, "rows channels_t h w"]]:
    """Both maps at the smaller height and the smaller width, by adaptive average pooling.

    Examples:
        >>> small, large = torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 8, 2)
        >>> [tuple(pooled.shape) for pooled in pooled_to_smaller(small, large)]
        [(2, 3, 4, 2), (2, 5, 4, 2)]
    """
    height, width = map(min, student.shape[2:], teacher.shape[2:])
    sizes = (height, width)
    return tuple(  # type: ignore[return-value]
        maps if maps.shape[2:] == sizes else F.adaptive_avg_pool2d(maps, sizes)
        for maps in (student, teacher)
    )


def rescaled(activations: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Divided by the largest magnitude along `dim`, which gets no gradient; zeros stay zeros.

    For losses that do not depend on the scale: value and gradient stay the same, and powers and
    products neither overflow nor underflow. Zeros get no gradient.

    Examples:
        >>> rescaled(torch.tensor([[2.0, -4.0], [0.0, 0.0]]), 1)
        tensor([[ 0.5000, -1.0000],
                [ 0.0000,  0.0000]])
    """
    largest = activations.detach().abs().amax(dim, keepdim=True)
    return activations / largest.masked_fill(largest == 0, torch.inf)


def unit_length(activations: Tensor, dim: int) -> Tensor:
    """Divided by the Euclidean length along `dim`; vectors of zeros stay so and get no gradient.

    An added or clamped ε would give such a vector a gradient of 1 / ε.

    Examples:
        >>> unit_length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 1)
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    scaled = rescaled(activations, dim)
    # At least 1 if there is anything but zeros, since the largest magnitude is 1.
    length: Tensor = torch.linalg.vector_norm(scaled, dim=dim, keepdim=True)
    return scaled / length.clamp(min=0.5)
