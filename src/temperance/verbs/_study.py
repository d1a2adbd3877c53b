"""`study`: teachers × arms × students: does calibration decide?"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from temperance.config import read_yaml
from temperance.data import dataset_facts
from temperance.errors import UserError
from temperance.reporting.html import Report, Section, Table, write_report
from temperance.run import Run, identity
from temperance.studies.analysis import analyse
from temperance.studies.contrasts import Contrast, contrast_table
from temperance.studies.estimating import estimate
from temperance.studies.execute import run_study
from temperance.studies.monitor import STATUS, line
from temperance.studies.plan import StudyArgs
from temperance.studies.store import Store, list_runs
from temperance.tasks import load_with_truth
from temperance.training import Engine
from temperance.verbs._common import (
    Config,
    Outcome,
    Place,
    running,
    settings,
    shared_dataset,
)
from temperance.verbs._study_report import compose

logger = logging.getLogger("temperance")

__all__ = ["compose", "study", "study_retry", "study_status"]


def study(
    config: Config = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    overrides: Sequence[str] = (),
    **values: Any,
) -> Outcome:
    """Train a pool of teachers and their students, and show with statistics what decides.

    With several workers, call it under `if __name__ == "__main__":` in a script: every worker is a
    process that imports the script again.

    Args:
        config: YAML file or mapping with the keys of `temperance config study`.
        out: run folder; by default the first free `runs/study…`.
        resume: run what is missing in `out`; what failed stays failed (`study_retry`).
        overwrite: replace the run in `out`.
        dry_run: only count runs and teacher passes, and estimate time and disk; writes nothing.
        overrides: `key.sub=value` strings on top of `config`.
        values: the same keys as keyword arguments, on top of both.

    Raises:
        UserError: for settings, data or a folder that cannot be used.
        Interrupted: after Ctrl-C, everything done so far being on disk.
    """
    place = Place(out, resume, overwrite)
    args = settings(StudyArgs, config, overrides, values, place)
    if dry_run:
        return _estimated(args)
    return carried_out("study", args, place)


def carried_out(verb: str, args: StudyArgs, place: Place) -> Outcome:
    """A study from its settings to its report."""
    if place.folder is not None:
        Store(Run(place.folder)).refuse_if_driven()  # before anything in it is replaced
    engine = Engine(args.engine)
    dataset = shared_dataset(args.data, engine)
    digest = identity(args, data=dataset.fingerprint)
    with running(verb, args, digest, engine, place) as run:
        result = run_study(args, dataset, engine, run, partial(load_with_truth, args.data))
        metrics = analyse(args, result.teachers, result.students, result.missing, Store(run).hits)
        run.write_json("metrics.json", metrics)
        contrasts = [Contrast.from_dict(record) for record in metrics["contrasts"]]
        Store(run).write_table("contrasts", contrast_table(contrasts))
        report = compose(run)
        write_report(report, run.path("report.html"))
    return Outcome(run.folder, metrics, report)


def study_status(folder: str | Path) -> dict[str, Any]:
    """How far a study is, whichever process carries it out, and what has failed.

    Returns:
        counts of jobs (`total`, `done`, `failed`, `blocked`, `skipped`), `running` jobs, seconds
        left, whether a process is `driven` it now, `failures` (folder and error), and a `summary`.

    Raises:
        UserError: if the folder holds no study.
    """
    store = _store(folder)
    status = store.study.read_json(STATUS) or {"total": 0, "running": [], "seconds_left": None}
    listed = list_runs(store.study.folder) if store.runs.is_dir() else []
    driven = store.is_driven()
    failures = {run.folder: run.content["error"] for run in listed if run.state == "failed"}
    counts = {name: status.get(name, 0) for name in ("done", "failed", "blocked", "skipped")}
    content = {**status, **counts, "running": status["running"] if driven else []}
    summary = line(content)
    if not driven and counts["done"] + sum(counts.values()) < status["total"]:
        summary += f" · not running; go on with: temperance study --resume --out {folder}"
    if failures and not driven:
        summary += f" · start what failed again with: temperance study retry {folder}"
    return {
        **content,
        "driven": driven,
        "runs_done": sum(run.state == "done" for run in listed),
        "failures": failures,
        "summary": summary,
        "seconds_ago": time.time() - status["at"] if "at" in status else None,
    }


def study_retry(folder: str | Path, *, overrides: Sequence[str] = (), **values: Any) -> Outcome:
    """Start the failed runs of a study again, and what waited for them.

    Args:
        folder: of the study.
        overrides: settings to change, such as `executor.workers=2`; not what runs are made of.
        values: the same as keyword arguments.

    Raises:
        UserError: if the folder holds no study, or another process is carrying it out.
    """
    store = _store(folder)
    verb = (store.study.started_as() or {})["verb"]
    with store.driven():
        failed = store.forget_failures()
    logger.info("%d failed runs are started again", failed)
    place = Place(folder, resume=True, overwrite=False)
    args = settings(StudyArgs, store.study.folder / "config.yaml", overrides, values, place)
    return carried_out(verb, args, place)


def _store(folder: str | Path) -> Store:
    run = Run(Path(folder))
    started = run.started_as()
    if started is None or started["verb"] not in ("study", "demo"):
        raise UserError("is no study's folder", where=folder, mend="Give the --out of a study")
    if "arms" not in read_yaml(run.folder / "config.yaml"):
        raise UserError("is a run of a study", where=folder, mend="Give the study's own folder")
    return Store(run)


def _estimated(args: StudyArgs) -> Outcome:
    """What the study would take, as an outcome without a folder."""
    found = estimate(args, dataset_facts(args.data))
    table = Table(found.table(), "What the study would take; nothing was run and nothing written.")
    report = Report("Dry run", found.sentences, [Section("Estimate", [table])])
    metrics = {"sentences": found.sentences, "costs": [asdict(cost) for cost in found.costs]}
    return Outcome(None, metrics, report)
