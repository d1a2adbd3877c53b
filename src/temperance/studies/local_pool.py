"""Processes on this machine, each warm: it keeps data and teachers from task to task.

Imports nothing heavy: a process watches over its driver before it loads PyTorch.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from temperance.errors import Interrupted, UserError
from temperance.studies.answers import Answer
from temperance.studies.schedule import Perform, Task

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class LocalPool:
    """A process for every slot, started when there is something to do; a thread waits for each.

    A process that dies takes one task with it, which is started again in another one.

    Args:
        make: makes what carries tasks out, in the process that will do it; it can be pickled.
        stop: file that asks all of them to stop at their next step.
        workers: how many processes.
        attempts: how often a task is started.
    """

    def __init__(
        self, make: Callable[[], Perform], stop: Path, *, workers: int, attempts: int
    ) -> None:
        self.slots, self.attempts = workers, attempts
        self._made, self._stop = pickle.dumps(make), stop
        self._own = threading.local()  # `process`: the one of this thread
        self._processes: list[_Process] = []
        self._stopping = False
        self._lock = threading.Lock()  # no process starts unseen by who stops them all
        resource_tracker.ensure_running()  # or starting it unblocks signals in one of the threads
        self._threads = ThreadPoolExecutor(workers, initializer=self._enter_thread)

    def submit(self, task: Task) -> Future[Any]:
        """Start the task in a process that is idle."""
        return self._threads.submit(self._carry_out, task)

    def stop(self) -> None:
        """Ask the processes to stop at their next step; those that only start up end at once."""
        self._stop.touch()
        with self._lock:
            self._stopping = True
            for process in self._processes:
                if not process.ready:
                    process.end()

    def close(self) -> None:
        """End the processes; idle ones lose nothing, and files are written whole or not at all."""
        with self._lock:
            self._stopping = True
            for process in self._processes:
                process.end()
        self._threads.shutdown(cancel_futures=True)

    def _enter_thread(self) -> None:
        # Ctrl-C reaches all processes of a terminal. The driver hears it and tells the others, who
        # inherit from here that they do not.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._own.process = None

    def _carry_out(self, task: Task) -> Any:
        for _ in range(self.attempts):
            process = self._process()
            try:
                answer = process.answer(task)
            except (EOFError, OSError):  # it died
                self._forget(process)
                continue
            if not process.ready:  # it could not make what carries tasks out
                self._forget(process)
            return answer.open()
        if self._stopping:
            raise Interrupted("stopped before it was done")
        raise UserError(
            f"its process died, {self.attempts} times: killed, or out of memory",
            where=task.folder,
            mend="Use fewer executor.workers or smaller batches, then: temperance study retry",
        )

    def _process(self) -> _Process:
        with self._lock:
            if self._stopping:
                raise Interrupted("stopped before it could start")
            if self._own.process is None:
                self._own.process = _Process(self._made)
                self._processes.append(self._own.process)
            process: _Process = self._own.process
            return process

    def _forget(self, process: _Process) -> None:
        with self._lock:
            process.end()
            self._processes.remove(process)
            self._own.process = None


class _Process:
    """A process, and the pipe to it."""

    def __init__(self, made: bytes) -> None:
        # Not forked: PyTorch's threads do not survive that.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, made))
        self.process.start()
        theirs.close()  # so that the pipe ends with the process
        self.ready = False

    def answer(self, task: Task) -> Answer:
        """Wait for what comes of the task.

        Raises:
            EOFError, OSError: if the process dies.
        """
        if not self.ready:
            made: Answer = self.pipe.recv()
            if made.error is not None:
                return made
            self.ready = True
        self.pipe.send(task)
        answer: Answer = self.pipe.recv()
        return answer

    def end(self) -> None:
        """Kill it; it may be dead already."""
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection, made: bytes) -> None:
    """What a process does: make what carries tasks out, then task after task."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_leave_with_driver, daemon=True).start()
    making = Answer.of(lambda: pickle.loads(made)())
    perform = making.value
    pipe.send(making._replace(value=None))
    while making.error is None:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(Answer.of(perform, task))


def _leave_with_driver() -> None:
    """End this process with the driver's, whatever it is doing."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)
