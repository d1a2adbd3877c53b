"""Sections of a study's report that are about its teachers: across them, and their optima."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from temperance.reporting.figures import svg
from temperance.reporting.format import interval, number, signed
from temperance.reporting.html import Block, Figure, Paragraph, Section, Table
from temperance.reporting.study_figures import (
    alignment_plot,
    figure_one,
    softening_curves,
    temperature_points,
)
from temperance.studies.plan import StudyArgs

MOST = 60  # teachers that a table lists one by one; teachers.csv has them all
DRAWN = 3  # ways of teaching with figures; of the others there are the tables
WORDS = {
    "gap": "gap (confidence − accuracy)",
    "absolute_gap": "|gap|",
    "log_T": "log T",
    "refinement": "refinement: NLL at T",
    "calibration": "calibration: NLL(1) − NLL(T)",
}


def teachers_section(teachers: pd.DataFrame, args: StudyArgs) -> list[Section]:
    """Every teacher in numbers, and the temperatures."""
    if teachers.empty:
        return []
    several = teachers["family"].nunique() < len(teachers)
    truth = "truth_kl" in teachers
    rows = [
        {
            "teacher": teacher["teacher"],
            **({"family": teacher["family"]} if several else {}),
            "n": f"{teacher['rows']:,}",
            "accuracy (%)": number(100 * teacher["accuracy"], 2),
            "gap (points)": signed(100 * teacher["gap"], 2),
            "ECE": number(teacher["ece"], 4),
            "T": number(teacher["T"], 3),
            "se log T": number(teacher["T_se_log"], 3),
            "status": teacher["status"] + (", fragile" if teacher["fragile"] else ""),
            "ECE at T": number(teacher["ece_calibrated"], 4),
            "gap on taught rows": signed(100 * teacher["train_gap"], 2),
            "test (%)": number(100 * teacher["test_accuracy"], 2),
            **(
                {
                    "KL to truth": number(teacher["truth_kl"], 4),
                    "of it calibration": number(teacher["truth_kl_calibration"], 4),
                }
                if truth
                else {}
            ),
        }
        for teacher in teachers.head(MOST).to_dict("records")
    ]
    out_of_fold = " (out of fold)" if args.calibration.fit == "cross-fit" else ""
    more = f" The first {MOST}; teachers.csv has all." if len(teachers) > MOST else ""
    table = Table(
        pd.DataFrame(rows),
        f"Teachers, measured on rows that the measured model has not seen{out_of_fold}. Constant T"
        f" for all: {number(teachers['constant_T'].iloc[0], 3)}.{more}",
        help={
            "gap (points)": "mean confidence − accuracy; above 0 is over-confident",
            "T": "fitted calibration temperature",
            "gap on taught rows": "the same gap on the rows that the teacher was trained on",
            **({"KL to truth": "mean KL(p* ‖ p) on test, nats; its calibration part is what one"
                " temperature removes, the rest is refinement"} if truth else {}),
        },
    )  # fmt: skip

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        temperature_points(axes, teachers["T"], teachers["T_se_log"])
        axes.set_xlabel(axes.get_xlabel().replace("replicate", "teacher"))

    picture = svg(draw, width=620, height=320)
    caption = "Fitted temperature per teacher with its 95 % interval."
    return [
        Section("Teachers", [table, Figure(picture, caption, "Fitted calibration temperatures.")])
    ]


def alignment_sections(aligned: Sequence[dict[str, Any]]) -> list[Section]:
    """Does the fitted T say where the best softening lies? For every way that has a grid."""
    blocks: list[Block] = []
    for place, found in enumerate(aligned):
        where = f" ({', '.join(_words(found['way']))})" if len(aligned) > 1 else ""
        line = found.get("line")
        if line is None:
            blocks.append(Paragraph(f"No alignment test{where}: {found['why_not']}."))
        else:
            blocks.append(_line_table(line, found, where))
        blocks += _alignment_figures(found, where) if place < DRAWN else []
    blocks += _not_drawn(len(aligned))
    return [Section("Alignment of best softening and T", blocks)] if blocks else []


def _not_drawn(ways: int) -> list[Block]:
    """Says that not every way of teaching has figures, where that is so."""
    if ways <= DRAWN:
        return []
    return [
        Paragraph(f"Figures of the first {DRAWN} of {ways} ways of teaching; metrics.json has all.")
    ]


def _alignment_figures(found: dict[str, Any], where: str) -> list[Block]:
    line, optima = found.get("line"), found.get("optima")
    blocks: list[Block] = []
    if optima is not None:

        def draw_line(figure: Any) -> None:
            alignment_plot(
                figure.subplots(),
                np.log(found["T"]),
                _floats(found["T_se_log"]),
                [optimum["log_softening"] for optimum in optima],
                [optimum["se"] for optimum in optima],
                found["families"],
                edge=[optimum["edge"] is not None for optimum in optima],
                slope=line["slope"]["value"] if line else None,
                intercept=line["intercept"]["value"] if line else None,
            )

        blocks.append(
            Figure(
                svg(draw_line, width=800, height=440),
                f"Best teacher softening against fitted T{where}, both with 95 % intervals. Slope"
                " 1: T is the right unit; slope 0: one constant does as well. Hollow: the best"
                " softening lies at an end of the grid.",
                "Log best teacher softening over log fitted temperature, one point per teacher.",
            )
        )

    def draw_curves(figure: Any) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        accuracies = np.array(found["curves"]) / 100
        softening_curves(left, found["softenings"], accuracies, centred=True)
        softening_curves(right, found["softenings"], accuracies, temperatures=found["T"],
                         centred=True)  # fmt: skip
        right.set_ylabel("")

    said = _units(found["units"]) if "units" in found else ""
    blocks.append(
        Figure(
            svg(draw_curves, width=900, height=380),
            f"Student accuracy over the teacher's softening{where}, relative to each teacher's"
            f" mean: absolute (left) and in units of its T (right).{said}",
            "Accuracy curves over teacher softening, one per teacher, on two axes.",
        )
    )
    return blocks


def _units(units: dict[str, Any]) -> str:
    """Which unit makes the teachers' curves one."""
    difference = units["difference"]
    ends = interval(difference["low"], difference["high"], 2)
    known = "" if difference["low"] is None else f" {ends}"
    return (
        f" One common curve misses a teacher's by {number(units['absolute'], 2)} points over τₜ and"
        f" by {number(units['relative'], 2)} over τₜ / T; difference"
        f" {signed(difference['value'], 2)}{known}, above 0 if T is the better unit."
    )


def _line_table(line: dict[str, Any], found: dict[str, Any], where: str) -> Table:
    names = {
        "slope": "slope of log best τₜ on log T",
        "factor": "best factor on T, if the slope is 1",
        "constant": "best τₜ for all, if the slope is 0",
    }
    rows = [
        {
            "quantity": what,
            "estimate": number(line[name]["value"], 2),
            "95 % interval": interval(line[name]["low"], line[name]["high"], 2),
        }
        for name, what in names.items()
    ]
    p = "" if line["p"] is None else f"; permutation test of slope 0: p = {number(line['p'], 3)}"
    few = ", too few to lean on the interval" if line["provisional"] else ""
    return Table(
        pd.DataFrame(rows),
        f"Alignment{where} over {line['n']} teachers of {line['families']} families{few}"
        f"{p}. {line['excluded']} left out, their optimum being at an end of the grid. Students at"
        f" τ = {found['student_softening']:g}. Reads as: {line['reads_as']}.",
        emphasise=[0],
    )


def across_section(across: Sequence[dict[str, Any]], teachers: pd.DataFrame) -> list[Section]:
    """Which measure of a teacher goes along with its students' accuracy? Descriptive."""
    shown = [found for found in across if len(found["teachers"]) >= 3]
    blocks: list[Block] = []
    for place, found in enumerate(shown):
        where = f" ({', '.join(_words(found['way']))})" if len(across) > 1 else ""
        blocks += _across_figures(found, teachers, where) if place < DRAWN else []
        blocks.append(_correlations(found, where))
        remarks = [
            *found["balance"]["remarks"],
            *(said.rstrip(".") for said in found["identities"]),
        ]
        if remarks:
            blocks.append(Paragraph(f"What this pool cannot tell: {'; '.join(remarks)}."))
    blocks += _not_drawn(len(shown))
    return [Section("Across teachers", blocks)] if blocks else []


def _across_figures(found: dict[str, Any], teachers: pd.DataFrame, where: str) -> list[Block]:
    pool = teachers.set_index("teacher").loc[found["teachers"]]
    pool = pool.assign(student_accuracy=np.array(found["outcome"]) / 100, family=found["families"])
    r = {row["predictor"]: row["pearson"] for row in found["correlations"]}
    ace = found.get("ace")
    sees = "" if ace is None else f" {ace['sentence']}"
    return [
        _panels(
            pool,
            "ace",
            r,
            f"Teacher accuracy, and teacher ACE, against student accuracy{where} (the paper's"
            f" Figure 1).{sees}",
        ),
        _panels(
            pool,
            "gap",
            r,
            "The same with the signed gap, mean confidence − accuracy: left of 0 a teacher is"
            " under-confident.",
        ),
    ]


def _panels(pool: pd.DataFrame, error: Any, r: dict[str, Any], caption: str) -> Figure:
    def draw(figure: Any) -> None:
        figure_one(figure, pool, error=error, r=(_float(r["accuracy"]), _float(r[error])))

    alt = f"Student accuracy over teacher accuracy and over teacher {error}."
    return Figure(svg(draw, width=900, height=430), caption, alt)


def _correlations(found: dict[str, Any], where: str) -> Table:
    vif = {row["predictor"]: row["vif"] for row in found["collinearity"]}
    rows = []
    for row in found["correlations"]:
        name = row["predictor"]
        rows.append(
            {
                "predictor": WORDS.get(name, name),
                "Pearson r": number(_float(row["pearson"]), 2),
                "95 % interval": interval(row["pearson_low"], row["pearson_high"], 2),
                "Spearman": number(_float(row["spearman"]), 2),
                "within families": number(_float(row["within_slope"]), 2),
                "between": number(_float(row["between_slope"]), 2),
                "left-out R²": number(_float(row["left_out_r2"]), 2),
                "VIF": number(_float(vif[name]), 1),
                **({"p": number(_float(row["p"]), 3)} if row["p"] is not None else {}),
            }
        )
    balance = found["balance"]
    compared = found.get("comparisons", {}).get("ece")
    said = "" if compared is None else (
        f" −r(ECE) − r(accuracy) = {signed(compared['difference'], 2)}"
        f" {interval(compared['low'], compared['high'], 2)}."
    )  # fmt: skip
    return Table(
        pd.DataFrame(rows),
        f"Measures of {balance['n']} teachers of {balance['families']} families against the mean"
        f" accuracy of their raw students{where}; descriptive: teachers differ in more than one"
        f" thing.{said}",
        help={
            "within families": "slope in points of student accuracy per sd of the predictor, about"
            " the family's mean",
            "between": "the same over families' means",
            "left-out R²": "of predicting families that were left out; negative: worse than none",
            "VIF": "variance inflation: above 10 the other predictors tell this one",
        },
    )


def _words(way: Sequence[Any]) -> list[str]:
    objective, softening, student, transfer = way
    tau = None if softening is None else f"τ = {softening:g}"
    return [str(part) for part in (objective, tau, student, transfer) if part is not None]


def _floats(values: Sequence[float | None]) -> list[float]:
    return [_float(value) for value in values]


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)
