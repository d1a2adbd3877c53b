from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from temperance.reporting.arm_figures import paired_differences
from temperance.reporting.figures import svg
from temperance.reporting.html import (
    Code,
    DataTable,
    Figure,
    Paragraph,
    Report,
    Section,
    Table,
    write_report,
)

BAD = "<script>alert(1)</script><img src='https://example.org/x.png' onerror='alert(2)'>"


def example() -> Report:
    """A report with every kind of block, and hostile text wherever text can stand."""
    labels = [f"calibrated − raw {BAD}", "under-confident − raw, τ = 4"]
    drawing = svg(lambda f: paired_differences(f.subplots(), labels, [1, 2], [0, 1], [2, 3]))
    wide = pd.DataFrame({f"column {i} {BAD}": [f"row {BAD}", "[−1.00, 2.00]"] for i in range(12)})
    table = Table(wide, BAD, emphasise=[1], help={wide.columns[0]: BAD})
    long = DataTable(wide, BAD, BAD, help={wide.columns[0]: BAD})
    return Report(
        title=f"Report {BAD}",
        lead=[f"It helped by 0.5 points. {BAD}", "Or did it?"],
        sections=[
            Section(f"Results {BAD}", [table, long]),
            Section("Figures", [Figure(drawing, BAD, BAD), Figure(svg(lambda f: None), "b", "b")]),
            Section("Texts", [Paragraph(f"paragraph {BAD}"), Code(f"code {BAD}" * 20)]),
        ],
        provenance={f"command {BAD}": f"temperance {BAD}"},
        config_yaml=f"data: {BAD}\n",
    )  # fmt: skip


def test_report_opens_quietly_and_asks_for_nothing(
    browse: Callable[..., Any], tmp_path: Path
) -> None:
    report = example()
    path = write_report(report, tmp_path / "report.html")
    page = browse(path)
    assert page.console_errors == []
    assert page.dialogs == []
    assert page.requests
    assert {url for url in page.requests if not url.startswith("data:")} == {path.as_uri()}
    assert page.title == report.title
    for text in (*report.lead, *(s.title for s in report.sections), f"paragraph {BAD}",
                 f"temperance {BAD}", f"data: {BAD}", f"row {BAD}"):  # fmt: skip
        assert text in page.text


def test_only_tables_and_figures_scroll_sideways_on_a_phone(
    browse: Callable[..., Any], tmp_path: Path
) -> None:
    page = browse(write_report(example(), tmp_path / "report.html"), width=375)
    assert page.layout == {"window": 375, "page": 375}


def test_browser_would_notice_scripts_errors_and_requests(
    browse: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "bad.html").write_text(
        "<title>bad</title><script>alert('hi'); console.error('oops'); throw Error('no')</script>"
        "<img src='missing.png'>"
    )
    page = browse(tmp_path / "bad.html")
    assert page.dialogs == ["hi"]
    assert any("oops" in error for error in page.console_errors)
    assert any("Uncaught" in error for error in page.console_errors)
    assert (tmp_path / "missing.png").as_uri() in page.requests


def test_browser_that_takes_too_long_is_an_error_and_no_hang(
    browse: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "busy.html").write_text("<script>while (true) {}</script>")
    with pytest.raises(TimeoutError, match="did not answer in time"):
        browse(tmp_path / "busy.html", timeout=4)
