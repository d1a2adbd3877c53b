"""Jobs that wait for one another, carried out by an executor; one that fails stops no other."""

from __future__ import annotations

import heapq
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, NoReturn, Protocol

from temperance.errors import Interrupted, UserError

State = Literal["done", "failed", "blocked", "skipped"]


class Task(NamedTuple):
    """What a worker is asked to do."""

    kind: str
    """Which of the worker's methods."""
    about: Any
    """Its argument; it can be sent to another process."""
    folder: str
    """Of its run: two jobs with the same folder are one."""


Perform = Callable[[Task], Any]
"""Carries a task out."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    state: State
    value: Any = None
    """What the worker returned."""
    error: str = ""
    """Why it failed, is blocked or was skipped."""
    trace: str = ""
    seconds: float = 0.0
    fresh: bool = False
    """Whether it ran now, and was not there already."""


@dataclass(frozen=True)
class Job:
    """Something to do once other jobs are settled."""

    key: str
    kind: str
    prepare: Callable[[Mapping[str, Outcome]], Task]
    """Makes the task of what is settled; a UserError is the reason for which the job is skipped."""
    needs: Sequence[str] = ()
    """Keys of the jobs that have to be done."""
    after: Sequence[str] = ()
    """Keys of the jobs that have to be settled, whichever way."""


class Executor(Protocol):
    """Where tasks are carried out."""

    @property
    def slots(self) -> int:
        """How many at a time, 1 at least; a cluster may grow and shrink."""
        ...

    def submit(self, task: Task) -> Future[Any]:
        """Start a task."""
        ...

    def stop(self) -> None:
        """Ask what is running to stop at its next step."""
        ...


@dataclass
class Progress:
    """How far a schedule is."""

    total: int
    states: Counter[str] = field(default_factory=Counter)
    running: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Of the jobs that ran, by kind."""
    left: Counter[str] = field(default_factory=Counter)
    """Jobs that are not settled, by kind."""
    slots: int = 1

    def seconds_left(self) -> float | None:
        """By the mean time of what ran, kind by kind; None before anything ran."""
        known = {kind: sum(all_) / len(all_) for kind, all_ in self.seconds.items() if all_}
        if not known:
            return None
        usual = sum(known.values()) / len(known)
        work = sum(count * known.get(kind, usual) for kind, count in self.left.items())
        return work / max(1, min(self.slots, sum(self.left.values())))


def carry_out(
    jobs: Sequence[Job],
    executor: Executor,
    *,
    found: Callable[[Task], Outcome | None],
    settled: Callable[[Job, Task | None, Outcome], None],
    shown: Callable[[Progress], None],
    interrupted: Callable[[], bool],
) -> dict[str, Outcome]:
    """Settle every job, as many at a time as the executor takes, in their order as far as possible.

    Args:
        found: what is there of a task already; None if it has to be carried out.
        settled: told of every job that ends, in this thread.
        shown: told how far everything is, whenever that changes.
        interrupted: asked again and again whether to stop.

    Returns:
        the outcome of every job, by its key.

    Raises:
        Interrupted: if asked to stop; what was running has stopped at its next step.
    """
    schedule = _Schedule(jobs, executor, found, settled, shown)
    while schedule.ready or schedule.startable or schedule.running:
        while schedule.ready and not interrupted():
            schedule.look_at_next()
        while schedule.startable and schedule.has_room() and not interrupted():
            schedule.start_next()
        if interrupted():
            schedule.stop()
        schedule.wait()
    schedule.show()
    return schedule.outcomes


class _Schedule:
    """The state of `carry_out`."""

    def __init__(
        self,
        jobs: Sequence[Job],
        executor: Executor,
        found: Callable[[Task], Outcome | None],
        settled: Callable[[Job, Task | None, Outcome], None],
        shown: Callable[[Progress], None],
    ) -> None:
        self.jobs, self.executor = jobs, executor
        self.found, self.settled, self.shown = found, settled, shown
        self.outcomes: dict[str, Outcome] = {}
        self.of_folder: dict[str, Outcome] = {}
        self.same: dict[str, list[tuple[Job, Task]]] = {}
        """Jobs by the folder of one that is startable or running: they end as it does."""
        self.running: dict[Future[Any], tuple[Job, Task, float]] = {}
        self.progress = Progress(len(jobs), left=Counter(job.kind for job in jobs))
        self.waiting = {job.key: len({*job.needs, *job.after}) for job in jobs}
        self.followers: dict[str, list[int]] = {}
        for number, job in enumerate(jobs):
            for key in {*job.needs, *job.after}:
                self.followers.setdefault(key, []).append(number)
        # Heaps, so that what comes first among all jobs is done first.
        self.ready = [number for number, job in enumerate(jobs) if not self.waiting[job.key]]
        self.startable: list[tuple[int, Task]] = []

    def look_at_next(self) -> None:
        """Settle the next job if that takes no work, else put it among those to start."""
        number = heapq.heappop(self.ready)
        job = self.jobs[number]
        missing = [key for key in job.needs if self.outcomes[key].state != "done"]
        if missing:
            why = self.outcomes[missing[0]]
            state: State = "skipped" if why.state == "skipped" else "blocked"
            self.settle(job, None, Outcome(state, error=f"{missing[0]}: {why.error}"))
            return
        try:
            task = job.prepare(self.outcomes)
        except UserError as error:
            self.settle(job, None, Outcome("skipped", error=str(error)))
            return
        if task.folder in self.same:
            self.same[task.folder].append((job, task))
            return
        known = self.of_folder.get(task.folder) or self.found(task)
        if known is not None:
            self.settle(job, task, known)
            return
        self.same[task.folder] = []
        heapq.heappush(self.startable, (number, task))

    def has_room(self) -> bool:
        return len(self.running) < self.executor.slots

    def start_next(self) -> None:
        number, task = heapq.heappop(self.startable)
        job = self.jobs[number]
        self.show(job.key)
        started = time.perf_counter()
        self.running[self.executor.submit(task)] = (job, task, started)

    def wait(self) -> None:
        """Until something ends, or half a second."""
        self.show()
        done, _ = wait(self.running, timeout=0.5, return_when=FIRST_COMPLETED)
        if any(isinstance(future.exception(), Interrupted) for future in done):
            self.stop()
        for future in done:
            job, task, started = self.running.pop(future)
            outcome = _outcome(future, time.perf_counter() - started)
            self.settle(job, task, outcome)
            for twin, its_task in self.same.pop(task.folder):
                self.settle(twin, its_task, self.of_folder[task.folder])

    def settle(self, job: Job, task: Task | None, outcome: Outcome) -> None:
        self.outcomes[job.key] = outcome
        self.progress.states[outcome.state] += 1
        self.progress.left[job.kind] -= 1
        if outcome.fresh and outcome.state == "done":
            self.progress.seconds.setdefault(job.kind, []).append(outcome.seconds)
        if task is not None:
            self.of_folder[task.folder] = (
                replace(outcome, fresh=False) if outcome.fresh else outcome
            )
        self.settled(job, task, outcome)
        for number in self.followers.get(job.key, ()):
            key = self.jobs[number].key
            self.waiting[key] -= 1
            if not self.waiting[key]:
                heapq.heappush(self.ready, number)

    def stop(self) -> NoReturn:
        """What is running stops at its next step; what it has done by then is in its folder."""
        self.executor.stop()
        wait(self.running)
        self.running.clear()
        self.show()
        raise Interrupted(f"{self.progress.states['done']} of {self.progress.total} jobs are done")

    def show(self, *starting: str) -> None:
        self.progress.running = [job.key for job, _, _ in self.running.values()]
        self.progress.running += starting
        self.progress.slots = self.executor.slots
        self.shown(self.progress)


def _outcome(future: Future[Any], seconds: float) -> Outcome:
    error = future.exception()
    if error is None:
        return Outcome("done", future.result(), seconds=seconds, fresh=True)
    trace = "".join(traceback.format_exception(error))
    what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return Outcome("failed", error=what, trace=trace, seconds=seconds, fresh=True)
