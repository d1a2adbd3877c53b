"""The smooth reliability diagram: no bins, at the bandwidth of the smooth ECE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.fft import dct, idct
from torch import Tensor

from temperance.calibration.figures.look import (
    CHANCE,
    CLEAR,
    INK,
    OVER_CONFIDENT,
    PALE,
    ROWS,
    STRIP_FLOOR,
    STRIP_HEIGHT,
    UNDER_CONFIDENT,
    direction_handles,
    draw_frame,
    label_strip,
    paint,
    percent,
    signed_points,
    write_header,
)
from temperance.calibration.metrics import CalibrationError, check_logits
from temperance.calibration.metrics.binned import Event, score_event
from temperance.calibration.metrics.smooth import GRID, on_grid, smooth_error_of_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 256  # of the curve, from all cells of the grid
STRIP_CELLS = 64


@dataclass(frozen=True, eq=False)
class SmoothReliability:
    """What a smooth reliability diagram shows, around equidistant points of 0..1.

    Points with no row within two bandwidths are left out.
    """

    density: Float[NDArray[np.float64], " points"]
    """Of the rows around the point; 1 if they were spread evenly."""
    confidence: Float[NDArray[np.float64], " points"]
    """Mean confidence of these rows."""
    accuracy: Float[NDArray[np.float64], " points"]
    """Share of them that is predicted correctly."""
    low: Float[NDArray[np.float64], " points"]
    """Lower end of what that share would be in 95 % of redraws of the labels."""
    high: Float[NDArray[np.float64], " points"]
    """Upper end of it."""
    count: Int[NDArray[np.int64], " cells"]
    """Rows in equal cells of confidence."""
    error: CalibrationError
    """Smooth ECE, over- and under-confidence apart."""
    bandwidth: float
    """Standard deviation of the kernel, in confidence."""


def smooth_reliability_curve(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    event: Event = "top_label",
    redraws: int = 200,
    seed: int = 0,
) -> SmoothReliability:
    """Accuracy and confidence under the kernel of the smooth ECE: a Gaussian reflected at 0 and 1,
    as wide as that error (Błasiok & Nakkiran 2023, §3.2 and §4).

    They plot the accuracy around t against t. Here it is paired with the mean confidence around t,
    as in a binned diagram: so the curve of a calibrated model is the diagonal, whatever the
    bandwidth, and |confidence − accuracy|, averaged over the density, is the smooth ECE.

    Args:
        event: what the confidence is about, see `expected_calibration_error`.
        redraws: of all labels from the confidences, for the band of chance; the bandwidth stays.
        seed: of the redraws.

    Raises:
        UserError: see `check_logits`; for an unknown event.

    Examples:
        >>> logits = torch.tensor([[0.9, 0.1]]).log().expand(100, 2)
        >>> curve = smooth_reliability_curve(logits, torch.arange(100) % 2)
        >>> round(curve.confidence.max(), 3), round(curve.accuracy.max(), 3), curve.count.sum()
        (np.float64(0.9), np.float64(0.5), np.int64(100))
    """
    check_logits(logits, targets)
    confidence, hit = score_event(logits, targets, event)
    n = len(confidence)
    columns = (torch.ones_like(hit), confidence, hit)
    mass, sure, hits = (on_grid(confidence, column) / n for column in columns)
    bandwidth = smooth_error_of_grid(sure - hits).bandwidth
    surplus = _smooth(sure - hits, bandwidth)
    density = GRID * _thin(_smooth(mass, bandwidth))
    # what a single row adds two bandwidths away
    seen = density > np.exp(-2) / (np.sqrt(2 * np.pi) * bandwidth * n)

    def around(values: NDArray[np.float64]) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = GRID * _thin(_smooth(values, bandwidth))[seen] / density[seen]
        return mean

    cell = (confidence * GRID).long().clamp(max=GRID - 1)
    rows = torch.bincount(cell, minlength=GRID).cpu().numpy()
    total = torch.bincount(cell, confidence, minlength=GRID).cpu().numpy()
    chance = (total / rows.clip(min=1)).clip(max=1)
    generator = np.random.default_rng(seed)
    redrawn = [around(generator.binomial(rows, chance) / n) for _ in range(redraws)]
    low, high = np.quantile(redrawn, [0.025, 0.975], axis=0)
    return SmoothReliability(
        density=density[seen],
        confidence=around(sure),
        accuracy=around(hits),
        low=low,
        high=high,
        count=rows.reshape(STRIP_CELLS, -1).sum(1),
        error=CalibrationError(
            over=float(surplus.clip(min=0).sum()), under=float((-surplus).clip(min=0).sum())
        ),
        bandwidth=bandwidth,
    )


def smooth_reliability(ax: Axes, curve: SmoothReliability, *, title: str | None = None) -> Axes:
    """Accuracy against confidence without bins, coloured by direction, and where the rows are.

    The curve is the wider the denser the rows are. The area to the diagonal is pale where chance
    alone would do as much: within the grey band. The strip at the foot is a histogram.

    Args:
        ax: axes of about 3 × 3 inches or more, in a figure with a layout (`constrained`, `tight`).

    Returns:
        The axes of the diagram.
    """
    from matplotlib.collections import LineCollection

    draw_frame(ax)
    x, y, low, high = curve.confidence, curve.accuracy, curve.low, curve.high
    ax.fill_between(x, low, high, color=CHANCE, linewidth=1, zorder=1)
    beyond = (y < low) | (y > high)
    for over, direction in ((True, y < x), (False, y > x)):
        for where, alpha in ((direction & beyond, CLEAR), (direction & ~beyond, PALE)):
            ax.fill_between(x, x, y, where=where, zorder=2, **paint(over=over, alpha=alpha))
    width = 1 + 3 * np.sqrt(curve.density / curve.density.max())
    line = np.stack([x, y], axis=1)
    pieces = LineCollection(
        list(np.stack([line[:-1], line[1:]], axis=1)),
        linewidths=width,
        colors=INK,
        capstyle="round",
        clip_on=False,
        zorder=3,
    )
    ax.add_collection(pieces)
    if x[-1] - x[0] < 1 / POINTS:  # all confidences are equal: neither curve nor area to be seen
        colour = OVER_CONFIDENT if y[0] < x[0] else UNDER_CONFIDENT
        ax.vlines(x[0], y[0], x[0], color=colour, linewidth=3, zorder=2)
        ax.plot(x[0], y[0], "o", color=INK, markersize=5, clip_on=False, zorder=3)

    cells = len(curve.count)
    height = STRIP_HEIGHT * curve.count / curve.count.max()
    left = np.arange(cells) / cells
    ax.bar(left, height, bottom=STRIP_FLOOR, width=1 / cells, align="edge", color=ROWS)
    label_strip(ax, "rows")
    lines = [
        f"confidence − accuracy {signed_points(curve.error.signed)}",
        f"smooth ECE {percent(curve.error.total)}, n = {curve.count.sum():,}",
    ]
    write_header(ax, title, lines, direction_handles(curve.error))
    return ax


def _smooth(values: NDArray[np.float64], bandwidth: float) -> NDArray[np.float64]:
    """The grid's values under the reflected kernel, which is diagonal in cosines."""
    decay = np.exp(-((np.pi * np.arange(len(values)) * bandwidth) ** 2) / 2)
    smoothed: NDArray[np.float64] = idct(dct(values, norm="ortho") * decay, norm="ortho")
    return smoothed


def _thin(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cells in the middle of equal parts, one for each point of the curve."""
    every = len(grid) // POINTS
    return grid[every // 2 :: every]
