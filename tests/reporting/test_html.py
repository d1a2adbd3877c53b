from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest

from temperance.errors import UserError
from temperance.reporting import html
from temperance.reporting.html import (
    Code,
    DataTable,
    Figure,
    Paragraph,
    Report,
    Section,
    Table,
    render,
    write_report,
)

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Elements with their attributes and text; fails where tags are not balanced."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open:
            self.texts.append((self.open[-1], data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def within(self, tag: str) -> list[str]:
        return [text for parent, text in self.texts if parent == tag]


def policy(page: Page) -> str:
    return str(next(m["content"] for m in page.all("meta") if "http-equiv" in m))


def one_block(*blocks: html.Block) -> Page:
    return Page(render(Report("title", [], [Section("section", blocks)])))


def test_every_text_is_escaped_in_text_and_attributes() -> None:
    bad = "\"'><script>alert(1)</script><img src=http://x.test/ onerror=alert(1)>"
    table = Table(pd.DataFrame({bad: [bad], "b": [bad]}), bad, emphasise=[0], help={bad: bad})
    blocks = [Paragraph(bad), Code(bad), Figure("<svg></svg>", bad, bad), table]
    page = Page(render(Report(bad, [bad], [Section(bad, blocks)] * 3, {bad: bad}, bad)))
    assert page.all("script") == page.all("img") == []
    for tag in ("title", "h1", "h2", "a", "p", "code", "dt", "dd", "td", "th"):
        assert bad in page.within(tag), tag
    assert {attributes["aria-label"] for attributes in page.all("div") if "role" in attributes} == {
        bad, *(f"{kind} {n}" for kind in ("Figure", "Table") for n in (1, 2, 3))
    }  # fmt: skip
    assert {"title": bad, "scope": "col"} in page.all("th")


def test_page_is_self_contained_and_forbids_requests() -> None:
    page = Page(render(Report("t", ["lead"], [Section("s", [])], {"a": "b"}, "c: 1")))
    assert "default-src 'none'" in policy(page)
    assert "script-src" not in policy(page)
    assert not any(page.all(tag) for tag in ("script", "link", "img", "iframe"))
    style = page.within("style")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert page.all("html") == [{"lang": "en"}]
    assert {"charset": "utf-8"} in page.all("meta")
    assert [d for d in page.all("details") if "open" in d] == []
    assert len(page.all("details")) == 2


def test_the_style_sheet_holds_no_markup() -> None:
    assert "<" not in Page(render(Report("t", [], []))).within("style")[0]


@pytest.mark.parametrize(("sections", "shown"), [(2, False), (3, True)])
def test_contents_from_three_sections_on_with_links_that_lead_somewhere(
    sections: int, shown: bool
) -> None:
    page = Page(render(Report("t", [], [Section(f"s{i}", []) for i in range(sections)])))
    targets = [f"#{attributes['id']}" for attributes in page.all("h2")]
    links = [attributes["href"] for attributes in page.all("a")]
    assert links == (targets if shown else [])


def test_table_cells_alignment_emphasis_and_legend() -> None:
    frame = pd.DataFrame(
        {
            "arm": ["raw", "calibrated", None],
            "n": [3, 4, 5],
            "diff": ["−0.5", "–", "+1.0"],
            "interval": ["[−1.0, 0.0]", None, "[0.1, 2.0]"],
            "unknown": [None, None, None],
        }
    )
    page = one_block(Table(frame, "cap", emphasise=[1], help={"n": "replicates", "no": "x"}))
    assert page.within("td") == [
        "3", "−0.5", "[−1.0, 0.0]", "–",
        "4", "–", "–", "–",
        "5", "+1.0", "[0.1, 2.0]", "–",
    ]  # fmt: skip
    assert [a.get("class") for a in page.all("th") if a["scope"] == "col"] == [
        None, "numeric", "numeric", "numeric", None
    ]  # fmt: skip
    assert page.within("th")[-3:] == ["raw", "calibrated", "–"]
    assert [a.get("class") for a in page.all("tr")] == [None, None, "emphasised", None]
    assert (page.within("dt"), page.within("dd")) == (["n"], ["replicates"])
    assert len(page.all("caption")) == 1


def test_table_without_rows_keeps_its_heading() -> None:
    page = one_block(Table(pd.DataFrame(columns=["a", "b"]), "nothing"))
    assert page.within("th") == ["a", "b"]
    assert page.all("td") == []


def data_table() -> DataTable:
    frame = pd.DataFrame({"arm": ["raw", None, "</script><!--&\u2028"], "acc": [0.9, 0.81, None]})
    return DataTable(frame, "All of them.", "rows & more.csv", help={"acc": "test accuracy"})


def test_data_table_allows_its_script_and_no_other() -> None:
    source = render(Report("t", [], [Section("s", [data_table(), data_table()])]))
    page = Page(source)
    assert page.all("script") == [{"type": "application/json"}] * 2 + [{}]
    script = source.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{digest}'; style-src" in policy(page)
    assert "<!--" not in script
    assert not re.search(r"https?:|eval|innerHTML|fetch|import", script)


def test_data_table_embeds_its_rows_safely() -> None:
    source = render(Report("t", [], [Section("s", [data_table()])]))
    embedded = source.partition('<script type="application/json">')[2].partition("</script>")[0]
    assert not set("<>&\u2028") & set(embedded)
    assert json.loads(embedded) == [
        {"texts": ["</script><!--&\u2028", "raw"], "codes": [1, -1, 0]},
        {"texts": ["0.81", "0.90"], "codes": [1, 0, -1]},
    ]


def test_data_table_has_headings_choices_and_a_way_without_scripts() -> None:
    page = one_block(Table(pd.DataFrame({"a": [1]}), "first"), data_table())
    headings = page.all("th")[-2:]
    assert [heading["aria-sort"] for heading in headings] == ["none", "none"]
    assert (headings[1]["class"], headings[1]["title"]) == ("numeric", "test accuracy")
    assert page.within("button") == ["arm", "acc", "Previous", "Next"]
    assert page.all("select") == [{"data-column": "0"}]
    assert page.within("option") == ["all", "</script><!--&\u2028", "raw", "–"]
    assert [a["value"] for a in page.all("option")] == ["", "0", "1", "-1"]
    assert (page.within("dt"), page.within("dd")) == (["acc"], ["test accuracy"])
    assert {"class": "table results", "hidden": None} in page.all("div")
    hint = next(text for text in page.within("p") if "scripts are off" in text)
    assert "3 rows" in hint
    assert "rows & more.csv" in hint
    assert page.within("span").count("Table 2.") == 2


def test_figures_and_tables_are_numbered_through_all_sections() -> None:
    blocks = [Figure("<svg></svg>", "f", "f"), Table(pd.DataFrame({"a": [1]}), "t")]
    page = Page(render(Report("t", [], [Section("1", blocks), Section("2", blocks)])))
    assert page.within("span") == ["Figure 1.", "Table 1.", "Figure 2.", "Table 2."]


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    assert write_report(Report("first", [], []), path) == path
    before = path.read_text(encoding="utf-8")
    full = OSError(28, "No space left on device")
    with mock.patch.object(Path, "write_text", side_effect=full), pytest.raises(UserError):
        write_report(Report("second", [], []), path)
    assert path.read_text(encoding="utf-8") == before
    assert list(path.parent.iterdir()) == [path]
    write_report(Report("third \udcff τ −", [], []), path)
    assert "third ? τ −" in path.read_text(encoding="utf-8")


def test_imports_neither_torch_nor_matplotlib() -> None:
    check = (
        "import sys, temperance.reporting.html;"
        "assert not {'torch', 'matplotlib', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
