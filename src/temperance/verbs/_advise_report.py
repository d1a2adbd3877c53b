"""The report of `advise`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from temperance.reporting.format import MISSING, interval, number, signed
from temperance.reporting.html import Block, Paragraph, Report, Section, Table
from temperance.run import Run
from temperance.verbs._blocks import calibration_sections
from temperance.verbs._common import provenance, stored_config


def compose(run: Run) -> Report:
    """The report of a piece of advice, from its folder alone."""
    metrics = run.read_json("metrics.json") or {}
    teachers, order = metrics["teachers"], metrics["order"]
    several = len(teachers) > 1
    in_order = order["names"] if order else [teachers[0]["name"]]
    by_name = {teacher["name"]: teacher for teacher in teachers}
    shown = [by_name[name] for name in in_order]
    return Report(
        title="Advice",
        lead=metrics["words"],
        sections=[
            Section("Result", [_teachers_table(shown, order), _arms_table(shown, several=several)]),
            *([_each_section(shown)] if several else []),  # of one, it is the summary
            Section("Evidence", list(_evidence_blocks(metrics["evidence"]))),
            *calibration_sections({each["name"]: each["report"] for each in shown}),
        ],
        provenance=provenance(run),
        config_yaml=stored_config(run),
    )


def _teachers_table(
    teachers: Sequence[Mapping[str, Any]], order: Mapping[str, Any] | None
) -> Table:
    behind = order["behind"] if order else None
    rows = []
    for place, teacher in enumerate(teachers):
        row = _row(teacher)
        if behind:
            row["above the first"] = (
                interval(behind[place][0], behind[place][1], 4) if place else MISSING
            )
        rows.append(row)
    return Table(
        pd.DataFrame(rows),
        "Measured on rows that the teachers have not seen. Brackets: 95 % intervals.",
        help={
            "gap (points)": "Mean confidence − accuracy.",
            "fit": "fragile: fewer than 20 wrong rows decide T.",
            "auto": "The simplest calibrator that cross-validation cannot tell from the best.",
            "NLL at T": "Cross-fitted: each row at a T of other rows (refinement).",
            "gap taught, raw → T": "On the rows to be distilled, or those that stand for them.",
        },
    )


def _row(teacher: Mapping[str, Any]) -> dict[str, str]:
    report, fit, ends = teacher["report"], teacher["fit"], teacher["T_interval"]
    gap, T = signed(100 * report["gap"], 2), number(fit["temperature"], 3)
    between = report["intervals"].get("gap")
    if between:
        gap += f" {interval(100 * between['low'], 100 * between['high'], 2)}"
    trust = "fragile" if fit["fragile"] else "usable"
    return {
        "teacher": teacher["name"],
        "rows": f"{report['n']:,}",
        "accuracy (%)": number(100 * report["accuracy"], 2),
        "gap (points)": gap,
        "T": T if ends is None else f"{T} {interval(ends[0], ends[1], 2)}",
        "fit": trust if fit["usable"] else fit["status"],
        "auto": teacher["calibrator"]["chosen"],
        "NLL at T": number(fit["cross_fit"]["nll"], 4),
        "gap taught, raw → T": " → ".join(
            signed(100 * share, 1) for share in teacher["taught"]["gap"]
        ),
    }


def _arms_table(teachers: Sequence[Mapping[str, Any]], *, several: bool) -> Table:
    rows = [
        {**({"teacher": teacher["name"]} if several else {}), **proposal}
        for teacher in teachers
        for proposal in teacher["proposals"]
    ]
    return Table(pd.DataFrame(rows), "Which arms are worth running, and why.")


def _each_section(teachers: Sequence[Mapping[str, Any]]) -> Section:
    said = [Paragraph(f"{each['name']}. {' '.join(each['words'])}") for each in teachers]
    return Section("Each teacher", said)


def _evidence_blocks(regimes: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    for regime in regimes:
        caption = regime["words"]
        if not regime["table"]:
            yield Paragraph(caption)
            continue
        yield Table(
            pd.DataFrame(regime["table"]),
            f"{caption} Every comparison counts by itself: 95 % intervals of the mean difference"
            " in test accuracy, over teachers, for all objectives and softenings of the studies.",
        )
        quoted = pd.DataFrame({"comparison": regime["quoted"]})
        yield Table(
            quoted,
            "Each of them: mean difference [95 % interval], next: a 95 % prediction interval for"
            " one more such teacher.",
        )
