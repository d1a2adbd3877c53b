"""A study's folder: a folder per run, what each of them has come to, and how far the whole is."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from safetensors.numpy import load_file

from temperance.config import Args
from temperance.errors import UserError
from temperance.run import Run, atomic, identity

RESULT, ERROR, DRIVER, LOCKS = "study.json", "error.json", ".driver.lock", ".locks"
HITS = "hits.safetensors"


class Store:
    """The runs of a study.

    Args:
        study: the study's own folder.
    """

    def __init__(self, study: Run) -> None:
        self.study = study
        self.runs = study.folder / "runs"

    def name(self, name: str, config: Args, **facts: Any) -> str:
        """The name of a run's folder: what it is, and its identity."""
        return f"{name}-{identity(config, **facts)}"

    def open(self, folder: str, config: Args) -> Run:
        """A run's folder, to start in or to go on in."""
        # A process that was killed over them cannot remove them, and they may be large.
        for left_over in (self.runs / folder).rglob(".*.tmp"):
            left_over.unlink()
        return Run.open(
            self.runs / folder,
            verb="study",
            config=config,
            identity=folder.rpartition("-")[2],
            resume=True,
        )

    @contextmanager
    def locked(self, folder: str) -> Iterator[None]:
        """Alone in a run's folder: a process whose driver was killed may still be in it."""
        locks = self.study.folder / LOCKS
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / folder):
            yield

    def result(self, folder: str) -> dict[str, Any] | None:
        """What a run has come to; None if it is not done.

        Raises:
            UserError: if the file is damaged.
        """
        return read_checked(f"{self.runs}/{folder}/{RESULT}", "run_seconds")

    def error(self, folder: str) -> dict[str, Any] | None:
        """Why a run failed; None if it did not.

        Raises:
            UserError: if the file is damaged.
        """
        return read_checked(f"{self.runs}/{folder}/{ERROR}", "error")

    def fail(self, folder: str, error: str, trace: str) -> None:
        """Keep why a run failed."""
        content = {"error": error, "trace": trace, "at": time.time()}
        Run(self.runs / folder).write_json(ERROR, content)

    def forget_failures(self) -> int:
        """Let every failed run be started again; says how many there are."""
        failed = list(self.runs.glob(f"*/{ERROR}"))
        for error in failed:
            error.unlink()
        return len(failed)

    def forget(self, folder: str) -> None:
        """Let a run be done again from what it left."""
        for name in (RESULT, ERROR):
            (self.runs / folder / name).unlink(missing_ok=True)

    def forget_locks(self) -> None:
        """Remove their files once everything is done.

        To remove each after its use would not be safe: who waits for the old file and who makes a
        new one would both get in.
        """
        shutil.rmtree(self.study.folder / LOCKS, ignore_errors=True)

    def hits(self, folder: str) -> pd.Series | None:
        """The test rows of a student, 1 where it was right, by id; None if they are not there."""
        path = self.runs / folder / "predictions" / HITS
        if not path.is_file():
            return None
        tensors = load_file(path)
        return pd.Series(tensors["hits"].astype(np.int8), tensors["ids"])

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """As NAME.csv and NAME.parquet."""
        self.study.write(f"{name}.csv", table.to_csv(index=False))
        with atomic(self.study.path(f"{name}.parquet")) as temporary:
            table.to_parquet(temporary, index=False)

    @contextmanager
    def driven(self) -> Iterator[None]:
        """The one driver of the study.

        Raises:
            UserError: if there is another one.
        """
        lock = FileLock(self.study.folder / DRIVER)
        try:
            lock.acquire(timeout=0.5)  # `is_driven` holds it for a moment
        except Timeout:
            raise self._other_driver() from None
        try:
            self.study.write_json("driver.json", {"pid": os.getpid(), "host": socket.gethostname()})
            yield
        finally:
            lock.release()

    def is_driven(self) -> bool:
        """Whether a driver is at work; writes nothing."""
        if not (self.study.folder / DRIVER).is_file():
            return False
        try:
            with FileLock(self.study.folder / DRIVER, timeout=0):
                return False
        except Timeout:
            return True

    def refuse_if_driven(self) -> None:
        """Before the folder is emptied.

        Raises:
            UserError: if a driver is at work in it.
        """
        if self.is_driven():
            raise self._other_driver()

    def _other_driver(self) -> UserError:
        other = self.study.read_json("driver.json") or {}
        return UserError(
            f"process {other.get('pid')} on {other.get('host')} is carrying this study out",
            where=self.study.folder,
            mend="Wait for it, or stop it first; see: temperance study status",
        )


def read_checked(path: str, key: str) -> dict[str, Any] | None:
    """A JSON file that has a key, None where it was not written yet; quick, for many of them.

    Raises:
        UserError: if it is damaged.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 — half the time
            content = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        content = None
    if not isinstance(content, dict) or key not in content:
        raise UserError("is damaged", where=path, mend="Delete it and run again with --resume")
    return content


class RunState(NamedTuple):
    """A run's folder in a listing."""

    folder: str
    state: str
    """done, failed or unfinished."""
    content: dict[str, Any]
    """The result, or the error."""


def list_runs(study: Path) -> list[RunState]:
    """Every run of a study, in the order of their names; a damaged result counts as unfinished."""
    found = []
    with os.scandir(study / "runs") as entries:
        folders = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    for folder in folders:
        state, content = "unfinished", None
        for name, key, reached in ((RESULT, "run_seconds", "done"), (ERROR, "error", "failed")):
            with suppress(UserError):
                content = read_checked(f"{study}/runs/{folder}/{name}", key)
            if content is not None:
                state = reached
                break
        found.append(RunState(folder, state, content or {}))
    return found
