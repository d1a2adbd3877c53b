from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols

from studies.statistics.simulated_pools import EVEN, UNEVEN, correlated, simulated_pool
from temperance.studies.statistics.across import STATISTICS, correlations
from temperance.studies.statistics.families import Statistic, correlate, pearson, spearman

POOLS = 300
# Anscombe's (1973) first set: r = 0.816, slope 0.500.
X = [10.0, 8.0, 13.0, 9.0, 11.0, 14.0, 6.0, 4.0, 12.0, 7.0, 5.0]
Y = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68]


def of_one(x: np.ndarray, y: np.ndarray, families: np.ndarray) -> pd.Series:
    return correlations(pd.DataFrame({"x": x}), y, families).loc["x"]


def test_anscombe_s_quartet() -> None:
    found = of_one(X, Y, range(11))
    assert found["n"] == found["families"] == 11
    assert found["pearson"] == pytest.approx(0.81642, abs=1e-5)
    assert found["spearman"] == pytest.approx(stats.spearmanr(X, Y).statistic)
    assert found["between_slope"] == pytest.approx(0.50009 * np.std(X, ddof=1), abs=1e-4)
    assert found["between_se"] == pytest.approx(0.11791 * np.std(X, ddof=1), abs=1e-4)
    assert math.isnan(found["within_slope"])  # a teacher each


def test_slopes_are_those_of_regressions() -> None:
    """Within: family indicators. Between: the families' means."""
    drawn, families = simulated_pool(np.random.default_rng(0), UNEVEN, correlated(-0.6), 0.6)
    frame = pd.DataFrame(drawn, columns=["x", "y"]).assign(family=families)
    frame["x"] /= frame["x"].std()
    found = of_one(frame["x"], frame["y"], families)
    within = ols("y ~ x + C(family)", frame).fit()
    assert found["within_slope"] == pytest.approx(within.params["x"])
    between = ols("y ~ x", frame.groupby("family").mean()).fit()
    assert found["between_slope"] == pytest.approx(between.params["x"])
    assert found["between_se"] == pytest.approx(between.bse["x"])


def test_slopes_tell_families_from_teachers() -> None:
    """Better families have better students, but within a family the predictor harms."""
    rng = np.random.default_rng(1)
    families = np.repeat(np.arange(8), 4)
    away = rng.standard_normal(32)
    x = families + 0.1 * away
    found = of_one(x, 2 * families - 3 * away, families)
    unit = x.std(ddof=1)
    assert found["within_slope"] == pytest.approx(-30 * unit, rel=1e-6)
    assert found["between_slope"] == pytest.approx(2 * unit, rel=0.5)
    assert found["within_se"] == pytest.approx(0, abs=1e-6)


def test_prediction_of_a_family_left_out() -> None:
    """Family means 0, 3 and 9; by hand."""
    y = np.array([0, 0, 3, 3, 9, 9])
    line = of_one(y * 1.0, y, "aabbcc")
    assert line["left_out_r2"] == pytest.approx(1)
    # x of the third family is far off: the line y = x through the others says 99.
    off = of_one(np.array([0, 0, 3, 3, 99, 99]), y, "aabbcc")
    first = (3 + 6 / 96 * (0 - 3) - 0) ** 2
    second = (9 / 99 * 3 - 3) ** 2
    mean = (6 - 0) ** 2 + (4.5 - 3) ** 2 + (1.5 - 9) ** 2
    assert off["left_out_r2"] == pytest.approx(1 - (first + second + 90**2) / mean)
    assert off["left_out_r2"] < 0


def test_interval_is_the_jackknife_by_hand() -> None:
    drawn, families = simulated_pool(np.random.default_rng(2), EVEN, correlated(0.5), 0.5)
    x, y = drawn.T
    z = math.atanh(stats.pearsonr(x, y).statistic)
    without = [
        math.atanh(stats.pearsonr(x[families != f], y[families != f]).statistic) for f in range(8)
    ]
    se = math.sqrt(7 / 8 * sum((other - z) ** 2 for other in without))
    found = of_one(x, y, families)
    ends = stats.t(7, z, se).interval(0.95)
    assert [found["pearson_low"], found["pearson_high"]] == pytest.approx(np.tanh(ends))
    assert found["p"] == pytest.approx(2 * stats.t.sf(abs(z) / se, 7))


@pytest.mark.parametrize("icc", [0.5, 0.8])
@pytest.mark.parametrize("sizes", [(4, 4, 3, 3, 3), UNEVEN])
def test_a_true_null_is_seldom_rejected(sizes: tuple[int, ...], icc: float) -> None:
    """Pearson's own p, for which 17 or 24 teachers are independent, rejects it in 12 to 30 %."""
    rng = np.random.default_rng(3)
    naive, ours = [], []
    for _ in range(POOLS):
        drawn, families = simulated_pool(rng, sizes, correlated(0), icc)
        naive.append(stats.pearsonr(*drawn.T).pvalue < 0.05)
        found = correlate(pearson, *drawn.T, families)
        ours.append(found.low > 0 or found.high < 0)
    bound = 0.05 + 3 * math.sqrt(0.05 * 0.95 / POOLS)
    assert np.mean(ours) < bound < np.mean(naive)


@pytest.mark.parametrize("statistic", [pearson, spearman])
@pytest.mark.parametrize(("r", "icc"), [(-0.7, 0.5), (0.9, 0.8)])
def test_intervals_cover(r: float, icc: float, statistic: Statistic) -> None:
    rng = np.random.default_rng(4)
    truth = r if statistic is pearson else 6 / math.pi * math.asin(r / 2)  # of normal variables
    covered = []
    for _ in range(POOLS):
        drawn, families = simulated_pool(rng, UNEVEN, correlated(r), icc)
        found = correlate(statistic, *drawn.T, families)
        covered.append(found.low <= truth <= found.high)
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
    assert np.mean(covered) > 0.95 - 3 * math.sqrt(0.05 * 0.95 / POOLS)


def test_what_is_there_is_found() -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(100):
        drawn, families = simulated_pool(rng, (2,) * 12, correlated(-0.9), 0.5)
        found.append(correlate(pearson, *drawn.T, families).high < 0)
    assert np.mean(found) > 0.9


def test_a_copied_teacher_is_no_news() -> None:
    """Every family twice as large by copies: the same interval, where r of points narrows."""
    drawn, families = simulated_pool(np.random.default_rng(6), EVEN, correlated(0.4), 0.5)
    once = of_one(*drawn.T, families)
    twice = of_one(*np.repeat(drawn, 2, axis=0).T, np.repeat(families, 2))
    same = ["families", "pearson", "pearson_low", "pearson_high", "p"]
    assert list(twice[same]) == pytest.approx(list(once[same]))


@given(st.integers(0, 1000), st.floats(0.1, 10), st.floats(-5, 5))
@settings(max_examples=20, deadline=None)
def test_units_do_not_matter(seed: int, scale: float, shift: float) -> None:
    drawn, families = simulated_pool(np.random.default_rng(seed), EVEN, correlated(0.4), 0.5)
    x, y = drawn.T
    names = [f"family {f}" for f in families]
    found, same = of_one(x, y, families), of_one(scale * x + shift, y, names)
    assert list(found) == pytest.approx(list(same), rel=1e-6, nan_ok=True)
    turned = of_one(-x, y, families)
    for kind in ("pearson", "spearman"):
        ends = [-turned[f"{kind}_high"], -turned[f"{kind}_low"]]
        assert [found[f"{kind}_low"], found[f"{kind}_high"]] == pytest.approx(ends)
    assert turned["within_slope"] == pytest.approx(-found["within_slope"])
    assert turned["left_out_r2"] == pytest.approx(found["left_out_r2"])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 9)), max_size=20))
@settings(max_examples=40, deadline=None)
def test_ties_and_small_pools_give_numbers_or_nothing(rows: list[tuple[int, int, int]]) -> None:
    x, y, families = np.array(rows, dtype=float).reshape(-1, 3).T
    found = of_one(x, y, families)
    assert found["n"] == len(rows)
    for kind in ("pearson", "spearman"):
        ends = found[[kind, f"{kind}_low", f"{kind}_high"]].dropna()
        assert ((ends >= -1) & (ends <= 1)).all()
    assert not found["left_out_r2"] > 1
    assert math.isnan(found["p"]) or 0 <= found["p"] <= 1


@pytest.mark.parametrize(
    ("families", "interval", "p"),
    [(4, False, False), (5, True, False), (7, True, False), (8, True, True)],
)
def test_few_families(families: int, interval: bool, p: bool) -> None:
    drawn, labels = simulated_pool(np.random.default_rng(7), (3,) * families, correlated(0.5), 0.5)
    found = of_one(*drawn.T, labels)
    shown = ["pearson_low", "spearman_high", "within_se", "between_se"]
    assert found[shown].notna().all() == found[shown].notna().any() == interval
    assert found[["pearson", "within_slope", "between_slope", "left_out_r2"]].notna().all()
    assert math.isfinite(found["p"]) == p


def test_two_teachers_or_a_constant_say_nothing() -> None:
    frame = pd.DataFrame({"two": [1, 2] + [math.nan] * 8, "constant": 1.0, "fine": range(10)})
    found = correlations(frame, np.arange(10) ** 2, range(10))
    assert found["n"].tolist() == [2, 10, 10]
    assert found.loc[["two", "constant"], list(STATISTICS)].isna().all(axis=None)
    assert found.loc["fine", "spearman"] == 1


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="one row per teacher"):
        correlations(pd.DataFrame({"x": [1, 2, 3]}), [1, 2], ["a", "b", "c"])
