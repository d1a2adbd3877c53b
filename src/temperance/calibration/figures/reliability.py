"""Reliability diagrams over bins: one, or two beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from temperance.calibration.figures.look import (
    CHANCE,
    CLEAR,
    INK,
    PALE,
    ROWS,
    STRIP_FLOOR,
    STRIP_HEIGHT,
    direction_handles,
    draw_frame,
    label_strip,
    paint,
    percent,
    signed_points,
    text_size,
    write_header,
)
from temperance.calibration.metrics import ReliabilityBins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

FILLED = 0.92  # of a bin's width


def reliability_diagram(
    ax: Axes, bins: ReliabilityBins, *, title: str | None = None, fullest: float | None = None
) -> Axes:
    """Accuracy against confidence per bin, coloured by direction, and how many rows are where.

    A bar spans from the bin's accuracy (dark line) to its mean confidence: below the diagonal the
    model is over-confident there, above it under-confident. Behind it lies `consistency_band`,
    and a bar within is pale: chance alone would do as much. The strip at the foot shows the share
    of rows per bin.

    Args:
        ax: axes of about 3 × 3 inches or more, in a figure with a layout (`constrained`, `tight`).
        fullest: share of rows, in 0..1, that fills the strip; by default that of the fullest bin.

    Returns:
        The axes of the diagram.
    """
    draw_bins(ax, bins, fullest)
    error = bins.error
    lines = [
        f"confidence − accuracy {signed_points(error.signed)}",
        f"ECE {percent(error.total)}, n = {bins.count.sum():,}",
    ]
    write_header(ax, title, lines, direction_handles(error))
    return ax


def reliability_before_after(
    axes: Sequence[Axes], before: ReliabilityBins, after: ReliabilityBins
) -> tuple[Axes, Axes]:
    """Two diagrams side by side, before calibration and after, on the same scales.

    Args:
        axes: two, as `figure.subplots(1, 2)` gives them.

    Returns:
        Both axes.
    """
    left, right = axes
    fullest = max(rows_share(bins).max() for bins in (before, after))
    return (
        reliability_diagram(left, before, title="before calibration", fullest=fullest),
        reliability_diagram(right, after, title="after calibration", fullest=fullest),
    )


def consistency_band(bins: ReliabilityBins) -> Float[NDArray[np.float64], "2 bins"]:
    """Where the accuracy of 95 % of bins like these lies if every confidence is right, in 0..1.

    What labels redrawn from the confidences would do (Bröcker & Smith 2007): quantiles of the
    binomial distribution with each bin's mean confidence; that the confidences of a bin differ
    makes them a little too wide. Bin by bin, so of 20 bins one leaves it by chance. NaN in an
    empty bin.

    Examples:
        >>> half = np.array([0.5])
        >>> bins = ReliabilityBins(np.zeros(1), np.array([100]), confidence=half, accuracy=half)
        >>> consistency_band(bins).ravel().tolist()
        [0.4, 0.6]
    """
    from scipy.stats import binom  # takes a second to import

    chance = bins.confidence.clip(0, 1)  # a mean of ones may round above 1
    with np.errstate(invalid="ignore"):
        band: NDArray[np.float64] = binom.ppf([[0.025], [0.975]], bins.count, chance) / bins.count
    return band


# What a diagram is made of; shared with the class-wise grid.


def draw_bins(ax: Axes, bins: ReliabilityBins, fullest: float | None = None) -> Text:
    """The diagram without what is written over it.

    Returns:
        The label of the strip.
    """
    draw_frame(ax)
    full = np.flatnonzero(bins.count)
    accuracy, confidence = bins.accuracy[full], bins.confidence[full]
    low, high = consistency_band(bins)[:, full]
    width = FILLED / len(bins.lower)
    centre = bins.lower[full] + 0.5 / len(bins.lower)

    ax.bar(centre, high - low, bottom=low, width=width, color=CHANCE, zorder=1)
    beyond = (accuracy < low) | (accuracy > high)
    for over, direction in ((True, confidence > accuracy), (False, confidence < accuracy)):
        for chosen, alpha in ((direction & beyond, CLEAR), (direction & ~beyond, PALE)):
            ax.bar(
                centre[chosen],
                (confidence - accuracy)[chosen],
                bottom=accuracy[chosen],
                width=width,
                zorder=2,
                **paint(over=over, alpha=alpha),
            )
    ax.hlines(accuracy, centre - width / 2, centre + width / 2, color=INK, linewidth=1.8, zorder=3)

    share = rows_share(bins)
    fullest = fullest or share.max()
    middle = bins.lower + 0.5 / len(share)
    height = STRIP_HEIGHT * np.minimum(share / fullest, 1)
    ax.bar(middle, height, bottom=STRIP_FLOOR, width=width, color=ROWS)
    for cut in np.flatnonzero(share > fullest):  # higher than the strip: a gap says so
        ax.bar(middle[cut], 0.02, bottom=STRIP_FLOOR + 0.7 * STRIP_HEIGHT, width=width, color="w")
        ax.text(
            middle[cut],
            STRIP_FLOOR + STRIP_HEIGHT + 0.005,
            percent(share[cut], digits=0),
            ha="center",
            va="bottom",
            fontsize=0.85 * text_size(ax),
            color=INK,
        )
    return label_strip(ax, f"{percent(fullest, digits=0)}\nrows")


def rows_share(bins: ReliabilityBins) -> Float[NDArray[np.float64], " bins"]:
    """Each bin's share of the rows."""
    share: NDArray[np.float64] = bins.count / bins.count.sum()
    return share
