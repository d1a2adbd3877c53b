"""What a study costs beside training: bookkeeping, a run in a warm worker, workers, the whole.

Settling and listing: 10,000 runs that are done already. Overhead of a run: its seconds in a warm
worker without the training loop and the forward passes that measure it. Two workers against one:
the same study, compute bound, from an empty folder to its tables, and by the time between its first
and last student. The whole: a study of several arms, students and seeds per teacher against the
sum of its parts (teachers, their folds and measurements once; the training of each student).

    python benchmarks/study_overhead.py [--quick] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _machine import machine_header
from _measuring import Table

import temperance.studies.worker as worker_module
import temperance.training.student as student_module
from temperance.config import load_config
from temperance.data import Dataset, load_dataset
from temperance.run import Run, identity
from temperance.studies.execute import Jobs, finder, run_study
from temperance.studies.monitor import Monitor
from temperance.studies.plan import StudyArgs
from temperance.studies.schedule import Task, carry_out
from temperance.studies.store import RESULT, Store, list_runs
from temperance.training import Engine

WANTED_SECONDS = 2.0  # for 10,000 runs
WANTED_OVERHEAD = 0.2  # seconds of a run
WANTED_SPEED_UP = 1.7  # of two workers
WANTED_RATIO = 1.1  # of the whole to the sum of its parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it work?")
    parser.add_argument("--out", type=Path, help="write the tables here, too")
    args = parser.parse_args()
    lines = [machine_header("lightning-fabric", "ray"), ""]
    with tempfile.TemporaryDirectory() as folder:
        for number, section in enumerate((bookkeeping, overhead, two_workers, the_whole)):
            title, table = section(Path(folder) / f"{number}", args.quick)
            lines += [f"## {title}", "", *table.lines, ""]
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines))


# 10,000 runs that are there.


class Fabricating:
    """An executor that writes a plausible result and trains nothing."""

    slots = 64

    def __init__(self, store: Store) -> None:
        self.store, self.count = store, 0

    def submit(self, task: Task) -> Future[dict[str, Any]]:
        self.count += 1
        row = {"T": 1.5 + (self.count % 97) / 97, "accuracy": 0.9, "test_accuracy": 0.9}
        row |= dict.fromkeys(("nll", "brier", "ece", "gap", "T_student", "nll_calibrated"), 0.1)
        result = {"row": row, "sha256": task.folder, "weights": "", "seconds": 1.0}
        path = self.store.runs / task.folder / RESULT
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({**result, "run_seconds": 1.0}))
        future: Future[dict[str, Any]] = Future()
        future.set_result(result)
        return future

    def stop(self) -> None: ...


class Never:
    """An executor of a study in which there is nothing to do."""

    slots = 1

    def submit(self, task: Task) -> Future[Any]:
        raise AssertionError(f"{task.folder} is there already")

    def stop(self) -> None: ...


def bookkeeping(folder: Path, quick: bool) -> tuple[str, Table]:
    seeds = 2 if quick else 131
    settings = {"replicates": 5, "student_seeds": seeds, "softenings": [1, 2, 4, 8]}
    args, dataset, _, run = opened(folder, settings)
    store = Store(run)

    def settle(executor: Any) -> int:
        jobs = Jobs(args, dataset.fingerprint, store)
        monitor = Monitor(run, store)
        outcomes = carry_out(
            jobs.all(), executor, found=finder(store), settled=lambda *_: None,
            shown=monitor.shown, interrupted=lambda: False,
        )  # fmt: skip
        return len(outcomes)

    settle(Fabricating(store))
    jobs, settling = seconds_of(partial(settle, Never()))
    listed, listing = seconds_of(lambda: len(list_runs(folder)))
    table = Table("what", "n", "seconds", "wanted")
    table.add("jobs, all done already, settled", f"{jobs:,}", f"{settling:.2f}", WANTED_SECONDS)
    table.add("results listed", f"{listed:,}", f"{listing:.2f}", WANTED_SECONDS)
    return "Bookkeeping", table


# One run.


def overhead(folder: Path, quick: bool) -> tuple[str, Table]:
    settings = {**digits(8, 2), "replicates": 2 if quick else 5, "arms": ARMS}
    args, dataset, engine, run = opened(folder, settings)
    spent = [0.0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            found, seconds = seconds_of(partial(function, *arguments, **named))
            spent[0] += seconds
            return found

        return call

    student_module.train_student = timed(student_module.train_student)
    student_module.predict = timed(student_module.predict)
    worker_module.predict = timed(worker_module.predict)
    beside: list[float] = []

    class Timed(worker_module.Worker):
        def __call__(self, task: Task) -> dict[str, Any]:
            spent[0] = 0.0
            result, seconds = seconds_of(partial(super().__call__, task))
            if task.kind == "student":
                beside.append(seconds - spent[0])
            return result

    worker = Timed(args, dataset, run.folder, engine)
    store = Store(run)
    carry_out(
        Jobs(args, dataset.fingerprint, store).all(), InProcessOf(worker), found=finder(store),
        settled=lambda *_: None, shown=lambda _: None, interrupted=lambda: False,
    )  # fmt: skip
    warm = np.array(beside[3:])
    table = Table("students", "median s", "mean s", "95 % s", "wanted")
    table.add(len(warm), f"{np.median(warm):.3f}", f"{warm.mean():.3f}",
              f"{np.quantile(warm, 0.95):.3f}", WANTED_OVERHEAD)  # fmt: skip
    return "A run beside its training and the forward passes that measure it", table


class InProcessOf:
    slots = 1

    def __init__(self, worker: Callable[[Task], Any]) -> None:
        self.worker = worker

    def submit(self, task: Task) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(self.worker(task))
        return future

    def stop(self) -> None: ...


# Two workers.


def two_workers(folder: Path, quick: bool) -> tuple[str, Table]:
    table = Table("workers", "students", "seconds", "seconds from first to last student")
    whole, warm = {}, {}
    for workers in (1, 2):
        settings = {**digits(256, 2 if quick else 100), "arms": ARMS}
        settings |= {"replicates": 2 if quick else 3, "executor": {"workers": workers}}
        whole[workers], students = carried_out(folder / f"{workers}", settings)
        ends = [path.stat().st_mtime for path in students]
        warm[workers] = max(ends) - min(ends)
        table.add(workers, len(students), f"{whole[workers]:.1f}", f"{warm[workers]:.1f}")
    table.add("speed-up", f"wanted {WANTED_SPEED_UP}", f"{whole[1] / whole[2]:.2f}",
              f"{warm[1] / warm[2]:.2f}")  # fmt: skip
    return "Two workers against one, one thread each", table


# The whole.


def the_whole(folder: Path, quick: bool) -> tuple[str, Table]:
    settings = {**digits(64, 2 if quick else 60), "arms": ARMS, "student_seeds": 2}
    settings["students"] = {"factors": {"model.width": [48, 64]}}
    settings["replicates"] = 2 if quick else 3
    whole, students = carried_out(folder, settings)
    runs = {path: json.loads(path.read_bytes()) for path in folder.glob(f"runs/*/{RESULT}")}
    teachers = sum(result["run_seconds"] for path, result in runs.items() if path not in students)
    training = sum(runs[path]["row"]["seconds"] for path in students)
    table = Table("what", "n", "seconds")
    table.add("teachers, folds, measurements: once", len(runs) - len(students), f"{teachers:.1f}")
    table.add("students: training alone", len(students), f"{training:.1f}")
    table.add("the study", len(runs), f"{whole:.1f}")
    table.add("ratio", f"wanted {WANTED_RATIO}", f"{whole / (teachers + training):.3f}")
    return "A study against the sum of its parts", table


# Studies of digits.

ARMS = ["labels", "labels+calibration", "raw", "calibrated", "under-confident", "constant-T"]


def digits(width: int, epochs: int) -> dict[str, Any]:
    return {
        "split": {"test": 0.5},
        "engine": {"threads": 1},
        "calibration": {"folds": 2},
        "softenings": [1.0],
        "teacher": {"model": {"name": "mlp", "width": 32}, "training": {"epochs": epochs}},
        "student": {
            "model": {"name": "mlp", "width": width},
            "training": {"epochs": epochs, "validate_every": epochs},
        },
    }


def opened(folder: Path, settings: dict[str, Any]) -> tuple[StudyArgs, Dataset, Engine, Run]:
    args = load_config(StudyArgs, settings)
    dataset, engine = load_dataset(args.data), Engine(args.engine)
    digest = identity(args, data=dataset.fingerprint)
    return args, dataset, engine, Run.open(folder, verb="study", config=args, identity=digest)


def carried_out(folder: Path, settings: dict[str, Any]) -> tuple[float, list[Path]]:
    """Seconds of a study, and the results of its students."""
    args, dataset, engine, run = opened(folder, settings)
    load = partial(load_dataset, args.data)
    _, seconds = seconds_of(lambda: run_study(args, dataset, engine, run, load))
    return seconds, list(folder.glob(f"runs/*student*/{RESULT}"))


def seconds_of(function: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    found = function()
    return found, time.perf_counter() - started


if __name__ == "__main__":
    main()
