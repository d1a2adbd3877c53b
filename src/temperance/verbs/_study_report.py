"""The report of a study, from its folder alone: a section for each question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from temperance.config import load_config
from temperance.reporting.arm_figures import paired_differences
from temperance.reporting.figures import svg
from temperance.reporting.format import interval, number, p_value, signed
from temperance.reporting.html import (
    Block,
    DataTable,
    Figure,
    Paragraph,
    Report,
    Section,
    Table,
)
from temperance.run import Run
from temperance.studies.arms import ARMS, LADDER
from temperance.studies.contrasts import Contrast
from temperance.studies.plan import StudyArgs
from temperance.studies.statistics import FEWEST
from temperance.studies.verdict import Step
from temperance.verbs._common import provenance, stored_config
from temperance.verbs._study_pool import across_section, alignment_sections, teachers_section
from temperance.verbs._study_students import (
    cost_section,
    factors_section,
    objectives_section,
    students_section,
)

MOST = 60  # comparisons in the first table and its figure; contrasts.csv has them all


@dataclass(frozen=True)
class Findings:
    """What a finished study's folder holds."""

    args: StudyArgs
    teachers: pd.DataFrame
    students: pd.DataFrame
    missing: pd.DataFrame
    metrics: dict[str, Any]
    contrasts: list[Contrast]
    steps: list[Step]


def read_findings(folder: Path) -> Findings:
    """The settings, tables and numbers of a finished study."""
    run = Run(folder)
    metrics = run.read_json("metrics.json") or {}
    teachers, students, missing = (
        pd.read_parquet(folder / f"{name}.parquet") for name in ("teachers", "students", "missing")
    )
    return Findings(
        load_config(StudyArgs, folder / "config.yaml"),
        teachers,
        students,
        missing,
        metrics,
        [Contrast.from_dict(record) for record in metrics["contrasts"]],
        [Step.from_dict(record) for record in metrics["ladder"]],
    )


def compose(run: Run) -> Report:
    """The report of a finished study, from its folder alone."""
    found = read_findings(run.folder)
    sections = [
        *(_of_students(found) if len(found.students) else []),
        *teachers_section(found.teachers, found.args),
        *(_in_all(found) if len(found.students) else []),
        *_missing(found.missing),
        Section("How it was done", [_arms(found.args), *_methods(run, found)]),
    ]
    n = _units(found)
    return Report(
        title=f"Does calibrating the teacher help? ({found.args.data.name}, n = {n})",
        lead=found.metrics["sentences"],
        sections=sections,
        provenance=provenance(run),
        config_yaml=stored_config(run),
    )


def _of_students(found: Findings) -> list[Section]:
    """What the students say about arms, temperatures and teachers."""
    return [
        Section("Differences between arms", _differences(found)),
        *_ladder(found),
        *alignment_sections(found.metrics["alignment"]),
        *objectives_section(found.students),
        *factors_section(found.contrasts, found.teachers),
        *across_section(found.metrics["across"], found.teachers),
        *students_section(found.students),
    ]


def _in_all(found: Findings) -> list[Section]:
    """What they took, and every one of them."""
    return [*cost_section(found.teachers, found.students), *_results(found.students)]


def _units(found: Findings) -> int:
    """Teachers, or replicates where there are none."""
    if len(found.teachers) or found.students.empty:
        return len(found.teachers)
    return int(found.students["replicate"].nunique())


def _differences(found: Findings) -> list[Block]:
    shown = found.contrasts[:MOST]
    if not shown:
        return [Paragraph("The study has no two arms that can be compared.")]
    several = any(contrast.difference.clusters != contrast.difference.n for contrast in shown)
    # The arm that validation has chosen is primary, but nobody has foretold it.
    foretold = [c for c in shown if c.standing == "secondary" or (c.primary and found.args.primary)]
    tested = any(contrast.p is not None for contrast in foretold)
    crossed = any(contrast.difference.new_low is not None for contrast in shown)
    table = Table(
        pd.DataFrame(
            [_contrast_row(contrast, several, tested, crossed) for contrast in shown]
        ),
        _caption(found, len(shown)),
        emphasise=[row for row, contrast in enumerate(shown) if contrast.primary],
        help={
            "95 % interval": "t interval over teachers (over families where several teachers are"
            " alike, over replicates against arms without a teacher): other teachers, these test"
            " rows",
            **({"new data": "95 % interval for other teachers and other test rows"} if crossed
               else {}),
            "detectable": "smallest true difference found with 80 % power at this n and spread",
            "n": "teachers, or replicates against arms without a teacher",
            **({"families": "clusters of alike teachers"} if several else {}),
            **({"p": "of comparisons that were decided on beforehand, in their direction; of"
                     " secondary ones adjusted by Holm"} if tested else {}),
        },
    )  # fmt: skip

    def draw(figure: Any) -> None:
        differences = [contrast.difference for contrast in shown]
        paired_differences(
            figure.subplots(),
            [contrast.label for contrast in shown],
            [difference.mean for difference in differences],
            *(
                [_or_nan(getattr(difference, end)) for difference in differences]
                for end in ("low", "high")
            ),
            new_lows=[_or_nan(difference.new_low) for difference in differences],
            new_highs=[_or_nan(difference.new_high) for difference in differences],
            points=[contrast.differences for contrast in shown],
            emphasise=[row for row, contrast in enumerate(shown) if contrast.primary],
        )

    picture = svg(draw, width=760, height=70 + 44 * len(shown))
    thin = ", the thin one for new data" if crossed else ""
    caption = f"Mean paired differences with their 95 % intervals{thin}; small dots are teachers"
    caption += " or replicates."
    return [table, Figure(picture, caption, "Forest plot of the paired differences above.")]


def _contrast_row(contrast: Contrast, several: bool, tested: bool, crossed: bool) -> dict[str, str]:
    difference = contrast.difference
    standing = "" if contrast.standing == "exploratory" else f" · {contrast.standing}"
    row = {
        "comparison": contrast.label + standing,
        "difference (points)": signed(difference.mean, 2),
        "95 % interval": interval(difference.low, difference.high, 2),
    }
    if crossed:
        row["new data"] = interval(difference.new_low, difference.new_high, 2)
    row["detectable"] = number(difference.detectable, 2)
    row["n"] = str(difference.n)
    if several:
        row["families"] = str(difference.clusters)
    if tested:
        p = contrast.p if contrast.primary else contrast.p_adjusted
        row["p"] = p_value(p if contrast.standing != "exploratory" else None)
    return row


def _caption(found: Findings, shown: int) -> str:
    decided = (
        "The primary comparison was decided on before the first student was trained"
        if found.args.primary
        else "The primary comparison is that of the arm with the best validation accuracy"
    )
    secondary = "; so were the secondary ones" if found.args.secondary else ""
    more = len(found.contrasts) - shown
    tail = f" The first {shown} of {shown + more}; contrasts.csv has all." if more else ""
    few = "" if _units(found) >= FEWEST else f" Under {FEWEST} replicates: no intervals."
    return (
        f"Paired differences in test accuracy over {_units(found)} teachers. {decided}{secondary}."
        " The others are exploratory, and their intervals are not adjusted for their number."
        f"{few}{tail}"
    )


def _ladder(found: Findings) -> list[Section]:
    """The ladder of verdicts, where more than its first rung was tried."""
    if not any("not run" not in step.found.values() for step in found.steps if
               step.conclusion != LADDER[0].conclusion):  # fmt: skip
        return []
    rows: dict[str, dict[str, str]] = {}
    for step in found.steps:
        verdicts = "; ".join(f"{state} than {arm}" if state in ("better", "worse") else
                             f"{state} ({arm})" for arm, state in step.found.items())  # fmt: skip
        row = rows.setdefault(step.shown, {"way": step.shown or "all"})
        row[step.conclusion] = f"{'yes' if step.reached else 'no'}: {verdicts}"
    table = Table(
        pd.DataFrame(list(rows.values())),
        "What calibrated has to beat for each conclusion, rung on rung: the raw teacher; one"
        " temperature for all and another teacher's; the same softness with the rows' confidence"
        " exchanged or made equal. Better and worse by the 95 % interval over teachers; equivalent"
        f" within ±{found.args.margin:g} points; what was not run is not concluded.",
    )
    return [Section("Ladder of verdicts", [table])]


def _results(students: pd.DataFrame) -> list[Section]:
    varying = [
        name
        for name in ("teacher", "family", "arm", "factor", "objective", "softening", "student",
                     "transfer", "seed")
        if students[name].nunique(dropna=False) > 1 or name == "arm"
    ]  # fmt: skip
    numbers = [
        *("teacher_softening", "T", "accuracy", "nll", "ece", "gap", "T_student"),
        *("validation_accuracy", "seconds"),
    ]
    table = DataTable(
        students[[*varying, *numbers]],
        f"All {len(students):,} students. Click a heading to sort, type to filter.",
        csv="students.csv",
        help={
            "teacher_softening": "T × τ, by which the teacher's logits are divided in all",
            "T_student": "the student's own calibration temperature, fitted on validation",
        },
    )
    return [Section("All students", [table])]


def _missing(missing: pd.DataFrame) -> list[Section]:
    if missing.empty:
        return []
    table = Table(
        missing.head(200).rename(columns={"why": "reason"}),
        f"Runs without a result: {len(missing):,}. Failed: its own error. Blocked: one that it"
        " needs has failed. Skipped: impossible for that teacher.",
    )
    return [Section("Missing runs", [table])]


def _arms(args: StudyArgs) -> Table:
    frame = pd.DataFrame({"arm": args.arms, "what it is": [ARMS[arm] for arm in args.arms]})
    return Table(frame, "The arms.")


def _methods(run: Run, found: Findings) -> list[Block]:
    """The methods paragraph, with every n, and what was registered."""
    args, students, teachers = found.args, found.students, found.teachers
    if students.empty:
        return []
    registered = run.read_json("primary.json") or {}
    fit = (
        f"T was cross-fitted: {args.calibration.folds} teachers of the same recipe, each on the"
        " rows of the other folds, gave out-of-fold logits for all rows; the teacher itself and"
        " the students with a teacher saw train + calibration, so no label was held out"
        if args.calibration.fit == "cross-fit"
        else "T was fitted on the calibration split, which neither the teacher nor the students"
        " with a teacher were trained on"
    )
    families = int(teachers["family"].nunique()) if len(teachers) else 0
    taught = students[students["teacher"].notna()]
    sizes = _range(taught["train_rows"]) if len(taught) else "no"
    blocks: list[Block] = [
        Paragraph(
            f"{len(teachers)} teachers of {families} families ({_recipes(args)}),"
            f" {args.replicates} replicates, each with its own split, teachers, T and students;"
            f" {args.student_seeds} student seeds per teacher and cell, averaged before anything is"
            " compared; all arms of a replicate share the students' seeds, data order and views."
            f" Students: {_student_recipes(args)}; {len(students):,} in all, those with a teacher"
            f" taught on {sizes} rows ({', '.join(args.transfer)}), measured on"
            f" {_range(students['test_rows'])} test rows, last epoch. {fit}."
            f" Under-confident: T × {', '.join(f'{u:g}' for u in args.underconfidence)}. Dividing"
            " the teacher's logits by T is the same as a higher softening of the teacher alone, so"
            " only a gain over the constant T would say that the fitted T picks the right one."
            " Intervals for these test rows are t intervals over teachers, or over families where"
            " several teachers are alike; those for new data add the variance over test rows"
            " (two-way clustered, Cameron, Gelbach & Miller 2011). Sign-flip tests turn whole"
            " clusters. Everything across teachers is descriptive."
        )
    ]
    if args.primary is not None:
        said = f"Registered {registered.get('registered')} as primary: {args.primary}."
        said += f" sha256 of the registered blocks: {registered.get('sha256')}."
        blocks.append(Paragraph(said))
    mixed = found.metrics["mixed"]
    if mixed is not None:
        doubt = "" if mixed["converged"] else " (it did not converge)"
        blocks.append(
            Paragraph(
                f"Sensitivity: a mixed model of all {mixed['n']} students of the primary"
                f" comparison gives {signed(mixed['estimate'], 2)} points, standard error"
                f" {number(mixed['se'], 2)}{doubt}, over {mixed['groups']} families."
            )
        )
    return blocks


def _recipes(args: StudyArgs) -> str:
    recipes = {teacher.training.recipe.name: teacher.training.recipe for teacher in args.teachers}
    said = [
        f"{name}: {recipe.model.name}, "
        + ("given" if recipe.weights else f"{recipe.training.epochs} epochs")
        for name, recipe in recipes.items()
    ]
    return "; ".join(said) if len(said) <= 12 else f"{len(said)} recipes"


def _student_recipes(args: StudyArgs) -> str:
    return "; ".join(
        f"{name}: {recipe.model.name}, {recipe.training.epochs} epochs"
        for name, recipe in args.student_recipes.items()
    )


def _range(values: Sequence[float] | pd.Series) -> str:
    low, high = int(np.min(values)), int(np.max(values))
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
