from __future__ import annotations

import re
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from temperance.reporting.arm_figures import arms_by_softening, paired_differences
from temperance.reporting.figures import learning_curves, style, svg
from temperance.reporting.study_figures import temperature_points


@pytest.fixture
def ax() -> Any:
    with style():
        yield Figure(layout="constrained").subplots()


def line(figure: Figure) -> None:
    ax = figure.subplots()
    ax.plot([0, 1], [1, 0], "o-", label="costs $5 or $6 <b> & 'τ'")
    ax.legend()


def ids(text: str) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', text))


def arms() -> pd.DataFrame:
    return pd.DataFrame(
        [
            ("labels", None, 0, 0.90), ("labels", None, 1, 0.92),
            ("raw", 4.0, 0, 0.91), ("raw", 4.0, 1, 0.95),
            ("raw", 1.0, 0, 0.93), ("raw", 1.0, 1, 0.94),
            ("calibrated", 4.0, 0, 0.92), ("calibrated", 4.0, 1, 0.94),
        ],
        columns=["arm", "softening", "replicate", "accuracy"],
    )  # fmt: skip


def test_svg_is_deterministic_whatever_the_users_settings() -> None:
    first = svg(line)
    theirs = {"font.size": 30, "svg.fonttype": "none", "savefig.bbox": "tight"}
    with matplotlib.rc_context(theirs):
        assert svg(line) == first
        assert {key: matplotlib.rcParams[key] for key in theirs} == theirs


def test_svg_leaves_pyplot_and_torch_alone() -> None:
    check = (
        "import sys; from temperance.reporting.figures import svg;"
        "svg(lambda figure: figure.subplots());"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_svg_stands_in_a_page_beside_others() -> None:
    one, two = svg(line), svg(line, height=300)
    assert ids(one)
    assert not ids(one) & ids(two)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', one))
    assert used == ids(one)
    for forbidden in ("<?xml", "<!DOCTYPE", "<metadata", "<style", "<!--", "<script", "xlink"):
        assert forbidden not in one
    assert set(re.findall(r'https?://[^"]+', one)) == {"http://www.w3.org/2000/svg"}


def test_svg_has_the_size_asked_for_and_is_hidden_from_screen_readers() -> None:
    root = ElementTree.fromstring(svg(line, width=640, height=320))
    assert (root.get("width"), root.get("height")) == ("640", "320")
    assert root.get("viewBox") == "0 0 480 240"  # points
    assert root.get("aria-hidden") == "true"


def test_svg_needs_no_font_and_stays_small() -> None:
    text = svg(line)
    assert "<text" not in text
    assert len(text) < 60_000


def test_paired_differences_shows_every_number_in_its_row(ax: Any) -> None:
    points = [[1.0, 3.0], [-1.0, -1.0, -4.0]]
    labels = ["a − b", "c $x$ − d"]
    drawn = paired_differences(
        ax, labels, [2.0, -2.0], [0.5, np.nan], [3.5, np.nan],
        points=points, emphasise=[1], unit="nats",
    )  # fmt: skip
    assert drawn is ax
    means = [li.get_xydata().tolist() for li in ax.lines if li.get_marker() == "o"]
    assert means == [[[2.0, 0.0]], [[-2.0, 1.0]]]
    bars = [li.get_xdata() for li in ax.lines if li.get_linewidth() == 2.4]
    assert list(bars[0]) == [0.5, 3.5]
    assert np.isnan(bars[1]).all()  # no interval is drawn where there is none
    for row, collection in enumerate(ax.collections):
        offsets = np.asarray(collection.get_offsets())
        assert offsets[:, 0].tolist() == points[row]
        assert len(set(offsets[:, 1])) == len(points[row])  # equal values do not hide each other
        assert ((offsets[:, 1] > row) & (offsets[:, 1] < row + 0.5)).all()
    assert [t.get_text() for t in ax.get_yticklabels()] == labels
    assert [t.get_fontweight() for t in ax.get_yticklabels()] == ["normal", "bold"]
    assert ax.yaxis_inverted()
    assert ax.get_xlabel() == "difference (nats)"
    assert ax.get_xlim()[0] < -4
    assert ax.get_xlim()[1] > 3.5


def test_learning_curves_bridge_what_was_not_logged(ax: Any) -> None:
    frame = pd.DataFrame({"epoch": [1, 2, 3], "a": [3.0, 2.0, 1.0], "b": [4.0, np.nan, 2.0]})
    learning_curves(ax, frame, "epoch", ["a", "b"], ["train", "validation"])
    assert [li.get_xydata().tolist() for li in ax.lines] == [
        [[1, 3], [2, 2], [3, 1]],
        [[1, 4], [3, 2]],
    ]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["train", "validation"]


def test_arms_are_grouped_joined_by_replicate_and_averaged(ax: Any) -> None:
    arms_by_softening(ax, arms())
    assert [t.get_text() for t in ax.texts] == ["no teacher", "τ = 1", "τ = 4"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["labels", "raw", "raw", "calibrated"]
    means = [li.get_ydata() for li in ax.lines if li.get_marker() == "D"]
    assert np.concatenate(means).tolist() == pytest.approx([91, 93.5, 93, 93])
    last = [li.get_ydata() for li in ax.lines if li.get_linewidth() == 0.7][-2:]
    assert [list(y) for y in last] == [pytest.approx([91, 92]), pytest.approx([95, 94])]
    assert len(ax.collections) == 4


def test_arms_do_not_depend_on_the_order_of_replicates(ax: Any) -> None:
    with style():
        other = Figure().subplots()
        arms_by_softening(other, arms().sort_values("replicate", ascending=False, kind="stable"))
    arms_by_softening(ax, arms())
    assert [li.get_xydata().tolist() for li in other.lines] == [
        li.get_xydata().tolist() for li in ax.lines
    ]


def test_temperatures_with_their_interval_on_a_log_axis(ax: Any) -> None:
    temperature_points(ax, [2.0, np.inf, 1.5], [0.1, 0.1, np.nan])
    assert ax.get_yscale() == "log"
    assert ax.lines[-1].get_xydata().tolist() == [[0, 2.0], [2, 1.5]]
    segment = ax.collections[0].get_segments()[0]
    assert np.log(segment[:, 1] / 2).tolist() == pytest.approx([-0.196, 0.196])
    assert "1 without a finite T" in ax.get_xlabel()
    assert ax.get_ylim()[0] < 1  # the line T = 1 is always in sight


def test_drawings_survive_rendering_without_warnings() -> None:
    def draw(figure: Figure) -> None:
        (one, two), (three, four) = figure.subplots(2, 2)
        paired_differences(one, ["a $ b_{", "<i>"], [0, 1], [-1, 0], [1, 2], points=[[], [1.0]])
        learning_curves(two, pd.DataFrame({"x": [1], "y": [2.0]}), "x", ["y"], ["$y_{"])
        arms_by_softening(three, arms())
        temperature_points(four, [0.2, 30.0], [0.1, 0.2])

    assert svg(draw, width=1000, height=800).startswith("<svg")
