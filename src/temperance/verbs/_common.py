"""What every verb shares: its outcome, its run folder, and where a model's settings are found."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from temperance.config import Args, load_config, paths_of, read_yaml
from temperance.data import DataArgs, Dataset
from temperance.errors import Interrupted, UserError
from temperance.reporting.html import Report
from temperance.run import Run, free_folder
from temperance.tasks import load_with_truth
from temperance.training import Engine

logger = logging.getLogger("temperance")

SomeArgs = TypeVar("SomeArgs", bound=Args)
Config = str | Path | Mapping[str, Any] | None


@dataclass(frozen=True)
class Outcome:
    """What a verb returns: where everything is, the numbers, and the report as it was written."""

    folder: Path | None
    """None if nothing was written."""
    metrics: Mapping[str, Any]
    report: Report


@dataclass(frozen=True)
class Place:
    """Where a run goes, and what may be there already."""

    out: str | Path | None
    """None: the first free `runs/VERB…`."""
    resume: bool
    overwrite: bool

    @property
    def folder(self) -> Path | None:
        """`out` as a path."""
        return None if self.out is None else Path(self.out)


def settings(
    cls: type[SomeArgs],
    config: Config,
    overrides: Sequence[str],
    values: Mapping[str, Any],
    place: Place,
) -> SomeArgs:
    """The verb's settings; a run that is resumed without a file continues with its own.

    Raises:
        UserError: for settings that do not fit, and for a place that the run could not have.
    """
    folder, resume, overwrite = place.folder, place.resume, place.overwrite
    if resume and overwrite:
        raise UserError("--resume continues a run, --overwrite replaces it", mend="Give one")
    if resume and (folder is None or not (folder / "environment.json").is_file()):
        raise UserError(
            "there is no run to resume",
            where=folder or "--out",
            mend="Give a run's folder as --out",
        )
    if folder is None:
        return load_config(cls, config, overrides, values)
    Run(folder).refuse_if_taken(resume=resume, overwrite=overwrite)
    if resume and config is None:
        config = folder / "config.yaml"
    args = load_config(cls, config, overrides, values)
    for path in paths_of(args) if overwrite else []:
        if folder.resolve() in (path.resolve(), *path.resolve().parents):
            raise UserError(
                f"overwriting it would delete what the run reads ({path})",
                where=folder,
                mend="Choose another --out",
            )
    return args


@contextmanager
def running(verb: str, args: Args, identity: str, engine: Engine, place: Place) -> Iterator[Run]:
    """The run folder of a verb, with its log, interruptible at every step."""
    folder = engine.from_first(place.folder or free_folder(verb))
    run = Run.open(
        folder,
        verb=verb,
        config=args,
        identity=identity,
        resume=place.resume,
        overwrite=place.overwrite,
        writes=engine.rank == 0,
    )
    with run.logging(), engine.interruptible():
        try:
            yield run
        except Interrupted as stopped:
            command = f"temperance {verb} --resume --out {shlex.quote(str(folder))}"
            raise Interrupted(f"{stopped}; continue with: {command}") from None


def shared_dataset(args: DataArgs, engine: Engine) -> Dataset:
    """The dataset in every process; the first one loads, and downloads, before the others."""
    with engine.fabric.rank_zero_first():
        return load_with_truth(args)


def provenance(run: Run) -> dict[str, str]:
    """For the foot of the report: when, with what, how."""
    started = run.started_as() or {}
    versions = started.get("versions", {})
    return {
        "started": str(started.get("started")),
        "command": str(started.get("command")),
        "identity": str(started.get("identity")),
        "revision": str(started.get("git")),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "machine": f"{started.get('platform')}, {started.get('cpus')} cores",
    }


def stored_config(run: Run) -> str:
    """The run's config.yaml."""
    return (run.folder / "config.yaml").read_text(encoding="utf-8")


def training_of(model: Path) -> dict[str, Any] | None:
    """The settings of the run that trained the model at `model`; None if it was no run of ours."""
    folder = model if model.is_dir() else model.parent
    for candidate in (folder, folder.parent):
        if (candidate / "config.yaml").is_file() and (candidate / "student").is_dir():
            return read_yaml(candidate / "config.yaml")
    return None
