"""What every calibration temperature would do to NLL and ECE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from temperance.calibration.figures.look import CHANCE, INK, percent, write_header
from temperance.calibration.fit_report import TemperatureFit
from temperance.calibration.fitting import fit_temperature
from temperance.calibration.intervals import Z95, Interval
from temperance.calibration.metrics import check_logits
from temperance.calibration.metrics.bins import binned_error
from temperance.calibration.metrics.scores import score_rows
from temperance.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class TemperatureSweep:
    """NLL and ECE of softmax(logits / T) at ascending T, and the T that was fitted."""

    temperature: Float[NDArray[np.float64], " temperatures"]
    nll: Float[NDArray[np.float64], " temperatures"]
    """In nats."""
    ece: Float[NDArray[np.float64], " temperatures"]
    """In 0..1."""
    fit: TemperatureFit

    @property
    def interval(self) -> Interval | None:
        """95 % of the fitted T, from its standard error of log T; None where there is none."""
        error = self.fit.se_log_temperature
        if error is None:
            return None
        factor = float(np.exp(Z95 * error))
        return Interval(self.fit.temperature / factor, self.fit.temperature * factor)


def sweep_temperature(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    temperatures: ArrayLike | None = None,
    fit: TemperatureFit | None = None,
    n_bins: int = 15,
) -> TemperatureSweep:
    """NLL and top-label ECE (equal width) over a grid of temperatures; a pass over the logits each.

    Args:
        temperatures: ascending, > 0; by default 61, evenly in log T, from a quarter of the
            smaller of 1 and the fitted T to four times the larger.
        fit: of these rows, for instance with `groups`; by default `fit_temperature` as it is.

    Raises:
        UserError: see `fit_temperature`; for temperatures that are not positive and ascending.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[3.0, 0.0]]).expand(100, 2)
        >>> sweep = sweep_temperature(logits, (torch.arange(100) % 4 == 0).long())
        >>> best = sweep.ece.argmin()
        >>> round(sweep.temperature[best], 1), round(sweep.fit.temperature, 1)
        (np.float64(2.7), 2.7)
    """
    check_logits(logits, targets)
    fit = fit or fit_temperature(logits, targets)
    if temperatures is None:
        ends = min(1.0, fit.temperature) / 4, max(1.0, fit.temperature) * 4
        temperatures = np.geomspace(*ends, 61)
    grid = np.asarray(temperatures, dtype=np.float64)
    if not (grid.size and (grid > 0).all() and (np.diff(grid) > 0).all()):
        raise UserError("must be positive and ascending", where="temperatures")
    nll, ece = np.empty_like(grid), np.empty_like(grid)
    for place, temperature in enumerate(grid):
        scores = score_rows(logits, targets, temperature=float(temperature))
        nll[place] = float(scores.nll.mean())
        ece[place] = binned_error(scores.confidence, scores.correct, n_bins=n_bins).total
    return TemperatureSweep(grid, nll, ece, fit)


def temperature_sweep(
    axes: Sequence[Axes], sweep: TemperatureSweep, *, title: str | None = None
) -> tuple[Axes, Axes]:
    """NLL above ECE, over the calibration temperature on a log axis.

    A line marks the fitted T, a band its 95 % interval, a dotted line T = 1, circles the least NLL
    and the least ECE of the grid.

    Args:
        axes: two of 3 × 1.5 inches or more, as `figure.subplots(2, 1)` gives them, in a figure
            with a layout (`constrained`, `tight`).

    Returns:
        Both axes.
    """
