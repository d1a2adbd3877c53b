import subprocess
import sys

import matplotlib as mpl
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from temperance.calibration import (
    reliability_before_after,
    reliability_bins,
    reliability_diagram,
)
from temperance.calibration.figures import OVER_CONFIDENT, UNDER_CONFIDENT


def bar_colours(ax):
    return {to_hex(bar.get_facecolor()).upper() for bar in ax.patches if bar.get_height()}


@pytest.mark.parametrize("layout", [None, "constrained", "tight"])
def test_diagram_tells_its_numbers_and_its_direction(sampled, tmp_path, layout):
    bins = reliability_bins(*sampled(rows=1234, temperature=4.0))
    figure = Figure(figsize=(5, 5), layout=layout)
    ax = figure.subplots()
    assert reliability_diagram(ax, bins, title="teacher") is ax
    text = " ".join(item.get_text() for item in ax.texts)
    assert f"ECE {100 * bins.error.total:.1f} %" in text
    assert "n = 1,234" in text
    assert OVER_CONFIDENT in bar_colours(ax)
    assert UNDER_CONFIDENT not in bar_colours(ax)
    figure.savefig(tmp_path / "diagram.svg")


def test_before_and_after(sampled):
    before = reliability_bins(*sampled(temperature=0.3))
    after = reliability_bins(*sampled())
    axes = Figure().subplots(1, 2)
    left, right = reliability_before_after(tuple(axes), before, after)
    assert UNDER_CONFIDENT in bar_colours(left)
    assert (left.get_title(), right.get_title()) == ("before calibration", "after calibration")


def test_matplotlib_is_imported_by_those_who_draw_only():
    code = "import sys, temperance.calibration; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert mpl.__name__ == "matplotlib"
