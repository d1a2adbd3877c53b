"""Platt scaling, one class against the rest (Platt 1999)."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from temperance.calibration.calibrators.one_vs_rest import OneVsRestArgs, OneVsRestScaling


class PlattArgs(OneVsRestArgs):
    """Platt scaling, one class against the rest."""

    name: Literal["platt"] = "platt"


class PlattScaling(OneVsRestScaling):
    """sigmoid(a_k · log-odds_k + b_k) of each class k, a ≥ 0, normalised; see `OneVsRestScaling`.

    Of two classes the log-odds are z / T, so this is Platt's sigmoid of the margin. The targets are
    0 and 1: Platt smooths them, to (n₊ + 1) / (n₊ + 2) and 1 / (n₋ + 2), to keep the fit finite;
    here the penalty does, which leaves confident answers alone where a class has few rows.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]]).repeat(50, 1)
        >>> targets = (torch.arange(100) % 10 > 2).long()
        >>> calibrator = PlattScaling().fit(logits, targets)
        >>> calibrator.intercepts > 0  # the second class is more frequent than predicted
        tensor([False,  True])
    """

    name = "platt"
    args_class = PlattArgs
    n_slopes = 1

    def evidence(self, odds: Float[Tensor, "rows classes"]) -> Float[Tensor, "slopes rows classes"]:
        """The log-odds."""
        return odds[None]
