"""`report`: write a run's report again, from its folder alone."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from temperance.config import look_up
from temperance.errors import UserError
from temperance.reporting.html import write_report
from temperance.run import Run
from temperance.verbs._common import Outcome

COMPOSERS = ("train", "measure", "calibrate", "distill", "demo", "study", "advise")


def report(folder: str | Path, *, out: str | Path | None = None) -> Outcome:
    """Write a finished run's report again.

    Args:
        folder: the run's folder.
        out: the HTML file; by default `report.html` in the folder.

    Raises:
        UserError: if the folder holds no run, or one that is not finished.
    """
    run = Run(Path(folder))
    started = run.started_as()
    if started is None:
        raise UserError("is no run's folder", where=folder, mend="Give the --out of a run")
    composers = {verb: f"temperance.verbs._{verb}" for verb in COMPOSERS}
    verb = started["verb"]
    module = import_module(look_up("report for the verb", verb, composers))
    try:
        content = module.compose(run)
    except (FileNotFoundError, KeyError):
        raise UserError(
            "the run in it is not finished, or was made by an earlier version",
            where=folder,
            mend=f"Finish it with: temperance {verb} --resume --out {folder}, or make it again",
        ) from None
    path = write_report(content, Path(out) if out is not None else run.folder / "report.html")
    return Outcome(path.parent, {"report": str(path)}, content)
