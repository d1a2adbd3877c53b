"""Accuracy-preserving isotonic regression of all classes at once: IRM (Zhang et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import PositiveFloat
from torch import Tensor

from temperance.calibration.calibrators.applying import check_class_count
from temperance.calibration.calibrators.base import Calibrator, Solved
from temperance.calibration.calibrators.frequencies import by_rows, keep_argmax, sloped
from temperance.calibration.calibrators.monotone import fit_isotonic, interpolate
from temperance.calibration.metrics.chunks import row_chunks
from temperance.config import Args


class IRMArgs(Args):
    """Accuracy-preserving isotonic regression."""

    name: Literal["irm"] = "irm"
    slope: PositiveFloat = 1e-9
    """Makes the function strictly increasing; the authors' value."""


class IRM(Calibrator):
    """One increasing function of every class's probability, normalised over the classes.

    Zhang, Kailkhura & Han 2020 (ICML): isotonic regression of 1[y = k] on p_k over the pairs of all
    rows and classes, plus slope · p, which makes it strictly increasing: the order of the classes
    stays. Where a pair of classes would round to a tie, the predicted one is raised by a rounding
    unit. Below the lowest probability that a target had, the slope is all there is: the authors'
    1e-9 makes such a target cost 21 nats more than its uncalibrated probability did.

    Takes two passes over the logits, O(rows · classes · log rows) steps in all, and memory for a
    number per row.

    Examples:
        >>> logits = torch.tensor([[3.0, 0.0]]).expand(100, 2)
        >>> calibrator = IRM().fit(logits, (torch.arange(100) % 4 == 0).long())
        >>> round(float(calibrator(logits)[0].softmax(0)[0]), 4)
        0.75
    """

    name = "irm"
    args_class = IRMArgs
    keeps_argmax = True
    args: IRMArgs
    position: Tensor
    """(knots,): probabilities; the last is infinite."""
    frequency: Tensor
    """(knots,)"""
    classes: Tensor

    def __init__(self, args: IRMArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        self.register_buffer("position", torch.empty(0, dtype=torch.float64))
        self.register_buffer("frequency", torch.empty(0, dtype=torch.float64))
        self.register_buffer("classes", torch.tensor(0))

    @torch.no_grad()
    def solve(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None,
    ) -> Solved:
        """Pool adjacent violators over the pairs of all classes."""
        share = torch.ones_like(targets, dtype=torch.float64) if weights is None else weights
        share = share.double()
        label = targets.long()[:, None]

        def softmax(part: slice) -> Float[Tensor, "chunk classes"]:
            return logits[part].double().softmax(1)

        def misses() -> Iterator[tuple[Tensor, Tensor]]:
            for part in row_chunks(logits):
                mass = share[part, None] * (logits[part] > -torch.inf)
                yield softmax(part).flatten(), mass.scatter_(1, label[part], 0).flatten()

        hit_at = torch.cat([softmax(part).gather(1, label[part]) for part in row_chunks(logits)])
        self.position, self.frequency = fit_isotonic(hit_at[:, 0], share, misses())
        self.classes = torch.tensor(logits.shape[1])
        return Solved()

    def calibrate(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """Log-probabilities."""
        check_class_count(logits, int(self.classes))

        def regressed(log_probability: Tensor) -> Tensor:
            at = log_probability.exp().view(1, -1)
            frequency = interpolate(self.position[None], self.frequency[None], at)
            return sloped(frequency.view_as(log_probability), log_probability, self.args.slope)

        return keep_argmax(by_rows(logits, regressed), logits)
