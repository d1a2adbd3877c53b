"""Tables and figures that several reports share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from temperance.calibration import CalibrationReport, reliability_diagram
from temperance.reporting.figures import svg
from temperance.reporting.format import interval, number, signed
from temperance.reporting.html import Block, Figure, Section, Table

HELP = {
    "n": "rows",
    "NLL": "negative log-likelihood, nats",
    "Brier": "summed over classes, 0 to 2",
    "ECE": "expected calibration error of the predicted class, 15 equal-width bins",
    "over": "over-confident part of the ECE",
    "under": "under-confident part of the ECE",
    "gap": "mean confidence − accuracy; above 0 is over-confident",
    "ACE": "adaptive calibration error (Nixon et al. 2019), 15 ranges per class",
    "ECE floor": "mean and 95 % quantile of the ECE if the confidences were exactly right",
    "p": "probability of an ECE at least this large if the confidences were exactly right",
}


def results_table(reports: Mapping[str, Mapping[str, Any]], caption: str = "") -> Table:
    """One row per set of rows, from `CalibrationReport.to_dict()`."""
    rows = []
    for name, report in reports.items():
        intervals = report.get("intervals", {})
        floor = report.get("floors", {}).get("ece")

        def ends(key: str, scale: float = 1.0, known: Any = intervals) -> str:
            low_high = known.get(key)
            if low_high is None:
                return ""
            return " " + interval(scale * low_high["low"], scale * low_high["high"], 2)

        rows.append(
            {
                "rows": name,
                "n": f"{report['n']:,}",
                "accuracy (%)": number(100 * report["accuracy"], 2) + ends("accuracy", 100),
                "NLL": number(report["nll"], 4),
                "Brier": number(report["brier"], 4),
                "gap (points)": signed(100 * report["gap"], 2) + ends("gap", 100),
                "ECE": number(report["ece"], 4),
                "over": number(report["ece_over"], 4),
                "under": number(report["ece_under"], 4),
                "ECE floor": "–"
                if floor is None
                else f"{number(floor['mean'], 4)} / {number(floor['quantile95'], 4)}",
                "p": "–" if floor is None else number(floor["p_value"], 3),
                "ACE": number(report["ace"], 5),
            }
        )
    help_texts = {**HELP, "gap (points)": HELP["gap"]}
    return Table(
        pd.DataFrame(rows),
        caption or "Accuracy and calibration. Brackets: 95 % bootstrap intervals over rows.",
        help=help_texts,
    )


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
