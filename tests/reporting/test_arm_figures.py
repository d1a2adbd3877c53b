from __future__ import annotations

from typing import Any

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from temperance.reporting.arm_figures import (
    arms_by_softening,
    calibration_before_after,
    heat_map,
    paired_differences,
)
from temperance.reporting.figures import GREY, style, svg


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


def test_paired_differences_for_new_data_are_thin_and_wider(ax: Any) -> None:
    paired_differences(
        ax, ["a", "b"], [2.0, 1.0], [1.0, 0.0], [3.0, 2.0],
        new_lows=[-1.0, np.nan], new_highs=[5.0, np.nan],
    )  # fmt: skip
    thin = [list(li.get_xdata()) for li in ax.lines if li.get_linewidth() == 0.9]
    thick = [list(li.get_xdata()) for li in ax.lines if li.get_linewidth() == 2.4]
    assert thin[0] == [-1, 5]
    assert np.isnan(thin[1]).all()
    assert thick == [[1, 3], [0, 2]]
    assert ax.get_xlim()[0] < -1
    assert ax.get_xlim()[1] > 5


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


def cells(ax: Any) -> dict[tuple[float, float], str]:
    return {t.get_position(): t.get_text() for t in ax.texts}


def test_heat_map_says_value_and_n_in_every_cell(ax: Any) -> None:
    differences = pd.DataFrame({"raw": [0.5, np.nan], "A/A": [-1.0, 0.0]}, index=["kd", "dist"])
    counts = pd.DataFrame({"A/A": [3, 4], "raw": [1200, 0]}, index=["kd", "dist"])
    heat_map(ax, differences, counts)
    assert cells(ax) == {
        (0.5, 0.5): "+0.50\nn = 1,200", (1.5, 0.5): "−1.00\nn = 3",
        (0.5, 1.5): "–", (1.5, 1.5): "0.00\nn = 4",
    }  # fmt: skip
    assert [t.get_text() for t in ax.get_yticklabels()] == ["kd", "dist"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["raw", "A/A"]
    assert ax.yaxis_inverted()
    mesh = ax.collections[0]
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-1, 1)


def test_heat_map_is_centred_on_no_difference_and_pale_near_it(ax: Any) -> None:
    small = pd.DataFrame({"raw": [0.1], "b": [-0.1]}, index=["kd"])
    heat_map(ax, small, pd.DataFrame({"raw": [5], "b": [5]}, index=["kd"]))
    mesh = ax.collections[0]
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-0.5, 0.5)
    (above, below) = mesh.cmap(mesh.norm([0.1, -0.1]))[:, :3]
    assert above[2] > above[0]  # bluish
    assert below[0] > below[2]  # reddish
    assert above.min() > mesh.cmap(1.0)[0]
    assert below.min() > mesh.cmap(0.0)[2]


@pytest.mark.parametrize("value", np.linspace(-1, 1, 21))
def test_heat_map_can_be_read_on_every_colour(ax: Any, value: float) -> None:
    frame = pd.DataFrame({"a": [1.0, value]})
    heat_map(ax, frame, frame.astype(int))
    mesh = ax.collections[0]
    ink = ax.texts[1].get_color()

    def luminance(colour: Any) -> float:  # WCAG 2
        rgb = np.asarray(matplotlib.colors.to_rgb(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    one, two = luminance(ink), luminance(mesh.cmap(mesh.norm(value))[:3])
    assert (max(one, two) + 0.05) / (min(one, two) + 0.05) > 4


def test_calibration_before_and_after_is_joined_arm_by_arm(ax: Any) -> None:
    students = pd.DataFrame(
        {
            "arm": ["raw", "labels", "raw"],
            "gap": [0.04, -0.01, 0.02],
            "gap_calibrated": [0.01, np.nan, -0.01],
        }
    )
    calibration_before_after(ax, students)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["raw", "labels"]
    joins = [li.get_xdata() for li in ax.lines if li.get_color() == GREY]
    assert joins[0] == pytest.approx([3, 0])
    assert joins[1] == pytest.approx([-1, np.nan], nan_ok=True)
    dots = [c.get_offsets()[:, 0].tolist() for c in ax.collections]
    assert dots == [pytest.approx([4, 2]), pytest.approx([1, -1]), pytest.approx([-1]), []]
    assert ax.get_xlabel() == "confidence − accuracy (points)"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["as trained", "after its own T"]


def test_drawings_survive_rendering_without_warnings() -> None:
    def draw(figure: Figure) -> None:
        (one, two), (three, four) = figure.subplots(2, 2)
        paired_differences(one, ["a $ b_{", "<i>"], [0, 1], [-1, 0], [1, 2], points=[[], [1.0]])
        arms_by_softening(two, arms())
        nothing = pd.DataFrame({"$a_{": [np.nan]}, index=["<b>"])
        heat_map(three, nothing, nothing.fillna(0).astype(int))
        students = pd.DataFrame({"arm": ["$x_{"], "ece": [np.nan], "ece_calibrated": [0.1]})
        calibration_before_after(four, students, "ece")

    assert svg(draw, width=1000, height=800).startswith("<svg")
