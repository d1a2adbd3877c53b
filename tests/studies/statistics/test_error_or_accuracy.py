from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from studies.statistics.simulated_pools import EVEN, UNEVEN, simulated_pool
from temperance.studies.statistics.error_or_accuracy import (
    as_if_independent,
    compare_with_accuracy,
    difference_interval,
)

POOLS = 200


def three(error: float, accuracy: float, between: float) -> np.ndarray:
    """Correlations of −error, accuracy and outcome."""
    return np.array([[1, between, error], [between, 1, accuracy], [error, accuracy, 1]])


def test_williams_published_example() -> None:
    """`depcor` of Silver, Hittner & May (2006): t = −1.0767, p = .2843."""
    found = as_if_independent(0.3, 0.4, 0.5, 100)
    assert found.williams_t == pytest.approx(-1.0767, abs=5e-5)
    assert found.williams_p == pytest.approx(0.2843, abs=5e-5)
    assert found.df == 97


def test_zou_s_example() -> None:
    """Zou (2007, p. 409), example 2."""
    found = as_if_independent(0.396, 0.179, 0.088, 66)
    assert (found.zou_low, found.zou_high) == pytest.approx((-0.093, 0.517), abs=5e-4)


def test_steiger_s_case_a_is_close_to_his_z() -> None:
    """Steiger (1980, p. 249): z = −.89, which his Z* and Williams' t approach alike."""
    found = as_if_independent(0.4, 0.5, 0.1, 103)
    assert found.williams_t == pytest.approx(-0.89, abs=0.01)


def test_independent_estimates_add_their_errors() -> None:
    low, high = difference_interval(np.array([5.0, 1.0]), np.array([2.0, -3.0]), np.full(2, 9.0), 0)
    assert low == pytest.approx(4 - math.hypot(5 - 2, 9 - 1))
    assert high == pytest.approx(4 + math.hypot(9 - 5, 1 + 3))


def pool(seed: int, sizes: tuple[int, ...] = EVEN) -> tuple[np.ndarray, ...]:
    drawn, families = simulated_pool(np.random.default_rng(seed), sizes, three(0.8, 0.5, 0.4), 0.5)
    return -drawn[:, 0], drawn[:, 1], drawn[:, 2], families


def test_numbers_are_pearson_s() -> None:
    error, accuracy, outcome, families = pool(0)
    found = compare_with_accuracy(error, accuracy, outcome, families)
    assert (found.n, found.families) == (24, 8)
    assert found.error == pytest.approx(-stats.pearsonr(error, outcome).statistic)
    assert found.accuracy == pytest.approx(stats.pearsonr(accuracy, outcome).statistic)
    assert found.between == pytest.approx(-stats.pearsonr(error, accuracy).statistic)
    assert found.difference == found.error - found.accuracy
    assert found.footnote == as_if_independent(found.error, found.accuracy, found.between, 24)


def test_families_left_out_by_hand() -> None:
    error, accuracy, outcome, families = pool(1, UNEVEN)

    def fisher(kept: np.ndarray) -> np.ndarray:
        r = np.corrcoef([-error[kept], accuracy[kept], outcome[kept]])[2, :2]
        return np.arctanh(r)

    z = fisher(families >= 0)
    away = np.array([fisher(families != f) for f in range(8)]) - z
    se = np.sqrt(7 / 8 * (away**2).sum(0))
    found = compare_with_accuracy(error, accuracy, outcome, families)
    t = (z[0] - z[1]) / math.sqrt(7 / 8 * ((away[:, 0] - away[:, 1]) ** 2).sum())
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), 7))
    half = stats.t.ppf(0.975, 7) * se
    correlation = (away[:, 0] @ away[:, 1]) / np.sqrt((away**2).sum(0).prod())
    ends = difference_interval(np.tanh(z), np.tanh(z - half), np.tanh(z + half), correlation)
    assert (found.low, found.high) == pytest.approx(ends)


@pytest.mark.parametrize("sizes", [EVEN, UNEVEN])
def test_a_true_null_is_seldom_rejected(sizes: tuple[int, ...]) -> None:
    """Williams' test, for which teachers are independent, rejects it far more often."""
    rng = np.random.default_rng(2)
    ours, tests, williams = [], [], []
    for _ in range(POOLS):
        drawn, families = simulated_pool(rng, sizes, three(0.7, 0.7, 0.75), 0.8)
        found = compare_with_accuracy(-drawn[:, 0], drawn[:, 1], drawn[:, 2], families)
        ours.append(found.direction != 0)
        tests.append(found.p < 0.05)
        williams.append(found.footnote.williams_p < 0.05)
    bound = 0.05 + 3 * math.sqrt(0.05 * 0.95 / POOLS)
    assert np.mean(ours) < bound
    assert np.mean(tests) < bound
    assert np.mean(williams) > 0.15


@pytest.mark.parametrize("sizes", [EVEN, UNEVEN])
def test_intervals_cover(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(POOLS):
        drawn, families = simulated_pool(rng, sizes, three(0.9, 0.75, 0.7), 0.5)
        found = compare_with_accuracy(-drawn[:, 0], drawn[:, 1], drawn[:, 2], families)
        covered.append(found.low <= 0.15 <= found.high)
    assert np.mean(covered) > 0.95 - 3 * math.sqrt(0.05 * 0.95 / POOLS)


def test_what_is_there_is_found() -> None:
    rng = np.random.default_rng(4)
    directions, tests = [], []
    for _ in range(60):
        drawn, families = simulated_pool(rng, (2,) * 12, three(0.9, 0.1, 0.1), 0.5)
        found = compare_with_accuracy(-drawn[:, 0], drawn[:, 1], drawn[:, 2], families)
        directions.append(found.direction)
        tests.append(found.p < 0.05)
    assert np.mean(np.array(directions) == 1) > 0.85
    assert np.mean(tests) > 0.85


@given(st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_roles_are_symmetric(seed: int) -> None:
    error, accuracy, outcome, families = pool(seed)
    found = compare_with_accuracy(error, accuracy, outcome, families)
    turned = compare_with_accuracy(-accuracy, -error, outcome, families)
    assert turned.difference == pytest.approx(-found.difference)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    assert turned.p == pytest.approx(found.p)
    assert turned.direction == -found.direction


def test_the_same_predictor_twice_differs_in_nothing() -> None:
    _, accuracy, outcome, families = pool(5)
    found = compare_with_accuracy(-accuracy, accuracy, outcome, families)
    assert found.difference == 0
    assert found.low == pytest.approx(-found.high)
    assert 0 < found.high < 0.1  # Zou's interval keeps the skewness of one correlation's
    assert found.p is None
    assert found.footnote is None
    assert found.direction == 0


@pytest.mark.parametrize("families", [3, 5, 8])
def test_few_families(families: int) -> None:
    found = compare_with_accuracy(*pool(6, (3,) * families))
    assert (found.low is None) == (found.high is None) == (families < 5)
    assert (found.p is None) == (found.footnote is None) == (families < 8)


def test_missing_teachers_are_left_out() -> None:
    error, accuracy, outcome, families = pool(7)
    error[3] = math.nan
    kept = np.arange(24) != 3
    without = compare_with_accuracy(error[kept], accuracy[kept], outcome[kept], families[kept])
    assert compare_with_accuracy(error, accuracy, outcome, families) == without


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 3 teachers"):
        compare_with_accuracy([1, 2], [1, 2], [1, 2], "ab")
    with pytest.raises(ValueError, match="differ in all three"):
        compare_with_accuracy([1, 2, 3], [1, 1, 1], [1, 2, 3], "abc")
    with pytest.raises(ValueError, match="3 teachers and 2 families"):
        compare_with_accuracy([1, 2, 3], [1, 1, 2], [1, 2, 3], "ab")
