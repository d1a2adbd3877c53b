"""Reliability diagrams: matplotlib axes in, axes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from temperance.calibration.metrics import ReliabilityBins

if TYPE_CHECKING:  # matplotlib takes a second to import, and many never draw
    from matplotlib.axes import Axes

# Okabe & Ito 2008: told apart by colour-blind readers too
OVER_CONFIDENT = "#D55E00"
UNDER_CONFIDENT = "#0072B2"
INK = "#333333"
STRIP_FLOOR, STRIP_HEIGHT = -0.25, 0.18  # of the rows per bin, on the accuracy axis


def reliability_diagram(ax: Axes, bins: ReliabilityBins, *, title: str | None = None) -> Axes:
    """Accuracy against confidence per bin, coloured by direction, and how many rows are where.

    A bar spans from the bin's accuracy (dark line) to its mean confidence: below the diagonal the
    model is over-confident there, above it under-confident. The strip at the foot shows the share
    of rows per bin, so that a large bar over few rows is not taken for a large error.

    Args:
        ax: axes of about 5 × 5 inches.

    Returns:
        The axes of the diagram.
    """
    width = 1 / len(bins.lower)
    full = bins.count > 0
    centre = (bins.lower + width / 2)[full]
    accuracy, confidence = bins.accuracy[full], bins.confidence[full]
    bar = 0.92 * width

    ax.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for chosen, colour, label in (
        (confidence > accuracy, OVER_CONFIDENT, "over-confident"),
        (confidence < accuracy, UNDER_CONFIDENT, "under-confident"),
    ):
        ax.bar(
            centre[chosen],
            (confidence - accuracy)[chosen],
            bottom=accuracy[chosen],
            width=bar,
            color=colour,
            alpha=0.8,
            zorder=2,
        )
        ax.bar(0, 0, color=colour, alpha=0.8, label=label)  # in the legend even if there is none
    ax.hlines(accuracy, centre - bar / 2, centre + bar / 2, color=INK, linewidth=1.8, zorder=3)
    error = bins.error
    signed = f"{100 * error.signed:+.1f}".replace("-", "−")
    ax.text(
        0.97,
        0.24,
        f"ECE {100 * error.total:.1f} %\n"
        f"confidence − accuracy {signed} points\n"
        f"n = {bins.count.sum():,}",
        transform=ax.transAxes,
        ha="right",
        va="bottom",
        fontsize="small",
        linespacing=1.4,
        color=INK,
        bbox={
            "boxstyle": "round,pad=0.35",
            "facecolor": "white",
            "edgecolor": "none",
            "alpha": 0.85,
        },
        zorder=4,
    )
    _confidence_strip(ax, bins)
    ax.set(xlim=(0, 1), ylim=(STRIP_FLOOR, 1), xlabel="confidence", ylabel="accuracy")
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.set_title(title or "", fontsize="medium")
    ax.legend(loc="upper left", fontsize="small", frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines["left"].set_bounds(0, 1)
    return ax


def reliability_before_after(
    axes_pair: tuple[Axes, Axes], before: ReliabilityBins, after: ReliabilityBins
) -> tuple[Axes, Axes]:
    """Two diagrams side by side: before calibration, and after.

    Returns:
        Both axes.
    """
    left, right = axes_pair
    return (
        reliability_diagram(left, before, title="before calibration"),
        reliability_diagram(right, after, title="after calibration"),
    )


def _confidence_strip(ax: Axes, bins: ReliabilityBins) -> None:
    """The share of rows per bin, under the diagram; in the same axes, so that any layout fits."""
    width = 1 / len(bins.lower)
    share = bins.count / bins.count.sum()
    height = STRIP_HEIGHT * share / share.max()
    ax.bar(bins.lower + width / 2, height, bottom=STRIP_FLOOR, width=0.92 * width, color="#aaaaaa")
    ax.axhline(0, color=INK, linewidth=0.8)
    fullest = int(share.argmax())
    ax.text(
        bins.lower[fullest] + width / 2,
        STRIP_FLOOR + STRIP_HEIGHT + 0.008,
        f"{100 * share.max():.0f} %",
        ha="center",
        va="bottom",
        fontsize="x-small",
        color=INK,
    )
    ax.text(
        -0.02,
        STRIP_FLOOR + STRIP_HEIGHT / 2,
        "rows",
        transform=ax.transData,
        ha="right",
        va="center",
        fontsize="small",
        color=INK,
    )
