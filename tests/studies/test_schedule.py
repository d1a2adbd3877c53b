from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temperance.errors import Interrupted, UserError
from temperance.studies.schedule import Job, Outcome, Progress, Task, carry_out


@dataclass
class Memory:
    """An executor without processes: what was started ends when `pick` says, and so that all that
    could have been started has been."""

    slots: int = 2
    does: Callable[[Task], Any] = lambda task: task.about
    pick: Callable[[int], int] = lambda running: 0
    """Which of so many running tasks ends next."""
    started: list[str] = field(default_factory=list)
    stopped: bool = False
    running: list[tuple[Task, Future[Any]]] = field(default_factory=list)

    def submit(self, task: Task) -> Future[Any]:
        assert len(self.running) < self.slots
        assert task.folder not in self.started, "a folder is worked in once"
        self.started.append(task.folder)
        future: Future[Any] = Future()
        self.running.append((task, future))
        return future

    def end_one(self) -> None:
        task, future = self.running.pop(self.pick(len(self.running)))
        try:
            future.set_result(self.does(task))
        except Exception as error:
            future.set_exception(error)

    def stop(self) -> None:
        self.stopped = True
        for _, future in self.running:
            future.set_exception(Interrupted("stopped at a step"))
        self.running.clear()


@dataclass
class Told:
    """What a schedule tells while it goes on."""

    executor: Memory
    done_before: Mapping[str, Outcome] = field(default_factory=dict)
    interrupted_after: int | None = None
    """So many settled jobs."""
    settled: list[str] = field(default_factory=list)
    progress: list[tuple[int, list[str]]] = field(default_factory=list)
    last: Progress | None = None

    def carry_out(self, jobs: Sequence[Job]) -> dict[str, Outcome]:
        return carry_out(
            jobs,
            self.executor,
            found=lambda task: self.done_before.get(task.folder),
            settled=lambda job, task, outcome: self.settled.append(job.key),
            shown=self.show,
            interrupted=lambda: (
                self.interrupted_after is not None and len(self.settled) >= self.interrupted_after
            ),
        )

    def show(self, progress: Progress) -> None:
        self.last = progress
        self.progress.append((progress.states.total(), list(progress.running)))
        starting = len(progress.running) > len(self.executor.running)
        if self.executor.running and not starting:
            self.executor.end_one()


def job(
    key: str, needs: Sequence[str] = (), after: Sequence[str] = (), folder: str | None = None
) -> Job:
    return Job(key, "kind", lambda _: Task("kind", key, folder or f"in {key}"), needs, after)


def fails(*keys: str) -> Callable[[Task], Any]:
    def does(task: Task) -> Any:
        if task.about in keys:
            raise UserError("it failed", where=task.about)
        return task.about

    return does


def test_jobs_wait_for_what_they_need() -> None:
    jobs = [job("c", needs=["a", "b"]), job("a"), job("b", needs=["a"])]
    told = Told(Memory())
    outcomes = told.carry_out(jobs)
    assert told.settled == ["a", "b", "c"]
    assert {key: outcome.value for key, outcome in outcomes.items()} == {
        "a": "a",
        "b": "b",
        "c": "c",
    }
    assert all(outcome.fresh and outcome.state == "done" for outcome in outcomes.values())


def test_what_comes_first_is_started_first_even_if_it_had_to_wait() -> None:
    jobs = [job("a"), job("b", needs=["a"]), *(job(f"{number}") for number in range(5))]
    told = Told(Memory(slots=1))
    told.carry_out(jobs)
    assert told.settled == ["a", "b", "0", "1", "2", "3", "4"]


def test_a_job_is_made_of_what_is_settled() -> None:
    def prepare(outcomes: Mapping[str, Outcome]) -> Task:
        return Task("kind", outcomes["a"].value * 2, "b")

    outcomes = Told(Memory()).carry_out([Job("b", "kind", prepare, ["a"]), job("a")])
    assert outcomes["b"].value == "aa"


def test_failures_block_their_followers_alone() -> None:
    jobs = [
        job("a"), job("b"), job("of a", needs=["a"]), job("of that", needs=["of a"]),
        job("of both", needs=["b", "a"]), job("of b", needs=["b"]), job("later", after=["a", "b"]),
    ]  # fmt: skip
    outcomes = Told(Memory(does=fails("a"))).carry_out(jobs)
    states = {key: outcome.state for key, outcome in outcomes.items()}
    assert states == {
        "a": "failed", "b": "done", "of a": "blocked", "of that": "blocked",
        "of both": "blocked", "of b": "done", "later": "done",
    }  # fmt: skip
    assert outcomes["a"].error == "a: it failed."
    assert "UserError" in outcomes["a"].trace
    assert outcomes["of a"].error == "a: a: it failed."
    assert outcomes["of that"].error == "of a: a: a: it failed."


def test_any_error_is_a_failure() -> None:
    def does(task: Task) -> Any:
        raise ZeroDivisionError("by nothing")

    outcomes = Told(Memory(does=does)).carry_out([job("a")])
    assert outcomes["a"].state == "failed"
    assert outcomes["a"].error == "ZeroDivisionError: by nothing"
    assert "Traceback" in outcomes["a"].trace


def test_the_impossible_is_skipped() -> None:
    def prepare(outcomes: Mapping[str, Outcome]) -> Task:
        raise UserError("T is 1", where="teacher")

    jobs = [Job("a", "kind", prepare), job("b", needs=["a"]), job("c")]
    outcomes = Told(Memory()).carry_out(jobs)
    assert [outcomes[key].state for key in "abc"] == ["skipped", "skipped", "done"]
    assert outcomes["b"].error == "a: teacher: T is 1."


@pytest.mark.parametrize("fail", [False, True])
def test_twins_are_one_run(fail: bool) -> None:
    jobs = [job("a", folder="one"), job("b", folder="one"), job("c", needs=["a"], folder="one"),
            job("d", needs=["b"])]  # fmt: skip
    told = Told(Memory(does=fails("a") if fail else fails()))
    outcomes = told.carry_out(jobs)
    assert told.executor.started == (["one"] if fail else ["one", "in d"])
    if fail:
        assert [outcomes[key].state for key in "abcd"] == ["failed", "failed", "blocked", "blocked"]
    else:
        assert [outcomes[key].value for key in "abcd"] == ["a", "a", "a", "d"]
        assert [outcomes[key].fresh for key in "abcd"] == [True, False, False, True]


def test_what_is_there_is_not_done_again() -> None:
    before = {"in a": Outcome("done", "old"), "in b": Outcome("failed", error="old")}
    told = Told(Memory(), before)
    outcomes = told.carry_out([job("a"), job("b"), job("c", needs=["a"]), job("d", needs=["b"])])
    assert told.executor.started == ["in c"]
    assert outcomes["a"].value == "old"
    assert outcomes["d"].error == "b: old"


def test_what_is_there_counts_at_once_though_every_slot_is_taken() -> None:
    jobs = [job("long"), *(job(f"{number}") for number in range(100))]
    told = Told(Memory(slots=1), {f"in {number}": Outcome("done") for number in range(100)})
    told.carry_out(jobs)
    assert told.progress[0] == (100, ["long"])


def test_interrupted() -> None:
    told = Told(Memory(), interrupted_after=3)
    with pytest.raises(Interrupted, match=r"^3 of 10 jobs are done$"):
        told.carry_out([job(f"{number}") for number in range(10)])
    assert told.executor.stopped
    assert told.settled == ["0", "1", "2"]
    assert told.progress[-1] == (3, [])
    everything = Told(Memory(), interrupted_after=10)  # too late: nothing is left to stop
    assert len(everything.carry_out([job(f"{number}") for number in range(10)])) == 10


def test_a_worker_that_was_asked_to_stop_stops_all() -> None:
    def does(task: Task) -> Any:
        raise Interrupted("stopped at a step")

    told = Told(Memory(does=does))
    with pytest.raises(Interrupted, match=r"^0 of 3 jobs are done$"):
        told.carry_out([job("a"), job("b"), job("c")])
    assert told.executor.stopped


def test_an_executor_may_grow() -> None:
    executor = Memory(slots=1)

    def does(task: Task) -> Any:
        executor.slots = 3
        return None

    executor.does = does
    told = Told(executor)
    told.carry_out([job(f"{number}") for number in range(6)])
    assert max(len(running) for _, running in told.progress) == 3
    assert told.last is not None
    assert told.last.slots == 3


def test_seconds_left() -> None:
    progress = Progress(10, slots=2)
    assert progress.seconds_left() is None
    progress.seconds = {"teacher": [9.0, 11.0], "student": [1.0]}
    progress.left.update(teacher=1, student=8, other=1)
    assert progress.seconds_left() == pytest.approx((10 + 8 + 5.5) / 2)
    assert Progress(1, slots=2, seconds={"a": [4.0]}, left=progress.left - progress.left).\
        seconds_left() == 0  # fmt: skip


@st.composite
def plans(draw: st.DrawFn) -> list[tuple[str, list[str], list[str], str]]:
    """Jobs in any order that wait for some of those before them by name, some sharing folders."""
    count = draw(st.integers(1, 12))
    names = [f"j{number}" for number in range(count)]
    plan = []
    for number, name in enumerate(names):
        earlier = st.lists(st.sampled_from(names[:number]), max_size=3) if number else st.just([])
        folder = f"f{draw(st.integers(0, count))}"
        plan.append((name, draw(earlier), draw(earlier), folder))
    return draw(st.permutations(plan))


@given(plans(), st.sets(st.integers(0, 12)), st.integers(1, 4), st.randoms(use_true_random=False))
def test_every_job_is_settled_once_and_after_what_it_waits_for(
    plan: list[tuple[str, list[str], list[str], str]], broken: set[int], slots: int, random: Any
) -> None:
    jobs = [job(key, needs, after, folder) for key, needs, after, folder in plan]
    in_broken = {f"f{number}" for number in broken}

    def does(task: Task) -> Any:
        if task.folder in in_broken:
            raise UserError("broken", where=task.folder)
        return task.folder

    told = Told(Memory(slots, does, pick=lambda running: random.randrange(running)))
    outcomes = told.carry_out(jobs)
    assert sorted(told.settled) == sorted(outcomes) == sorted(each.key for each in jobs)
    for key, needs, after, folder in plan:
        place = told.settled.index(key)
        assert all(told.settled.index(other) < place for other in (*needs, *after))
        ready = all(outcomes[need].state == "done" for need in needs)
        expected = "blocked" if not ready else "failed" if folder in in_broken else "done"
        assert outcomes[key].state == expected
    assert told.last is not None
    assert told.last.states.total() == told.last.total
    assert not +told.last.left
