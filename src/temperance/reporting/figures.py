"""Figures in one hand: drawn by matplotlib into plain SVG that looks the same everywhere.

A drawing takes axes and returns them, so that figures can be composed; `svg` makes the canvas.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

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


def label_log_axis(axis: Axis) -> None:
    """Plain numbers on a log axis whose limits are set, however narrow or wide it is."""
    low, high = sorted(axis.get_view_interval())
    narrow = high / low < 8  # within a decade, powers of ten would leave one tick
    axis.set_major_locator(
        MaxNLocator(7, steps=[1, 2.5, 5, 10]) if narrow else LogLocator(subs=(1, 2, 5))
    )
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def wrapped(label: str, width: int) -> str:
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
