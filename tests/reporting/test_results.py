"""The sortable table in headless Chromium, with as many rows as a large study has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from temperance.reporting.html import Block, DataTable, Report, Section, Table, write_report

BAD = "<img src=x onerror=alert(1)><script>alert(2)</script></script>"
ROWS = 10_000
SECONDS = 1.0  # of processor time for opening, and for every answer
ARMS = ["labels", "raw", "calibrated", "under-confident"]


@pytest.fixture(scope="module")
def students() -> pd.DataFrame:
    """Students of a study that never was, in no order, with hostile and missing cells."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "student": [f"s{i}" for i in draw.permutation(ROWS)],
            "arm": draw.choice(ARMS, ROWS),
            "family": draw.choice(["resnet", "vgg", BAD], ROWS),
            "softening": pd.Series(draw.choice([1.0, 4.0, 16.0, np.nan], ROWS)).astype("category"),
            "seed": draw.integers(0, 5, ROWS),
            "accuracy": draw.normal(0.9, 0.02, ROWS),
            "gap": draw.normal(0, 0.05, ROWS),
            **{f"metric {i}": draw.normal(0, 1, ROWS) for i in range(15)},
        }
    )
    frame.loc[draw.random(ROWS) < 0.01, "accuracy"] = np.nan
    return frame


def table(*blocks: Block) -> Report:
    return Report("Study", [], [Section("All", blocks)])


@pytest.fixture(scope="module")
def report(students: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = table(DataTable(students, "Students.", "students.csv"), Table(students.head(2), "2"))
    return write_report(content, tmp_path_factory.mktemp("large") / "report.html")


@pytest.fixture
def small(students: pd.DataFrame, tmp_path: Path) -> Path:
    content = table(DataTable(students.head(60), "Students.", "students.csv"))
    return write_report(content, tmp_path / "report.html")


class Results:
    """What a reader sees and does; every answer must come at once."""

    def __init__(self, tab: Any) -> None:
        self.tab = tab
        assert tab.busy < SECONDS

    def see(self, expression: str) -> Any:
        return self.tab.evaluate(f"(results => {expression})(document.querySelector('.results'))")

    @property
    def count(self) -> str:
        return str(self.see("results.querySelector('output').textContent"))

    @property
    def page(self) -> str:
        return str(self.see("results.querySelector('.pages span').textContent"))

    @property
    def order(self) -> list[str]:
        return list(self.see("[...results.querySelectorAll('thead th')].map(th => th.ariaSort)"))

    def column(self, place: int) -> list[str]:
        cell = f"row.cells[{place}].textContent"
        return list(self.see(f"[...results.querySelector('tbody').rows].map(row => {cell})"))

    def click(self, selector: str) -> None:
        with self.at_once():
            self.tab.click(f".results {selector}")

    def press(self, key: str, place: int) -> None:
        """A key on the heading of a column."""
        self.see(f"results.querySelectorAll('thead button')[{place}].focus()")
        with self.at_once():
            self.tab.press(key)

    def type(self, text: str) -> None:
        """Instead of what stood in the search box."""
        self.see("results.querySelector('input').select()")
        with self.at_once():
            self.tab.call("Input.insertText", text=text)

    def choose(self, place: int, text: str) -> None:
        """A value of a column from its list."""
        self.see(f"chosen = results.querySelector('[data-column=\"{place}\"]')")
        self.see(f"chosen.value = [...chosen.options].find(o => o.text === '{text}').value")
        with self.at_once():
            self.see("chosen.dispatchEvent(new Event('input', {bubbles: true}))")

    @contextmanager
    def at_once(self) -> Iterator[None]:
        before = self.tab.busy
        yield
        self.tab.evaluate("document.body.offsetHeight")  # drawn, too
        assert self.tab.busy - before < SECONDS


def ids(frame: pd.DataFrame, first: int = 0) -> list[str]:
    return frame["student"].iloc[first : first + 50].tolist()


def test_sorting_by_click_and_key_is_by_value(
    browse: Callable[..., Any], report: Path, students: pd.DataFrame
) -> None:
    accuracy = students.columns.get_loc("accuracy")
    assert isinstance(accuracy, int)

    def visit(tab: Any) -> None:
        results = Results(tab)
        assert results.count == "10,000 of 10,000 rows"
        assert results.page == "page 1 of 200"
        assert results.column(0) == ids(students)
        assert set(results.order) == {"none"}

        results.click(f"th:nth-child({accuracy + 1}) button")
        ascending = students.sort_values("accuracy", kind="stable")
        assert results.order.index("ascending") == accuracy
        assert results.column(0) == ids(ascending)
        shown = [float(text) for text in results.column(accuracy)]
        assert shown == pytest.approx(ascending["accuracy"].head(50).tolist(), abs=5e-5)

        results.click(".pages button:last-child")
        assert results.page == "page 2 of 200"
        assert results.column(0) == ids(ascending, 50)
        results.click(".pages button:first-child")
        assert results.column(0) == ids(ascending)
        results.click(".pages button:first-child")  # is off on the first page
        assert results.page == "page 1 of 200"

        results.press("Enter", accuracy)
        descending = students.sort_values("accuracy", ascending=False, kind="stable")
        assert results.order.index("descending") == accuracy
        assert results.order.count("none") == len(results.order) - 1
        assert results.column(0) == ids(descending)
        results.press(" ", accuracy)
        assert set(results.order) == {"none"}
        assert results.column(0) == ids(students)
        results.press("Enter", 0)
        assert results.column(0) == [f"s{i}" for i in range(50)]  # as people count

    page = browse(report, visit=visit)
    assert page.console_errors == page.dialogs == []
    assert page.requests == [report.as_uri()]
    assert report.stat().st_size < 5e6


def test_what_is_not_known_comes_last_in_both_directions(
    browse: Callable[..., Any], tmp_path: Path
) -> None:
    frame = pd.DataFrame({"a": ["x", "y", "z", "w"], "b": [2.0, np.nan, 10.0, np.inf]})
    path = write_report(table(DataTable(frame, "Small.", "small.csv")), tmp_path / "report.html")

    def visit(tab: Any) -> None:
        results = Results(tab)
        results.press("Enter", 1)
        assert results.column(1) == ["2", "10", "∞", "–"]
        results.press("Enter", 1)
        assert results.column(0) == ["w", "z", "x", "y"]

    browse(path, visit=visit)


def test_filters_keep_what_holds_all_words_and_choices(
    browse: Callable[..., Any], report: Path, students: pd.DataFrame
) -> None:
    def visit(tab: Any) -> None:
        results = Results(tab)
        results.choose(1, "raw")
        expected = students[students["arm"] == "raw"]
        assert results.count == f"{len(expected):,} of 10,000 rows"
        assert results.column(0) == ids(expected)
        results.choose(3, "4")
        expected = expected[expected["softening"] == 4]
        assert results.count == f"{len(expected):,} of 10,000 rows"
        assert results.column(0) == ids(expected)
        results.choose(3, "–")
        expected = students[(students["arm"] == "raw") & students["softening"].isna()]
        assert results.column(0) == ids(expected)
        results.choose(1, "all")
        results.choose(3, "all")
        assert results.count == "10,000 of 10,000 rows"

        results.type("S99 VGG")
        hit = students["student"].str.contains("s99") & (students["family"] == "vgg")
        assert results.count == f"{hit.sum()} of 10,000 rows"
        assert results.column(0) == ids(students[hit])
        results.press("Enter", 0)
        numbers = sorted(int(name[1:]) for name in students["student"][hit])
        assert results.column(0) == [f"s{number}" for number in numbers[:50]]

        results.type("-0.12")  # typed with a hyphen, shown with a minus sign
        rows = results.see("[...results.querySelector('tbody').rows].map(row => row.textContent)")
        assert len(rows) == 50
        assert all("−0.12" in row for row in rows)
        results.type("nothing has this")
        assert results.count == "0 of 10,000 rows"
        assert results.page == "page 1 of 1"
        assert results.column(0) == []
        results.type(BAD)
        assert results.count == f"{(students['family'] == BAD).sum():,} of 10,000 rows"
        assert set(results.column(2)) == {BAD}  # a text, and nothing more

    page = browse(report, visit=visit)
    assert page.console_errors == page.dialogs == []
    assert page.requests == [report.as_uri()]


def test_without_scripts_the_csv_is_named(browse: Callable[..., Any], small: Path) -> None:
    def visit(tab: Any) -> None:
        visible = tab.evaluate("document.body.innerText")
        assert "open students.csv beside this report instead" in visible
        assert "Search" not in visible

    page = browse(small, scripts=False, visit=visit)
    assert page.console_errors == []


def test_on_a_phone_and_on_paper(browse: Callable[..., Any], small: Path) -> None:
    def visit(tab: Any) -> None:
        assert "scripts are off" not in tab.evaluate("document.body.innerText")
        assert tab.evaluate("document.documentElement.scrollWidth") == 375
        tab.call("Emulation.setEmulatedMedia", media="print")
        printed = tab.evaluate("document.body.innerText")
        assert "60 of 60 rows" in printed
        assert "page 1 of 2" in printed
        assert "Search" not in printed
        assert "Next" not in printed

    browse(small, width=375, visit=visit)
