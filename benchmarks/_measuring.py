"""Seconds and memory of a function, and tables of them."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def seconds(function: Callable[[], Any], repeats: int = 5) -> list[float]:
    """Wall-clock times, after one call that is not counted if there are several."""
    if repeats > 1:
        function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


def anonymous_memory() -> float:
    """MiB of this process's memory that no file backs."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def peak_beside(function: Callable[[], Any]) -> float:
    """MiB of anonymous memory at the highest, above what there was before."""
    ctypes.CDLL(None).malloc_trim(0)  # or memory that was freed before is used without being seen
    before, peak, done = anonymous_memory(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, anonymous_memory() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    function()
    done.set()
    watcher.join()
    return peak


class Table:
    """Rows of a Markdown table, printed as they come."""

    def __init__(self, *columns: str) -> None:
        self.lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
        print(f"\n{self.lines[0]}\n{self.lines[1]}")

    def add(self, *cells: object) -> None:
        self.lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
        print(self.lines[-1], flush=True)
