"""How fast calibration streams, and that its memory does not grow; torchmetrics in the same run.

Input checks are on everywhere. The unit is one `torch.logsumexp` pass over the same logits.

    python -m pip install -e '.[bench]'
    python benchmarks/streaming.py [--rows 1000000] [--classes 10] [--seconds 20] [--out FILE.md]
    python benchmarks/streaming.py --huge       # memory up to 1e8 rows instead of 1e7
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _machine import machine_header
from _measuring import Table, anonymous_memory
from torchmetrics.classification import MulticlassCalibrationError

from temperance.calibration.streaming import CalibrationSums, TopLabelSums

BATCH = 100_000  # rows of an update while memory is watched


def sample(rows: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Calibrated float32 logits; accuracy about 75 % with 10 classes."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(rows, classes, generator=generator)
    label = torch.randint(classes, (rows,), generator=generator)
    logits[torch.arange(rows), label] += 4 + 2 * torch.rand(rows, generator=generator)
    targets = torch.cat(
        [
            torch.multinomial(part.softmax(1), 1, generator=generator)[:, 0]
            for part in logits.split(4096)
        ]
    )
    return logits, targets


def in_turn(functions: dict[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Times of all functions, one after the other again and again: all see the same machine."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["unit"]) < 3:
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return times


def speed(rows: int, classes: int, seconds: float) -> list[str]:
    """Rows per second of one update."""
    logits, targets = sample(rows, classes)
    top_label, everything = TopLabelSums(), CalibrationSums(classes)
    peer = MulticlassCalibrationError(classes, n_bins=15)

    def torchmetrics(*, compute: bool) -> None:
        peer.reset()  # or it would keep the rows of all repeats
        peer.update(logits, targets)
        if compute:
            peer.compute()

    times = in_turn(
        {
            "unit": lambda: torch.logsumexp(logits, 1),
            "TopLabelSums.update": lambda: top_label.update(logits, targets),
            "CalibrationSums.update": lambda: everything.update(logits, targets),
            "torchmetrics ECE: update": lambda: torchmetrics(compute=False),
            "torchmetrics ECE: update and compute": lambda: torchmetrics(compute=True),
        },
        seconds,
    )
    everything.reset()
    everything.update(logits, targets)
    report = everything.compute()
    torchmetrics(compute=True)
    lines = [
        f"{rows:,} rows × {classes:,} classes, float32, {torch.get_num_threads()} threads,"
        f" accuracy {report.accuracy:.3f}; ECE {report.ece:.6f}, torchmetrics"
        f" {float(peer.compute()):.6f}.",
        "",
    ]
    print(lines[0])
    unit = min(times["unit"])
    table = Table("what", "min ms", "median ms", "units", "million rows/s", "repeats")
    for name, found in times.items():
        fastest = min(found)
        table.add(
            name, f"{1e3 * fastest:.1f}", f"{1e3 * median(found):.1f}", f"{fastest / unit:.2f}",
            f"{rows / fastest / 1e6:.1f}", len(found),
        )  # fmt: skip
    start = time.perf_counter()
    everything.compute()
    lines += [*table.lines, "", f"compute() takes {1e3 * (time.perf_counter() - start):.0f} ms."]
    print(lines[-1])
    return lines


def memory(classes: int, *, huge: bool) -> list[str]:
    """Anonymous memory after more and more rows, above that before the first update."""
    logits, targets = sample(BATCH, classes)
    targets_of_rows = [10**power for power in range(5, 9 if huge else 8)]
    table = Table("what", *(f"MiB after {rows:.0e} rows" for rows in targets_of_rows))
    kinds: dict[str, Callable[[], Any]] = {
        "TopLabelSums": TopLabelSums,
        "CalibrationSums": lambda: CalibrationSums(classes),
        "torchmetrics ECE": lambda: MulticlassCalibrationError(classes, n_bins=15),
    }
    for name, make in kinds.items():
        before = anonymous_memory()
        metric = make()
        found = []
        for less, rows in itertools.pairwise([0, *targets_of_rows]):
            for _ in range((rows - less) // BATCH):
                metric.update(logits, targets)
            found.append(f"{anonymous_memory() - before:.0f}")
        table.add(name, *found)
        del metric
    return table.lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20, help="for the times, all together")
    parser.add_argument("--huge", action="store_true", help="memory up to 1e8 rows")
    parser.add_argument("--out", type=Path, help="write the tables here, too")
    args = parser.parse_args()
    top = machine_header("torchmetrics")
    print(top)
    lines = memory(args.classes, huge=args.huge)  # first: freed memory would be used again
    lines += ["", *speed(args.rows, args.classes, args.seconds)]
    if args.out:
        args.out.write_text("\n".join([top, "", *lines]) + "\n")


if __name__ == "__main__":
    main()
