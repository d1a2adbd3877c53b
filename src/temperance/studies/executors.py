"""Where the runs of a study are carried out: in this process, in several, on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from temperance.config import Args
from temperance.studies.local_pool import LocalPool
from temperance.studies.schedule import Executor, Perform, Task

STOP = ".stop"  # a file in the study's folder that asks every worker to stop at its next step


class ExecutorArgs(Args):
    """Where the runs of a study are carried out; no result depends on it."""

    name: Literal["local", "ray"] = "local"
    """local: processes on this machine. ray: a Ray cluster (extra `ray`)."""
    workers: PositiveInt = 1
    """Runs at a time; 1 (local): in this process. The cores are shared out among them
    (`engine.threads`)."""
    attempts: PositiveInt = 3
    """How often a run is started whose worker dies under it."""
    address: str | None = None
    """Of the Ray cluster (`auto`, HOST:PORT); null: one on this machine for the study alone."""
    cpus_per_run: PositiveInt = 1
    """Ray only."""
    gpus_per_run: NonNegativeFloat = 0.0
    """Ray only; 0.25 puts four runs on one."""
    node_retries: NonNegativeInt = 3
    """Ray only: how often a run is started again after its node or worker was lost."""


@contextmanager
def executor(args: ExecutorArgs, make: Callable[[], Perform], folder: Path) -> Iterator[Executor]:
    """Whatever the settings ask for, ready to take tasks; in the end nothing runs any more.

    Args:
        make: makes what carries tasks out, in the process that will do it; it can be pickled.
        folder: of the study; on a Ray cluster every node has to see it.

    Raises:
        UserError: if Ray is not installed, cannot be reached, or a node does not see the folder.
    """
    stop = folder / STOP
    stop.unlink(missing_ok=True)  # of a driver that was killed while it stopped
    try:
        if args.name == "ray":
            from temperance.studies.ray_cluster import cluster

            with cluster(args, make, folder, stop) as ray_cluster:
                yield ray_cluster
        elif args.workers == 1:
            yield InProcess(make())
        else:
            pool = LocalPool(make, stop, workers=args.workers, attempts=args.attempts)
            try:
                yield pool
            finally:
                pool.close()
    finally:
        stop.unlink(missing_ok=True)


class InProcess:
    """One task at a time, in this process."""

    slots = 1

    def __init__(self, perform: Perform) -> None:
        self.perform = perform

    def submit(self, task: Task) -> Future[Any]:
        """Carry the task out; the future is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(self.perform(task))
        except Exception as error:  # whatever a run fails of is recorded, not raised
            future.set_exception(error)
        return future

    def stop(self) -> None:
        """Nothing is running."""
