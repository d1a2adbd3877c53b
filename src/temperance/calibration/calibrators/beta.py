"""Beta calibration, one class against the rest (Kull, Silva Filho & Flach 2017)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from temperance.calibration.calibrators.one_vs_rest import OneVsRestArgs, OneVsRestScaling


class BetaArgs(OneVsRestArgs):
    """Beta calibration, one class against the rest."""

    name: Literal["beta"] = "beta"


class BetaCalibration(OneVsRestScaling):
    """sigmoid(a_k · log p_k − b_k · log(1 − p_k) + c_k) of each class k, a, b ≥ 0, normalised.

    p is the probability after temperature scaling, see `OneVsRestScaling`. With a = b it is Platt
    scaling; apart, they bend the two ends of the map differently.

    Examples:
        >>> logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]]).repeat(50, 1)
        >>> targets = (torch.arange(100) % 10 > 2).long()
        >>> BetaCalibration().fit(logits, targets).slopes.shape  # a and b of both classes
        torch.Size([2, 2])
    """

    name = "beta"
    args_class = BetaArgs
    n_slopes = 2

    def evidence(self, odds: Float[Tensor, "rows classes"]) -> Float[Tensor, "slopes rows classes"]:
        """log p and −log(1 − p), each without cancellation."""
        return torch.stack([logsigmoid(odds), -logsigmoid(-odds)])
