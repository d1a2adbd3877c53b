from __future__ import annotations

import re
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from temperance.reporting.figures import learning_curves, svg


def line(figure: Figure) -> None:
    ax = figure.subplots()
    ax.plot([0, 1], [1, 0], "o-", label="costs $5 or $6 <b> & 'τ'")
    ax.legend()


def ids(text: str) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', text))


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


def test_learning_curves_bridge_what_was_not_logged(ax: Any) -> None:
    frame = pd.DataFrame({"epoch": [1, 2, 3], "a": [3.0, 2.0, 1.0], "b": [4.0, np.nan, 2.0]})
    learning_curves(ax, frame, "epoch", ["a", "b"], ["train", "validation"])
    assert [li.get_xydata().tolist() for li in ax.lines] == [
        [[1, 3], [2, 2], [3, 1]],
        [[1, 4], [3, 2]],
    ]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["train", "validation"]
