"""Tasks for the executors' tests: in the processes of a pool nothing of PyTorch is loaded."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from temperance.errors import Interrupted, UserError
from temperance.studies.schedule import Task


class Unportable(Exception):
    """Cannot be unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


class Errands:
    """Does what a task's kind says; `about` is its argument."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done = folder, 0

    def __call__(self, task: Task) -> Any:
        self.done += 1
        with (self.folder / task.folder).open("a") as log:
            log.write(f"{os.getpid()}\n")
        return getattr(self, task.kind)(task.about)

    def echo(self, about: Any) -> Any:
        """Who did it, how many it did before, and what it was given."""
        return os.getpid(), self.done, about

    def fail(self, about: str) -> None:
        raise UserError(about, where="here", mend="Mend it")

    def crash(self, about: str) -> None:
        raise Unportable(about, "!")

    def die(self, about: int) -> int:
        """Killed in the first `about` attempts."""
        log = (self.folder / "deaths").open("a+")
        log.write("x")
        log.flush()
        if log.tell() <= about:
            os.kill(os.getpid(), signal.SIGKILL)
        return log.tell()

    def wait(self, about: str) -> None:
        """Until asked to stop."""
        (self.folder / f"waiting-{about}").touch()
        while not (self.folder / "stop").exists():
            time.sleep(0.01)
        raise Interrupted("stopped at a step")

    def sleep(self, about: float) -> None:
        """Hold out, whatever anybody asks."""
        (self.folder / "sleeping").write_text(str(os.getpid()))
        threading.Event().wait(about)


class Impossible:
    """What cannot be made."""

    def __init__(self) -> None:
        raise UserError("the data are not there", where="data.path")


def drive(folder: Path) -> None:
    """A driver of a pool that is busy until somebody ends it."""
    from functools import partial

    from temperance.studies.local_pool import LocalPool

    pool = LocalPool(partial(Errands, folder), folder / "stop", workers=2, attempts=1)
    sleeping = pool.submit(Task("sleep", 600.0, "sleep"))
    pool.submit(Task("echo", None, "echo")).result()
    sleeping.result()
