"""Tables and figures that several reports share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from temperance.calibration import CalibrationReport, reliability_diagram
from temperance.reporting.figures import svg
from temperance.reporting.format import MISSING, interval, number, signed
from temperance.reporting.html import Block, Figure, Paragraph, Section, Table


def results_table(reports: Mapping[str, Mapping[str, Any]], caption: str = "") -> Table:
    """One column per set of rows (`CalibrationReport.to_dict()`), metrics from top to bottom."""
    n_bins = len(next(iter(reports.values()))["bins"]["lower"])
    columns = {name: _column(report) for name, report in reports.items()}
    return Table(
        pd.DataFrame({"metric": _metrics(n_bins), **columns}),
        caption or "Accuracy and calibration. Brackets: 95 % bootstrap intervals over rows.",
    )


def _metrics(n_bins: int) -> list[str]:
    return [
        "rows",
        "accuracy (%)",
        "mean confidence − accuracy (points)",
        f"ECE, {n_bins} equal-width bins",
        "· over-confident part",
        "· under-confident part",
        "· by chance: mean / 95 % quantile",
        "· p, if every confidence were right",
        f"ACE (Nixon), {n_bins} ranges per class",
        "NLL (nats)",
        "Brier (0 to 2)",
    ]


def _column(report: Mapping[str, Any]) -> list[str]:
    floor = report["floors"].get("ece")

    def with_interval(text: str, key: str, scale: float, digits: int) -> str:
        ends = report["intervals"].get(key)
        if ends is None:
            return text
        return f"{text} {interval(scale * ends['low'], scale * ends['high'], digits)}"

    return [
        f"{report['n']:,}",
        with_interval(number(100 * report["accuracy"], 2), "accuracy", 100, 2),
        with_interval(signed(100 * report["gap"], 2), "gap", 100, 2),
        number(report["ece"], 4),
        number(report["ece_over"], 4),
        number(report["ece_under"], 4),
        f"{number(floor['mean'], 4)} / {number(floor['quantile95'], 4)}" if floor else MISSING,
        number(floor["p_value"], 3) if floor else MISSING,
        number(report["ace"], 5),
        with_interval(number(report["nll"], 4), "nll", 1, 4),
        with_interval(number(report["brier"], 4), "brier", 1, 4),
    ]


def splits_paragraph(rows: Mapping[str, int]) -> Paragraph:
    """How many rows were used for what, from `Splits.sizes()`."""
    counts = ", ".join(f"{name} {n:,}" for name, n in rows.items())
    return Paragraph(f"Rows of each split: {counts}.")


def calibration_sections(reports: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """A section with one reliability diagram per set of rows."""
    blocks: list[Block] = []
    for name, content in reports.items():
        report = CalibrationReport.from_dict(content)

        def draw(figure: Any, report: CalibrationReport = report, title: str = name) -> None:
            reliability_diagram(figure.subplots(), report.bins, title=title)

        blocks.append(
            Figure(
                svg(draw, width=480, height=480),
                f"Reliability diagram, {name}, n = {report.n:,}.",
                f"Reliability diagram of {name}: ECE {report.ece:.4f}, mean confidence minus"
                f" accuracy {report.gap:+.4f}.",
            )
        )
    return [Section("Reliability", blocks)]
