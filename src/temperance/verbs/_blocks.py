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
        caption or "Accuracy and calibration. T: fitted to these rows. Brackets: 95 % intervals.",
    )


def _metrics(n_bins: int) -> list[str]:
    return [
        "rows",
        "accuracy (%)",
        "accuracy of the top 5 (%)",
        "mean confidence − accuracy (points)",
        f"ECE, {n_bins} equal-width bins",
        "· over-confident part",
        "· under-confident part",
        "· by chance: mean / 95 % quantile",
        "· p, if every confidence were right",
        "· p, if every confidence at T were right",
        f"ECE, {n_bins} equal-mass bins",
        "· of the sets of 5 classes",
        "MCE",
        "RMSCE, debiased",
        "smooth ECE",
        "KS error",
        "class-wise ECE",
        f"ACE (Nixon), {n_bins} ranges per class",
        "· by chance: mean / 95 % quantile",
        "· at T / at 1.3 T",
        "TACE, above 0.01",
        "NLL (nats)",
        "Brier (0 to 2)",
        "· miscalibration",
        "· discrimination",
        "· uncertainty",
        "AURC",
    ]


def _column(report: Mapping[str, Any]) -> list[str]:
    floors, at_temperature = report["floors"], report["floors_at_temperature"]
    power = report["ace_power"]

    def with_interval(text: str, key: str, scale: float, digits: int) -> str:
        ends = report["intervals"].get(key)
        if ends is None:
            return text
        return f"{text} {interval(scale * ends['low'], scale * ends['high'], digits)}"

    def chance(key: str, digits: int) -> str:
        if key not in floors:
            return MISSING
        floor = floors[key]
        return f"{number(floor['mean'], digits)} / {number(floor['quantile95'], digits)}"

    def p_value(floors: Mapping[str, Any]) -> str:
        return number(floors["ece"]["p_value"], 3) if "ece" in floors else MISSING

    return [
        f"{report['n']:,}",
        with_interval(number(100 * report["accuracy"], 2), "accuracy", 100, 2),
        number(100 * report["top_k_accuracy"], 2) if report["k"] == 5 else MISSING,
        with_interval(signed(100 * report["gap"], 2), "gap", 100, 2),
        number(report["ece"], 4),
        number(report["ece_over"], 4),
        number(report["ece_under"], 4),
        chance("ece", 4),
        p_value(floors),
        p_value(at_temperature),
        number(report["ece_equal_mass"], 4),
        number(report["top_k_ece"], 4) if report["k"] == 5 else MISSING,
        number(report["mce"], 4),
        with_interval(number(report["rmsce_debiased"], 4), "rmsce_debiased", 1, 4),
        number(report["smooth_ece"], 4),
        number(report["ks"], 4),
        number(report["classwise_ece"], 5),
        number(report["ace"], 5),
        chance("ace", 5),
        f"{number(power['fitted'], 5)} / {number(power['perturbed'], 5)}" if power else MISSING,
        number(report["tace"], 5),
        with_interval(number(report["nll"], 4), "nll", 1, 4),
        with_interval(number(report["brier"], 4), "brier", 1, 4),
        number(report["brier_miscalibration"], 4),
        number(report["brier_discrimination"], 4),
        number(report["brier_uncertainty"], 4),
        number(report["aurc"], 4),
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
