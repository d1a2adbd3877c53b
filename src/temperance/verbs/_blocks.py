"""Tables and figures that several reports share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from temperance.calibration import (
    CalibrationError,
    CalibrationReport,
    ReliabilityBins,
    TemperatureFit,
    classwise_grid,
    reliability_diagram,
    smooth_reliability,
    temperature_sweep,
)
from temperance.calibration.figures import SmoothReliability, TemperatureSweep
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
        "· at T ÷ 1.3 / at T / at T × 1.3",
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
        " / ".join(number(power[key], 5) for key in ("sharpened", "fitted", "perturbed"))
        if power
        else MISSING,
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


def kept_epoch(result: Mapping[str, Any]) -> str:
    """Whose model it is, after "the"."""
    if "kept_epoch" not in result:
        return "last epoch"
    return f"best epoch ({result['kept_epoch']} of {result['stopped_epoch']}, by validation NLL)"


def what_was_kept(result: Mapping[str, Any]) -> str:
    """Which epoch became the model, as the end of a sentence."""
    if "kept_epoch" not in result:
        return "the last one was kept"
    return f"epoch {result['kept_epoch']}, of the lowest validation NLL, was kept, not the last one"


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


Arrays = TypeVar("Arrays", SmoothReliability, TemperatureSweep, ReliabilityBins)


def arrays_record(picture: Arrays, *, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """What `json` can write of a picture's numbers; NaN becomes None."""
    record = {}
    for field in fields(picture):
        value = getattr(picture, field.name)
        if field.name not in leave_out:
            numbers = value.tolist() if isinstance(value, np.ndarray) else value
            record[field.name] = (
                [None if math.isnan(x) else x for x in numbers]
                if isinstance(numbers, list)
                else numbers
            )
    return record


def picture_of(cls: type[Arrays], record: Mapping[str, Any], **others: Any) -> Arrays:
    """The picture whose numbers `arrays_record` wrote."""

    def array(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        whole = all(isinstance(x, int) for x in value)
        return np.array(value, dtype=np.int64 if whole else np.float64)

    return cls(**{name: array(value) for name, value in {**record, **others}.items()})


def smooth_section(record: Mapping[str, Any], name: str) -> Section:
    """The smooth reliability curve of a set of rows."""
    error = CalibrationError(*record["error"])
    curve = picture_of(SmoothReliability, {**record, "error": error})
    n = int(curve.count.sum())
    figure = Figure(
        svg(lambda figure: smooth_reliability(figure.subplots(), curve), width=480, height=480),
        f"Smooth reliability, {name}, n = {n:,}: no bins, a kernel as wide as the smooth ECE.",
        f"Smooth reliability curve of {name}: smooth ECE {error.total:.4f}.",
    )
    return Section("Reliability without bins", [figure])


def classwise_section(record: Mapping[str, Any], names: list[str] | None) -> Section:
    """Reliability of the classes whose probabilities are worst."""
    bins = {int(label): picture_of(ReliabilityBins, each) for label, each in record.items()}
    across = min(3, len(bins))
    down = -(-len(bins) // across)

    def draw(figure: Any) -> None:
        axes = figure.subplots(down, across, squeeze=False)
        classwise_grid(axes, bins, names=names)

    figure = Figure(
        svg(draw, width=300 * across, height=300 * down),
        f"The {len(bins)} classes of the largest class-wise ECE: each class's probability against"
        " its frequency, over all rows.",
        "Reliability diagrams of the worst classes.",
    )
    return Section("Reliability class by class", [figure])


def sweep_section(record: Mapping[str, Any], fit: Mapping[str, Any]) -> Section:
    """NLL and ECE over the temperature."""
    sweep = picture_of(TemperatureSweep, record, fit=TemperatureFit.from_dict(fit))

    def draw(figure: Any) -> None:
        temperature_sweep(figure.subplots(2, 1, sharex=True), sweep)

    figure = Figure(
        svg(draw, width=640, height=520),
        "NLL and ECE over the temperature; the band is the 95 % interval of the fitted T.",
        f"Temperature sweep: the NLL is lowest at T = {sweep.fit.temperature:.3g}.",
    )
    return Section("What every temperature would do", [figure])
