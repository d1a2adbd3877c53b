"""Figures of a study over many teachers, in the hand of `temperance.reporting.figures`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from temperance.reporting.figures import (
    BLUE,
    GREY,
    INK,
    OKABE_ITO,
    VERMILION,
    label_log_axis,
)
from temperance.reporting.format import number

MOST_FAMILIES = 18
"""More are drawn alike: nobody could tell them apart."""
MARKERS = "osD^vP"  # six beside seven colours: no pair comes twice in 42 families

Z95, LOG2 = 1.96, math.log(2)
BAND = "#dfe3e6"


class _ErrorAxis(NamedTuple):
    label: str
    factor: float


ERRORS: Mapping[str, _ErrorAxis] = {
    "ace": _ErrorAxis("teacher's ACE (×10⁻³)", 1000),
    "ece": _ErrorAxis("teacher's top-label ECE (%)", 100),
    "gap": _ErrorAxis("teacher's confidence − accuracy (points)", 100),
}


def figure_one(
    figure: Figure,
    teachers: pd.DataFrame,
    *,
    error: Literal["ace", "ece", "gap"] = "ace",
    r: tuple[float | None, float | None],
) -> tuple[Axes, Axes]:
    """Teachers' accuracy, and beside it their calibration error, against their students' accuracy
    (Kim et al. 2025, Figure 1), with least-squares lines.

    Args:
        figure: about 860 × 440 pixels.
        teachers: one row each, with the columns `family`, `accuracy`, the one named by `error`,
            and `student_accuracy`, a mean over students (all 0 to 1); NaN is left out.
        error: what the right panel shows; "gap" is signed, and has a line at 0.
        r: Pearson correlations of the left and the right panel, as they were computed.
    """
    left, right = figure.subplots(1, 2, sharey=True)
    label, factor = ERRORS[error]
    families = _families(list(teachers["family"]))
    students = 100 * teachers["student_accuracy"].to_numpy(dtype=float)
    accuracy = 100 * teachers["accuracy"].to_numpy(dtype=float)
    _correlation(left, accuracy, students, families, r[0])
    _correlation(right, factor * teachers[error].to_numpy(dtype=float), students, families, r[1])
    left.set_xlabel("teacher's accuracy (%)")
    left.set_ylabel("students' accuracy (%)")
    right.set_xlabel(label)
    if error == "gap":
        right.axvline(0, color=INK, linewidth=1, zorder=1)
    handles = _handles(families)
    if handles:
        longest = max(len(family.name) for family in families)
        columns = max(1, min(len(handles), 6, 110 // (longest + 6)))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return left, right


def alignment_plot(
    ax: Axes,
    log_temperatures: ArrayLike,
    se_log_temperatures: ArrayLike,
    log_optima: ArrayLike,
    se_log_optima: ArrayLike,
    families: Sequence[str],
    *,
    edge: ArrayLike,
    slope: float | None = None,
    intercept: float | None = None,
    band: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None,
) -> Axes:
    """Each teacher's best softening against its fitted temperature, with the two answers that
    were possible: slope 1, T is the unit, and slope 0, one constant does for all.

    Both references run through the means of the teachers that were fitted. Bars are 95 %.

    Args:
        ax: about 700 × 440 pixels.
        log_temperatures: log T of each teacher; who has none is left out and counted.
        se_log_temperatures: their standard errors; NaN where there is none.
        log_optima: log of the teacher softening at which its students were best.
        se_log_optima: their standard errors; NaN where there is none.
        families: of the teachers.
        edge: whether the optimum is only bounded, at an end of the grid: hollow, not in the fit.
        slope: of log optimum on log T; None where nothing was fitted.
        intercept: of the same line.
        band: ascending log T, and the ends of the line's interval there.
    """
    columns = (log_temperatures, se_log_temperatures, log_optima, se_log_optima)
    x, x_error, y, y_error = (np.asarray(column, dtype=float) for column in columns)
    x_error, y_error = np.minimum([x_error, y_error], 10)  # longer runs out of every picture
    known = np.isfinite(x) & np.isfinite(y)
    bounded = np.asarray(edge, dtype=bool)
    fitted = known & ~bounded
    bars: dict[str, Any] = {"colors": GREY, "linewidth": 0.9, "zorder": 1.5}
    bars["alpha"] = 0.6 if len(x) <= 60 else 0.25
    ax.hlines(np.exp(y), np.exp(x - Z95 * x_error), np.exp(x + Z95 * x_error), **bars)
    ax.vlines(np.exp(x), np.exp(y - Z95 * y_error), np.exp(y + Z95 * y_error), **bars)
    groups = _families(families)
    for _, members, look in groups:
        for where, filling in ((members & fitted, {}), (members & known & bounded, _HOLLOW)):
            ax.plot(np.exp(x[where]), np.exp(y[where]), **_POINT | look | filling)

    ends = np.array(_log_limits(x, x_error))
    handles: list[Line2D] = []
    if fitted.any():
        x_mean, y_mean = x[fitted].mean(), y[fitted].mean()
        for one, dash, label in (
            (1.0, (5, 3), "slope 1: T is the unit"),
            (0.0, (1.2, 2), "slope 0: one constant"),
        ):
            handles += ax.plot(np.exp(ends), np.exp(y_mean + one * (ends - x_mean)), color=INK,
                               linewidth=1, dashes=dash, zorder=1, label=label)  # fmt: skip
    if slope is not None and intercept is not None:
        label = f"fitted: slope {number(slope)}"
        handles += ax.plot(np.exp(ends), np.exp(intercept + slope * ends), color=INK,
                           linewidth=1.8, zorder=2, label=label)  # fmt: skip
    if band is not None:
        grid, low, high = (np.exp(np.asarray(column, dtype=float)) for column in band)
        ax.fill_between(grid, low, high, color=BAND, linewidth=0, zorder=0)
    if (known & bounded).any():
        handles.append(Line2D([], [], **_POINT | {"color": GREY, "marker": "o"} | _HOLLOW,
                              label="optimum at the grid's end, not fitted"))  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(*np.exp(ends))
    ax.set_ylim(*np.exp(_log_limits(y, y_error)))
    label_log_axis(ax.xaxis)
    label_log_axis(ax.yaxis)
    left_out = int((~known).sum())
    ax.set_xlabel("calibration temperature T" + _not_shown(left_out))
    ax.set_ylabel("best teacher softening τₜ")
    handles += _handles(groups)
    if handles:
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.02))
    return ax


def temperature_points(ax: Axes, temperatures: ArrayLike, se: ArrayLike) -> Axes:
    """The calibration temperature fitted in each replicate, with its 95 % interval, on a log axis.

    Args:
        temperatures: T of each replicate, > 0; what is not finite is left out and counted.
        se: standard errors of log T; NaN where there is none.
    """
    fitted, errors = np.asarray(temperatures, dtype=float), np.asarray(se, dtype=float)
    finite = np.isfinite(fitted)
    replicates = np.arange(len(fitted))
    fitted, errors, places = fitted[finite], errors[finite], replicates[finite]
    lows, highs = fitted * np.exp(-1.96 * errors), fitted * np.exp(1.96 * errors)
    ax.axhline(1, color=INK, linewidth=1)
    ax.vlines(places, lows, highs, color=BLUE, linewidth=2.4)
    ax.plot(places, fitted, "o", color=BLUE, markersize=7, markeredgecolor="white", zorder=3)
    everything = np.concatenate([[1.0], fitted, lows[np.isfinite(lows)], highs[np.isfinite(highs)]])
    ax.set_yscale("log")
    ax.set_ylim(everything.min() / 1.12, everything.max() * 1.12)
    label_log_axis(ax.yaxis)
    ax.set_xlim(-0.6, len(replicates) - 0.4)
    ax.xaxis.set_major_locator(MaxNLocator(9, integer=True, steps=[1, 2, 5, 10]))
    ax.grid(axis="x", visible=False)
    left_out = int((~finite).sum())
    ax.set_xlabel(
        "replicate" + (f" ({left_out} without a finite T, not shown)" if left_out else "")
    )
    ax.set_ylabel("calibration temperature T")
    return ax


def softening_curves(
    ax: Axes,
    softenings: ArrayLike,
    accuracies: ArrayLike,
    *,
    temperatures: ArrayLike | None = None,
    centred: bool = False,
) -> Axes:
    """Students' accuracy over the teacher's softening: a thin line per teacher, the mean thick.

    The mean is drawn where all teachers but a tenth have a curve, interpolated in log τₜ, each
    relative to its teacher's own mean: so whose curve ends earlier does not bend it.

    Args:
        softenings: teacher softenings τₜ > 0, ascending: the grid of all teachers.
        accuracies: teachers × grid, 0 to 1; NaN is bridged.
        temperatures: T of each teacher, by which its softenings are then divided.
        centred: show differences from each teacher's mean over its grid, in points.
    """
    grid, percent = np.asarray(softenings, dtype=float), 100 * np.asarray(accuracies, dtype=float)
    units = np.ones(len(percent)) if temperatures is None else np.asarray(temperatures, dtype=float)
    curves, levels = [], []
    for unit, values in zip(units, percent, strict=True):
        known = np.isfinite(values)
        if known.any() and np.isfinite(unit):
            levels.append(values[known].mean())
            curves.append((np.log(grid[known] / unit), values[known] - levels[-1]))
    many = len(curves) > 40
    for (x, y), level in zip(curves, levels, strict=True):
        ax.plot(np.exp(x), y + (0 if centred else level), color=BLUE, linewidth=0.8,
                alpha=0.12 if many else 0.5, marker=None if many else "o", markersize=2.2,
                markeredgewidth=0, zorder=1)  # fmt: skip
    if curves:
        x, y = _mean_curve(curves)
        ax.plot(np.exp(x), y + (0 if centred else np.mean(levels)), color=VERMILION,
                linewidth=2.6, zorder=3)  # fmt: skip
    if temperatures is not None:
        ax.axvline(1, color=INK, linewidth=1, zorder=2)
    ax.set_xscale("log", base=2)
    ax.margins(x=0.03)
    label_log_axis(ax.xaxis)
    left, right = ax.get_xlim()
    if right > 4 * left:
        ax.xaxis.set_major_locator(LogLocator(base=2))
    ax.set_xlabel("teacher softening " + ("τₜ" if temperatures is None else "in units of T: τₜ / T")
                  + _not_shown(len(percent) - len(curves)))  # fmt: skip
    ax.set_ylabel("accuracy − teacher's mean (points)" if centred else "students' accuracy (%)")
    return ax


def under_confidence_curve(
    ax: Axes,
    factors: ArrayLike,
    means: ArrayLike,
    lows: ArrayLike,
    highs: ArrayLike,
    *,
    temperature_interval: tuple[float, float] | None = None,
) -> Axes:
    """What students gain over the calibrated teacher's where its T is multiplied by a factor.

    Args:
        factors: > 0; above 1 the teacher is under-confident. The calibrated one, 1, is drawn by
            itself and need not be given.
        means: mean differences to factor 1, in percentage points.
        lows: lower ends of their intervals; NaN where there is none.
        highs: upper ends.
        temperature_interval: the 95 % interval of the fitted T, divided by T: factors that the
            fit itself cannot tell from 1.
    """
    columns = [np.asarray(column, dtype=float) for column in (factors, means, lows, highs)]
    known = np.isfinite(columns[1]) & (columns[0] != 1)
    factor, mean, low, high = (column[known] for column in columns)
    order = np.argsort(np.append(factor, 1.0))
    if temperature_interval is not None:
        ax.axvspan(*temperature_interval, color=BAND, linewidth=0, zorder=0)
    ax.axhline(0, color=INK, linewidth=1, zorder=1)
    ax.plot(np.append(factor, 1.0)[order], np.append(mean, 0.0)[order], color=BLUE, zorder=2)
    ax.vlines(factor, low, high, color=BLUE, linewidth=2.4, zorder=2)
    ax.plot(factor, mean, "o", color=BLUE, markersize=7, markeredgecolor="white", zorder=3)
    ax.plot(1, 0, "D", color=INK, markersize=6.5, markeredgecolor="white", zorder=3)
    ax.text(1, 1.02, "calibrated", transform=ax.get_xaxis_transform(), ha="center", va="bottom")
    shown = np.array([1.0, *factor, *(temperature_interval or ())])
    ax.set_xscale("log")
    ax.set_xlim(shown.min() / 1.15, shown.max() * 1.15)
    ticks = [1.0]
    for tick in factor:
        if np.abs(np.log(tick / np.array(ticks))).min() > 0.06 * np.log(shown.max() / shown.min()):
            ticks.append(tick)
    ax.set_xticks(ticks, [f"×{tick:.3g}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("factor on T (above 1: under-confident)")
    ax.set_ylabel("accuracy − calibrated (points)")
    ax.margins(y=0.12)
    return ax


_POINT: dict[str, Any] = {
    "linestyle": "none",
    "markersize": 7,
    "markeredgecolor": "white",
    "zorder": 3,
}
_HOLLOW: dict[str, Any] = {"fillstyle": "none", "markeredgecolor": None, "markeredgewidth": 1.2}


def _correlation(
    ax: Axes,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    families: Sequence[_Family],
    r: float | None,
) -> None:
    known = np.isfinite(x) & np.isfinite(y)
    for family in families:
        mine = known & family.members
        ax.plot(x[mine], y[mine], **_POINT | family.look)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    x, y = x[known], y[known]
    if len(x) > 2 and np.ptp(x) > 0:
        slope, intercept = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, intercept + slope * ends, color=INK, linewidth=1.2, zorder=2)
    correlation = "" if r is None else f"r = {number(r)}, "
    ax.set_title(f"{correlation}n = {len(x)}" + _not_shown(int((~known).sum())))


class _Family(NamedTuple):
    name: str
    members: NDArray[np.bool_]
    look: dict[str, Any]


def _families(names: Sequence[str]) -> list[_Family]:
    """Every family with its colour and marker, in order of appearance."""
    everyone = np.asarray(names, dtype=object)
    distinct = list(dict.fromkeys(names))
    size = {"markersize": 7} if len(names) <= 60 else {"markersize": 6, "markeredgewidth": 0.5}
    if len(distinct) > MOST_FAMILIES:
        every = np.ones(len(names), dtype=bool)
        return [_Family("", every, {"color": BLUE, "marker": "o", **size})]
    return [
        _Family(
            name,
            everyone == name,
            {"color": OKABE_ITO[i % len(OKABE_ITO)], "marker": MARKERS[i % len(MARKERS)], **size},
        )
        for i, name in enumerate(distinct)
    ]


def _handles(families: Sequence[_Family]) -> list[Line2D]:
    """Legend entries; none where all points look alike anyway."""
    if len(families) < 2:
        return []
    return [Line2D([], [], **_POINT | look, label=name) for name, _, look in families]


def _mean_curve(
    curves: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Over all places of all curves where at most a tenth of the curves is missing."""
    places = np.unique(np.round(np.concatenate([x for x, _ in curves]), 9))
    values = np.array([np.interp(places, np.round(x, 9), y, np.nan, np.nan) for x, y in curves])
    enough = np.isnan(values).mean(axis=0) <= 0.1
    return places[enough], np.nanmean(values[:, enough], axis=0)


def _log_limits(values: NDArray[np.float64], errors: NDArray[np.float64]) -> tuple[float, float]:
    """Room for the points and their bars; a bar that is longer than a factor of 2 may run out."""
    known = values[np.isfinite(values)]
    if not len(known):
        return -LOG2, LOG2
    reach = np.clip(np.nan_to_num(Z95 * errors[np.isfinite(values)]), 0, LOG2)
    return float((known - reach).min()) - 0.1, float((known + reach).max()) + 0.1


def _not_shown(left_out: int) -> str:
    return f" ({left_out} without a value, not shown)" if left_out else ""
