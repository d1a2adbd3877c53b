from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from temperance.studies.statistics import FEWEST, geometric_mean, paired_difference

# Extra hours of sleep by two drugs (Student 1908): the differences of ten patients.
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
# Heights of crossed minus self-fertilised maize (Darwin 1876), in eighths of an inch.
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]

samples = st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=5, max_size=9)
SIMULATIONS = 2000


def test_student_s_sleep() -> None:
    """R's `t.test(extra ~ group, data = sleep, paired = TRUE)`, on which R's manual shows it."""
    found = paired_difference(SLEEP)
    assert found.mean == pytest.approx(1.58)
    assert found.low == pytest.approx(0.7001142, abs=1e-6)
    assert found.high == pytest.approx(2.4598858, abs=1e-6)
    assert found.direction == 1


def test_fisher_s_maize() -> None:
    """Fisher (1935, §21) counted: 863 of 32,768 signs give a sum of 314 or more."""
    assert sum(MAIZE) == 314
    assert paired_difference(MAIZE).p_sign_flip == pytest.approx(2 * 863 / 32768)


@given(samples)
@settings(max_examples=40, deadline=None)
def test_interval_is_scipy_s(differences: list[float]) -> None:
    found = paired_difference(differences)
    if np.ptp(differences) == 0:
        assert (found.low, found.high) == pytest.approx((found.mean, found.mean))
        return
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.direction == int(interval.low > 0) - int(interval.high < 0)


def every_sign(differences: list[float]) -> float:
    """Share of all signs whose sum is at least as far from 0."""
    observed = abs(sum(differences))
    signs = itertools.product([1, -1], repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(sign, differences, strict=True))) for sign in signs]
    return float(np.mean([total >= observed - 1e-9 for total in sums]))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [6, 8])
def test_sign_flip_is_brute_force(n: int, seed: int) -> None:
    differences = np.random.default_rng(seed).normal(0.5, 1, n).round(2).tolist()
    assert paired_difference(differences).p_sign_flip == pytest.approx(every_sign(differences))


def test_sign_flip_with_ties_and_zeros() -> None:
    for differences in ([0.0] * 6, [1.0, -1.0] * 3, [1.0, 1.0, 1.0, 1.0, 1.0, 0.0], [2.0] * 6):
        found = paired_difference(differences).p_sign_flip
        assert found == pytest.approx(every_sign(differences))


def test_sign_flip_of_many_replicates_is_drawn_with_a_fixed_seed() -> None:
    differences = np.random.default_rng(0).normal(0.4, 1, 20).tolist()
    first, second = (paired_difference(differences).p_sign_flip for _ in range(2))
    assert first == second
    exact = stats.ttest_1samp(differences, 0).pvalue  # close to it for a normal sample
    assert first == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_replicates_get_no_interval(n: int) -> None:
    found = paired_difference([1.0, 1.1, 0.9, 1.0][:n])
    assert n < FEWEST
    assert found.mean == pytest.approx(1.0, abs=0.1)
    assert (found.sd is None) == (n == 1)
    assert (found.low, found.high, found.p_sign_flip, found.detectable) == (None,) * 4
    assert found.direction == 0
    assert not found.within(1e9)


def test_five_replicates_get_no_sign_flip() -> None:
    """Its smallest p would be 2/32: never below 0.05."""
    found = paired_difference([1.0, 1.1, 0.9, 1.0, 1.0])
    assert found.low is not None
    assert found.p_sign_flip is None
    assert paired_difference([1.0] * 6).p_sign_flip == pytest.approx(2 / 64)


@pytest.mark.parametrize("differences", [[], [math.nan, 1.0], [math.inf] * 6])
def test_what_is_no_number_is_refused(differences: list[float]) -> None:
    with pytest.raises(ValueError, match="finite and at least one"):
        paired_difference(differences)


@given(samples, st.floats(0.01, 5))
@settings(max_examples=60, deadline=None)
def test_equivalence_is_two_one_sided_tests(differences: list[float], margin: float) -> None:
    """Schuirmann (1987): both t statistics beyond the 95 % quantile."""
    x, n = np.array(differences), len(differences)
    error = x.std(ddof=1) / math.sqrt(n)
    found = paired_difference(differences).within(margin)
    if error < 1e-9:
        assert found == (abs(x.mean()) < margin)
        return
    above, below = (x.mean() + margin) / error, (margin - x.mean()) / error
    p = max(stats.t.sf(above, n - 1), stats.t.sf(below, n - 1))
    if abs(p - 0.05) > 1e-9:
        assert found == (p < 0.05)


def test_sign_of_the_arms_is_arbitrary() -> None:
    found, turned = paired_difference(SLEEP), paired_difference([-x for x in SLEEP])
    assert turned.mean == -found.mean
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    assert turned.p_sign_flip == found.p_sign_flip
    assert turned.detectable == pytest.approx(found.detectable)
    assert turned.direction == -found.direction


@pytest.fixture(scope="module")
def simulated() -> np.ndarray:
    """Differences of studies of five replicates without any effect, sd 1."""
    return np.random.default_rng(20).normal(size=(SIMULATIONS, FEWEST))


def test_intervals_cover_and_seldom_cry_wolf(simulated: np.ndarray) -> None:
    """95 % of 2,000: the standard error of the share is 0.5 points, four of them are allowed."""
    found = [paired_difference(row) for row in simulated + 0.3]
    covered = np.mean([d.low <= 0.3 <= d.high for d in found])
    tolerance = 4 * math.sqrt(0.95 * 0.05 / SIMULATIONS)
    assert covered == pytest.approx(0.95, abs=tolerance)

    directions = np.array([paired_difference(row).direction for row in simulated])
    assert (directions != 0).mean() == pytest.approx(0.05, abs=tolerance)
    assert (directions == 1).mean() == pytest.approx(0.025, abs=tolerance)


def test_sign_flip_seldom_cries_wolf() -> None:
    """With six replicates only p = 2/64 is below 0.05: 3.1 % of 600, standard error 0.7 points."""
    drawn = np.random.default_rng(21).normal(size=(600, 6))
    rate = np.mean([(paired_difference(row).p_sign_flip or 1) < 0.05 for row in drawn])
    assert rate == pytest.approx(2 / 64, abs=4 * math.sqrt(0.031 * 0.969 / 600))


def test_what_is_detectable_is_found_in_four_of_five_studies(simulated: np.ndarray) -> None:
    """Quantiles added up are an approximation (the exact t power at n = 5 is 0.83): ±5 points."""
    quantiles = stats.t.ppf([0.975, 0.8], FEWEST - 1)
    effect = float(quantiles.sum()) / math.sqrt(FEWEST)  # for an sd of 1
    unit = simulated[0] / simulated[0].std(ddof=1)
    assert paired_difference(unit).detectable == pytest.approx(effect)

    found = np.mean([paired_difference(row).direction == 1 for row in simulated + effect])
    assert found == pytest.approx(0.8, abs=0.05)


def test_geometric_mean() -> None:
    assert geometric_mean([0.5, 2.0]) == 1.0
    assert geometric_mean([1.0, 10.0, 100.0]) == pytest.approx(10.0)
    assert geometric_mean([1.7]) == pytest.approx(1.7)
