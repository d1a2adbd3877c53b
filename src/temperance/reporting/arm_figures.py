"""Figures that compare arms, in the hand of `temperance.reporting.figures`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from temperance.reporting.figures import BLUE, GREY, GRID, INK, VERMILION, wrapped
from temperance.reporting.format import MISSING, signed

_DIVERGING = LinearSegmentedColormap.from_list(
    "temperance", ["#8c3500", VERMILION, "#f7f7f7", BLUE, "#003c66"]
)
_BEFORE: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "color": VERMILION,
    "markersize": 7,
    "markerfacecolor": "white",
    "markeredgewidth": 1.8,
}
_AFTER: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "color": BLUE,
    "markersize": 7,
    "markeredgecolor": "white",
}


def paired_differences(
    ax: Axes,
    labels: Sequence[str],
    means: ArrayLike,
    lows: ArrayLike,
    highs: ArrayLike,
    *,
    new_lows: ArrayLike | None = None,
    new_highs: ArrayLike | None = None,
    points: Sequence[ArrayLike] | None = None,
    emphasise: Collection[int] | None = None,
    unit: str = "percentage points",
) -> Axes:
    """Forest plot: one row per comparison, from top to bottom, with the line of no difference.

    Args:
        labels: what is compared with what.
        means: mean difference of each comparison, in `unit`.
        lows: lower ends of the intervals; NaN where there is none.
        highs: upper ends of the intervals; NaN where there is none.
        new_lows: lower ends of the wider intervals for new data, drawn thin; NaN where none is.
        new_highs: their upper ends.
        points: for each comparison the differences of its replicates.
        emphasise: positions of the comparisons that matter most.
    """
    ax.axvline(0, color=INK, linewidth=1, zorder=1)
    if new_lows is None or new_highs is None:
        new_lows = new_highs = np.full(len(labels), np.nan)
    columns = [np.asarray(column) for column in (means, lows, highs, new_lows, new_highs)]
    for row, (mean, low, high, new_low, new_high) in enumerate(zip(*columns, strict=True)):
        color = VERMILION if row in (emphasise or ()) else BLUE
        if points is not None:
            values = np.asarray(points[row])
            offsets = row + np.linspace(0.16, 0.36, len(values))  # equal values stay visible
            ax.scatter(values, offsets, s=13, color=color, alpha=0.55, linewidths=0)
        ax.plot([new_low, new_high], [row, row], color=color, linewidth=0.9)
        ax.plot([low, high], [row, row], color=color, linewidth=2.4, solid_capstyle="butt")
        ax.plot(mean, row, "o", color=color, markersize=7, markeredgecolor="white", zorder=3)
    ax.set_yticks(range(len(labels)), [wrapped(label, 34) for label in labels])
    for row in emphasise or ():
        ax.get_yticklabels()[row].set_fontweight("bold")
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"difference ({unit})")
    return ax


def arms_by_softening(ax: Axes, frame: pd.DataFrame) -> Axes:
    """Accuracy of every arm, grouped by softening τ; thin lines join one replicate's students,
    diamonds are means.

    Args:
        frame: one row per arm, softening and replicate, with the columns `arm`, `softening` (NaN
            for arms without a teacher), `replicate` and `accuracy` (0 to 1).
    """
    ticks: list[float] = []
    names: list[str] = []
    start = 0.0
    softenings = sorted(frame["softening"].astype(float).unique(), key=lambda s: np.nan_to_num(s))
    for softening in softenings:
        alone = np.isnan(softening)
        group = frame[frame["softening"].isna() if alone else frame["softening"] == softening]
        arms = list(group["arm"].unique())
        percent = 100 * group.pivot(index="arm", columns="replicate", values="accuracy").loc[arms]
        places = start + np.arange(len(arms))
        ax.plot(places, percent, color=GREY, linewidth=0.7, alpha=0.55, zorder=1)
        for place, values in zip(places, percent.to_numpy(), strict=True):
            ax.scatter(np.full(len(values), place), values, s=11, color=GREY, alpha=0.7, zorder=2)
        means = percent.mean(axis=1)
        ax.plot(
            places, means, "D", color=VERMILION, markersize=6, markeredgecolor="white", zorder=3
        )
        heading = "no teacher" if alone else f"τ = {softening:g}"
        ax.text(places.mean(), 1.02, heading, transform=ax.get_xaxis_transform(),
                ha="center", va="bottom", fontweight="bold")  # fmt: skip
        if ticks:
            ax.axvline(start - 1.0, color=GRID, linewidth=1.2)
        ticks += list(places)
        names += arms
        start = float(places[-1]) + 2.0
    ax.set_xticks(ticks, [wrapped(name, 20) for name in names], rotation=35, ha="right",
                  rotation_mode="anchor")  # fmt: skip
    ax.set_xlim(-0.7, start - 1.3)
    ax.grid(axis="x", visible=False)
    ax.tick_params(axis="x", length=0)
    ax.set_ylabel("accuracy (%)")
    return ax


def heat_map(ax: Axes, differences: pd.DataFrame, counts: pd.DataFrame) -> Axes:
    """Differences in points: blue above 0, red below, deepest at the largest of them.

    Under half a point nothing is deep, so that noise does not look like a finding.

    Args:
        ax: about 70 pixels per column and 160 for names, 45 per row and 110 for names.
        differences: one row per objective and one column per arm, both by name; NaN: not run.
        counts: the n of every difference, with the same names.
    """
    values = differences.to_numpy(dtype=float)
    numbers = counts.loc[differences.index, differences.columns].to_numpy()
    largest = float(np.nanmax(np.abs(values), initial=0.5))
    ax.pcolormesh(np.ma.masked_invalid(values), cmap=_DIVERGING, vmin=-largest, vmax=largest,
                  edgecolors="white", linewidth=2)  # fmt: skip
    for (row, column), value in np.ndenumerate(values):
        missing = np.isnan(value)
        text = MISSING if missing else f"{signed(value)}\nn = {numbers[row, column]:,}"
        red, green, blue, _ = _DIVERGING(0.5 + 0.5 * value / largest)
        dark = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.2  # luminance
        ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8,
                color=GREY if missing else "white" if dark else INK)  # fmt: skip
    rows, columns = values.shape
    ax.set_xticks(np.arange(columns) + 0.5, [wrapped(str(name), 20) for name in differences],
                  rotation=35, ha="right", rotation_mode="anchor")  # fmt: skip
    ax.set_yticks(np.arange(rows) + 0.5, [wrapped(str(name), 24) for name in differences.index])
    ax.set_ylim(rows, 0)
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def calibration_before_after(
    ax: Axes, students: pd.DataFrame, error: Literal["gap", "ece"] = "gap"
) -> Axes:
    """Students' calibration as they are, and after their own fitted T, arm by arm.

    Large: means; small: every student.

    Args:
        ax: about 46 pixels per arm, and 90 for the axis and the legend.
        students: with the columns `arm` (drawn in order of appearance), and `gap` and
            `gap_calibrated`, or `ece` and `ece_calibrated` (−1 to 1); NaN is left out.
        error: which of both.
    """
    arms = list(students["arm"].unique())
    ax.axvline(0, color=INK, linewidth=1, zorder=1)
    for row, arm in enumerate(arms):
        group = students[students["arm"] == arm]
        alpha = float(np.clip(12 / len(group), 0.15, 0.55))
        means = []
        for column, look in ((error, _BEFORE), (f"{error}_calibrated", _AFTER)):
            values = 100 * group[column].dropna().to_numpy(dtype=float)
            offsets = row + np.linspace(0.16, 0.36, len(values))
            ax.scatter(values, offsets, s=9, color=look["color"], alpha=alpha, linewidths=0)
            means.append(values.mean() if len(values) else np.nan)
        ax.plot(means, [row, row], color=GREY, linewidth=1.6, zorder=2)
        for mean, look in zip(means, (_BEFORE, _AFTER), strict=True):
            ax.plot(mean, row, zorder=3, **look)
    ax.set_yticks(range(len(arms)), [wrapped(str(arm), 34) for arm in arms])
    ax.set_ylim(len(arms) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("confidence − accuracy (points)" if error == "gap" else "top-label ECE (%)")
    handles = [
        Line2D([], [], **_BEFORE, label="as trained"),
        Line2D([], [], **_AFTER, label="after its own T"),
    ]
    ax.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
    return ax
