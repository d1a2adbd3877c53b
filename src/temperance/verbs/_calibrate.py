"""`calibrate`: fit a calibrator, show before and after, save it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from temperance.calibration import (
    CalibrationReport,
    CalibratorArgs,
    TemperatureArgs,
    TemperatureFit,
    calibration_report,
    describe,
    get_calibrator,
    reliability_before_after,
    save_calibrator,
    sweep_temperature,
)
from temperance.reporting.figures import svg
from temperance.reporting.format import number
from temperance.reporting.html import Figure, Report, Section, Table, write_report
from temperance.run import Run, identity
from temperance.training import Engine
from temperance.verbs._blocks import arrays_record, results_table, sweep_section
from temperance.verbs._common import (
    Config,
    Outcome,
    Place,
    provenance,
    running,
    settings,
    stored_config,
)
from temperance.verbs._source import SourceArgs, load_source


class CalibrateArgs(SourceArgs):
    """Fit a calibrator; by default temperature scaling (Guo et al. 2017)."""

    calibrator: CalibratorArgs = TemperatureArgs()
    """A name (see `temperance list calibrators`; `auto` chooses), or a mapping with the name and
    its settings."""
    cross_fit: int | None = Field(default=5, ge=2)
    """Also measure NLL and ECE over so many folds, each calibrated by the fit of the others."""


def calibrate(
    config: Config = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    **values: Any,
) -> Outcome:
    """Fit a calibrator and save it as `calibrator.json` and `calibrator.safetensors`.

    Args:
        config: YAML file or mapping with the keys of `temperance config calibrate`.
        out: run folder; by default the first free `runs/calibrate…`.
        resume: accept a finished run in `out`.
        overwrite: replace the run in `out`.
        overrides: `key.sub=value` strings on top of `config`.
        values: the same keys as keyword arguments, on top of both.

    Raises:
        UserError: for settings, logits or a folder that cannot be used, and for rows of one class.
    """
    place = Place(out, resume, overwrite)
    args = settings(CalibrateArgs, config, overrides, values, place)
    engine = Engine(args.engine)
    source = load_source(args, engine)
    calibrator = get_calibrator(args.calibrator)
    calibrator.fit(source.logits, source.targets, cross_fit=args.cross_fit)
    before = calibration_report(source.logits, source.targets)
    after = calibration_report(calibrator(source.logits), source.targets)
    fit = calibrator.fit_report
    assert fit is not None
    metrics = {
        "source": source.name,
        "calibrator": calibrator.name,
        "keeps_argmax": calibrator.keeps_argmax,
        "words": describe(before, getattr(fit, "temperature", None) if fit.usable else None),
        "fit": fit.to_dict(),
        "before": before.to_dict(),
        "after": after.to_dict(),
    }
    if isinstance(fit, TemperatureFit):
        sweep = sweep_temperature(source.logits, source.targets, fit=fit)
        metrics["sweep"] = arrays_record(sweep, leave_out=("fit",))
    digest = identity(args, **source.facts)
    with running("calibrate", args, digest, engine, place) as run:
        run.write_json("metrics.json", metrics)
        engine.barrier()
        report = compose(run)
        if run.writes:
            save_calibrator(calibrator, run.folder)
            write_report(report, run.path("report.html"))
    return Outcome(run.folder, metrics, report)


def compose(run: Run) -> Report:
    """The report of a fit, from its folder alone."""
    metrics = run.read_json("metrics.json") or {}
    before, after = metrics["before"], metrics["after"]
    fit = metrics["fit"]
    table = results_table(
        {"before": before, "after": after},
        f"On the {before['n']:,} rows of '{metrics['source']}', on which the calibrator was fitted."
        f"{_cross_fit_sentence(fit)} Brackets: 95 % intervals over rows.",
    )

    def draw(figure: Any) -> None:
        bins = [CalibrationReport.from_dict(content).bins for content in (before, after)]
        reliability_before_after(figure.subplots(1, 2), *bins)

    figure = Figure(
        svg(draw, width=900, height=480),
        "Reliability before and after.",
        f"Reliability diagrams: ECE {before['ece']:.4f} before, {after['ece']:.4f} after.",
    )
    lead = [fit_sentence(metrics["calibrator"], fit), metrics["words"]]
    if not metrics["keeps_argmax"]:
        lead.append(
            "This calibrator may change the predicted class: accuracy"
            f" {before['accuracy']:.2%} before, {after['accuracy']:.2%} after."
        )
    return Report(
        title=f"Calibrator: {metrics['calibrator']}",
        lead=lead,
        sections=[
            Section("Before and after", [table, figure]),
            *([sweep_section(metrics["sweep"], fit)] if "sweep" in metrics else []),
            Section("Fit", [fit_table(fit)]),
        ],
        provenance=provenance(run),
        config_yaml=stored_config(run),
    )


def fit_sentence(calibrator: str, fit: dict[str, Any]) -> str:
    """What was fitted, and how far to trust it."""
    if not fit["usable"]:
        return (
            f"Nothing can be fitted to these {fit['n']} rows (status '{fit['status']}'); the logits"
            " stay as they are."
        )
    before, after = fit["nll_before"], fit["nll_after"]
    said = f"Fitted '{calibrator}': NLL {before:.4f} before, {after:.4f} after"
    if "temperature" in fit:
        error = fit["se_log_temperature"]
        margin = "" if error is None else f" (standard error of log T: {error:.3f})"
        said = f"Fitted temperature T = {fit['temperature']:.4f}{margin}"
    why = f" Chosen {fit['notes']['why']}." if "why" in fit["notes"] else ""
    fragile = (
        f" Only {fit['wrong']} rows are predicted wrong, so the fit is fragile."
        if fit["fragile"]
        else ""
    )
    return f"{said}, n = {fit['n']}.{why}{fragile}"


def _cross_fit_sentence(fit: dict[str, Any]) -> str:
    held_out = fit["cross_fit"]
    if held_out is None:
        return ""
    return (
        f" On rows that it was not fitted on ({held_out['folds']} folds): NLL"
        f" {held_out['nll']:.4f}, ECE {held_out['ece']:.4f}."
    )


def fit_table(fit: dict[str, Any]) -> Table:
    """Everything that the fit recorded."""
    flat: dict[str, Any] = {}
    for name, value in fit.items():
        nested = value if isinstance(value, dict) else {None: value}
        flat.update({name if key is None else f"{name}: {key}": x for key, x in nested.items()})
    shown = {
        name: number(value, 5) if isinstance(value, float) else str(value)
        for name, value in flat.items()
    }
    frame = pd.DataFrame({"quantity": list(shown), "value": list(shown.values())})
    return Table(frame, "The fit's record.")
