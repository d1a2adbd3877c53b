"""What every verb shares: its outcome, its run folder, and where a model's settings are found."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from temperance.config import Args, load_config, read_yaml
from temperance.data import DataArgs, Dataset, load_dataset
from temperance.errors import Interrupted
from temperance.reporting.html import Report
from temperance.run import Run, free_folder
from temperance.training import Engine

logger = logging.getLogger("temperance")

SomeArgs = TypeVar("SomeArgs", bound=Args)
Config = str | Path | Mapping[str, Any] | None


@dataclass(frozen=True)
class Outcome:
    """What a verb returns: where everything is, the numbers, and the report as it was written."""

    folder: Path
    metrics: Mapping[str, Any]
    report: Report


def settings(
    cls: type[SomeArgs],
    config: Config,
    overrides: Sequence[str],
    values: Mapping[str, Any],
    *,
    out: str | Path | None,
    resume: bool,
) -> SomeArgs:
    """The verb's settings; a run that is resumed without any continues with its own."""
    if resume and config is None and not overrides and not values and out is not None:
        stored = Path(out) / "config.yaml"
        config = stored if stored.is_file() else None
    return load_config(cls, config, overrides, values)


@contextmanager
def running(
    verb: str,
    args: Args,
    identity: str,
    engine: Engine,
    *,
    out: str | Path | None,
    resume: bool,
    overwrite: bool,
) -> Iterator[Run]:
    """The run folder of a verb, with its log, interruptible at every step."""
    folder = Path(out) if out is not None else free_folder(verb)
    run = Run.open(
        folder,
        verb=verb,
        config=args,
        identity=identity,
        resume=resume,
        overwrite=overwrite,
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
        return load_dataset(args)


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


def weights_of(model: Path) -> Path:
    """The folder with the weights, given a run's folder, that folder, or the file of weights."""
    return model / "student" if (model / "student").is_dir() else model
