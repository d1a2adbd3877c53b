"""How statistics over clustered teachers cover, cry wolf and find, on simulated pools.

    OMP_NUM_THREADS=1 python benchmarks/across_coverage.py    # some 3 minutes of one core

Normal variables; families of these sizes; a share ICC of each variance is the family's; the same
correlations hold between and within families. Writes results/study_coverage/across.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _machine import machine_header
from scipy import stats

from temperance.studies.statistics.error_or_accuracy import compare_with_accuracy
from temperance.studies.statistics.families import correlate, pearson, spearman

OUT = Path(__file__).parent / "results" / "study_coverage" / "across.md"
POOLS, COMPARISONS = 800, 500
RESAMPLES = 499
SIZES = {
    "5 families (4, 4, 3, 3, 3)": (4, 4, 3, 3, 3),
    "8 of 3": (3,) * 8,
    "8 (1, 1, 1, 2, 2, 3, 5, 9)": (1, 1, 1, 2, 2, 3, 5, 9),
    "12 of 2": (2,) * 12,
    "17 of 1": (1,) * 17,
    "24 of 3": (3,) * 24,
}
COMPARED = {name: SIZES[name] for name in list(SIZES)[:4]}
CORRELATIONS = ((0.0, 0.5), (0.0, 0.8), (-0.7, 0.5), (-0.9, 0.8))
TRIPLES = ((0.7, 0.7, 0.75), (0.0, 0.0, 0.3), (0.9, 0.75, 0.7), (0.9, 0.3, 0.3))


def pools(
    sizes: tuple[int, ...], correlations: np.ndarray, icc: float, n: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    families = np.repeat(np.arange(len(sizes)), sizes)
    root = np.linalg.cholesky(correlations)
    for _ in range(n):
        shared = rng.standard_normal((len(sizes), len(root))) @ root.T
        own = rng.standard_normal((len(families), len(root))) @ root.T
        yield math.sqrt(icc) * shared[families] + math.sqrt(1 - icc) * own, families


def resampled_families(
    x: np.ndarray, y: np.ndarray, families: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Pearson's r of resampled families, from each family's sums."""
    columns = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y])
    sums = np.array([np.bincount(families, column) for column in columns]).T
    groups = len(sums)
    drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES) @ sums
    n, sx, sy, sxx, syy, sxy = drawn.T
    spread = np.maximum((sxx - sx**2 / n) * (syy - sy**2 / n), 1e-300)
    return (sxy - sx * sy / n) / np.sqrt(spread)


def coverage() -> Iterator[list[str]]:
    rng = np.random.default_rng(1)
    for name, sizes in SIZES.items():
        for r, icc in CORRELATIONS:
            hits: dict[str, list[bool]] = {way: [] for way in ("naive", "boot", "ours", "ranks")}
            wolf: dict[str, list[bool]] = {way: [] for way in ("naive", "ours")}
            rank_r = 6 / math.pi * math.asin(r / 2)
            for drawn, families in pools(sizes, np.array([[1, r], [r, 1]]), icc, POOLS):
                x, y = drawn.T
                naive = stats.pearsonr(x, y)
                ends = naive.confidence_interval(0.95)
                ours, ranks = (correlate(s, x, y, families) for s in (pearson, spearman))
                low, high = np.quantile(resampled_families(x, y, families, rng), [0.025, 0.975])
                hits["naive"].append(ends.low <= r <= ends.high)
                hits["boot"].append(low <= r <= high)
                hits["ours"].append(ours.low <= r <= ours.high)
                hits["ranks"].append(ranks.low <= rank_r <= ranks.high)
                wolf["naive"].append(naive.pvalue < 0.05)
                wolf["ours"].append(ours.p < 0.05)
            tested = len(sizes) >= 8
            yield [
                *(name, f"{r:g}", f"{icc:g}"),
                *(percent(values) for values in hits.values()),
                percent(wolf["naive"]),
                percent(wolf["ours"]) if tested else "no p",
            ]


def comparisons() -> Iterator[list[str]]:
    for name, sizes in COMPARED.items():
        for error, accuracy, between in TRIPLES:
            truth = np.array([[1, between, error], [between, 1, accuracy], [error, accuracy, 1]])
            for icc in (0.5, 0.8):
                covered, clear, tests, williams, zou = ([] for _ in range(5))
                for drawn, families in pools(sizes, truth, icc, COMPARISONS):
                    x1, x2, y = drawn.T
                    found = compare_with_accuracy(-x1, x2, y, families)
                    covered.append(found.low <= error - accuracy <= found.high)
                    clear.append(found.direction != 0)
                    if found.footnote:
                        note = found.footnote
                        tests.append(found.p < 0.05)
                        williams.append(note.williams_p < 0.05)
                        zou.append(note.zou_low <= error - accuracy <= note.zou_high)
                yield [
                    *(name, f"{error:g} / {accuracy:g} / {between:g}", f"{icc:g}"),
                    percent(covered),
                    percent(zou) if zou else "–",
                    percent(clear),
                    *(percent(values) if values else "no p" for values in (tests, williams)),
                ]


def percent(hits: list[bool]) -> str:
    return f"{100 * np.mean(hits):.1f}"


def table(heading: list[str], rows: Iterator[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
    for row in rows:
        lines.append(f"| {' | '.join(row)} |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def main() -> None:
    start = time.perf_counter()
    errors = {n: 100 * math.sqrt(0.95 * 0.05 / n) for n in (POOLS, COMPARISONS)}
    lines = [
        "# Statistics across clustered teachers: coverage, type I error, power",
        "",
        machine_header("pandas"),
        "Written by `benchmarks/across_coverage.py`. Percent; nominal coverage 95, nominal"
        " rejection 5. ICC: share of each variance that belongs to the family.",
        "",
        "## One correlation",
        "",
        f"{POOLS:,} pools a row (one standard error at 95 %: {errors[POOLS]:.1f}). Intervals of"
        f" Pearson's r: naive (Fisher's z of n points), families resampled ({RESAMPLES} times,"
        " percentile), ours (families left out in turn, Fisher's z, t with families − 1 degrees of"
        " freedom); of Spearman's by the same. Rejected: that r is 0, by Pearson's own p and by"
        " ours; where r is not 0, that is power.",
        "",
    ]
    heading = ["families", "r", "ICC", "naive", "resampled", "ours", "ours, Spearman"]
    lines += table([*heading, "rejected, naive", "rejected, ours"], coverage())
    lines += [
        "## −r(error) against r(accuracy)",
        "",
        f"{COMPARISONS:,} pools a row (one standard error at 95 %: {errors[COMPARISONS]:.1f})."
        " Truth: −r(error, outcome) / r(accuracy, outcome) / r(−error, accuracy). Ours: Zou's way"
        " of joining two intervals, with families left out in turn. Where the first two are equal,"
        " rejections are type I errors, else power.",
        "",
    ]
    heading = ["families", "truth", "ICC", "ours covers", "Zou covers", "ours excludes 0"]
    lines += table([*heading, "ours p < 0.05", "Williams p < 0.05"], comparisons())
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("\n".join(lines))
    print(f"{time.perf_counter() - start:.0f} s, {time.process_time():.0f} s of one core")


if __name__ == "__main__":
    main()
