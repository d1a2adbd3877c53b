"""Whether the alignment test keeps its promises, on simulated studies whose slope is known.

    OMP_NUM_THREADS=1 python benchmarks/alignment_coverage.py   # → results/study_coverage

*Curves*: one teacher's students on the grid 0.5, 0.71, …, 16; the best softening of each shape is
known. *Lines*: log T and log optima with their errors, drawn directly. *Studies*: teachers whose
curves have their maximum at a known multiple of T or at one constant, students drawn about them,
and the whole analysis. *Units*: the same students, one common curve.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _machine import machine_header
from scipy.stats import binomtest

from temperance.studies.statistics.alignment import Alignment, alignment_of
from temperance.studies.statistics.errors_in_variables import straight_lines
from temperance.studies.statistics.family_bootstrap import resampled_families
from temperance.studies.statistics.optimum import Optimum, softening_optimum
from temperance.studies.statistics.units import common_curve

RESULTS = Path(__file__).parent / "results" / "study_coverage" / "alignment.md"
SOFTENINGS = 2.0 ** np.arange(-1, 4.5, 0.5)
GRID = np.log(SOFTENINGS)
LEVEL_SD = 0.5  # of a student seed over the whole grid, in points
SE_LOG_T = 0.07
PARABOLA_WIDTHS = (0.5, 1.0)

Curve = Callable[[np.ndarray], np.ndarray]


def bell(height: float, width: float) -> Curve:
    return lambda u: height * np.exp(-(u**2) / (2 * width**2))


def skewed(bend: float) -> Curve:
    """Slow on one side, steep on the other (linex); the maximum is at 0."""
    return lambda u: -0.6 * (np.exp(bend * u) - bend * u - 1)


def shoulder(u: np.ndarray) -> np.ndarray:
    """Flat at low softening, a rise, a broad maximum, a fall at high softening."""
    return 1.5 / (1 + np.exp(-(u + 0.9) / 0.35)) - 1.5 * np.logaddexp(0, (u - 0.49) / 0.5)


FLAT: Curve = np.zeros_like
SHAPES: dict[str, Curve] = {
    "bell": bell(3, 1.0),
    "broad bell": bell(3, 1.8),
    "low bell": bell(2, 1.0),
    "steep at high τ": skewed(1.2),
    "steep at low τ": skewed(-1.2),
    "shoulder": shoulder,
    "flat": FLAT,
}


@cache
def summit(curve: Curve) -> float:
    fine = np.linspace(-3, 3, 60_001)
    return float(fine[np.argmax(curve(fine))]) if curve is not FLAT else 0.0


def students(
    curve: Curve, best: float, seeds: int, sd: float, rng: np.random.Generator
) -> np.ndarray:
    """Accuracies in points, seeds × grid, with the curve's maximum at `best`."""
    truth = curve(GRID - best + summit(curve))
    return 80 + truth + rng.normal(0, LEVEL_SD, (seeds, 1)) + rng.normal(0, sd, (seeds, len(GRID)))


def parabola(accuracies: np.ndarray, width: float) -> tuple[float, float]:
    """Optimum and its error by a locally weighted parabola: the method that is not used."""
    seeds, grid = accuracies.shape
    rest = accuracies - accuracies.mean(0) - accuracies.mean(1, keepdims=True) + accuracies.mean()
    noise = math.sqrt((rest**2).sum() / ((seeds - 1) * (grid - 1)) / seeds)
    best = (-math.inf, 0.0, math.inf)
    for place in np.linspace(GRID[0], GRID[-1], 121):
        u = GRID - place
        terms = np.stack([np.ones(grid), u, u * u], 1)
        weighted = (terms * np.exp(-0.5 * (u / width) ** 2)[:, None]).T
        solution = np.linalg.solve(weighted @ terms, weighted)
        value, _, bend = solution @ accuracies.mean(0)
        error = noise * np.linalg.norm(solution[1]) / max(-2 * bend, 1e-9)
        best = max(best, (value, place, error))
    return best[1], best[2]


def share(count: int, n: int) -> str:
    """Percentage and its exact 95 % interval."""
    ends = binomtest(count, n).proportion_ci(method="exact")
    return f"{100 * count / n:.1f} ({100 * ends.low:.0f}–{100 * ends.high:.0f})"


def covered(found: np.ndarray, truth: float) -> str:
    """Of columns value and error."""
    if not len(found):
        return "–"
    return share(int((np.abs(found[:, 0] - truth) <= 1.96 * found[:, 1]).sum()), len(found))


def curves(n: int) -> Iterator[list[str]]:
    yield [
        *("curve", "best τ", "seeds", "sd of a student", "edge %", "bias", "sd", "mean se"),
        *("covers %", *(f"parabola {width:g} covers %" for width in PARABOLA_WIDTHS)),
    ]
    cases = [(name, 2.7) for name in SHAPES] + [("bell", 7.4), ("shoulder", 0.9), ("bell", 0.2)]
    for name, tau in cases:
        for seeds, sd in ((3, 0.2), (2, 0.5), (1, 0.2)):
            rng = np.random.default_rng([len(name), seeds])
            drawn = [students(SHAPES[name], math.log(tau), seeds, sd, rng) for _ in range(n)]
            found = [softening_optimum(SOFTENINGS, accuracies) for accuracies in drawn]
            inside = np.array([(o.log_softening, o.se) for o in found if o.edge is None])
            inside = inside.reshape(-1, 2)
            row = [name, f"{tau:g}", str(seeds), f"{sd:g}", share(n - len(inside), n)]
            if name == "flat" or len(inside) < n / 10:
                yield [*row, *("–",) * (4 + len(PARABOLA_WIDTHS))]
                continue
            away = inside[:, 0] - math.log(tau)
            row += [f"{away.mean():+.2f}", f"{away.std():.2f}", f"{inside[:, 1].mean():.2f}"]
            row.append(covered(inside, math.log(tau)))
            for width in PARABOLA_WIDTHS:
                others = [parabola(a, width) for a in drawn[: n // 2]] if seeds > 1 else []
                row.append(covered(np.array(others), math.log(tau)))
            yield row


class Pool(NamedTuple):
    """How teachers are drawn."""

    families: int
    size: int
    """Teachers per family; 0 for 1, 2, 4 in turn."""

    @property
    def label(self) -> str:
        return f"{self.families} × {self.size or '1, 2, 4'}"

    def draw(self, slope: float, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Family, log T and log best softening of each teacher, both with families alike."""
        sizes = np.resize([self.size] if self.size else [1, 2, 4], self.families)
        family = np.repeat(np.arange(self.families), sizes)
        log_t = 0.7 + clustered(0.5, 0.8, family, rng)
        return family, log_t, 0.9 + slope * (log_t - 0.7) + clustered(0.2, 0.6, family, rng)


def clustered(
    sd: float, correlation: float, family: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Normal numbers with that correlation within a family."""
    shared = rng.standard_normal(family.max() + 1)[family]
    return sd * (
        math.sqrt(correlation) * shared
        + math.sqrt(1 - correlation) * rng.standard_normal(len(family))
    )


class Points(NamedTuple):
    """Log T and log optima of teachers, with their errors."""

    log_t: np.ndarray
    se_log_t: np.ndarray
    best: np.ndarray
    se_best: np.ndarray
    family: np.ndarray

    @classmethod
    def draw(cls, pool: Pool, slope: float, rng: np.random.Generator) -> Points:
        family, log_t, best = pool.draw(slope, rng)
        se_t, se_best = np.full(len(best), SE_LOG_T), np.exp(rng.normal(-1.6, 0.5, len(best)))
        return cls(rng.normal(log_t, se_t), se_t, rng.normal(best, se_best), se_best, family)

    def aligned(self) -> Alignment:
        optima = [
            Optimum(float(best), float(se), None, 33)
            for best, se in zip(self.best, self.se_best, strict=True)
        ]
        return alignment_of(optima, self.log_t, self.se_log_t, self.family.tolist())

    def percentiles_hold(self, slope: float) -> bool:
        """Whether the percentiles of the same resamples do: the interval that is not used."""
        counts = resampled_families(int(self.family.max()) + 1)[1:, self.family]
        resampled = straight_lines(
            self.log_t, self.best, self.se_log_t, self.se_best, counts=counts
        ).slope
        low, high = np.nanquantile(resampled, [0.025, 0.975])
        return bool(low <= slope <= high)


def described(found: list[Alignment], slope: float) -> list[str]:
    """Bias, coverage, rejections of slope 0 and readings of many studies."""
    n = len(found)
    slopes = np.array([f.slope.value for f in found])
    ps = [f.p for f in found if f.p is not None]
    words = [f.reads_as for f in found]
    widths = [f.slope.high - f.slope.low for f in found]
    return [
        f"{slopes.mean() - slope:+.2f}",
        f"{slopes.std():.2f}",
        f"{np.median(widths):.2f}",
        share(sum(f.slope.holds(slope) for f in found), n),
        share(sum(p <= 0.05 for p in ps), len(ps)) if ps else "–",
        *(
            f"{100 * words.count(word) / n:.0f}"
            for word in ("T is the unit", "one constant does as well", "undecided", "neither")
        ),
    ]


DESCRIBED = (
    *("bias", "sd", "median width", "covers %", "p ≤ 0.05 %"),
    *("T is the unit %", "one constant %", "undecided %", "neither %"),
)


def lines(n: int) -> Iterator[list[str]]:
    yield ["families × teachers", "slope", *DESCRIBED, "percentiles cover %"]
    for pool in (Pool(5, 1), Pool(5, 3), Pool(8, 1), Pool(8, 2), Pool(8, 0), Pool(12, 2)):
        for slope in (0.0, 1.0):
            rng = np.random.default_rng(pool)
            drawn = [Points.draw(pool, slope, rng) for _ in range(n)]
            percentiles = sum(points.percentiles_hold(slope) for points in drawn)
            found = [points.aligned() for points in drawn]
            yield [pool.label, f"{slope:g}", *described(found, slope), share(percentiles, n)]


class Study(NamedTuple):
    """What a simulated study measures of its teachers."""

    log_t: np.ndarray
    family: list[int]
    accuracies: list[np.ndarray]

    @classmethod
    def draw(
        cls, pool: Pool, slope: float, seeds: int, sd: float, rng: np.random.Generator
    ) -> Study:
        family, log_t, best = pool.draw(slope, rng)
        shapes = [shape for shape in SHAPES.values() if shape is not FLAT]
        drawn = [students(shapes[rng.integers(len(shapes))], b, seeds, sd, rng) for b in best]
        return cls(log_t + rng.normal(0, SE_LOG_T, len(log_t)), family.tolist(), drawn)

    def aligned(self) -> Alignment:
        optima = [softening_optimum(SOFTENINGS, accuracies) for accuracies in self.accuracies]
        return alignment_of(optima, self.log_t, np.full(len(optima), SE_LOG_T), self.family)


STUDIES = [
    (pool, slope, seeds, sd)
    for pool, seeds, sd in ((Pool(8, 2), 3, 0.2), (Pool(8, 2), 3, 0.5), (Pool(12, 1), 2, 0.5))
    for slope in (0.0, 1.0)
]


def studies(n: int) -> Iterator[list[str]]:
    yield [
        *("families × teachers", "seeds", "sd of a student", "slope"),
        *(*DESCRIBED, "left out", "factor (true 1.22) covers %"),
    ]
    for pool, slope, seeds, sd in STUDIES:
        rng = np.random.default_rng([*pool, seeds])
        found = [Study.draw(pool, slope, seeds, sd, rng).aligned() for _ in range(n)]
        factor = math.exp(0.2)
        yield [
            *(pool.label, str(seeds), f"{sd:g}", f"{slope:g}", *described(found, slope)),
            f"{np.mean([f.excluded for f in found]):.1f}",
            share(sum(f.factor.holds(factor) for f in found), n) if slope else "",
        ]


def units(n: int) -> Iterator[list[str]]:
    yield [
        *("families × teachers", "seeds", "sd of a student", "slope"),
        *("RMSE over τ", "RMSE over τ / T", "difference", "sd", "covers its mean %"),
        *("T better %", "absolute better %"),
    ]
    for pool, slope, seeds, sd in STUDIES:
        rng = np.random.default_rng([*pool, seeds])
        found = []
        for _ in range(n):
            study = Study.draw(pool, slope, seeds, sd, rng)
            means = np.stack([accuracies.mean(0) for accuracies in study.accuracies])
            found.append(common_curve(SOFTENINGS, means, study.log_t, study.family))
        differences = np.array([f.difference.value for f in found])
        yield [
            *(pool.label, str(seeds), f"{sd:g}", f"{slope:g}"),
            f"{np.mean([f.absolute for f in found]):.2f}",
            f"{np.mean([f.relative for f in found]):.2f}",
            f"{differences.mean():+.2f}",
            f"{differences.std():.2f}",
            share(sum(f.difference.holds(differences.mean()) for f in found), n),
            share(sum(f.difference.low > 0 for f in found), n),
            share(sum(f.difference.high < 0 for f in found), n),
        ]


TABLES = {
    "The optimum of one teacher": (curves, 100),
    "The line, from optima with known errors": (lines, 200),
    "The whole analysis, from students": (studies, 60),
    "The common curve": (units, 100),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the simulations")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    begin = time.perf_counter()
    parts = ["# Simulated alignment tests", machine_header()]
    for title, (table, n) in TABLES.items():
        n = n // 10 if args.quick else n
        rows = list(table(n))
        widths = ["---"] * len(rows[0])
        text = "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], widths, *rows[1:]))
        parts.append(f"## {title}\n\n{n} simulations per row.\n\n{text}")
        print(parts[-1], f"\n{time.perf_counter() - begin:.0f} s\n", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
