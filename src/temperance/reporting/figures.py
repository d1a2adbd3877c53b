"""Figures in one hand: drawn by matplotlib into plain SVG that looks the same everywhere.

A drawing takes axes and returns them, so that figures can be composed; `svg` makes the canvas.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Eight-colour palette less yellow, told apart by colour-blind eyes (Okabe & Ito 2008)."""
BLUE, VERMILION = OKABE_ITO[:2]
INK, GREY, GRID = "#1b1f24", "#77808a", "#e6e8ea"

_LOOK: dict[Any, object] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=OKABE_ITO),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.unicode_minus": True,
    "font.size": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    # Glyphs as outlines: the same picture on every machine, with or without our font.
    "svg.fonttype": "path",
    "svg.hashsalt": "temperance",
    # A dollar sign in somebody's label is a dollar sign; write Greek letters as they are.
    "text.parse_math": False,
    "text.color": INK,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
}


@contextmanager
def style() -> Iterator[None]:
    """The shared look, on top of matplotlib's defaults whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_LOOK)
        yield


def svg(draw: Callable[[Figure], object], *, width: float = 700, height: float = 400) -> str:
    """What `draw` puts on a fresh figure, as SVG to stand inside an HTML page.

    The same drawing gives the same text, byte for byte. Identifiers are unique to the drawing, so
    many can share a page. It is hidden from screen readers: who embeds it labels it.

    Args:
        draw: is given the figure, in the shared style.
        width: in CSS pixels.
        height: in CSS pixels.

    Examples:
        >>> svg(lambda figure: figure.subplots().plot([0, 1], [1, 0]))[:4]
        '<svg'
    """
    with style():
        figure = Figure(figsize=(width / 96, height / 96), layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    return _inline(buffer.getvalue().decode())


def paired_differences(
    ax: Axes,
    labels: Sequence[str],
    means: ArrayLike,
    lows: ArrayLike,
    highs: ArrayLike,
    *,
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
        points: for each comparison the differences of its replicates.
        emphasise: positions of the comparisons that matter most.
    """
    ax.axvline(0, color=INK, linewidth=1, zorder=1)
    rows = zip(np.asarray(means), np.asarray(lows), np.asarray(highs), strict=True)
    for row, (mean, low, high) in enumerate(rows):
        color = VERMILION if row in (emphasise or ()) else BLUE
        if points is not None:
            values = np.asarray(points[row])
            offsets = row + np.linspace(0.16, 0.36, len(values))  # equal values stay visible
            ax.scatter(values, offsets, s=13, color=color, alpha=0.55, linewidths=0)
        ax.plot([low, high], [row, row], color=color, linewidth=2.4, solid_capstyle="butt")
        ax.plot(mean, row, "o", color=color, markersize=7, markeredgecolor="white", zorder=3)
    ax.set_yticks(range(len(labels)), [_wrapped(label, 34) for label in labels])
    for row in emphasise or ():
        ax.get_yticklabels()[row].set_fontweight("bold")
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"difference ({unit})")
    return ax


def learning_curves(
    ax: Axes, frame: pd.DataFrame, x: str, ys: Sequence[str], labels: Sequence[str]
) -> Axes:
    """Columns `ys` of `frame` over column `x`; values that were not logged are bridged."""
    for y, label in zip(ys, labels, strict=True):
        known = frame[[x, y]].dropna()
        marker = "o" if len(known) <= 20 else None
        ax.plot(known[x], known[y], label=label, marker=marker, markersize=3.5)
    ax.set_xlabel(x)
    ax.xaxis.set_major_locator(MaxNLocator(9, integer=True, steps=[1, 2, 5, 10]))
    ax.margins(x=0.02)
    ax.legend()
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
    ax.set_xticks(ticks, [_wrapped(name, 20) for name in names], rotation=35, ha="right",
                  rotation_mode="anchor")  # fmt: skip
    ax.set_xlim(-0.7, start - 1.3)
    ax.grid(axis="x", visible=False)
    ax.tick_params(axis="x", length=0)
    ax.set_ylabel("accuracy (%)")
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
    ax.set_yscale("log")
    everything = np.concatenate([[1.0], fitted, lows[np.isfinite(lows)], highs[np.isfinite(highs)]])
    bottom, top = everything.min() / 1.12, everything.max() * 1.12
    ax.set_ylim(bottom, top)
    narrow = top / bottom < 8  # within a decade, powers of ten would leave one tick
    ax.yaxis.set_major_locator(
        MaxNLocator(7, steps=[1, 2.5, 5, 10]) if narrow else LogLocator(subs=(1, 2, 5))
    )
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlim(-0.6, len(replicates) - 0.4)
    ax.xaxis.set_major_locator(MaxNLocator(9, integer=True, steps=[1, 2, 5, 10]))
    ax.grid(axis="x", visible=False)
    left_out = int((~finite).sum())
    ax.set_xlabel(
        "replicate" + (f" ({left_out} without a finite T, not shown)" if left_out else "")
    )
    ax.set_ylabel("calibration temperature T")
    return ax


def _wrapped(label: str, width: int) -> str:
    """`label` on several lines; "τ = 4" stays together, as textwrap leaves hard spaces alone."""
    return textwrap.fill(re.sub(" ([=×]) ", "\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", label),
                         width, break_long_words=False)  # fmt: skip


def _inline(document: str) -> str:
    """A matplotlib SVG without prolog, metadata, white space and identifiers that nobody uses."""
    root = ElementTree.fromstring(document)
    prefix = f"f{sha256(document.encode()).hexdigest()[:8]}-"
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', document))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.text = element.tail = None
        element.attrib = {
            key.rpartition("}")[2]: re.sub(r"^#|(?<=url\()#", f"#{prefix}", value)
            if key.endswith("href") or "url(#" in value
            else prefix * (key == "id") + value
            for key, value in element.attrib.items()
            if key != "id" or value in used
        }
    # Its style sheet would hold for the whole page; said on the root, it is inherited.
    for parent in root.iter("defs"):
        for sheet in parent.findall("style"):
            parent.remove(sheet)
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib |= {
        "xmlns": "http://www.w3.org/2000/svg",
        "width": f"{float(width) * 4 / 3:.0f}",
        "height": f"{float(height) * 4 / 3:.0f}",
        "style": "stroke-linejoin:round;stroke-linecap:butt",
        "aria-hidden": "true",
    }
    return ElementTree.tostring(root, encoding="unicode")
