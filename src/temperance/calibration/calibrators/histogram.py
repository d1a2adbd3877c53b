"""Histogram binning, one class against the rest (Zadrozny & Elkan 2001)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from temperance.calibration.calibrators.applying import check_class_count
from temperance.calibration.calibrators.base import Calibrator, Solved
from temperance.calibration.calibrators.frequencies import by_rows, class_columns, sloped
from temperance.config import Args

ROUNDING = 1e-6  # relative: float32 weights may miss the border of a bin by so much


class HistogramArgs(Args):
    """Histogram binning."""

    name: Literal["histogram"] = "histogram"
    bins: PositiveInt = 15
    """Per class."""
    binning: Literal["equal_mass", "equal_width"] = "equal_mass"
    """`equal_mass`: as many rows in each bin of a class, as far as ties allow. `equal_width`: of
    width 1 / bins; an empty one keeps its middle."""
    slope: PositiveFloat = 0.01
    """How much of the uncalibrated probability is added to each frequency."""


class HistogramBinning(Calibrator):
    """How often class k was right in the bin of its probability, normalised over the classes.

    Zadrozny & Elkan 2001 (binning), 2002 (class by class). A bin holds lower < p ≤ upper, the first
    also 0, when fitting as when applying; borders of equal-mass bins lie midway between two rows.
    slope · p is added to the frequency, so that no class becomes impossible where its bin held no
    target. A pseudo-count would do that, too, but weights are relative: they say nothing about how
    many rows a bin holds.

    Examples:
        >>> logits = torch.tensor([[3.0, 0.0]]).expand(100, 2)
        >>> calibrator = HistogramBinning().fit(logits, (torch.arange(100) % 4 == 0).long())
        >>> round(float(calibrator(logits)[0].softmax(0)[0]), 3)
        0.752
    """

    name = "histogram"
    args_class = HistogramArgs
    keeps_argmax = False
    args: HistogramArgs
    border: Tensor
    """(classes, bins − 1): upper ends of all bins but the last."""
    frequency: Tensor
    """(classes, bins)"""

    def __init__(self, args: HistogramArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        self.register_buffer("border", torch.empty(0, dtype=torch.float64))
        self.register_buffer("frequency", torch.empty(0, dtype=torch.float64))

    @torch.no_grad()
    def solve(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None,
    ) -> Solved:
        """Count; there is nothing to optimise."""
        bins = self.args.bins
        edges = torch.arange(bins + 1, dtype=torch.float64, device=logits.device) / bins
        middle = (edges[1:] + edges[:-1]) / 2
        borders, frequencies = [], []
        for probability, mass, hit in class_columns(logits, targets, weights):
            border = (
                _equal_mass_borders(probability, mass, bins)
                if self.args.binning == "equal_mass"
                else edges[1:-1].repeat(len(probability), 1)
            )
            index = torch.searchsorted(border, probability)
            empty = mass.new_zeros(len(mass), bins)
            total, hits = (empty.scatter_add(1, index, column) for column in (mass, hit))
            borders.append(border)
            frequencies.append(torch.where(total > 0, hits / total, middle))
        self.border, self.frequency = torch.cat(borders), torch.cat(frequencies)
        return Solved()

    def calibrate(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """Log-probabilities."""
        check_class_count(logits, len(self.frequency))

        def binned(log_probability: Tensor) -> Tensor:
            index = torch.searchsorted(self.border, log_probability.exp().T.contiguous())
            return sloped(self.frequency.gather(1, index).T, log_probability, self.args.slope)

        return by_rows(logits, binned)


def _equal_mass_borders(
    probability: Float[Tensor, "classes rows"], mass: Float[Tensor, "classes rows"], bins: int
) -> Float[Tensor, "classes borders"]:
    """Borders above the first row up to which j / bins of the mass lie; ties stay together."""
    ordered, order = probability.sort(1)
    total = mass.gather(1, order).cumsum(1)
    parts = torch.arange(1, bins, dtype=torch.float64, device=mass.device) / bins
    row = torch.searchsorted(total, total[:, -1:] * parts * (1 - ROUNDING))
    below = ordered.gather(1, row)
    infinity = torch.full_like(ordered[:, :1], torch.inf)
    above = torch.searchsorted(ordered, below, right=True)
    return (below + torch.cat([ordered, infinity], 1).gather(1, above)) / 2
