"""Where the jobs of a study run: in this process, in a pool of processes, on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from temperance.config import Args
from temperance.errors import UserError
from temperance.studies.schedule import Executor, Task

Perform = Callable[[Task], Any]
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
    """Whatever the settings ask for, ready to take tasks.

    Args:
        make: makes what carries tasks out, in the process that will do it; it can be pickled.
        folder: of the study; on a Ray cluster every node has to see it.

    Raises:
        UserError: if Ray is not installed, cannot be reached, or a node does not see the folder.
    """
    (folder / STOP).unlink(missing_ok=True)  # of a driver that was killed while it stopped
    if args.name == "ray":
        from temperance.studies.ray_cluster import cluster

        with cluster(args, make, folder) as ray_executor:
            yield ray_executor
    elif args.workers == 1:
        yield InProcess(make())
    else:
        pool = LocalPool(make, folder, workers=args.workers, attempts=args.attempts)
        try:
            yield pool
        finally:
            pool.close()


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


class LocalPool:
    """Processes of their own, each warm: it keeps data and teachers from task to task.

    A pool of one process for every slot, so that a process that dies takes one task with it.
    """

    def __init__(
        self, make: Callable[[], Perform], folder: Path, *, workers: int, attempts: int
    ) -> None:
        self.slots, self.attempts = workers, attempts
        self._make, self._folder = make, folder
        self._idle = [self._process() for _ in range(workers)]
        self._lock = threading.Lock()

    def submit(self, task: Task) -> Future[Any]:
        """Start the task in a process that is idle."""
        answer: Future[Any] = Future()
        with self._lock:
            process = self._idle.pop()
        self._start(process, task, answer, attempt=1)
        return answer

    def stop(self) -> None:
        """Ask the processes to stop at their next step."""
        (self._folder / STOP).touch()

    def close(self) -> None:
        """End the processes."""
        for process in self._idle:
            process.shutdown(wait=True, cancel_futures=True)
        (self._folder / STOP).unlink(missing_ok=True)

    def _process(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            1,
            # Not forked: PyTorch's threads do not survive that.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_enter,
            initargs=(self._make, os.getpid()),
        )

    def _start(
        self, process: ProcessPoolExecutor, task: Task, answer: Future[Any], attempt: int
    ) -> None:
        def ended(future: Future[Any]) -> None:
            error = future.exception()
            if not isinstance(error, BrokenProcessPool):
                with self._lock:
                    self._idle.append(process)
                if error is None:
                    answer.set_result(future.result())
                else:
                    answer.set_exception(error)
                return
            process.shutdown(wait=False)
            another = self._process()
            if attempt < self.attempts:
                self._start(another, task, answer, attempt + 1)
                return
            with self._lock:
                self._idle.append(another)
            answer.set_exception(
                UserError(
                    f"its process died, {attempt} times: killed, or out of memory",
                    where=task.folder,
                    mend="Use fewer executor.workers or smaller batches, then: study retry",
                )
            )

        process.submit(_perform, task).add_done_callback(ended)


_perform_here: Perform | None = None


def _enter(make: Callable[[], Perform], parent: int) -> None:
    """What a process of the pool does first."""
    global _perform_here
    # The driver hears of Ctrl-C and tells; a signal of its own would break a pool's pipes.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    _perform_here = make()


def _leave_with(parent: int) -> None:
    """End this process when the driver is gone, which nothing else would tell it."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _perform(task: Task) -> Any:
    assert _perform_here is not None
    return _perform_here(task)
