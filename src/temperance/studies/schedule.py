"""Jobs that wait for one another, carried out by an executor; one that fails stops no other."""

from __future__ import annotations

import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

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
    """Makes the task of what is settled; a UserError means that the job is skipped, for a reason."""
    needs: Sequence[str] = ()
    """Keys of the jobs that have to be done."""
    after: Sequence[str] = ()
    """Keys of the jobs that have to be settled, whichever way."""


class Executor(Protocol):
    """Where tasks are carried out."""

    slots: int
    """How many at a time."""

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
    waiting = {job.key: len({*job.needs, *job.after}) for job in jobs}
    followers: dict[str, list[Job]] = {}
    for job in jobs:
        for key in {*job.needs, *job.after}:
            followers.setdefault(key, []).append(job)
    ready = deque(job for job in jobs if not waiting[job.key])
    outcomes: dict[str, Outcome] = {}
    running: dict[Future[Any], tuple[Job, Task, float]] = {}
    same: dict[str, list[tuple[Job, Task]]] = {}  # jobs whose folder another one works in
    of_folder: dict[str, Outcome] = {}
    progress = Progress(len(jobs), left=Counter(job.kind for job in jobs), slots=executor.slots)

    def settle(job: Job, task: Task | None, outcome: Outcome) -> None:
        outcomes[job.key] = outcome
        progress.states[outcome.state] += 1
        progress.left[job.kind] -= 1
        if outcome.fresh and outcome.state == "done":
            progress.seconds.setdefault(job.kind, []).append(outcome.seconds)
        if task is not None:
            of_folder[task.folder] = outcome
        settled(job, task, outcome)
        for follower in followers.get(job.key, ()):
            waiting[follower.key] -= 1
            if not waiting[follower.key]:
                ready.append(follower)

    def start(job: Job) -> None:
        missing = [key for key in job.needs if outcomes[key].state != "done"]
        if missing:
            why = outcomes[missing[0]]
            state: State = "skipped" if why.state == "skipped" else "blocked"
            settle(job, None, Outcome(state, error=f"{missing[0]}: {why.error}"))
            return
        try:
            task = job.prepare(outcomes)
        except UserError as error:
            settle(job, None, Outcome("skipped", error=str(error)))
            return
        if task.folder in same:
            same[task.folder].append((job, task))
            return
        known = of_folder.get(task.folder) or found(task)
        if known is not None:
            settle(job, task, known)
            return
        same[task.folder] = []
        running[executor.submit(task)] = (job, task, time.perf_counter())

    while ready or running:
        while ready and len(running) < executor.slots and not interrupted():
            start(ready.popleft())
        progress.running = [job.key for job, _, _ in running.values()]
        shown(progress)
        if interrupted():
            executor.stop()
            wait(running)
            raise Interrupted(f"{progress.states['done']} of {progress.total} jobs are done")
        done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in done:
            job, task, started = running.pop(future)
            outcome = _outcome(future, time.perf_counter() - started)
            settle(job, task, outcome)
            for twin, its_task in same.pop(task.folder):
                settle(twin, its_task, outcome)
    progress.running = []
    shown(progress)
    return outcomes


def _outcome(future: Future[Any], seconds: float) -> Outcome:
    error = future.exception()
    if error is None:
        return Outcome("done", future.result(), seconds=seconds, fresh=True)
    if isinstance(error, Interrupted | KeyboardInterrupt):
        raise error
    trace = "".join(traceback.format_exception(error))
    what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return Outcome("failed", error=what, trace=trace, seconds=seconds, fresh=True)
