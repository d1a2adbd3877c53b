"""What a study would take: its runs, steps, questions to teachers, time and disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pandas as pd
import torch

from temperance.data.images import DatasetFacts
from temperance.studies.arms import WITHOUT_TEACHER
from temperance.studies.costs import Cost, StudyCosts
from temperance.studies.plan import StudyArgs
from temperance.studies.timing import Stopwatch
from temperance.teacher import cacheable
from temperance.training import Engine


@dataclass(frozen=True)
class Estimate:
    """What a study would take from its beginning; what of it is done already is not known here."""

    costs: Sequence[Cost]
    """By kind of run, students by arm; a training that serves several arms stands at the first."""
    planned: int
    """Students in the table; some of them share one training."""
    stored: int
    """Images that teachers are asked about once, their answers then being kept on disk."""
    timed: int
    """How many trainings were timed."""
    workers: int | None
    """Runs at a time; None on a cluster, which takes as many as it can."""
    threads: int
    """Of each of them."""
    device: str
    cautions: Sequence[str] = ()

    @property
    def total(self) -> Cost:
        """Of everything."""
        fields = ("runs", "images", "steps", "teacher_images", "seconds", "bytes")
        return Cost(
            "all", **{name: sum(getattr(cost, name) for cost in self.costs) for name in fields}
        )

    @property
    def seconds(self) -> float:
        """From beginning to end with these workers, all of them busy all the time."""
        total = self.total
        return total.seconds / max(1, min(self.workers or 1, total.runs))

    def table(self) -> pd.DataFrame:
        """A row for every kind of run, and one for all."""
        columns = {
            "runs": "runs",
            "training images": "images",
            "steps": "steps",
            "images shown to teachers": "teacher_images",
        }
        rows = [
            {
                "kind": cost.kind,
                **{title: f"{getattr(cost, name):,}" for title, name in columns.items()},
                "time": duration(cost.seconds),
                "disk": size(cost.bytes),
            }
            for cost in (*self.costs, self.total)
        ]
        return pd.DataFrame(rows)

    @property
    def sentences(self) -> list[str]:
        """The table in words, and how it was come by."""
        total = self.total
        students = sum(cost.runs for cost in self.costs if cost.kind.startswith("students"))
        shared = self.planned - students
        twins = f"; {shared:,} of the {self.planned:,} planned share one of another arm"
        live = total.teacher_images - self.stored
        if self.workers is None:
            where = f"one run after the other, {_count(self.threads, 'thread')} on {self.device}"
            where += " (a cluster divides that by the runs that it takes at a time)"
        else:
            where = f"with {_count(self.workers, 'worker')} of {_count(self.threads, 'thread')}"
            where += f" each on {self.device}"
        return [
            f"{_count(total.runs, 'run')}, {students:,} of them students{twins if shared else ''}.",
            f"{total.images:,} training images in {total.steps:,} steps. Teachers are asked about"
            f" {total.teacher_images:,} images: {self.stored:,} whose answers are stored for all"
            f" students, {live:,} while students are trained or to measure.",
            f"About {duration(self.seconds)} on this machine, {where}: from a few steps of each of"
            f" {self.timed} kinds of training, on noise; the machine being otherwise idle.",
            f"About {size(total.bytes)} on disk.",
            *self.cautions,
        ]


def estimate(args: StudyArgs, facts: DatasetFacts) -> Estimate:
    """What the study would take; no data are loaded, and nothing is written.

    Times are measured: a few training steps of every kind of training, a few forward passes of
    every kind of model, on random images of the data's shape.

    Args:
        facts: of the data, as `dataset_facts` gives them.

    Raises:
        UserError: if a given teacher cannot be read, or an objective does not fit the models.
    """
    workers = args.executor.workers if args.executor.name == "local" else None
    threads = args.engine.threads or _share_of_cores(args)
    with _threads_restored():
        engine = Engine(args.engine.model_copy(update={"threads": threads}))
        study = StudyCosts(args, facts, Stopwatch(facts, engine))
        costs = [cost for cost in study.costs() if cost.runs]
    return Estimate(
        costs=costs,
        planned=len(study.planned),
        stored=sum(study.stored.values()),
        timed=study.stopwatch.timed,
        workers=workers,
        threads=threads,
        device=engine.device.type,
        cautions=list(_cautions(args)),
    )


def duration(seconds: float) -> str:
    """A length of time in the unit that suits it.

    Examples:
        >>> duration(20), duration(600), duration(26_600), duration(1e6)
        ('20 s', '10 min', '7.4 h', '12 days')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:,.0f} days"


def size(count: float) -> str:
    """Bytes as people read them.

    Examples:
        >>> size(512_000), size(3.2e9)
        ('0.5 MB', '3.2 GB')
    """
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _share_of_cores(args: StudyArgs) -> int:
    """Threads of a run, where the settings do not say."""
    if args.executor.name == "ray":
        return args.executor.cpus_per_run
    return max(1, (os.cpu_count() or 1) // args.executor.workers)


def _cautions(args: StudyArgs) -> Iterator[str]:
    teachers = [teacher.training.recipe for teacher in args.teachers]
    students = list(args.student_recipes.values())
    if any(recipe.training.patience for recipe in (*teachers, *students)):
        yield "Trainings that stop early (training.patience) take less than that."
    taught = any(arm not in WITHOUT_TEACHER for arm in args.arms)
    if taught and not all(cacheable(recipe.augment) for recipe in students):
        yield (
            "Every epoch has new views of the images, about which a teacher is asked each time; of"
            " a number of views that repeat (student.augment.views) it is asked once."
        )
    if "uniform-mix" in args.arms:
        yield "Where T turns out at most 1, there is no student of the arm 'uniform-mix'."


@contextmanager
def _threads_restored() -> Iterator[None]:
    """An engine sets PyTorch's number of threads for the whole process."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
