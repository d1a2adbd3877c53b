"""What the pictures have in common: colours, sizes, numbers in words, and the lines on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from temperance.calibration.metrics import CalibrationError

if TYPE_CHECKING:  # matplotlib takes a second to import, and many never draw
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.text import Text

# Okabe & Ito 2008: told apart by colour-blind readers too
OVER_CONFIDENT = "#D55E00"
UNDER_CONFIDENT = "#0072B2"
INK = "#333333"
CHANCE = "#d9d9d9"
ROWS = "#aaaaaa"
CLEAR, PALE = 0.9, 0.45  # alpha of what chance does not do, and of what it may do
STRIP_FLOOR, STRIP_HEIGHT = -0.26, 0.16  # of the rows, on the accuracy axis


def text_size(ax: Axes) -> float:
    """Points at which the lines on top fit over the axes, 6 to 9: a layout may narrow them yet."""
    width = ax.bbox.width * 72 / ax.figure.dpi
    return float(np.clip(width / 26, 6, 9))


def paint(*, over: bool, alpha: float = CLEAR) -> dict[str, Any]:
    """How an over-confident area is filled, or an under-confident one: hatched, to tell in grey."""
    return {
        "facecolor": OVER_CONFIDENT if over else UNDER_CONFIDENT,
        "edgecolor": "white",
        "hatch": None if over else "///",
        "linewidth": 0,
        "alpha": alpha,
    }


def percent(share: float, digits: int = 1) -> str:
    """0.256 as `25.6 %`."""
    return f"{100 * share:.{digits}f} %"


def signed_points(share: float) -> str:
    """−0.012 as `−1.2 points`."""
    return f"{100 * share:+.1f} points".replace("-", "−")


def write_header(
    ax: Axes, title: str | None, lines: Sequence[str], handles: Sequence[Artist]
) -> None:
    """Title, lines of facts and legend above the axes, where no data can get in their way."""
    from matplotlib.transforms import ScaledTranslation

    size, gap = text_size(ax), 4  # points
    above = ScaledTranslation(0, gap / 72, ax.figure.dpi_scale_trans)
    ax.legend(
        handles=handles,
        title="\n".join(lines),
        alignment="left",
        loc="lower left",
        bbox_to_anchor=(0, 1),
        bbox_transform=ax.transAxes + above,
        borderpad=0,
        borderaxespad=0,
        ncols=len(handles),
        columnspacing=0.8,
        handlelength=0.9,
        handletextpad=0.35,
        fontsize=size,
        title_fontsize=size,
        labelcolor=INK,
        frameon=False,
    ).get_title().set_color(INK)
    height = (1.3 * len(lines) + 2.1) * size
    ax.set_title(title or "", fontsize=1.2 * size, loc="left", pad=gap + height, parse_math=False)


def direction_handles(error: CalibrationError, digits: int = 1) -> list[Artist]:
    """The key to both colours, with each one's part of the error."""
    from matplotlib.patches import Patch

    return [
        Patch(**paint(over=True), label=f"over {100 * error.over:.{digits}f}"),
        Patch(**paint(over=False), label=f"under {100 * error.under:.{digits}f}"),
        Patch(facecolor=CHANCE, label="95 % by chance"),
    ]


def draw_frame(ax: Axes) -> None:
    """The diagonal, percent on both axes, and room for a strip of rows below 0 accuracy."""
    from matplotlib.ticker import PercentFormatter

    ax.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set(xlim=(0, 1), ylim=(STRIP_FLOOR, 1), xlabel="confidence (%)", ylabel="accuracy (%)")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(np.linspace(0, 1, 6))
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=None))
    ax.grid(visible=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines["left"].set_bounds(0, 1)


def label_strip(ax: Axes, label: str) -> Text:
    """What the strip shows, left of it."""
    return ax.text(
        -0.02,
        STRIP_FLOOR + STRIP_HEIGHT / 2,
        label,
        ha="right",
        va="center",
        fontsize=text_size(ax),
        color=INK,
    )
