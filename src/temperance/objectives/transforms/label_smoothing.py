"""Smoothed labels in place of the teacher's prediction: no teacher at all, at equal entropy."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from temperance.objectives.transforms.settings import TransformSettings
from temperance.rows import Rows


class LabelSmoothingArgs(TransformSettings):
    """Put the smoothed label where the teacher's prediction was."""

    needs_targets = True
    replaces_teacher = True

    name: Literal["label-smoothing"] = "label-smoothing"
    smoothing: float = Field(default=0.1, gt=0, lt=1)
    """ε: share of the target that is spread over all classes."""


def smoothed_labels(
    logits: Float[Tensor, "rows classes"], rows: Rows, args: LabelSmoothingArgs
) -> Float[Tensor, "rows classes"]:
    """log((1 − ε) onehot(y) + ε / K), whatever the K logits are (Szegedy et al. 2016, §7).

    A control: what the teacher knows is gone, and the entropy of the target is left.

    Examples:
        >>> rows = Rows(targets=torch.tensor([1]), ids=torch.tensor([0]))
        >>> args = LabelSmoothingArgs(smoothing=0.5)
        >>> smoothed_labels(torch.tensor([[9.0, 0.0]]), rows, args).softmax(1)
        tensor([[0.2500, 0.7500]])
    """
    assert rows.targets is not None
    spread = args.smoothing / logits.shape[-1]
    smoothed = torch.full_like(logits, math.log(spread))
    label = math.log(1 - args.smoothing + spread)
    return smoothed.scatter_(1, rows.targets[:, None], label)
