"""Target transforms: what is done to a teacher's logits before any logit method compares them.

Each maps logits to logits whose softmax, at softening 1, is the transformed target; the method's
own softening acts on top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from temperance.config import Args, one_of
from temperance.objectives.transforms.asymmetric import AsymmetricArgs, asymmetrically_softened
from temperance.objectives.transforms.label_smoothing import LabelSmoothingArgs, smoothed_labels
from temperance.objectives.transforms.row_entropy import RowEntropyArgs, with_replaced_entropy
from temperance.objectives.transforms.uniform_mix import UniformMixArgs, mixed_with_uniform
from temperance.rows import Rows

__all__ = ["TRANSFORMS", "TransformArgs", "list_transforms", "transformed"]

Transform = Callable[[Tensor, Rows, Any], Tensor]

TRANSFORMS: dict[str, tuple[type[Args], Transform]] = {
    "asymmetric": (AsymmetricArgs, asymmetrically_softened),
    "label-smoothing": (LabelSmoothingArgs, smoothed_labels),
    "row-entropy": (RowEntropyArgs, with_replaced_entropy),
    "uniform-mix": (UniformMixArgs, mixed_with_uniform),
}

TransformArgs = one_of(*(args for args, _ in TRANSFORMS.values()))


def transformed(
    transforms: Sequence[Any], logits: Float[Tensor, "rows classes"], rows: Rows
) -> Float[Tensor, "rows classes"]:
    """The logits after each of the transforms, in order."""
    for settings in transforms:
        _, transform = TRANSFORMS[settings.name]
        logits = transform(logits, rows, settings)
    return logits


def list_transforms() -> list[str]:
    """The names that `transforms` of a logit method knows."""
    return sorted(TRANSFORMS)
