"""How often the paired statistics of studies cover, cry wolf and find, on simulated studies.

    OMP_NUM_THREADS=1 python benchmarks/study_coverage.py      # two and a half minutes

Every number is a share of simulated studies whose truth is known, with its exact 95 % binomial
interval. Differences are in percentage points.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from _machine import machine_header
from scipy import special, stats

from temperance.studies.statistics.crossed import CrossedVariance, crossed_variance
from temperance.studies.statistics.mixed import mixed_effect
from temperance.studies.statistics.paired import paired_difference, required

OUT = Path(__file__).parent / "results" / "study_coverage" / "paired.md"
TEACHER, SEED, SEEDS = 0.3, 0.4, 5  # sds of differences in points, and students per teacher
EFFECT = 0.4
ROWS = 300


def share(hits: list[bool]) -> str:
    """In percent, with the exact binomial interval."""
    ends = stats.binomtest(int(sum(hits)), len(hits)).proportion_ci(method="exact")
    return f"{100 * np.mean(hits):.1f} ({100 * ends.low:.1f}–{100 * ends.high:.1f})"


def table(rows: Iterator[dict[str, object]]) -> list[str]:
    """Markdown, with the columns of the first row."""
    found = list(rows)
    names = list(found[0])
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for row in found:
        lines.append("| " + " | ".join(str(row.get(name, "–")) for name in names) + " |")
    return lines


def teachers(simulations: int) -> Iterator[dict[str, object]]:
    """Independent teachers, five seeds each."""
    shapes = {
        "normal": lambda rng, size: rng.normal(size=size),
        "skewed exponential": lambda rng, size: rng.exponential(size=size) - 1,
    }
    for shape, draw in shapes.items():
        for count in (5, 6, 8, 12):
            rng = np.random.default_rng([count, len(shape)])
            drawn = TEACHER * draw(rng, (simulations, count, 1))
            drawn = drawn + SEED * rng.normal(size=(simulations, count, SEEDS))
            null = [paired_difference(study.mean(1)) for study in drawn]
            real = [paired_difference(study.mean(1) + EFFECT) for study in drawn]
            naive = stats.ttest_1samp(drawn.reshape(simulations, -1), 0, axis=1).pvalue
            yield {
                "teacher effects": shape,
                "teachers": count,
                "n": simulations,
                "interval covers": share([f.low <= EFFECT <= f.high for f in real]),
                "t-test cries wolf": share([f.p < 0.05 for f in null]),
                "sign flip cries wolf": "–"
                if count < 6
                else share([f.p_sign_flip < 0.05 for f in null]),
                "seeds as replicates cry wolf": share(list(naive < 0.05)),
                f"t-test finds {EFFECT:g}": share([f.p < 0.05 for f in real]),
            }


def needed(simulations: int) -> Iterator[dict[str, object]]:
    """Power at the number of replicates that `required` names."""
    for effect in (1.5, 1.2, 1.0, 0.8):
        count = required(1.0, effect)
        drawn = np.random.default_rng(count).normal(effect, 1, size=(simulations, count))
        found = [paired_difference(study) for study in drawn]
        yield {
            "effect (sds)": effect,
            "required": count,
            "n": simulations,
            "t-test finds it": share([f.p < 0.05 for f in found]),
            "sign flip finds it": share([f.p_sign_flip < 0.05 for f in found]),
        }


def families(simulations: int) -> Iterator[dict[str, object]]:
    """Teachers of few families; sd 1 within and between together; an effect of one sd."""
    unequal = {5: [1, 1, 2, 3, 8], 8: [1, 1, 1, 2, 2, 3, 6, 8], 12: [*[1] * 6, 2, 2, 3, 5, 8, 10]}
    for count, sizes in unequal.items():
        for name, each in (("3 each", [3] * count), (f"{min(sizes)}–{max(sizes)}", sizes)):
            for correlation in (0.0, 0.5, 0.8):
                codes = np.repeat(np.arange(count), each)
                rng = np.random.default_rng([*each, int(10 * correlation)])
                drawn = math.sqrt(correlation) * rng.normal(size=(simulations, count))[:, codes]
                within = rng.normal(size=(simulations, codes.size))
                drawn = drawn + math.sqrt(1 - correlation) * within
                null = [paired_difference(study, codes) for study in drawn]
                real = [paired_difference(study + 1, codes) for study in drawn]
                naive = stats.ttest_1samp(drawn, 0, axis=1).pvalue
                yield {
                    "families": count,
                    "teachers": name,
                    "ICC": correlation,
                    "n": simulations,
                    "interval covers": share([f.low <= 1 <= f.high for f in real]),
                    "t-test cries wolf": share([f.p < 0.05 for f in null]),
                    "sign flip cries wolf": "–"
                    if count < 6
                    else share([f.p_sign_flip < 0.05 for f in null]),
                    "families ignored cry wolf": share(list(naive < 0.05)),
                    "t-test finds one sd": share([f.p < 0.05 for f in real]),
                }


# Shares of a latent normal's variance that are teachers' (half of it their families', where there
# are any) and rows'; the rest is chance. A row is gained (+100) or lost (−100) where the latent
# exceeds its thresholds, so that truths are exact.
SOURCES = {
    "teachers": (0.30, 0.0),
    "teachers and rows": (0.05, 0.30),
    "rows": (0.0, 0.80),
    "chance": (0.0, 0.0),
}
GAIN, LOSS = 1.4, 1.6


def new_data(simulations: int) -> Iterator[dict[str, object]]:
    """Intervals for new teachers and new test rows."""
    truth = 100 * float(special.ndtr(-GAIN) - special.ndtr(-LOSS))
    designs = [(count, 1, "same") for count in (5, 6, 8, 12)]
    designs += [(8, 1, "halves"), (5, 3, "same"), (8, 3, "same"), (8, 3, "halves")]
    for count, each, test_sets in designs:
        codes = np.repeat(np.arange(count), each)
        for number, (source, (teacher, row)) in enumerate(SOURCES.items()):
            of_family = teacher / 2 if each > 1 else 0.0
            sds = np.sqrt([of_family, teacher - of_family, row, 1 - teacher - row])
            rng = np.random.default_rng([count, each, len(test_sets), number])
            draws = resampled(count, rng), resampled(ROWS, rng)
            hits: dict[str, list[bool]] = {}
            for _ in range(simulations):
                latent = sds[0] * rng.normal(size=(count, 1))[codes]
                latent = latent + sds[1] * rng.normal(size=(codes.size, 1))
                latent = latent + sds[2] * rng.normal(size=ROWS)
                latent = latent + sds[3] * rng.normal(size=(codes.size, ROWS))
                rows = 100.0 * ((latent > GAIN).astype(int) - (latent < -LOSS))
                if test_sets == "halves":
                    rows[rng.random(rows.shape) < 0.5] = np.nan
                found = paired_difference(np.nanmean(rows, axis=1), codes, rows)
                error = abs(found.mean - truth)
                other = other_half_widths(crossed_variance(rows, codes))
                ours = found.new_high - found.mean
                hits.setdefault("interval covers", []).append(error <= ours)
                for name, half in other.items():
                    hits.setdefault(name, []).append(error <= half)
                if test_sets == "same":
                    low, high = crossed_bootstrap(rows, each, *draws)
                    hits.setdefault("percentile bootstrap", []).append(low <= truth <= high)
                hits.setdefault("this test set's", []).append(found.low <= truth <= found.high)
            yield {
                "clusters": count,
                "teachers in each": each,
                "test sets": test_sets,
                "varies": source,
                "n": simulations,
                **{name: share(found) for name, found in hits.items()},
            }


def other_half_widths(found: CrossedVariance) -> dict[str, float]:
    """The same variance with other quantiles, for comparison."""
    squares = np.array([found.from_clusters, found.from_rows, found.in_both]) ** 2
    of_clusters, of_rows = found.clusters - 1, found.rows - 1
    freedom = found.total**2 / (squares / [of_clusters, of_rows, of_clusters * of_rows]).sum()
    return {
        "with clusters − 1": float(stats.t.ppf(0.975, of_clusters)) * math.sqrt(found.total),
        "with Satterthwaite's": float(stats.t.ppf(0.975, freedom)) * math.sqrt(found.total),
    }


def resampled(size: int, rng: np.random.Generator, draws: int = 400) -> np.ndarray:
    """How often each of `size` things is in each draw of as many."""
    return rng.multinomial(size, np.full(size, 1 / size), size=draws)


def crossed_bootstrap(
    rows: np.ndarray, each: int, of_clusters: np.ndarray, of_rows: np.ndarray
) -> np.ndarray:
    """Percentile interval of resampled clusters × resampled rows of one test set."""
    means = rows.reshape(-1, each, rows.shape[1]).mean(1)
    drawn = ((of_clusters @ means) * of_rows).sum(1) / means.size
    return np.quantile(drawn, [0.025, 0.975])


def mixed(simulations: int) -> Iterator[dict[str, object]]:
    """The mixed model as sensitivity, on students of eight families."""
    for each, seeds in ((1, 3), (3, 1), (3, 2)):
        for sd in (0.0, TEACHER):
            rng = np.random.default_rng([each, seeds, int(10 * sd)])
            fits, errors = [], []
            for _ in range(simulations):
                students = students_of(rng, each, seeds, sd)
                fit = mixed_effect(students, "calibrated", "raw")
                if fit is None:
                    continue
                fits.append(fit)
                means = students.groupby(["family", "teacher", "arm"])["accuracy"].mean().unstack()
                paired = 100 * (means["calibrated"] - means["raw"]).groupby("family").mean()
                errors.append(paired.std() / math.sqrt(len(paired)))
            normal, t = stats.norm.ppf(0.975), stats.t.ppf(0.975, 7)
            ratios = [fit.se / error for fit, error in zip(fits, errors, strict=True)]
            off = [abs(fit.estimate - EFFECT) / fit.se for fit in fits]
            yield {
                "teachers in each family": each,
                "seeds": seeds,
                "sd of effects": sd,
                "n": len(fits),
                "converged": share([fit.converged for fit in fits]),
                "± 1.96 se covers": share([x <= normal for x in off]),
                "± t(7) se covers": share([x <= t for x in off]),
                "median of se / paired se": f"{np.median(ratios):.3f}",
            }


def students_of(rng: np.random.Generator, each: int, seeds: int, sd: float) -> pd.DataFrame:
    """Students of eight families: levels vary by 1 point, effects by `sd` in both layers."""
    cells = []
    for family in range(8):
        level, gain = rng.normal(), EFFECT + sd * rng.normal()
        for teacher in range(each):
            base, own = level + 0.5 * rng.normal(), gain + (sd * rng.normal() if each > 1 else 0)
            for arm, shift in (("raw", 0.0), ("calibrated", own)):
                accuracies = (80 + base + shift + SEED * rng.normal(size=seeds)) / 100
                cells += [(family, f"{family}-{teacher}", arm, value) for value in accuracies]
    return pd.DataFrame(cells, columns=["family", "teacher", "arm", "accuracy"])


SECTIONS = {
    teachers: (
        2000,
        "Teachers as replicates",
        f"Differences of teachers have sd {TEACHER:g}, of their {SEEDS} seeds {SEED:g} points. "
        "“Cries wolf”: p < 0.05 without an effect.",
    ),
    needed: (2000, "Replicates needed for 80 % power", "Normal differences."),
    families: (
        1000,
        "Families as replicates",
        "Statistics over family means. ICC: correlation of two teachers of one family.",
    ),
    new_data: (
        1200,
        "The interval for new data",
        f"{ROWS} test rows, gained, lost or equal; “halves”: each teacher's test set is a random "
        "half of them. `paired_difference` uses the first column; the others are what it could "
        "have used, the last is its interval for this test set, which is about other teachers "
        "only. Percentile bootstrap: 400 draws of clusters × rows.",
    ),
    mixed: (
        50,
        "The mixed model",
        "Eight families; sensitivity only. “Converged” excludes fits with a variance at 0, of "
        "which the standard error then takes no account.",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the simulations")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    lines = [machine_header("statsmodels"), "", *__doc__.split("\n\n")[2].strip().splitlines()]
    start = time.process_time()
    for simulate, (simulations, title, words) in SECTIONS.items():
        section = table(simulate(simulations // 10 if args.quick else simulations))
        lines += ["", f"## {title}", "", words, "", *section]
        print("\n".join(section), f"{time.process_time() - start:.0f} s", sep="\n", flush=True)
    lines += ["", f"{time.process_time() - start:.0f} s on one core."]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
