"""`train`: a model on labels alone, as a teacher or as a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import NonNegativeInt

from temperance.data import DataArgs, SplitArgs, make_splits
from temperance.objectives import get_objective
from temperance.objectives.labels import LabelsArgs
from temperance.reporting.figures import learning_curves, svg
from temperance.reporting.html import Figure, Report, Section, write_report
from temperance.run import Run, identity
from temperance.teacher import NoTeacher
from temperance.training import Engine, EngineArgs, Recipe, produce_student
from temperance.training.student import check_recipe
from temperance.verbs._blocks import (
    calibration_sections,
    kept_epoch,
    results_table,
    splits_paragraph,
    what_was_kept,
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


class TrainArgs(Recipe):
    """Train a model on labels alone."""

    objective: LabelsArgs = LabelsArgs()
    data: DataArgs = DataArgs()
    split: SplitArgs = SplitArgs()
    seed: NonNegativeInt = 0
    """Of the initial weights, the order of the images and their views."""
    engine: EngineArgs = EngineArgs()


def train(
    config: Config = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    **values: Any,
) -> Outcome:
    """Train a model on labels alone: a teacher, or the baseline that a student has to beat.

    Args:
        config: YAML file or mapping with the keys of `temperance config train`.
        out: run folder; by default the first free `runs/train…`.
        resume: continue exactly where the run in `out` stopped.
        overwrite: replace the run in `out`.
        overrides: `key.sub=value` strings on top of `config`.
        values: the same keys as keyword arguments, on top of both.

    Raises:
        UserError: for settings, data or a folder that cannot be used.
        Interrupted: after Ctrl-C, with a checkpoint written.
    """
    place = Place(out, resume, overwrite)
    args = settings(TrainArgs, config, overrides, values, place)
    engine = Engine(args.engine)
    dataset = shared_dataset(args.data, engine)
    splits = make_splits(dataset, args.split)
    objective = get_objective(args.objective)
    check_recipe(args, splits, objective)  # before there is a folder
    digest = identity(args, data=dataset.fingerprint)
    with running("train", args, digest, engine, place) as run:
        _, result = produce_student(
            args,
            splits,
            NoTeacher(),
            objective,
            seed=args.seed,
            engine=engine,
            run=run,
            label=args.model.name,
        )
        report = compose(run)
        if run.writes:
            run.write("student/README.md", model_card(run, result))
            write_report(report, run.path("report.html"))
    return Outcome(run.folder, result, report)


def compose(run: Run) -> Report:
    """The report of a finished training, from its folder alone."""
    result = run.read_json("result.json") or {}
    test, validation = result["test"], result["validation"]
    lead = [
        f"Test accuracy of the {kept_epoch(result)}: {test['accuracy']:.2%} on {test['n']} images."
    ]
    if validation:
        lead.append(
            f"On validation the last epoch has {validation['accuracy']:.2%}, the best"
            f" (epoch {validation['best_epoch']}) {validation['best_accuracy']:.2%};"
            f" {what_was_kept(result)}."
        )
    return Report(
        title="Training on labels",
        lead=lead,
        sections=[
            Section("Result", [results_table({"test": test}), splits_paragraph(result["rows"])]),
            curves_section(run),
            *calibration_sections({"test": test}),
        ],
        provenance=provenance(run),
        config_yaml=stored_config(run),
    )


def curves_section(run: Run) -> Section:
    """Loss and validation accuracy over the epochs."""
    frame = pd.DataFrame(run.metrics())
    losses = [name for name in ("kd", "labels", "validation_nll") if name in frame]
    panels = [(losses, "loss (nats)")]
    if "validation_accuracy" in frame:
        panels.append((["validation_accuracy"], "accuracy"))

    def draw(figure: Any) -> None:
        for ax, (ys, ylabel) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            learning_curves(ax, frame, "epoch", ys, [y.replace("_", " ") for y in ys])
            ax.set_ylabel(ylabel)

    alt = "Learning curves: losses and validation accuracy per epoch."
    figure = Figure(svg(draw, width=760, height=320), "Learning curves.", alt)
    return Section("Learning curves", [figure])


def model_card(run: Run, result: dict[str, Any]) -> str:
    """A README for whoever finds the weights without the run."""
    test = result["test"]
    return (
        "# Model card\n\n"
        "Weights: `model.safetensors`; architecture, classes and normalisation: `config.json`.\n"
        'Load with `temperance.load_model("this folder")`; it takes uint8 images'
        " (rows, channels, height, width) and returns logits.\n\n"
        f"- parameters: {result['parameters']:,}\n"
        f"- trained on {result['rows']['train']} images\n"
        f"- test accuracy ({kept_epoch(result)}): {test['accuracy']:.2%} (n = {test['n']})\n"
        f"- test NLL {test['nll']:.4f}, ECE {test['ece']:.4f}, mean confidence − accuracy"
        f" {test['gap']:+.4f}\n\n"
        f"Made by this run:\n\n```yaml\n{stored_config(run)}```\n"
    )
