"""Control arms that set a target's entropy: their setting, found from the teacher's predictions."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

from temperance.objectives.transforms import TransformArgs
from temperance.objectives.transforms.label_smoothing import LabelSmoothingArgs
from temperance.objectives.transforms.row_entropy import RowEntropyArgs, entropy_of
from temperance.objectives.transforms.uniform_mix import UniformMixArgs, mixed_with_uniform
from temperance.rows import Rows
from temperance.studies.arms import ArmName


def matched(
    control: ArmName,
    settings: Any,
    logits: Float[Tensor, "rows classes"],
    softening: float,
    own: float,
) -> Any:
    """An objective's settings with the control's transform, at the calibrated mean entropy.

    Args:
        control: shuffled-entropy, equal-entropy, uniform-mix or label-smoothing.
        settings: of an objective with `transforms`; its teacher softening is 1.
        logits: what the raw teacher says of the rows that are taught, unaltered.
        softening: T · τ: what the calibrated teacher's logits are divided by.
        own: what the control's logits are divided by before the transform.
    """
    wide = logits.double()
    entropy = float(entropy_of(wide / softening).mean())
    transform: TransformArgs
    match control:
        case "shuffled-entropy":
            transform = RowEntropyArgs(mode="shuffled")
        case "equal-entropy":
            transform = RowEntropyArgs(mode="equal", entropy=entropy)
        case "uniform-mix":
            transform = UniformMixArgs(share=uniform_share(wide / own, entropy))
        case _:
            transform = LabelSmoothingArgs(smoothing=smoothing_of(entropy, logits.shape[1]))
    return settings.model_copy(update={"transforms": (*settings.transforms, transform)})


def uniform_share(logits: Float[Tensor, "rows classes"], entropy: float) -> float:
    """ε at which the predictions mixed with uniform have this mean entropy, in nats.

    Raises:
        ValueError: if theirs is not lower, or no mixture reaches it.

    Examples:
        >>> peaked = torch.tensor([[9.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
        >>> round(uniform_share(peaked, 0.5), 3)  # 0.5 nats: a probability of about 0.8
        0.399
    """
    rows = Rows(targets=None, ids=torch.arange(len(logits)))

    def surplus(share: float) -> float:
        mixed = mixed_with_uniform(logits, rows, UniformMixArgs(share=share))
        return float(entropy_of(mixed).mean()) - entropy

    return float(brentq(surplus, 1e-12, 1 - 1e-12, xtol=1e-10))


def smoothing_of(entropy: float, classes: int) -> float:
    """The label smoothing at which a target of K classes has this entropy, in nats.

    Raises:
        ValueError: if it is not between 0 and log K.

    Examples:
        >>> round(smoothing_of(0.5, 2), 3)
        0.399
    """

    def surplus(smoothing: float) -> float:
        other = smoothing / classes
        label = 1 - smoothing + other
        spread = (classes - 1) * other * math.log(other)
        return -label * math.log(label) - spread - entropy

    return float(brentq(surplus, 1e-12, 1 - 1e-12, xtol=1e-12))
