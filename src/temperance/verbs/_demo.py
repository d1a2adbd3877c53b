"""`demo`: the smallest study: did calibrating the teacher help?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from temperance.config import load_config
from temperance.data import DataArgs, SplitArgs
from temperance.models import MLPArgs
from temperance.reporting.arm_figures import arms_by_softening, paired_differences
from temperance.reporting.figures import svg
from temperance.reporting.format import interval, number, signed
from temperance.reporting.html import Block, Figure, Paragraph, Report, Section, Table, write_report
from temperance.reporting.study_figures import temperature_points
from temperance.run import Run, identity
from temperance.studies.execute import run_study
from temperance.studies.plan import ARMS, StudyArgs
from temperance.studies.statistics import FEWEST
from temperance.studies.verdict import (
    Contrast,
    contrasts,
    sentences,
)
from temperance.training import (
    AdamWArgs,
    Engine,
    EngineArgs,
    Recipe,
    SGDArgs,
    TrainingArgs,
)
from temperance.verbs._common import (
    Config,
    Outcome,
    Place,
    provenance,
    running,
    settings,
    shared_dataset,
    stored_config,
)


class DemoArgs(StudyArgs):
    """The built-in recipe: scikit-learn's digits, a teacher trained too long, a small student."""

    data: DataArgs = DataArgs(name="digits")
    split: SplitArgs = SplitArgs(test=0.7)
    teacher: Recipe = Recipe(
        model=MLPArgs(width=128),
        training=TrainingArgs(
            epochs=100, optimizer=SGDArgs(lr=0.1, weight_decay=0.0), validate_every=10
        ),
    )
    student: Recipe = Recipe(
        model=MLPArgs(width=16),
        training=TrainingArgs(epochs=40, optimizer=AdamWArgs(lr=3e-3), validate_every=5),
    )
    engine: EngineArgs = EngineArgs(threads=1)


def demo(
    config: Config = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    **values: Any,
) -> Outcome:
    """Teachers, temperatures and students over replicates; one table, two sentences, a report.

    Args:
        config: YAML file or mapping with the keys of `temperance config demo`; the defaults are
            the built-in recipe on scikit-learn's digits.
        out: run folder; by default the first free `runs/demo…`.
        resume: train what is missing in `out`.
        overwrite: replace the run in `out`.
        overrides: `key.sub=value` strings on top of `config`.
        values: the same keys as keyword arguments, on top of both.

    Raises:
        UserError: for settings, data or a folder that cannot be used.
        Interrupted: after Ctrl-C, everything done so far being on disk.
    """
    place = Place(out, resume, overwrite)
    args = settings(DemoArgs, config, overrides, values, place)
    engine = Engine(args.engine)
    dataset = shared_dataset(args.data, engine)
    digest = identity(args, data=dataset.fingerprint)
    with running("demo", args, digest, engine, place) as run:
        result = run_study(args, dataset, engine, run)
        found = contrasts(args, result.students)
        metrics = {
            "sentences": sentences(args, found),
            "contrasts": [
                {
                    "contrast": contrast.label,
                    "primary": contrast.primary,
                    **contrast.difference.__dict__,
                }
                for contrast in found
            ],
        }
        run.write_json("metrics.json", metrics)
        engine.barrier()
        report = compose(run)
        if run.writes:
            write_report(report, run.path("report.html"))
    return Outcome(run.folder, metrics, report)


def compose(run: Run) -> Report:
    """The report of a finished study, from its folder alone."""
    args = load_config(DemoArgs, run.folder / "config.yaml")
    teachers = pd.read_csv(run.folder / "teachers.csv")
    students = pd.read_csv(run.folder / "students.csv")
    found = contrasts(args, students)
    return Report(
        title=f"Does calibrating the teacher help? ({args.data.name}, n = {args.replicates})",
        lead=sentences(args, found),
        sections=[
            Section("Differences between arms", _differences(args, found)),
            Section("Students", _students(students)),
            Section("Teachers", _teachers(teachers)),
            Section("How it was done", [_arms(args), Paragraph(_methods(args, students))]),
        ],
        provenance=provenance(run),
        config_yaml=stored_config(run),
    )


def _differences(args: StudyArgs, found: list[Contrast]) -> list[Block]:
    rows = []
    for contrast in found:
        difference = contrast.difference
        rows.append(
            {
                "comparison": contrast.label
                + (" · best arm, equal labels" if contrast.primary else ""),
                "difference (points)": signed(difference.mean, 2),
                "95 % interval": interval(difference.low, difference.high, 2),
                "detectable": number(difference.detectable, 2),
                "n": str(difference.n),
            }
        )
    table = Table(
        pd.DataFrame(rows),
        f"Paired differences in test accuracy over {args.replicates} replicates (teacher with its"
        " split). The first comparison is the primary one, its arm chosen on validation; the others"
        " are exploratory, and their intervals are not adjusted for their number."
        + ("" if args.replicates >= FEWEST else f" Under {FEWEST} replicates: no intervals."),
        emphasise=[row for row, contrast in enumerate(found) if contrast.primary],
        help={
            "95 % interval": "t interval over replicates; says nothing about other test rows",
            "detectable": "smallest true difference found with 80 % power at this n and spread",
            "n": "replicates",
        },
    )

    def draw(figure: Any) -> None:
        nan = float("nan")
        differences = [contrast.difference for contrast in found]
        paired_differences(
            figure.subplots(),
            [contrast.label for contrast in found],
            [difference.mean for difference in differences],
            [nan if difference.low is None else difference.low for difference in differences],
            [nan if difference.high is None else difference.high for difference in differences],
            points=[contrast.differences for contrast in found],
            emphasise=[row for row, contrast in enumerate(found) if contrast.primary],
        )

    picture = svg(draw, width=760, height=70 + 44 * len(found))
    caption = "Mean paired difference, its 95 % interval, and every replicate (small dots)."
    return [table, Figure(picture, caption, "Forest plot of the paired differences above.")]


def _students(students: pd.DataFrame) -> list[Block]:
    several = students["objective"].nunique() > 1
    grouped = students.groupby(["arm", "objective", "softening"], sort=False, dropna=False)
    rows = []
    for (arm, objective, softening), group in grouped:
        rows.append(
            {
                "arm": arm,
                **({"objective": "–" if pd.isna(objective) else objective} if several else {}),
                "τ": "–" if pd.isna(softening) else f"{softening:g}",
                "accuracy (%)": number(100 * group["accuracy"].mean(), 2),
                "sd": number(100 * group["accuracy"].std(), 2),
                "validation (%)": number(100 * group["validation_accuracy"].mean(), 2),
                "best epoch (%)": number(100 * group["best_validation_accuracy"].mean(), 2),
                "NLL": number(group["nll"].mean(), 3),
                "ECE": number(group["ece"].mean(), 4),
                "gap (points)": signed(100 * group["gap"].mean(), 2),
                "train rows": str(group["train_rows"].iloc[0]),
                "n": str(len(group)),
            }
        )
    table = Table(
        pd.DataFrame(rows),
        f"Students on {students['test_rows'].iloc[0]:,} test images each, last epoch; means over"
        " replicates, sd over replicates.",
        help={
            "best epoch (%)": "validation accuracy of the best epoch; it selects nothing",
            "gap (points)": "mean confidence − accuracy on test; above 0 is over-confident",
        },
    )
    if several:
        return [table]
    frame = students[["arm", "softening", "replicate", "accuracy"]]

    def draw(figure: Any) -> None:
        arms_by_softening(figure.subplots(), frame)

    return [
        table,
        Figure(
            svg(draw, width=860, height=420),
            "Test accuracy of every student; thin lines join the students of one replicate.",
            "Accuracy per arm and softening, one dot per replicate.",
        ),
    ]


def _teachers(teachers: pd.DataFrame) -> list[Block]:
    rows = [
        {
            "replicate": str(teacher["replicate"]),
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
        }
        for teacher in teachers.to_dict("records")
    ]
    table = Table(
        pd.DataFrame(rows),
        "Teachers, measured on rows that the measured model has not seen (out of fold if"
        f" cross-fitted). Constant T for all: {number(teachers['constant_T'].iloc[0], 3)}.",
        help={
            "gap (points)": "mean confidence − accuracy; above 0 is over-confident",
            "T": "fitted calibration temperature",
            "gap on taught rows": "the same gap on the rows that the students are taught with",
        },
    )

    def draw(figure: Any) -> None:
        temperature_points(figure.subplots(), teachers["T"], teachers["T_se_log"])

    return [
        table,
        Figure(
            svg(draw, width=560, height=320),
            "Fitted temperature per replicate with its 95 % interval.",
            "Fitted calibration temperatures.",
        ),
    ]


def _arms(args: StudyArgs) -> Table:
    frame = pd.DataFrame({"arm": args.arms, "what it is": [ARMS[arm] for arm in args.arms]})
    return Table(frame, "The arms.")


def _methods(args: StudyArgs, students: pd.DataFrame) -> str:
    taught = students[~students["softening"].isna()]["train_rows"]
    images = f", {int(taught.iloc[0]):,} images with a teacher" if len(taught) else ""
    fit = (
        f"T was cross-fitted: {args.calibration.folds} teachers of the same recipe, each on the"
        " rows of the other folds, gave out-of-fold logits for all rows; the teacher itself and"
        " the students with a teacher saw train + calibration, so no label was held out"
        if args.calibration.fit == "cross-fit"
        else "T was fitted on the calibration split, which neither the teacher nor the students"
        " with a teacher were trained on"
    )
    return (
        f"{args.replicates} replicates, each with its own split, teacher, T and students; all arms"
        f" of a replicate share the students' seed. Teacher: {args.teacher.model.name},"
        f" {args.teacher.training.epochs} epochs on labels. Student: {args.student.model.name},"
        f" {args.student.training.epochs} epochs{images}. {fit}."
        f" Under-confident: T × {args.calibration.underconfidence:g}. Dividing the teacher's"
        " logits by T is the same as a higher softening of the teacher"
        " alone, so only a gain over the constant T would say that the fitted T picks the right"
        f" one. Intervals are t intervals with {args.replicates - 1} degrees of freedom over"
        " replicates."
    )
