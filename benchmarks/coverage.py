"""How often the intervals cover and the tests of calibration reject, on models of known error.

    OMP_NUM_THREADS=1 python benchmarks/coverage.py            # resumes what is in results/coverage
    OMP_NUM_THREADS=1 python benchmarks/coverage.py --cost     # seconds by rows and classes

A population is finite, so its truths are exact: 65,536 rows of 10 logits, of each of which it is
known how probable every label is. Samples are drawn from it with replacement. True ECE is
E |confidence − probability of a hit|, without bins.

Shapes of miscalibration: `shift`, every confidence too high by the ECE; `temperature`, labels of
logits / T; `alternating`, too high and too low in turn over six stretches of confidence, with a
signed gap of 0. Mean confidence is 0.75; 0.94 for the shapes named `sharp`. Groups have 10 rows:
their confidences correlate, and their hits do by a latent normal with correlation 0.5.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _machine import machine_header
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_softmax, logsumexp, ndtr, softmax
from scipy.stats import binomtest

from temperance.calibration import ace_floor_mean, ace_power, fit_temperature
from temperance.calibration.floors import label_floors, top_label_floors
from temperance.calibration.intervals import Interval, debiased_interval_of, intervals_of
from temperance.calibration.metrics.bins import binned_error
from temperance.calibration.metrics.scores import score_rows

RESULTS = Path(__file__).parent / "results" / "coverage"
ROWS, CLASSES, BINS = 2**16, 10, 15
GROUP = 10
CORRELATION = 0.5  # of the latent normals behind hits, and behind confidences, of a group
ERRORS = (0.0, 0.01, 0.03, 0.1)
REPLICATES = {300: 400, 3000: 400, 30000: 200}
BOOTSTRAP = {300: 1000, 3000: 400, 30000: 200}  # fewer only to save time: the default is 1000
TEST_REPLICATES = {300: 400, 3000: 400}


class Case(NamedTuple):
    """A population, and how it is sampled."""

    shape: str
    ece: float
    sharp: bool = False
    grouped: bool = False

    @property
    def name(self) -> str:
        return f"{'sharp ' if self.sharp else ''}{self.shape if self.ece else 'calibrated'}"


SHAPES = ("shift", "temperature", "alternating")
CASES = [
    Case("shift", 0.0),
    *(Case(shape, error) for shape in SHAPES for error in ERRORS[1:]),
    *(Case("shift", error, sharp=True) for error in ERRORS),
    *(Case("temperature", error, grouped=True) for error in ERRORS),
]
TESTED = [
    Case("shift", 0.0),
    Case("shift", 0.0, sharp=True),
    Case("temperature", 0.0, grouped=True),
    Case("temperature", 0.03),
    Case("temperature", 0.03, grouped=True),
]
CONTRASTED = [Case("shift", error) for error in ERRORS]
SIZES = [
    *((1000, 10), (10_000, 10), (100_000, 10), (1_000_000, 10)),
    *((10_000, 100), (100_000, 100), (10_000, 1000)),
]


class Population:
    """Rows in order of confidence, and what is true of them."""

    def __init__(self, case: Case) -> None:
        rng = np.random.default_rng(0)
        logits = rng.standard_normal((ROWS, CLASSES))
        low, high = (3, 13) if case.sharp else (1, 8)
        logits[np.arange(ROWS), rng.integers(CLASSES, size=ROWS)] += rng.uniform(low, high, ROWS)
        logits = logits[np.argsort(softmax(logits, 1).max(1))].astype(np.float32).astype(float)
        self.logits = torch.tensor(logits, dtype=torch.float32)
        probabilities = softmax(logits, 1)
        self.predicted = logits.argmax(1)
        self.confidence = probabilities.max(1)
        temperature = 1.0
        if case.ece and case.shape == "temperature":
            temperature = brentq(lambda t: self._error(softmax(logits / t, 1)) - case.ece, 1, 30)
        labels = softmax(logits / temperature, 1)
        self.hit = labels[np.arange(ROWS), self.predicted]
        if case.ece and case.shape == "shift":
            self.hit = np.clip(self.confidence - case.ece, 0, 1)
        if case.ece and case.shape == "alternating":
            self.hit = self.confidence - self._alternating(case.ece)
        others = labels.copy()
        others[np.arange(ROWS), self.predicted] = 0
        others /= others.sum(1, keepdims=True)
        self.others = others.cumsum(1)
        labels = others * (1 - self.hit)[:, None]
        labels[np.arange(ROWS), self.predicted] = self.hit
        self.truth = self._truth(logits, probabilities, labels)
        assert abs(self.truth["ece"] - case.ece) < 1e-3, (
            case,
            self.truth,
        )  # hits are probabilities

    def _error(self, labels: np.ndarray) -> float:
        hit = labels[np.arange(ROWS), self.predicted]
        return float(np.abs(self.confidence - hit).mean())

    def _alternating(self, ece: float) -> np.ndarray:
        sign = np.sign(np.sin(2 * np.pi * 3 * (np.arange(ROWS) + 0.5) / ROWS))
        room = np.minimum(self.confidence, 1 - self.confidence)
        surplus = np.zeros(ROWS)
        for side in (-1, 1):
            surplus[sign == side] = side * room[sign == side]
            surplus[sign == side] *= ece / 2 / np.mean(room * (sign == side))
        return surplus

    def _truth(
        self, logits: np.ndarray, probabilities: np.ndarray, labels: np.ndarray
    ) -> dict[str, float]:
        surplus = self.confidence - self.hit
        target = (labels * logits).sum(1)
        square = (probabilities**2).sum(1) - 2 * (probabilities * labels).sum(1) + 1
        best = minimize_scalar(
            lambda u: np.mean(logsumexp(logits * np.exp(-u), 1) - np.exp(-u) * target),
            bounds=(-1, 4),
            options={"xatol": 1e-9},
        )
        blocks = np.array_split(surplus, BINS)
        return {
            "accuracy": float(self.hit.mean()),
            "nll": float(-(labels * log_softmax(logits, 1)).sum(1).mean()),
            "brier": float(square.mean()),
            "gap": float(surplus.mean()),
            "log_temperature": float(best.x),
            "l2_binned": math.sqrt(sum(len(b) * b.mean() ** 2 for b in blocks) / ROWS),
            "l2": math.sqrt((surplus**2).mean()),
            "ece": float(np.abs(surplus).mean()),
            "ece_binned": binned_error(
                torch.tensor(self.confidence), torch.tensor(self.hit), n_bins=BINS
            ).total,
        }

    def sample(
        self, n: int, rng: np.random.Generator, *, grouped: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        if grouped:
            group = np.repeat(np.arange(n // GROUP), GROUP)
            rank, luck = (
                ndtr(
                    math.sqrt(CORRELATION) * rng.standard_normal(n // GROUP)[group]
                    + math.sqrt(1 - CORRELATION) * rng.standard_normal(n)
                )
                for _ in range(2)
            )
        else:
            rank, luck = rng.random(n), rng.random(n)
        row = (rank * ROWS).astype(np.int64)
        other = (self.others[row] <= rng.random((n, 1))).sum(1).clip(max=CLASSES - 1)
        target = np.where(luck < self.hit[row], self.predicted[row], other)
        groups = torch.tensor(group) if grouped else None
        return self.logits[row], torch.tensor(target), groups


@cache
def population_of(case: Case) -> Population:
    return Population(case)


def intervals(
    logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor | None
) -> Iterator[tuple[str, str, Interval]]:
    """Quantity, the truth that it is about, interval."""
    n = len(logits)
    scores = score_rows(logits, targets)
    boot = intervals_of(scores, replicates=BOOTSTRAP[n], seed=0, groups=groups)
    yield from ((name, name, interval) for name, interval in boot.items())
    fit = fit_temperature(logits, targets, groups=groups)
    if fit.se_log_temperature is not None:
        centre, half = math.log(fit.temperature), 1.96 * fit.se_log_temperature
        yield "log_temperature", "log_temperature", Interval(centre - half, centre + half)
    debiased = debiased_interval_of(scores, n_bins=BINS, groups=groups)
    yield "l2 of 15 bins", "l2_binned", debiased
    yield "l2 of 15 bins, about the l2 without bins", "l2", debiased
    finer = debiased_interval_of(scores, n_bins=round(n**0.4), groups=groups)
    yield "l2 of n^0.4 bins, about the l2 without bins", "l2", finer


def percentile_of_ece(
    logits: torch.Tensor, targets: torch.Tensor, groups: None
) -> Iterator[tuple[str, str, Interval]]:
    """What the library does not offer, and why."""
    scores = score_rows(logits, targets)
    rows = len(scores.confidence)
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(200):
        drawn = torch.randint(rows, (rows,), generator=generator)
        values.append(
            binned_error(scores.confidence[drawn], scores.correct[drawn], n_bins=BINS).total
        )
    yield (
        "ece of 15 bins, percentile bootstrap (not offered)",
        "ece_binned",
        Interval(*np.quantile(values, [0.025, 0.975])),
    )


class Tally:
    """How often an interval covered, and how often it lay below or above the truth."""

    def __init__(self, truth: float) -> None:
        self.truth, self.n, self.below, self.above, self.width = truth, 0, 0, 0, 0.0

    def add(self, interval: Interval) -> None:
        self.n += 1
        self.below += interval.high < self.truth
        self.above += interval.low > self.truth + 1e-12
        self.width += interval.high - interval.low

    def record(self) -> dict[str, object]:
        covered = self.n - self.below - self.above
        ends = binomtest(covered, self.n).proportion_ci(method="exact")
        return {
            "truth": f"{self.truth:.5g}",
            "replicates": self.n,
            "coverage": f"{covered / self.n:.4f}",
            "low": f"{ends.low:.4f}",
            "high": f"{ends.high:.4f}",
            "too_low": f"{self.below / self.n:.4f}",
            "too_high": f"{self.above / self.n:.4f}",
            "mean_width": f"{self.width / self.n:.4g}",
        }


def cover(
    case: Case, n: int, replicates: int, method: Callable = intervals
) -> Iterator[dict[str, object]]:
    """How often each interval holds the truth."""
    population = population_of(case)
    tallies: dict[tuple[str, str], Tally] = {}
    rng = np.random.default_rng(seed_of("cover", case, n))
    for _ in range(replicates):
        logits, targets, groups = population.sample(n, rng, grouped=case.grouped)
        ways = {"10 rows": groups, "ignored": None} if case.grouped else {"none": None}
        for way, given in ways.items():
            for quantity, truth, interval in method(logits, targets, given):
                key = (way, quantity)
                tallies.setdefault(key, Tally(population.truth[truth])).add(interval)
    for (way, quantity), tally in tallies.items():
        yield {"quantity": quantity, "groups": way, **tally.record()}


def reject(case: Case, n: int, replicates: int) -> Iterator[dict[str, object]]:
    """How often each floor's p-value is at most 0.05."""
    population = population_of(case)
    rng = np.random.default_rng(seed_of("reject", case, n))
    counts: dict[tuple[str, str], int] = {}
    for seed in range(replicates):
        logits, targets, groups = population.sample(n, rng, grouped=case.grouped)
        ways = {"10 rows": groups, "ignored": None} if case.grouped else {"none": None}
        for way, given in ways.items():
            settings = {"n_bins": BINS, "redraws": 99, "seed": seed, "groups": given}
            floors = top_label_floors(score_rows(logits, targets), **settings)
            floors |= label_floors(logits, targets, **settings)
            for metric, floor in floors.items():
                key = (way, metric)
                counts[key] = counts.get(key, 0) + (floor.p_value <= 0.05 + 1e-9)
    for (way, metric), count in counts.items():
        ends = binomtest(count, replicates).proportion_ci(method="exact")
        yield {
            "metric": metric,
            "groups": way,
            "replicates": replicates,
            "rejected": f"{count / replicates:.4f}",
            "low": f"{ends.low:.4f}",
            "high": f"{ends.high:.4f}",
        }


def seed_of(*parts: object) -> int:
    return zlib.crc32(repr(parts).encode())


def fill(path: Path, jobs: dict[tuple[Case, int], int], simulate: Callable) -> None:
    """Append the cells that the table does not hold yet."""
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    done = {(row["population"], row["true_ece"], row["grouped"], row["n"]) for row in rows}
    for (case, n), replicates in jobs.items():
        cell = {
            "population": case.name,
            "true_ece": str(case.ece),
            "grouped": str(case.grouped),
            "n": str(n),
        }
        if tuple(cell.values()) in done:
            continue
        start = time.perf_counter()
        new = [{**cell, **record} for record in simulate(case, n, replicates)]
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, new[0].keys(), lineterminator="\n")
            if not file.tell():
                writer.writeheader()
            writer.writerows(new)
        print(f"{time.perf_counter() - start:6.1f} s", *cell.values(), flush=True)
        for row in new:
            shown = row.get("coverage") or row.get("rejected")
            print("        ", row["groups"], row.get("quantity") or row["metric"], shown)


def seconds(rows: int, classes: int) -> dict[str, object]:
    """What everything takes on one core, with the defaults of the report."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(rows, classes, generator=generator)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    scores = score_rows(logits, targets)
    settings = {"n_bins": BINS, "redraws": 200, "seed": 0}
    found: dict[str, object] = {"rows": rows, "classes": classes}
    for name, function in {
        "bootstrap": lambda: intervals_of(scores, replicates=1000, seed=0),
        "l2_interval": lambda: debiased_interval_of(scores, n_bins=BINS),
        "top_label_floors": lambda: top_label_floors(scores, **settings),
        "label_floors": lambda: label_floors(logits, targets, **settings),
        "ace_floor_mean": lambda: ace_floor_mean(logits),
        "ace_power": lambda: ace_power(logits, targets, temperature=1.0),
    }.items():
        start = time.process_time()
        function()
        found[name] = f"{time.process_time() - start:.2f}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cost", action="store_true", help="measure seconds instead")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the replicates")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    header = machine_header()
    print(header)
    (args.out / ("machine_cost.txt" if args.cost else "machine.txt")).write_text(header + "\n")
    if args.cost:
        torch.set_num_threads(1)
        with (args.out / "cost.csv").open("w", newline="") as file:
            for size in SIZES:
                found = seconds(*size)
                writer = csv.DictWriter(file, found.keys(), lineterminator="\n")
                if not file.tell():
                    writer.writeheader()
                writer.writerow(found)
                print(found, flush=True)
        return
    share = 20 if args.quick else 1
    small = {n: total for n, total in REPLICATES.items() if n <= 3000}
    for table, simulate, cases, totals in (
        ("coverage", cover, CASES, REPLICATES),
        ("tests", reject, TESTED, TEST_REPLICATES),
        ("contrast", partial(cover, method=percentile_of_ece), CONTRASTED, small),
    ):
        jobs = {(case, n): total // share for n, total in totals.items() for case in cases}
        fill(args.out / f"{table}.csv", jobs, simulate)


if __name__ == "__main__":
    main()
