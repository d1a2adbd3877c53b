"""`calibrate`: fit a temperature, show before and after, save it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from temperance.calibration import (
    CalibrationReport,
    TemperatureScaling,
    calibration_report,
    describe,
    reliability_before_after,
    save_calibrator,
)
from temperance.reporting.figures import svg
from temperance.reporting.format import number
from temperance.reporting.html import Figure, Report, Section, Table, write_report
from temperance.run import Run, identity
from temperance.training import Engine
from temperance.verbs._blocks import results_table
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
    """Fit a calibrator: temperature scaling (Guo et al. 2017)."""


def calibrate(
    config: Config = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    **values: Any,
) -> Outcome:
    """Fit temperature scaling and save it as `calibrator.json` and `calibrator.safetensors`.

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
    calibrator = TemperatureScaling().fit(source.logits, source.targets)
    before = calibration_report(source.logits, source.targets)
    after = calibration_report(calibrator(source.logits), source.targets)
    fit = calibrator.fit_report
    assert fit is not None
    metrics = {
        "source": source.name,
        "words": describe(before, fit.temperature if fit.usable else None),
        "fit": fit.to_dict(),
        "before": before.to_dict(),
        "after": after.to_dict(),
    }
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
    table = results_table(
        {"before": before, "after": after},
        f"On the {before['n']:,} rows of '{metrics['source']}', on which the temperature was"
        " fitted. Brackets: 95 % bootstrap intervals over rows.",
    )

    def draw(figure: Any) -> None:
        bins = [CalibrationReport.from_dict(content).bins for content in (before, after)]
        reliability_before_after(figure.subplots(1, 2), *bins)

    figure = Figure(
        svg(draw, width=900, height=480),
        "Reliability before and after.",
        f"Reliability diagrams: ECE {before['ece']:.4f} before, {after['ece']:.4f} after.",
    )
    return Report(
        title="Temperature scaling",
        lead=[fit_sentence(metrics["fit"]), metrics["words"]],
        sections=[
            Section("Before and after", [table, figure]),
            Section("Fit", [fit_table(metrics["fit"])]),
        ],
        provenance=provenance(run),
        config_yaml=stored_config(run),
    )


def fit_sentence(fit: dict[str, Any]) -> str:
    """The temperature and how far to trust it."""
    if not fit["usable"]:
        return (
            f"No temperature can be fitted to these {fit['n']} rows (status '{fit['status']}');"
            " T stays 1."
        )
    error = fit["se_log_temperature"]
    margin = "" if error is None else f" (standard error of log T: {error:.3f})"
    fragile = (
        f" Only {fit['wrong']} rows are predicted wrong, so the fit is fragile."
        if fit["fragile"]
        else ""
    )
    return f"Fitted temperature T = {fit['temperature']:.4f}{margin}, n = {fit['n']}.{fragile}"


def fit_table(fit: dict[str, Any]) -> Table:
    """Everything that the fit recorded."""
    shown = {
        name: number(value, 5) if isinstance(value, float) else str(value)
        for name, value in fit.items()
    }
    frame = pd.DataFrame({"quantity": list(shown), "value": list(shown.values())})
    return Table(frame, "The fit's record.")
