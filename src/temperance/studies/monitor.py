"""How far a study is: a line while it runs, and status.json for other terminals."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from temperance.run import Run
from temperance.studies.schedule import Job, Outcome, Progress, Task
from temperance.studies.store import Store
from temperance.training.progress import clock

logger = logging.getLogger("temperance")

STATUS = "status.json"
EVERY = 1.0  # seconds between two writings of status.json


class Monitor:
    """Told of everything by the schedule."""

    def __init__(self, study: Run, store: Store) -> None:
        self.study, self.store = study, store
        self.progress: Progress | None = None
        self.written = 0.0
        self.terminal = sys.stderr.isatty()

    def settled(self, job: Job, task: Task | None, outcome: Outcome) -> None:
        """A job ended: keep a failure, and log what ran."""
        if outcome.state == "failed" and outcome.fresh:
            assert task is not None
            self.store.fail(task.folder, outcome.error, outcome.trace)
        if outcome.state == "failed" or (outcome.state == "skipped" and not job.needs):
            logger.warning("%s: %s (%s)", job.key, outcome.state, outcome.error)
        elif outcome.fresh:
            self._say(f"{job.key}{_accuracy(outcome.value)}")

    def shown(self, progress: Progress) -> None:
        """How far everything is; written once a second at most, unless nothing is running any more
        or one run at a time takes this process, which then says nothing until that ends."""
        self.progress = progress
        now = time.monotonic()
        if now - self.written < EVERY and progress.running and progress.slots > 1:
            return
        self.written = now
        self.study.write_json(STATUS, status_of(progress))
        if self.terminal and progress.running:
            sys.stderr.write(f"\r\033[K{line(status_of(progress))}")
            sys.stderr.flush()

    def _say(self, what: str) -> None:
        left = self.progress.seconds_left() if self.progress else None
        settled = self.progress.states.total() if self.progress else 0
        total = self.progress.total if self.progress else 1
        more = "" if left is None else f" · {clock(left)} left"
        wipe = "\r\033[K" if self.terminal else ""
        sys.stderr.write(wipe)
        logger.info("[%d/%d] %s%s", settled, total, what, more)


def status_of(progress: Progress) -> dict[str, Any]:
    """For status.json."""
    return {
        "total": progress.total,
        **{state: progress.states[state] for state in ("done", "failed", "blocked", "skipped")},
        "running": progress.running,
        "seconds_left": progress.seconds_left(),
        "at": time.time(),
    }


def line(status: dict[str, Any]) -> str:
    """A status in a line."""
    parts = [f"{status['done']}/{status['total']} done", f"{len(status['running'])} running"]
    parts += [f"{status[name]} {name}" for name in ("failed", "blocked", "skipped") if status[name]]
    if status["seconds_left"] is not None and status["done"] < status["total"]:
        parts.append(f"{clock(status['seconds_left'])} left")
    return " · ".join(parts)


def _accuracy(result: dict[str, Any]) -> str:
    row = result.get("row", {})
    accuracy = row.get("test_accuracy", row.get("accuracy"))
    return "" if accuracy is None else f" · test accuracy {accuracy:.2%}"
