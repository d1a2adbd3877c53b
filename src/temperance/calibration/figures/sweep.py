"""What every calibration temperature would do to NLL and ECE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from temperance.calibration.figures.look import CHANCE, INK, paint, percent, write_header
from temperance.calibration.fit_report import TemperatureFit
from temperance.calibration.fitting import fit_temperature
from temperance.calibration.intervals import Z95, Interval
from temperance.calibration.metrics import check_logits
from temperance.calibration.metrics.bins import ECE_BINS, binned_error
from temperance.calibration.metrics.scores import score_rows, weighted_mean
from temperance.errors import UserError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class TemperatureSweep:
    """NLL and ECE of softmax(logits / T) at ascending T, and the T that was fitted."""

    temperature: Float[NDArray[np.float64], " temperatures"]
    nll: Float[NDArray[np.float64], " temperatures"]
    """In nats."""
    ece_over: Float[NDArray[np.float64], " temperatures"]
    """The over-confident part of the ECE, in 0..1."""
    ece_under: Float[NDArray[np.float64], " temperatures"]
    """The under-confident part."""
    fit: TemperatureFit

    @property
    def ece(self) -> Float[NDArray[np.float64], " temperatures"]:
        """Both parts together."""
        return self.ece_over + self.ece_under

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
    weights: Float[Tensor, " rows"] | None = None,
    *,
    temperatures: ArrayLike | None = None,
    fit: TemperatureFit | None = None,
) -> TemperatureSweep:
    """NLL and top-label ECE (15 bins) at many temperatures, with a pass over the logits for each.

    Args:
        temperatures: ascending, > 0; by default 1, the fitted T, and 61 evenly in log T, from a
            quarter of the smaller of both to four times the larger.
        fit: of these rows, for instance with `groups`; by default `fit_temperature` as it is.

    Raises:
        UserError: see `fit_temperature`; for temperatures that are not positive and ascending, or
            only one.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[3.0, 0.0]]).expand(100, 2)
        >>> sweep = sweep_temperature(logits, (torch.arange(100) % 4 == 0).long())
        >>> best = sweep.ece.argmin()
        >>> round(sweep.temperature[best], 1), round(sweep.fit.temperature, 1)
        (np.float64(2.7), 2.7)
    """
    check_logits(logits, targets, weights)
    fit = fit or fit_temperature(logits, targets, weights)
    if temperatures is None:
        ends = min(1.0, fit.temperature) / 4, max(1.0, fit.temperature) * 4
        temperatures = np.union1d(np.geomspace(*ends, 61), [1.0, fit.temperature])
    grid = np.asarray(temperatures, dtype=np.float64)
    if not (grid.size > 1 and (grid > 0).all() and (np.diff(grid) > 0).all()):
        raise UserError("must be two or more, positive and ascending", where="temperatures")
    nll, over, under = (np.empty_like(grid) for _ in range(3))
    for place, temperature in enumerate(grid):
        scores = score_rows(logits, targets, temperature=float(temperature))
        nll[place] = weighted_mean(scores.nll, weights)
        over[place], under[place] = binned_error(
            scores.confidence, scores.correct, weights, n_bins=ECE_BINS
        )
    return TemperatureSweep(grid, nll, over, under, fit)


def temperature_sweep(
    axes: Sequence[Axes], sweep: TemperatureSweep, *, title: str | None = None
) -> tuple[Axes, Axes]:
    """NLL above ECE, over the calibration temperature on a log axis.

    A line marks the fitted T, a grey band its 95 % interval, a dotted line T = 1, a circle the
    least ECE. The area under the ECE is coloured by direction.

    Args:
        axes: two of 3 × 1.5 inches or more, as `figure.subplots(2, 1)` gives them, in a figure
            with a layout (`constrained`, `tight`).

    Returns:
        Both axes.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    upper, lower = axes
    grid, ece, fit, interval = sweep.temperature, sweep.ece, sweep.fit, sweep.interval
    least = int(ece.argmin())
    marker: dict[str, Any] = {
        "marker": "o",
        "color": INK,
        "markerfacecolor": "white",
        "markersize": 6,
    }

    upper.plot(grid, sweep.nll, color=INK, linewidth=1.8)
    upper.set_ylabel("NLL (nats)")
    lower.fill_between(grid, 0, 100 * sweep.ece_over, **paint(over=True))
    lower.fill_between(grid, 100 * sweep.ece_over, 100 * ece, **paint(over=False))
    lower.plot(grid, 100 * ece, color=INK, linewidth=1.8)
    lower.plot(grid[least], 100 * ece[least], linestyle="none", zorder=4, **marker)
    lower.set_ylabel("ECE (%)")
    lower.set_ylim(bottom=0)
    for ax in (upper, lower):
        ax.axvline(1, color=INK, linewidth=1, linestyle=":", zorder=3)
        if fit.usable:
            ax.axvline(fit.temperature, color=INK, linewidth=1, zorder=3)
        if interval is not None:
            ax.axvspan(*interval, color=CHANCE, linewidth=0, zorder=0)
        _log_axis(ax, grid)
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("calibration temperature T")

    handles: list[Artist] = [Line2D([], [], color=INK, linewidth=1, linestyle=":", label="T = 1")]
    if fit.usable:
        handles.append(Line2D([], [], color=INK, linewidth=1, label="fitted T"))
    if interval is not None:
        handles.append(Patch(facecolor=CHANCE, label="95 % interval"))
    write_header(upper, title, [_fit_in_words(sweep)], handles)

    found = f", {percent(fit.ece_after)} at the fitted T" if fit.usable else ""
    at_least = f"least: {percent(ece[least])} at {grid[least]:.3g}"
    handles = [
        Patch(**paint(over=True), label="over"),
        Patch(**paint(over=False), label="under"),
        Line2D([], [], linestyle="none", **marker, label=at_least),
    ]
    write_header(lower, None, [f"ECE {percent(fit.ece_before)} at T = 1{found}"], handles)
    return upper, lower


def _fit_in_words(sweep: TemperatureSweep) -> str:
    fit, interval = sweep.fit, sweep.interval
    if not fit.usable:
        return f"no T fits these rows ({fit.status}), n = {fit.n:,}"
    ends = "" if interval is None else f" ({interval.low:.3g} to {interval.high:.3g})"
    return f"T = {fit.temperature:.3g}{ends}, n = {fit.n:,}"


def _log_axis(ax: Axes, grid: NDArray[np.float64]) -> None:
    """Temperatures as plain numbers, whatever the range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    ax.set_xscale("log")
    ax.set_xlim(grid[0], grid[-1])
    decades = np.log10(grid[-1] / grid[0])
    narrow = MaxNLocator(5, steps=[1, 2, 5, 10])
    wide = LogLocator(subs=(1, 2, 5) if decades < 2.2 else (1,))
    ax.xaxis.set_major_locator(narrow if decades < 0.9 else wide)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.grid(visible=False)
    ax.spines[["top", "right"]].set_visible(False)
