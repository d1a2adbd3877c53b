"""The progress line: speed, time left, and the share of time spent waiting for data."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from torch import Tensor

Item = TypeVar("Item")

logger = logging.getLogger("temperance")


class Progress:
    """Times a training and tells about it: a line that rewrites itself on a terminal, else a log
    line now and then.

    Args:
        label: what is being trained.
        step: steps done before, by an earlier process.
        steps: steps in all.
        batch_size: images per step.
        seconds: time between two lines of the log; a terminal's line moves five times a second.
    """

    def __init__(
        self, label: str, *, step: int, steps: int, batch_size: int, seconds: float = 30.0
    ) -> None:
        self.label, self.first, self.steps, self.batch_size = label, step, steps, batch_size
        self.terminal = sys.stderr.isatty()
        self.every = 0.2 if self.terminal else seconds
        self.waited = 0.0
        self.started = self.shown = time.perf_counter()

    def timed(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The same batches; the time that each of them takes to come counts as waiting."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited += time.perf_counter() - asked
            yield batch

    def rates(self, step: int) -> dict[str, float]:
        """images_per_second, seconds_left and data_wait (a share in [0, 1]) after `step` steps."""
        elapsed = max(time.perf_counter() - self.started, 1e-9)
        done = max(step - self.first, 1)
        return {
            "images_per_second": done * self.batch_size / elapsed,
            "seconds_left": elapsed / done * (self.steps - step),
            "data_wait": self.waited / elapsed,
        }

    def show(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Tell, if it is time to."""
        now = time.perf_counter()
        if now - self.shown < self.every:
            return
        self.shown = now
        rates = self.rates(step)
        line = (
            f"{self.label}: step {step}/{self.steps}"
            f" · loss {sum(float(loss) for loss in losses.values()):.3f}"
            f" · {rates['images_per_second']:,.0f} images/s"
            f" · data wait {rates['data_wait']:.0%} · {clock(rates['seconds_left'])} left"
        )
        if self.terminal:
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()
        else:
            logger.info(line)

    def close(self) -> None:
        """Wipe the line off the terminal."""
        if self.terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes.

    Examples:
        >>> clock(75), clock(7260)
        ('1:15', '2 h 01')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60} h {minutes % 60:02d}"
