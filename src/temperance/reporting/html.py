"""A report is one HTML file that needs nothing else: no network, no library, no stylesheet.

Only a `DataTable` brings a script, and the page then allows exactly that script by its hash.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import ClassVar, NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from temperance.reporting.columns import CodedColumn, coded
from temperance.reporting.format import MISSING, cell
from temperance.run import atomic

_NUMERIC = re.compile(r"[+−\[]*[\d.∞]")


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    kind: ClassVar = "paragraph"
    text: str


@dataclass(frozen=True)
class Code:
    """Text shown as it is typed: a command, a file."""

    kind: ClassVar = "code"
    text: str


@dataclass(frozen=True)
class Figure:
    """A drawing from `temperance.reporting.figures.svg`, the one text that is not escaped."""

    kind: ClassVar = "figure"
    svg: str
    caption: str
    alt: str
    """What the figure shows, in a sentence, for those who cannot see it."""


class Column(NamedTuple):
    """How one column is shown."""

    name: str
    help: str
    numeric: bool


@dataclass(frozen=True)
class Table:
    """A frame of scalars; its index is not shown, and its first column names the rows."""

    kind: ClassVar = "table"
    frame: pd.DataFrame
    caption: str
    emphasise: Collection[int] = ()
    """Positions of the rows that matter most, counted from 0."""
    help: Mapping[str, str] = field(default_factory=dict)
    """What a column means, by its name: shown below the table and on hovering."""

    @property
    def rows(self) -> list[list[str]]:
        """The cells as text."""
        return [[cell(value) for value in row] for row in self.frame.itertuples(index=False)]

    @property
    def columns(self) -> list[Column]:
        """The headings, and which columns hold numbers and so are aligned to the right."""
        cells = list(zip(*self.rows, strict=True)) or [()] * self.frame.shape[1]
        return [
            Column(str(name), self.help.get(str(name), ""), _all_numeric(texts))
            for name, texts in zip(self.frame.columns, cells, strict=True)
        ]


@dataclass(frozen=True)
class DataTable:
    """Thousands of rows that the reader sorts and filters, shown page by page; a frame of scalars.

    Numbers need no formatting: they are shown with equally many decimals and sorted by value.
    Columns of texts, truth values or dtype `category` can be filtered by picking a value.
    """

    kind: ClassVar = "data"
    frame: pd.DataFrame
    caption: str
    csv: str
    """File beside the report with the same rows, for those whose browser runs no script."""
    help: Mapping[str, str] = field(default_factory=dict)
    """What a column means, by its name: shown below the table and on hovering."""

    @cached_property
    def columns(self) -> list[CodedColumn]:
        """The columns as the page's script reads them."""
        return [
            coded(self.frame[name], self.help.get(str(name), "")) for name in self.frame.columns
        ]


Block = Paragraph | Code | Figure | Table | DataTable


@dataclass(frozen=True)
class Section:
    """A titled part of a report."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """Everything that one file shows, in the order in which it is read."""

    title: str
    lead: Sequence[str]
    """The summary: sentences that stand on their own, the most important one first."""
    sections: Sequence[Section]
    provenance: Mapping[str, str] = field(default_factory=dict)
    """What made the report: versions, command, config hash, date."""
    config_yaml: str | None = None


def render(report: Report) -> str:
    """The report as HTML, with every text escaped and every network request forbidden."""
    environment = Environment(
        loader=PackageLoader("temperance.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    blocks = [block for section in report.sections for block in section.blocks]
    script = _script() if any(isinstance(block, DataTable) for block in blocks) else None
    digest = b64encode(sha256((script or "").encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        report=report, script=script, script_digest=digest
    )


def write_report(report: Report, path: str | Path) -> Path:
    """Write the report, all of it or nothing; a report that was there is replaced.

    Raises:
        UserError: if it cannot be written; a former report is then untouched.
    """
    path = Path(path)
    with atomic(path) as draft:
        # A file name in the command may hold bytes that are no UTF-8: they must not cost a report.
        draft.write_text(render(report), encoding="utf-8", errors="replace")
    return path


def _script() -> str:
    return (resources.files(__package__) / "templates" / "results.js").read_text(encoding="utf-8")


def _all_numeric(texts: Sequence[str]) -> bool:
    known = [text for text in texts if text != MISSING]
    return bool(known) and all(_NUMERIC.match(text) for text in known)
