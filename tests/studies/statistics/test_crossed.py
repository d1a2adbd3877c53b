from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from temperance.studies.statistics.crossed import CrossedVariance, crossed_variance

# Ratings of six subjects (rows) by four judges (Shrout & Fleiss 1979, table 2).
RATINGS = np.array(
    [[9, 6, 8, 7, 10, 6], [2, 1, 4, 1, 5, 2], [5, 3, 6, 2, 6, 4], [8, 2, 8, 6, 9, 7]], dtype=float
)


def parts(found: CrossedVariance) -> tuple[float, float, float]:
    return found.from_clusters, found.from_rows, found.in_both


def test_judges_of_shrout_and_fleiss() -> None:
    """Their table 3: mean squares of judges 32.49, of subjects 11.24, of the residual 1.02."""
    found = crossed_variance(RATINGS, np.arange(4))
    assert (found.clusters, found.rows) == (4, 6)
    assert 24 * np.array(parts(found)) == pytest.approx([32.49, 11.24, 1.02], abs=0.005)
    assert found.total == pytest.approx((32.49 + 11.24 - 1.02) / 24, abs=0.001)


@pytest.mark.parametrize("seed", range(3))
def test_one_test_set_for_all_is_the_analysis_of_variance(seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(5, 9))
    teacher, row = np.indices(rows.shape)
    data = pd.DataFrame({"value": rows.ravel(), "teacher": teacher.ravel(), "row": row.ravel()})
    table = anova_lm(ols("value ~ C(teacher) + C(row)", data).fit())
    squares = (table["sum_sq"] / table["df"]).to_numpy()
    assert rows.size * np.array(parts(crossed_variance(rows, np.arange(5)))) == pytest.approx(
        squares
    )


@pytest.mark.parametrize("per_cluster", [1, 3])
def test_brute_force_bootstrap_of_teachers_and_rows(per_cluster: int) -> None:
    """Resampling J of J clusters and I of I rows has exactly the variance below.

    It is smaller by (J − 1) / J in the clusters' part, and adds the interaction that the closed
    form subtracts. The bootstrap's own error: 8,000 draws, relative sd of a variance 1.6 %.
    """
    rng = np.random.default_rng(5)
    draws, clusters, width = 8000, 6, 50
    rows = rng.normal(size=(clusters * per_cluster, width)) + rng.normal(size=width)
    rows += rng.normal(size=(len(rows), 1))
    found = crossed_variance(rows, np.repeat(np.arange(clusters), per_cluster))

    means = np.empty(draws)
    of_clusters = rows.reshape(clusters, per_cluster, width).mean(1)
    for draw in range(draws):
        sampled = of_clusters[rng.integers(clusters, size=clusters)]
        means[draw] = sampled[:, rng.integers(width, size=width)].mean()
    fewer, short = (clusters - 1) / clusters, (width - 1) / width
    expected = np.dot(parts(found), [fewer, short, fewer * short])
    assert means.var() == pytest.approx(expected, rel=0.065)
    assert found.total == pytest.approx(found.from_clusters + found.from_rows - found.in_both)


def test_disjoint_test_sets_add_nothing_to_teachers() -> None:
    rng = np.random.default_rng(0)
    rows = np.full((6, 60), np.nan)
    for teacher in range(6):
        rows[teacher, 10 * teacher : 10 * teacher + 10] = rng.normal(size=10)
    found = crossed_variance(rows, np.arange(6))
    assert found.total == pytest.approx(found.from_clusters)
    assert found.in_both == pytest.approx(found.from_rows)


def test_teachers_that_agree_leave_the_test_set_s_variance() -> None:
    row = np.random.default_rng(1).normal(size=80)
    found = crossed_variance(np.tile(row, (7, 1)), np.arange(7))
    assert found.from_clusters == pytest.approx(0)
    assert found.total == pytest.approx(row.var(ddof=1) / 80)
    half = stats.t.ppf(0.975, 79) * row.std(ddof=1) / math.sqrt(80)
    assert found.half_width() == pytest.approx(half)


def test_rows_that_agree_leave_the_teachers_t_interval() -> None:
    teacher = np.random.default_rng(2).normal(size=7)
    found = crossed_variance(np.tile(teacher[:, None], (1, 30)), np.arange(7))
    assert (found.from_rows, found.in_both) == pytest.approx((0, 0))
    half = stats.t.ppf(0.975, 6) * teacher.std(ddof=1) / math.sqrt(7)
    assert found.half_width() == pytest.approx(half)


def test_no_difference_anywhere() -> None:
    assert crossed_variance(np.zeros((5, 4)), np.arange(5)).half_width() == 0


def matrices() -> st.SearchStrategy[np.ndarray]:
    """Matrices with gaps; every teacher has the first row, so that nobody is without."""

    def draw(seed: int, teachers: int, width: int, gaps: float) -> np.ndarray:
        rng = np.random.default_rng(seed)
        rows = rng.choice([-100.0, 0.0, 100.0], size=(teachers, width))
        rows[rng.random(rows.shape) < gaps] = np.nan
        rows[:, :2] = rng.choice([-100.0, 0.0, 100.0], size=(teachers, 2))
        return rows

    return st.builds(
        draw, st.integers(0, 10**6), st.integers(2, 9), st.integers(3, 30), st.floats(0, 0.8)
    )


@given(matrices(), st.floats(-50, 50), st.floats(0.1, 10))
@settings(max_examples=60, deadline=None)
def test_what_must_not_change_it(rows: np.ndarray, shift: float, scale: float) -> None:
    teachers = np.arange(len(rows))
    found = crossed_variance(rows, teachers)
    assert found.total >= max(found.from_clusters, found.from_rows)

    moved = crossed_variance(scale * rows + shift, teachers)
    assert parts(moved) == pytest.approx(tuple(scale**2 * part for part in parts(found)), abs=1e-6)
    turned = crossed_variance(rows[::-1, ::-1], teachers)
    assert parts(turned) == pytest.approx(parts(found), abs=1e-9)
    nobody_s = np.hstack([rows, np.full((len(rows), 1), np.nan)])
    assert parts(crossed_variance(nobody_s, teachers)) == pytest.approx(parts(found))
    twice = crossed_variance(
        np.repeat(rows, 2, axis=1), teachers, np.repeat(np.arange(rows.shape[1]), 2)
    )
    assert twice.rows == found.rows
    assert parts(twice) == pytest.approx(parts(found), abs=1e-9)


@given(matrices())
@settings(max_examples=30, deadline=None)
def test_twins_of_teachers_are_one_cluster(rows: np.ndarray) -> None:
    teachers = np.arange(len(rows))
    twins = crossed_variance(np.repeat(rows, 2, axis=0), np.repeat(teachers, 2))
    assert parts(twins) == pytest.approx(parts(crossed_variance(rows, teachers)), abs=1e-9)


def test_unbiased_with_gaps_and_unequal_clusters() -> None:
    """The true variance of the mean follows from its weights: cluster, teacher, row, noise.

    Up to a share of 1 / rows, since the means that are subtracted are of different rows.
    """
    rng = np.random.default_rng(3)
    width = 300
    clusters = np.array([0, 0, 0, 1, 1, 2, 3, 4])
    present = rng.random((8, width)) < 0.6
    membership = clusters == np.arange(5)[:, None]
    weights = (membership / membership.sum(1, keepdims=True)).sum(0) / 5  # of teachers
    cells = weights[:, None] * present / present.sum(1, keepdims=True)
    sds = np.array([0.1, 0.1, 1.5, 1.0])
    squares = [1 / 5, (weights**2).sum(), (cells.sum(0) ** 2).sum(), (cells**2).sum()]
    truth = np.dot(squares, sds**2)
    estimates, means = [], []
    for _ in range(2000):
        rows = sds[0] * rng.normal(size=(5, 1))[clusters] + sds[1] * rng.normal(size=(8, 1))
        rows = rows + sds[2] * rng.normal(size=width) + sds[3] * rng.normal(size=(8, width))
        found = crossed_variance(np.where(present, rows, np.nan), clusters)
        means.append((cells * rows).sum())
        estimates.append(found.from_clusters + found.from_rows - found.in_both)
    assert np.var(means) == pytest.approx(truth, rel=4 * math.sqrt(2 / 2000))
    error = np.std(estimates) / math.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(truth, abs=4 * error + truth / width)


@pytest.mark.parametrize("clusters", [5, 6, 8, 12])
@pytest.mark.parametrize("sds", [(1, 0, 0), (0.9, 0.3, 0.3), (0.6, 0.6, 0.6), (0.1, 1, 0.3)])
def test_intervals_for_new_data_cover(clusters: int, sds: tuple[float, float, float]) -> None:
    """Parts of the error: teachers, rows, interaction. At least 95 % within simulation error."""
    rng = np.random.default_rng(7)
    simulations, width = 1000, 60
    teachers = np.arange(clusters)
    scale = np.array(sds) * np.sqrt([clusters, width, clusters * width])
    covered = 0
    for _ in range(simulations):
        rows = scale[0] * rng.normal(size=(clusters, 1)) + scale[1] * rng.normal(size=width)
        rows = rows + scale[2] * rng.normal(size=(clusters, width))
        covered += abs(rows.mean()) <= crossed_variance(rows, teachers).half_width()
    share = covered / simulations
    assert share >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / simulations)
    assert share <= 0.99  # not for nothing


def test_a_large_study_needs_little_memory() -> None:
    rows = np.random.default_rng(0).normal(size=(24, 10_000))
    tracemalloc.start()
    crossed_variance(rows, np.arange(24) // 3, np.arange(10_000) // 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * rows.nbytes


def test_what_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="every teacher needs a test row"):
        crossed_variance(np.array([[1.0, 2.0], [np.nan, np.nan]]), np.arange(2))
    with pytest.raises(ValueError, match="fewer than two test rows"):
        crossed_variance(np.ones((3, 1)), np.arange(3))
    with pytest.raises(ValueError, match="fewer than two test rows"):
        crossed_variance(np.ones((3, 2)), np.arange(3), np.zeros(2, dtype=int))
