from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from temperance.studies.statistics import FEWEST, geometric_mean, paired_difference
from temperance.studies.statistics.paired import PairedDifference, required

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
    assert found.p == pytest.approx(0.002833, abs=1e-6)
    assert found.direction == 1
    assert (found.n, found.clusters) == (10, 10)
    assert (found.new_low, found.new_high) == (None, None)


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
        assert found.p == pytest.approx(float(found.mean == 0))
        return
    test = stats.ttest_1samp(differences, 0)
    interval = test.confidence_interval(0.95)
    assert found.p == pytest.approx(test.pvalue, abs=1e-9)
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


@pytest.mark.parametrize("n", [12, 20])
def test_sign_flip_is_scipy_s(n: int) -> None:
    """Exact for twelve; 20,000 drawn signs for twenty: standard error 0.0018 near p = 0.07."""
    differences = np.random.default_rng(3).normal(0.4, 1, n)
    test = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=0
    )
    found = paired_difference(differences.tolist()).p_sign_flip
    assert found == pytest.approx(test.pvalue, abs=1e-12 if n == 12 else 0.0075)


def test_sign_flip_of_many_replicates_is_drawn_with_a_fixed_seed() -> None:
    differences = np.random.default_rng(0).normal(0.4, 1, 24).tolist()
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
    assert (found.low, found.high, found.p, found.p_sign_flip, found.detectable) == (None,) * 5
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


@given(
    st.lists(st.tuples(st.sampled_from("ABCDEFGHI"), st.floats(-10, 10)), min_size=1, max_size=25)
)
@settings(max_examples=40, deadline=None)
def test_clusters_are_their_means(teachers: list[tuple[str, float]]) -> None:
    families = sorted({family for family, _ in teachers})
    means = [float(np.mean([d for f, d in teachers if f == family])) for family in families]
    expected = paired_difference(means)
    found = paired_difference([d for _, d in teachers], clusters=[f for f, _ in teachers])
    assert (found.n, found.clusters) == (len(teachers), len(families))
    assert found.mean == pytest.approx(expected.mean, abs=1e-9)
    if len(families) < FEWEST:
        assert (found.low, found.p, found.p_sign_flip, found.detectable) == (None,) * 4
        return
    for name in ("sd", "low", "high", "detectable"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-9)


def test_clusters_of_unequal_size_weigh_the_same() -> None:
    differences = [3.0, 3.0, 3.0, 3.0, *(0.0, 1.0, 0.0, 1.0, 1.0)]
    families = ["big"] * 4 + list("ABCDE")
    found = paired_difference(differences, families)
    assert found.mean == pytest.approx(1.0)  # the mean teacher's is 15 / 9
    assert (found.n, found.clusters) == (9, 6)
    assert found.p_sign_flip == pytest.approx(every_sign([3.0, 0.0, 1.0, 0.0, 1.0, 1.0]))
    half = stats.t.ppf(0.95, 5) * np.std([3, 0, 1, 0, 1, 1], ddof=1) / math.sqrt(6)
    assert found.within(1 + half + 1e-6)
    assert not found.within(1 + half - 1e-6)


def test_many_teachers_of_few_families_get_no_interval() -> None:
    families = ["A", "B", "C", "D"] * 6
    found = paired_difference(np.random.default_rng(0).normal(size=24).tolist(), families)
    assert (found.n, found.clusters) == (24, 4)
    assert (found.low, found.p, found.detectable) == (None,) * 3
    assert found.sd is not None


def test_rows_give_the_interval_for_new_data() -> None:
    rng = np.random.default_rng(0)
    rows = 100 * rng.choice([-1, 0, 0, 0, 1], size=(6, 200)).astype(float)
    found = paired_difference(rows.mean(1).tolist(), rows=rows)
    assert found.low is not None
    assert found.new_low is not None
    assert found.new_high is not None
    assert found.new_low + found.new_high == pytest.approx(2 * found.mean)
    single = paired_difference(rows.mean(1).tolist(), rows=rows.astype(np.float32))
    assert single.new_low == pytest.approx(found.new_low, abs=1e-4)

    # rows on which all teachers agree: little between teachers, much between test sets
    alike = np.tile(rows[0], (6, 1)) + rng.normal(size=(6, 1))
    found = paired_difference(alike.mean(1).tolist(), rows=alike)
    assert found.low is not None
    assert found.new_low is not None
    assert found.mean - found.new_low > 5 * (found.mean - found.low)


def test_groups_of_rows_widen_the_interval_for_new_data() -> None:
    rows = np.repeat(np.random.default_rng(0).normal(size=40), 5) + np.zeros((6, 1))
    rows = rows + np.random.default_rng(1).normal(size=(6, 1))
    differences, images = rows.mean(1).tolist(), np.repeat(np.arange(40), 5).tolist()
    alone = paired_difference(differences, rows=rows)
    grouped = paired_difference(differences, rows=rows, row_groups=images)
    named = paired_difference(differences, rows=rows, row_groups=[f"image {i}" for i in images])
    assert grouped.new_high == pytest.approx(named.new_high)
    assert grouped.new_high > alone.new_high
    assert (grouped.low, grouped.high) == (alone.low, alone.high)


def test_what_does_not_fit_together_is_refused() -> None:
    rows = np.arange(12.0).reshape(6, 2)
    differences = rows.mean(1).tolist()
    with pytest.raises(ValueError, match="6 differences, but 5 labels"):
        paired_difference(differences, clusters=list("ABCDE"))
    with pytest.raises(ValueError, match="6 differences, but rows of 5 teachers"):
        paired_difference(differences, rows=rows[1:])
    with pytest.raises(ValueError, match="are not the differences"):
        paired_difference(differences[::-1], rows=rows)
    rows[2] = np.nan
    with pytest.raises(ValueError, match="are not the differences"):
        paired_difference(differences, rows=rows)


@pytest.mark.parametrize("effect", [0.05, 0.3, 0.5, 1.0, 1.7, 10.0])
def test_required_number_of_replicates(effect: float) -> None:
    """By the noncentral t (statsmodels), up to the approximation of `detectable`: one more.

    Five detect 1.66 standard deviations.
    """
    found = required(1.0, effect)
    if effect < 1.66:
        exact = math.ceil(TTestPower().solve_power(effect, power=0.8, alpha=0.05))
        assert exact <= found <= exact + 1
    else:
        assert found == FEWEST

    def detectable(n: int) -> float:
        return float(stats.t.ppf([0.975, 0.8], n - 1).sum()) / math.sqrt(n)

    assert detectable(found) <= effect
    if found > FEWEST:
        assert detectable(found) <= effect < detectable(found - 1)
    assert required(20.0, 20 * effect) == found


def test_required_of_what_is_detectable_is_the_number_at_hand() -> None:
    found = paired_difference(SLEEP)
    assert required(found.sd, found.detectable + 1e-9) == 10


def test_required_without_spread_or_effect() -> None:
    assert required(0.0, 0.1) == FEWEST
    assert required(1.0, 1e-4) == pytest.approx(2.8016**2 * 1e8, rel=1e-4)
    for sd, effect in ((1.0, 0.0), (1.0, -1.0), (-1.0, 1.0)):
        with pytest.raises(ValueError, match="positive effect"):
            required(sd, effect)


def rejected(studies: list[PairedDifference]) -> tuple[float, float]:
    """Shares of studies that the t-test and the sign-flip test call different from 0."""
    return (
        float(np.mean([found.p < 0.05 for found in studies])),
        float(np.mean([found.p_sign_flip < 0.05 for found in studies])),
    )


def test_seeds_are_no_replicates() -> None:
    """Ten teachers × five seeds (sd 0.3 and 0.4) without an effect: about 21 % against 5 %."""
    rng = np.random.default_rng(30)
    drawn = 0.3 * rng.normal(size=(300, 10, 1)) + 0.4 * rng.normal(size=(300, 10, 5))
    by_t, by_sign = rejected([paired_difference(study.mean(1).tolist()) for study in drawn])
    tolerance = 4 * math.sqrt(0.05 * 0.95 / 300)
    assert by_t == pytest.approx(0.05, abs=tolerance)
    assert by_sign == pytest.approx(0.05, abs=tolerance)
    wrong = stats.ttest_1samp(drawn.reshape(300, 50), 0, axis=1).pvalue
    assert np.mean(wrong < 0.05) > 0.15


@pytest.mark.parametrize("sizes", [[3] * 8, [1, 1, 1, 2, 2, 3, 6, 8]])
def test_clustered_teachers_seldom_cry_wolf(sizes: list[int]) -> None:
    """Eight families, 24 teachers, intra-class correlation 0.5, no effect."""
    rng = np.random.default_rng(31)
    families = np.repeat(list("ABCDEFGH"), sizes)
    codes = np.repeat(np.arange(8), sizes)
    drawn = rng.normal(size=(400, 8))[:, codes] + rng.normal(size=(400, 24))
    by_t, by_sign = rejected([paired_difference(study, families) for study in drawn])
    tolerance = 4 * math.sqrt(0.05 * 0.95 / 400)
    assert by_t == pytest.approx(0.05, abs=tolerance)
    assert by_sign == pytest.approx(0.05, abs=tolerance)
    wrong = stats.ttest_1samp(drawn, 0, axis=1).pvalue
    assert np.mean(wrong < 0.05) > 0.13


def test_intervals_for_new_data_cover_with_clustered_teachers() -> None:
    """Rows gained (+100) and lost (−100), by a latent normal: the true difference is exact.

    The interval for this test set does not cover it, as the test set does not represent new data.
    """
    rng = np.random.default_rng(32)
    families = np.repeat(list("ABCDEF"), 3)
    codes = np.repeat(np.arange(6), 3)
    sds = (0.05, 0.05, 1.0, 1.0)  # family, teacher, row, chance
    total = math.sqrt(sum(sd**2 for sd in sds))
    gain, loss = stats.norm.sf(1.4 / total), stats.norm.sf(1.6 / total)
    truth = 100 * float(gain - loss)
    new, this = 0, 0
    for _ in range(500):
        latent = sds[0] * rng.normal(size=(6, 1))[codes] + sds[1] * rng.normal(size=(18, 1))
        latent = latent + sds[2] * rng.normal(size=100) + sds[3] * rng.normal(size=(18, 100))
        rows = 100.0 * ((latent > 1.4).astype(int) - (latent < -1.6))
        found = paired_difference(rows.mean(1).tolist(), families, rows)
        new += found.new_low <= truth <= found.new_high
        this += found.low <= truth <= found.high
    assert new / 500 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 500)
    assert this / 500 < 0.9


def test_geometric_mean() -> None:
    assert geometric_mean([0.5, 2.0]) == 1.0
    assert geometric_mean([1.0, 10.0, 100.0]) == pytest.approx(10.0)
    assert geometric_mean([1.7]) == pytest.approx(1.7)
