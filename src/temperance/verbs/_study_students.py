"""Sections of a study's report that are about its students."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from temperance.reporting.arm_figures import (
    arms_by_softening,
    calibration_before_after,
    heat_map,
)
from temperance.reporting.figures import svg
from temperance.reporting.format import number, signed
from temperance.reporting.html import Block, Figure, Section, Table
from temperance.reporting.study_figures import under_confidence_curve
from temperance.studies.contrasts import Contrast, Way

CELL = ["objective", "softening", "student", "transfer"]


def students_section(students: pd.DataFrame) -> list[Section]:
    """Every arm in numbers, and how well its students know their own confidence."""
    if students.empty:
        return []
    varying = [name for name in (*CELL, "factor") if students[name].nunique() > 1]
    grid = students["teacher_softening"].where(students["arm"] == "grid")
    cells = students.assign(grid=grid).groupby(
        ["arm", *CELL, "factor", "grid"], sort=False, dropna=False
    )
    rows = []
    for key, group in cells:
        arm, *cell = key
        named = dict(zip([*CELL, "factor", "grid"], cell, strict=True))
        rows.append(
            {
                "arm": arm if pd.isna(named["grid"]) else f"{arm} τₜ = {named['grid']:g}",
                **{_heading(name): _text(named[name]) for name in varying},
                **({} if "softening" in varying else {"τ": _text(named["softening"])}),
                "accuracy (%)": number(100 * group["accuracy"].mean(), 2),
                "sd": number(100 * group.groupby(_unit(group))["accuracy"].mean().std(), 2),
                "validation (%)": number(100 * group["validation_accuracy"].mean(), 2),
                "best epoch (%)": number(100 * group["best_validation_accuracy"].mean(), 2),
                "NLL": number(group["nll"].mean(), 3),
                "ECE": number(group["ece"].mean(), 4),
                "gap (points)": signed(100 * group["gap"].mean(), 2),
                "NLL at its T": number(group["nll_calibrated"].mean(), 3),
                "ECE at its T": number(group["ece_calibrated"].mean(), 4),
                "train rows": f"{group['train_rows'].iloc[0]:,}",
                "n": str(len(group)),
            }
        )
    table = Table(
        pd.DataFrame(rows),
        "Students, last epoch, on their test rows; means over all, sd over teachers (over"
        " replicates for arms without one).",
        help={
            "best epoch (%)": "validation accuracy of the best epoch; it selects nothing",
            "gap (points)": "mean confidence − accuracy on test; above 0 is over-confident",
            "NLL at its T": "on test, at the student's own temperature, fitted on validation",
        },
    )
    blocks: list[Block] = [table]
    if students["objective"].nunique() <= 1 and students["student"].nunique() == 1:
        blocks += _dots(students)
    if students["gap_calibrated"].notna().any():
        blocks.append(_before_after(students))
    return [Section("Students", blocks)]


def _unit(group: pd.DataFrame) -> str:
    return "replicate" if group["teacher"].isna().all() else "teacher"


def _dots(students: pd.DataFrame) -> list[Block]:
    shown = students[students["arm"] != "grid"]
    labels = shown["arm"].where(
        shown["factor"].isna() | (shown["factor"].nunique() <= 1),
        shown["arm"] + " × " + shown["factor"].map("{:g}".format),
    )
    unit = shown["teacher"].fillna("replicate " + shown["replicate"].astype(str))
    frame = pd.DataFrame(
        {
            "arm": labels,
            "softening": shown["softening"],
            "replicate": unit,
            "accuracy": shown["accuracy"],
        }
    )
    frame = frame.groupby(["arm", "softening", "replicate"], sort=False, dropna=False)
    means = frame["accuracy"].mean().reset_index()

    def draw(figure: Any) -> None:
        arms_by_softening(figure.subplots(), means)

    width = max(640, 60 * means.drop_duplicates(["arm", "softening"]).shape[0] + 120)
    return [
        Figure(
            svg(draw, width=min(width, 1100), height=420),
            "Test accuracy of every teacher's students, their seeds averaged; thin lines join those"
            " of one teacher.",
            "Accuracy per arm and softening, one dot per teacher.",
        )
    ]


def _before_after(students: pd.DataFrame) -> Figure:
    known = students[students["gap_calibrated"].notna() & (students["arm"] != "grid")]
    arms = known["arm"].nunique()

    def draw(figure: Any) -> None:
        calibration_before_after(figure.subplots(), known)

    return Figure(
        svg(draw, width=760, height=90 + 46 * arms),
        "Do students inherit their teacher's confidence? Mean confidence − accuracy on test, as"
        " they are and at their own temperature, fitted on validation.",
        "Students' signed calibration gap per arm, before and after their own temperature.",
    )


def objectives_section(students: pd.DataFrame) -> list[Section]:
    """Arms against the raw teacher, way by way, where there are several ways."""
    taught = students[students["teacher"].notna() & ~students["arm"].isin(["raw", "grid"])]
    raw = students[students["arm"] == "raw"]
    ways = raw[CELL].drop_duplicates()
    if len(ways) < 2 or taught.empty:
        return []
    if taught["factor"].nunique() > 1:
        named = taught["arm"] + " × " + taught["factor"].map("{:g}".format)
        taught = taught.assign(arm=taught["arm"].where(taught["factor"].isna(), named))
    keys = ["teacher", *CELL]
    base = raw.groupby(keys, dropna=False)["accuracy"].mean().rename("raw").reset_index()
    arms = taught.groupby([*keys, "arm"], dropna=False, sort=False)["accuracy"].mean()
    pairs = arms.reset_index().merge(base, on=keys)
    pairs["points"] = 100 * (pairs["accuracy"] - pairs["raw"])
    varying = [name for name in CELL if ways[name].nunique(dropna=False) > 1]
    pairs["way"] = [
        ", ".join(_named(name, value) for name, value in zip(varying, row, strict=True))
        for row in pairs[varying].itertuples(index=False)
    ]
    table = pairs.pivot_table("points", "way", "arm", sort=False)
    counts = pairs.pivot_table("points", "way", "arm", aggfunc="count", fill_value=0, sort=False)
    table = table.reindex(dict.fromkeys(pairs["way"]))

    def draw(figure: Any) -> None:
        heat_map(figure.subplots(), table, counts)

    return [
        Section(
            "Objectives and arms",
            [
                Figure(
                    svg(draw, width=max(420, 180 + 90 * table.shape[1]),
                        height=110 + 45 * len(table)),
                    "Test accuracy minus the raw teacher's students', percentage points, mean over"
                    " n teachers. Exploratory.",
                    "Heat map of differences to the raw arm, one row per way of teaching.",
                )
            ],
        )
    ]  # fmt: skip


def factors_section(contrasts: Sequence[Contrast], teachers: pd.DataFrame) -> list[Section]:
    """Accuracy over the under-confidence factor, way by way, where there are several factors."""
    by_way: dict[Way, list[Contrast]] = {}
    for contrast in contrasts:
        if (contrast.arm, contrast.against) == ("under-confident", "calibrated"):
            way = contrast.way._replace(factor=None)
            by_way.setdefault(way, []).append(contrast)
    curves = {way: found for way, found in by_way.items() if len(found) > 1}
    if not curves:
        return []
    error = 1.96 * float(np.nanmedian(teachers["T_se_log"].astype(float)))
    blocks: list[Block] = []
    for found in curves.values():

        def draw(figure: Any, found: Sequence[Contrast] = found) -> None:
            under_confidence_curve(
                figure.subplots(),
                [_or_nan(contrast.way.factor) for contrast in found],
                [contrast.difference.mean for contrast in found],
                [_or_nan(contrast.difference.low) for contrast in found],
                [_or_nan(contrast.difference.high) for contrast in found],
                temperature_interval=(math.exp(-error), math.exp(error)),
            )

        where = found[0].shown.rpartition(", ")[0] or found[0].shown
        blocks.append(
            Figure(
                svg(draw, width=620, height=380),
                f"Beyond the fitted T ({where}): accuracy against the calibrated teacher's students"
                " over the factor, with 95 % intervals. Grey: what the fit of T leaves open, the"
                " 95 % interval of T for the median teacher.",
                "Under-confidence curve.",
            )
        )
    return [Section("Under-confidence", blocks)]


def cost_section(teachers: pd.DataFrame, students: pd.DataFrame) -> list[Section]:
    """Where the time went."""
    rows = []
    if len(teachers):
        seconds = teachers.drop_duplicates(["recipe", "replicate"])["seconds"]
        rows.append(_cost("teachers", "", seconds))
    varying = [name for name in ("objective", "student") if students[name].nunique() > 1]
    trained = students.drop_duplicates("run")
    keys = ["arm", *varying] if len(students) else ["arm"]
    for key, group in trained.groupby(keys, sort=False, dropna=False):
        arm, *cell = key
        rows.append(_cost(arm, ", ".join(_text(value) for value in cell), group["seconds"]))
    table = Table(
        pd.DataFrame(rows),
        f"Training time, {_hours(trained['seconds'].sum())} for students in all; the folds of a"
        " cross-fit are not in it. Runs that serve several arms are counted once.",
    )
    return [Section("Cost", [table])]


def _cost(what: str, how: str, seconds: pd.Series) -> dict[str, str]:
    return {
        "what": what,
        **({"how": how} if how else {}),
        "trainings": str(len(seconds)),
        "seconds each": number(seconds.mean(), 1),
        "in all": _hours(seconds.sum()),
    }


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _heading(name: str) -> str:
    return {"softening": "τ", "factor": "× T"}.get(name, name)


def _named(name: str, value: Any) -> str:
    return f"τ = {value:g}" if name == "softening" and not pd.isna(value) else _text(value)


def _text(value: Any) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
