"""Isotonic regression, one class against the rest (Zadrozny & Elkan 2002)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from temperance.calibration.calibrators.applying import check_class_count
from temperance.calibration.calibrators.base import Calibrator, Solved
from temperance.calibration.calibrators.frequencies import by_rows, class_columns, sloped
from temperance.calibration.calibrators.monotone import Knots, fit_isotonic, interpolate
from temperance.config import Args


class IsotonicArgs(Args):
    """Isotonic regression, one class against the rest."""

    name: Literal["isotonic"] = "isotonic"
    slope: PositiveFloat = 0.01
    """How much of the uncalibrated probability is added to each frequency."""


class IsotonicRegression(Calibrator):
    """A non-decreasing function of each class's probability, normalised over the classes.

    Zadrozny & Elkan 2002; linear between the steps, as in scikit-learn. slope · p is
    added to the frequency: where the regression says 0, a class keeps a share of what it had
    instead of becoming impossible, and no two rows become the same.

    Examples:
        >>> logits = torch.tensor([[3.0, 0.0]]).expand(100, 2)
        >>> calibrator = IsotonicRegression().fit(logits, (torch.arange(100) % 4 == 0).long())
        >>> round(float(calibrator(logits)[0].softmax(0)[0]), 3)
        0.752
    """

    name = "isotonic"
    args_class = IsotonicArgs
    keeps_argmax = False
    args: IsotonicArgs
    position: Tensor
    """(classes, knots): probabilities; infinite after the last knot of a class."""
    frequency: Tensor
    """(classes, knots)"""

    def __init__(self, args: IsotonicArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        self.register_buffer("position", torch.empty(0, dtype=torch.float64))
        self.register_buffer("frequency", torch.empty(0, dtype=torch.float64))

    @torch.no_grad()
    def solve(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None,
    ) -> Solved:
        """Pool adjacent violators, class by class."""
        functions: list[Knots] = []
        for columns in class_columns(logits, targets, weights):
            for probability, mass, hit in zip(*columns, strict=True):
                at = hit > 0
                functions.append(
                    fit_isotonic(probability[at], hit[at], [(probability, mass - hit)])
                )
        self.position, self.frequency = (
            pad_sequence(list(column), batch_first=True, padding_value=beyond)
            for column, beyond in zip(zip(*functions, strict=True), (torch.inf, 0.0), strict=True)
        )
        return Solved()

    def calibrate(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """Log-probabilities."""
        check_class_count(logits, len(self.frequency))

        def regressed(log_probability: Tensor) -> Tensor:
            at = log_probability.exp().T.contiguous()
            frequency = interpolate(self.position, self.frequency, at).T
            return sloped(frequency, log_probability, self.args.slope)

        return by_rows(logits, regressed)
