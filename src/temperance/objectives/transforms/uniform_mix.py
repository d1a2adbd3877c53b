"""A teacher mixed with the uniform prediction: less confident, and no more informative for it."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from temperance.objectives.transforms.settings import TransformSettings
from temperance.rows import Rows


class UniformMixArgs(TransformSettings):
    """Mix the teacher's prediction with the uniform one."""

    name: Literal["uniform-mix"] = "uniform-mix"
    share: float = Field(default=0.1, gt=0, lt=1)
    """ε: how much of the target is uniform."""


def mixed_with_uniform(
    logits: Float[Tensor, "rows classes"], rows: Rows, args: UniformMixArgs
) -> Float[Tensor, "rows classes"]:
    """log((1 − ε) p + ε / K) with the teacher's prediction p of K classes.

    A control for softening by a temperature: at the same mean entropy it leaves no class below
    ε / K and the ratios of the likely ones nearly as they are. It keeps each row's ranking.

    Examples:
        >>> rows = Rows(targets=None, ids=torch.tensor([0]))
        >>> args = UniformMixArgs(share=0.5)
        >>> mixed = mixed_with_uniform(torch.tensor([[99.0, 0.0]]), rows, args)
        >>> mixed.softmax(1)
        tensor([[0.7500, 0.2500]])
    """
    prediction = F.log_softmax(logits, dim=-1) + math.log1p(-args.share)
    uniform = torch.full_like(prediction, math.log(args.share / logits.shape[-1]))
    return torch.logaddexp(prediction, uniform)
