"""`measure`: how well a model knows its own confidence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor

from temperance.calibration import (
    CalibrationReport,
    Calibrator,
    calibration_report,
    classwise_bins,
    describe,
    fit_temperature,
    load_calibrator,
    smooth_reliability_curve,
)
from temperance.models import weights_sha256
from temperance.reporting.html import Report, Section, write_report
from temperance.run import Run, identity
from temperance.tasks import predict
from temperance.training import Engine
from temperance.verbs._blocks import (
    arrays_record,
    calibration_sections,
    classwise_section,
    results_table,
    smooth_section,
)
from temperance.verbs._common import (
    Config,
    Outcome,
    Place,
    provenance,
    running,
    settings,
    stored_config,
)
from temperance.verbs._source import Source, SourceArgs, load_source


class MeasureArgs(SourceArgs):
    """Measure a model's calibration."""

    calibrator: Path | None = None
    """Apply this calibrator first: a folder made by `temperance calibrate`."""
    n_bins: PositiveInt = 15
    """Equal-width bins of the ECE."""
    intervals: bool | None = None
    """Bootstrap intervals and noise floors; null: up to 1e7 logits."""


def measure(
    config: Config = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    **values: Any,
) -> Outcome:
    """Measure a model's calibration, from a file of logits or from a model and its data.

    Writes metrics.json and report.html with a reliability diagram; with a model, also measures
    the rows that it was trained on, which are the ones that it will teach.

    Args:
        config: YAML file or mapping with the keys of `temperance config measure`.
        out: run folder; by default the first free `runs/measure…`.
        resume: accept a finished run in `out`.
        overwrite: replace the run in `out`.
        overrides: `key.sub=value` strings on top of `config`.
        values: the same keys as keyword arguments, on top of both.

    Raises:
        UserError: for settings, logits or a folder that cannot be used.
    """
    place = Place(out, resume, overwrite)
    args = settings(MeasureArgs, config, overrides, values, place)
    engine = Engine(args.engine)
    source = load_source(args, engine)
    calibrator = load_calibrator(args.calibrator) if args.calibrator else None
    metrics = _measured(args, source, calibrator, engine)
    given = {"calibrator": weights_sha256(calibrator)} if calibrator else {}
    digest = identity(args, **source.facts, **given)
    with running("measure", args, digest, engine, place) as run:
        run.write_json("metrics.json", metrics)
        engine.barrier()
        report = compose(run)
        if run.writes:
            write_report(report, run.path("report.html"))
    return Outcome(run.folder, metrics, report)


def _measured(
    args: MeasureArgs, source: Source, calibrator: Calibrator | None, engine: Engine
) -> dict[str, Any]:
    """Content of metrics.json: the rows asked for and, with a model, those that it would teach."""

    def report_of(
        logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"]
    ) -> CalibrationReport:
        calibrated = logits if calibrator is None else calibrator(logits)
        return calibration_report(calibrated, targets, n_bins=args.n_bins, intervals=args.intervals)

    held_out = report_of(source.logits, source.targets)
    temperature = None
    if calibrator is None:
        fit = fit_temperature(source.logits, source.targets)
        temperature = fit.temperature if fit.usable else None
    rows = {source.name: held_out.to_dict()}
    if source.model is not None and source.splits is not None and args.rows != "train":
        taught = predict(source.model, source.splits.train, device=engine.device)
        rows["train (distilled rows)"] = report_of(*taught).to_dict()
    calibrated = source.logits if calibrator is None else calibrator(source.logits)
    curve = smooth_reliability_curve(calibrated, source.targets)
    classes = classwise_bins(calibrated, source.targets, n_bins=args.n_bins)
    return {
        "words": describe(held_out, temperature),
        "temperature": temperature,
        "rows": rows,
        "smooth": arrays_record(curve),
        "classwise": {label: arrays_record(bins) for label, bins in classes.items()},
        "classes": list(source.splits.train.classes) if source.splits is not None else None,
    }


def compose(run: Run) -> Report:
    """The report of a measurement, from its folder alone."""
    metrics = run.read_json("metrics.json") or {}
    return Report(
        title="Calibration",
        lead=[metrics["words"]],
        sections=[
            Section("Result", [results_table(metrics["rows"])]),
            *calibration_sections(metrics["rows"]),
            smooth_section(metrics["smooth"], next(iter(metrics["rows"]))),
            classwise_section(metrics["classwise"], metrics["classes"]),
        ],
        provenance=provenance(run),
        config_yaml=stored_config(run),
    )
