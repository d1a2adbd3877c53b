"""One temperature per predicted class, shrunk towards the common one."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import PositiveFloat
from torch import Tensor

from temperance.calibration.calibrators.applying import check_class_count, narrowed, widened
from temperance.calibration.calibrators.base import Calibrator, Solved
from temperance.calibration.calibrators.newton import Derivatives, minimise
from temperance.calibration.calibrators.row_likelihoods import (
    common_temperature,
    row_likelihoods,
    shares,
)
from temperance.config import Args


class PredictedClassArgs(Args):
    """Temperature by predicted class."""

    name: Literal["predicted-class"] = "predicted-class"
    shrinkage: PositiveFloat = 1.0
    """Penalty on the mean over classes of (log T_k − log T)², relative to the mean NLL."""


class PredictedClassTemperature(Calibrator):
    """logits / T_k, where k is the class of the largest logit.

    T is fitted first. Then each T_k minimises the NLL of the rows predicted as k plus a penalty,
    a normal prior on log T_k around log T: a class that is never predicted has T, one that rarely
    is stays near it. The penalty is relative to the mean NLL, so more rows do not weaken it.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]]).repeat(50, 1)
        >>> targets = torch.arange(100) % 2
        >>> targets[:40:2] = 1  # 40 % of the first class's predictions are wrong
        >>> targets[1:4:2] = 0  # and 4 % of the second's
        >>> calibrator = PredictedClassTemperature().fit(logits, targets)
        >>> calibrator.temperatures.argsort()
        tensor([1, 0])
    """

    name = "predicted-class"
    args_class = PredictedClassArgs
    keeps_argmax = True
    scales_rows = True
    args: PredictedClassArgs
    temperatures: Tensor

    def __init__(self, args: PredictedClassArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        self.register_buffer("temperatures", torch.empty(0, dtype=torch.float64))

    @torch.no_grad()
    def solve(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None,
    ) -> Solved:
        """Every T_k by Newton's method from T on, so the NLL is never above that of T."""
        classes = logits.shape[1]
        common = common_temperature(logits, targets, weights)
        share = shares(weights, logits)
        predicted = logits.argmax(1)
        penalty = self.args.shrinkage / classes

        def by_class(values: Float[Tensor, " rows"]) -> Float[Tensor, " classes"]:
            return values.new_zeros(classes).index_add_(0, predicted, share * values)

        def derivatives(log_temperatures: Float[Tensor, "classes 1"]) -> Derivatives:
            rows = row_likelihoods(logits, targets, log_temperatures[predicted, 0])
            off = log_temperatures[:, 0] - math.log(common)
            return Derivatives(
                by_class(rows.nll) + penalty * off.square(),
                (by_class(rows.slope) + 2 * penalty * off)[:, None],
                (by_class(rows.curvature) + 2 * penalty)[:, None, None],
            )

        found = minimise(derivatives, share.new_full((classes, 1), math.log(common)))
        self.temperatures = found.parameters[:, 0].exp()
        return Solved(found.iterations, found.status)

    def calibrate(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """Each row divided by the temperature of its predicted class."""
        check_class_count(logits, len(self.temperatures))
        wide = widened(logits)
        temperature = self.temperatures.to(wide)[wide.argmax(1)]
        return narrowed(wide / temperature[:, None], logits)
