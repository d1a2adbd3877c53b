"""Platt scaling: a sigmoid of each class's log-odds (Platt 1999, one class against the rest)."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from temperance.calibration.calibrators.logistic import LogisticArgs, OneVsRestScaling


class PlattArgs(LogisticArgs):
    """Platt scaling."""

    name: Literal["platt"] = "platt"


class PlattScaling(OneVsRestScaling):
    """sigmoid(a_k · log-odds_k + b_k) of each class k, renormalised; see `OneVsRestScaling`.

    The targets are 0 and 1. Platt smooths them, (n + 1) / (n + 2) and 1 / (n + 2), to keep the fit
    finite; with a handful of rows per class that pulls every confident answer down, so here the
    penalty does it.

    Examples:
        >>> logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]]).repeat(50, 1)
        >>> targets = (torch.arange(100) % 10 > 2).long()
        >>> PlattScaling().fit(logits, targets)(logits[:1]).exp().sum()
        tensor(1.)
    """

    name = "platt"
    args_class = PlattArgs
    n_slopes = 1

    def evidence(
        self, odds: Float[Tensor, "rows classes"]
    ) -> Float[Tensor, "slopes rows classes"]:
        """The log-odds."""
        return odds[None]
