from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import interpolate, optimize, stats

from temperance.studies.statistics.alignment import Alignment, alignment_of
from temperance.studies.statistics.errors_in_variables import Lines, straight_lines
from temperance.studies.statistics.family_bootstrap import (
    Estimate,
    estimate_of,
    resampled_families,
)
from temperance.studies.statistics.optimum import Optimum, softening_optimum
from temperance.studies.statistics.units import common_curve

SOFTENINGS = 2.0 ** np.arange(-1, 4.5, 0.5)
GRID = np.log(SOFTENINGS)

# Pearson (1901) with the weights of York (1966).
PEARSON_X = np.array([0.0, 0.9, 1.8, 2.6, 3.3, 4.4, 5.2, 6.1, 6.5, 7.4])
PEARSON_Y = np.array([5.9, 5.4, 4.4, 4.6, 3.5, 3.7, 2.8, 2.8, 2.4, 1.5])
SE_X = np.array([1000, 1000, 500, 800, 200, 80, 60, 20, 1.8, 1.0]) ** -0.5
SE_Y = np.array([1, 1.8, 4, 8, 20, 20, 70, 70, 100, 500]) ** -0.5


class TestStraightLines:
    def test_york_s_weights_on_pearson_s_data(self) -> None:
        """Williamson (1968) to 12 digits; York et al. (2004) print −0.48053 and 5.47991."""
        line = straight_lines(PEARSON_X, PEARSON_Y, SE_X, SE_Y, scatter=0.0)
        assert line.slope[0] == pytest.approx(-0.48053340745, abs=1e-8)
        assert line.intercept[0] == pytest.approx(5.47991022403, abs=1e-7)

    def test_the_scatter_makes_chi_square_its_degrees_of_freedom(self) -> None:
        """Without it χ²/8 is 1.4832941 here, as published."""
        assert chi_square(straight_lines(PEARSON_X, PEARSON_Y, SE_X, SE_Y, scatter=0.0)) / 8 == (
            pytest.approx(1.4832941492, abs=1e-8)
        )
        line = straight_lines(PEARSON_X, PEARSON_Y, SE_X, SE_Y)
        assert line.scatter[0] > 0
        assert chi_square(line) == pytest.approx(8, abs=1e-6)

    @given(st.integers(0, 10_000))
    @settings(max_examples=25, deadline=None)
    def test_york_s_line_is_the_least_chi_square(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        x, se_x, se_y = rng.normal(size=8), rng.uniform(0.01, 0.2, 8), rng.uniform(0.1, 1, 8)
        y = 1 + 0.7 * x + rng.normal(0, se_y)
        line = straight_lines(x, y, se_x, se_y, scatter=0.0)

        def cost(parameters: np.ndarray) -> float:
            a, b = parameters
            return float((((y - a - b * x) ** 2) / (se_y**2 + b**2 * se_x**2)).sum())

        start = [line.intercept[0], line.slope[0]]
        found = optimize.minimize(cost, start, method="Nelder-Mead", options={"xatol": 1e-10})
        assert cost(np.array(start)) <= found.fun + 1e-7

    def test_without_errors_of_x_it_is_weighted_least_squares(self) -> None:
        line = straight_lines(PEARSON_X, PEARSON_Y, np.zeros(10), SE_Y, scatter=0.0)
        slope, intercept = np.polyfit(PEARSON_X, PEARSON_Y, 1, w=1 / SE_Y)
        assert line.slope[0] == pytest.approx(slope)
        assert line.intercept[0] == pytest.approx(intercept)

    def test_counts_are_repeated_points(self) -> None:
        counts = np.array([[2, 1, 0, 1, 1, 3, 1, 1, 0, 2]])
        rows = np.repeat(np.arange(10), counts[0])
        weighted = straight_lines(PEARSON_X, PEARSON_Y, SE_X, SE_Y, counts=counts)
        repeated = straight_lines(PEARSON_X[rows], PEARSON_Y[rows], SE_X[rows], SE_Y[rows])
        assert np.allclose(weighted, repeated)

    def test_a_sample_of_one_place_has_no_slope(self) -> None:
        x, error = np.array([1.0, 1.0, 2.0]), np.full(3, 0.1)
        line = straight_lines(x, x, 0 * x, error, counts=np.array([[1, 1, 0], [1, 1, 1]]))
        assert np.isfinite(line.slope).tolist() == [False, True]

    def test_a_fixed_slope_is_kept(self) -> None:
        line = straight_lines(PEARSON_X, PEARSON_Y, SE_X, SE_Y, slope=-0.5, scatter=0.0)
        weights = 1 / (SE_Y**2 + 0.25 * SE_X**2)
        assert line.slope[0] == -0.5
        assert line.intercept[0] == (
            pytest.approx(np.average(PEARSON_Y + 0.5 * PEARSON_X, weights=weights))
        )


def chi_square(line: Lines) -> float:
    slope, intercept, scatter = (float(values[0]) for values in line)
    variance = SE_Y**2 + scatter**2 + slope**2 * SE_X**2
    return float(((PEARSON_Y - intercept - slope * PEARSON_X) ** 2 / variance).sum())


def bell(best: float, x: np.ndarray = GRID, width: float = 1.0) -> np.ndarray:
    return 80 + 3 * np.exp(-((x - best) ** 2) / (2 * width**2))


def broad_bell(x: np.ndarray) -> np.ndarray:
    return bell(1.0, x, width=1.8)


def shoulder(x: np.ndarray) -> np.ndarray:
    """Flat, a rise, a broad maximum, a fall."""
    return 80 + 1.5 / (1 + np.exp(-(x - 0.1) / 0.35)) - 1.5 * np.logaddexp(0, (x - 1.5) / 0.5)


def seeded(curve: np.ndarray, seeds: int, sd: float, rng: np.random.Generator) -> np.ndarray:
    return curve + rng.normal(0, 0.5, (seeds, 1)) + rng.normal(0, sd, (seeds, len(GRID)))


class TestOptimum:
    @pytest.mark.parametrize("seeds", [1, 3])
    @pytest.mark.parametrize("best", [0.0, 0.5, 1.3, 2.0])
    def test_without_noise_it_is_the_maximum(self, best: float, seeds: int) -> None:
        found = softening_optimum(SOFTENINGS, np.tile(bell(best), (seeds, 1)))
        assert found.log_softening == pytest.approx(best, abs=0.04)
        assert found.edge is None
        assert found.n == seeds * len(GRID)

    @pytest.mark.parametrize("curve", [broad_bell, shoulder])
    def test_error_covers_the_optimum(self, curve: Callable[[np.ndarray], np.ndarray]) -> None:
        """95 % of 60: four standard errors below are 84 %."""
        fine = np.linspace(-1, 3, 4001)
        best = fine[curve(fine).argmax()]
        rng = np.random.default_rng(4)
        drawn = [softening_optimum(SOFTENINGS, seeded(curve(GRID), 3, 0.4, rng)) for _ in range(60)]
        inside = [o for o in drawn if o.edge is None]
        assert len(inside) >= 55
        hits = [abs(o.log_softening - best) <= 1.96 * o.se for o in inside]
        assert np.mean(hits) >= 0.84
        assert np.median([o.se for o in inside]) < 0.5

    @pytest.mark.parametrize(("best", "edge"), [(-2.0, "low"), (5.0, "high")])
    def test_what_rises_to_an_end_is_only_bounded(self, best: float, edge: str) -> None:
        rng = np.random.default_rng(0)
        curve = bell(best, width=1.5)
        assert softening_optimum(SOFTENINGS, seeded(curve, 3, 0.2, rng)).edge == edge

    def test_noise_alone_has_no_optimum(self) -> None:
        rng = np.random.default_rng(1)
        flat = np.full(len(GRID), 80.0)
        found = [softening_optimum(SOFTENINGS, seeded(flat, 3, 0.5, rng)) for _ in range(20)]
        assert sum(o.edge is not None for o in found) >= 17

    def test_equal_accuracies_are_flat(self) -> None:
        found = softening_optimum(SOFTENINGS, np.full((2, len(GRID)), 0.8))
        assert found.edge == "flat"
        assert found.log_softening == pytest.approx(GRID.mean())

    @given(st.floats(0.001, 100), st.floats(-50, 50))
    @settings(max_examples=20, deadline=None)
    def test_unit_and_level_do_not_matter(self, scale: float, shift: float) -> None:
        accuracies = seeded(bell(1.2), 3, 0.3, np.random.default_rng(2))
        found = softening_optimum(SOFTENINGS, accuracies)
        other = softening_optimum(SOFTENINGS, scale * accuracies + shift)
        assert other.log_softening == pytest.approx(found.log_softening, abs=0.01)
        assert other.se == pytest.approx(found.se, rel=0.05)

    def test_what_a_seed_has_in_common_cancels(self) -> None:
        accuracies = seeded(bell(1.2), 3, 0.3, np.random.default_rng(2))
        found = softening_optimum(SOFTENINGS, accuracies)
        moved = softening_optimum(SOFTENINGS, accuracies + np.array([[5.0], [-3.0], [0.0]]))
        assert moved.log_softening == pytest.approx(found.log_softening, abs=1e-6)

    @pytest.mark.parametrize(
        ("softenings", "accuracies"),
        [
            ([1.0, 2.0, 4.0, 8.0], np.ones((2, 4))),
            ([0.0, 1.0, 2.0, 4.0, 8.0], np.ones((2, 5))),
            ([1.0, 3.0, 2.0, 4.0, 8.0], np.ones((2, 5))),
            ([0.5, 1.0, 2.0, 4.0, 8.0], np.ones((2, 6))),
            ([0.5, 1.0, 2.0, 4.0, 8.0], np.full((2, 5), np.nan)),
        ],
    )
    def test_what_is_no_grid_is_refused(
        self, softenings: list[float], accuracies: np.ndarray
    ) -> None:
        with pytest.raises(ValueError, match=r"softenings must be|accuracies must be"):
            softening_optimum(np.array(softenings), accuracies)


def optima_at(best: np.ndarray, se: float = 0.1) -> list[Optimum]:
    return [Optimum(float(value), se, None, 33) for value in best]


def aligned(slope: float, rng: np.random.Generator, sizes: tuple[int, ...]) -> Alignment:
    """A study of families of these sizes, alike in T and in their scatter about the line."""
    family = np.repeat(np.arange(len(sizes)), sizes)

    def clustered(sd: float) -> np.ndarray:
        return sd * (
            math.sqrt(0.7) * rng.standard_normal(len(sizes))[family]
            + math.sqrt(0.3) * rng.standard_normal(len(family))
        )

    log_t = 0.7 + clustered(0.5)
    se = np.exp(rng.normal(-1.6, 0.5, len(family)))
    best = 0.2 + slope * log_t + clustered(0.2) + rng.normal(0, se)
    optima = [Optimum(float(b), float(s), None, 33) for b, s in zip(best, se, strict=True)]
    se_t = np.full(len(family), 0.07)
    return alignment_of(optima, rng.normal(log_t, se_t), se_t, family.tolist())


class TestAlignment:
    LOG_T = np.log([1.0, 1.3, 1.5, 1.9, 2.2, 2.6, 3.1, 4.0])

    def of(self, best: np.ndarray, families: str = "abcdefgh", **options: float) -> Alignment:
        se = np.full(len(best), 0.05)
        return alignment_of(optima_at(best), self.LOG_T[: len(best)], se, list(families), **options)

    def test_the_unit(self) -> None:
        """τ* = 1.5 · T · τ_student with τ_student = 2."""
        found = self.of(self.LOG_T + math.log(3.0), student_softening=2.0)
        assert found.slope.value == pytest.approx(1)
        assert found.intercept.value == pytest.approx(math.log(3))
        assert found.factor.value == pytest.approx(1.5)
        assert found.scatter == pytest.approx(0, abs=1e-6)
        assert found.reads_as == "T is the unit"
        assert found.p == pytest.approx(2 / math.factorial(8), rel=1)
        assert (found.n, found.families, found.excluded) == (8, 8, 0)
        assert not found.provisional

    def test_a_constant(self) -> None:
        away = 0.05 * np.array([1, -1, -1, 1, 1, -1, -1, 1.0])
        found = self.of(math.log(4.0) + away)
        assert found.slope.value == pytest.approx(0, abs=0.05)
        assert found.constant.value == pytest.approx(4.0, rel=1e-3)
        assert found.reads_as == "one constant does as well"
        assert found.p is not None
        assert found.p > 0.5

    @pytest.mark.parametrize(
        ("low", "high", "words"),
        [
            (0.5, 1.5, "T is the unit"),
            (-0.5, 0.5, "one constant does as well"),
            (-0.5, 1.5, "undecided"),
            (0.2, 0.8, "neither"),
            (1.2, 1.8, "neither"),
        ],
    )
    def test_words_follow_the_interval(self, low: float, high: float, words: str) -> None:
        any_estimate = Estimate(0.0, None, None)
        found = Alignment(
            slope=Estimate((low + high) / 2, low, high),
            intercept=any_estimate,
            factor=any_estimate,
            constant=any_estimate,
            scatter=0.1,
            p=None,
            n=9,
            families=9,
            excluded=0,
        )
        assert found.reads_as == words

    def test_edges_are_left_out_and_counted(self) -> None:
        best = self.LOG_T + 0.3
        optima = optima_at(best)
        wild = [Optimum(9.0, 0.01, "high", 33), Optimum(-9.0, 0.01, "flat", 33)]
        log_t, families = np.append(self.LOG_T, [5.0, -5.0]), list("abcdefghij")
        found = alignment_of(optima + wild, log_t, np.full(10, 0.05), families)
        expected = alignment_of(optima, self.LOG_T, np.full(8, 0.05), families[:8])
        assert found.slope == expected.slope
        assert (found.n, found.families, found.excluded) == (8, 8, 2)

    def test_seven_families_are_provisional_and_four_get_no_interval(self) -> None:
        seven = self.of(self.LOG_T + 0.3, "aabcdefg")
        assert seven.provisional
        assert seven.p is None
        assert seven.slope.low is not None
        four = self.of(self.LOG_T + 0.3, "aabbccdd")
        assert (four.slope.low, four.factor.low, four.p) == (None, None, None)
        assert four.slope.value == pytest.approx(1)
        assert four.reads_as == "undecided"

    def test_permutation_test_is_scipy_s(self) -> None:
        """One teacher per family and equal errors: all pairings of T and optima, two-sided."""
        rng = np.random.default_rng(3)
        best = 0.4 * self.LOG_T + rng.normal(0, 0.3, 8)

        def correlation(x: np.ndarray, axis: int) -> np.ndarray:
            centred = x - x.mean(axis, keepdims=True)
            size = np.sqrt((centred**2).sum(axis))
            return np.abs((centred * (best - best.mean())).sum(axis)) / size

        exact = stats.permutation_test(
            (self.LOG_T,),
            correlation,
            permutation_type="pairings",
            alternative="greater",
            n_resamples=np.inf,
            batch=8000,
        )
        found = self.of(best).p
        assert found == pytest.approx(exact.pvalue)
        assert 0.005 < exact.pvalue < 0.995

    def test_families_of_the_same_mean_t_have_nothing_to_permute(self) -> None:
        log_t, families = np.tile([0.0, 1.0], 8), np.repeat(np.arange(8), 2).tolist()
        found = alignment_of(optima_at(log_t), log_t, np.full(16, 0.05), families)
        assert found.p == 1
        assert found.slope.value == pytest.approx(1)

    def test_too_little_is_refused(self) -> None:
        with pytest.raises(ValueError, match="needs 3 teachers whose best softening"):
            self.of(self.LOG_T[:2], "ab")
        bounded = [Optimum(1.0, 0.1, "low", 33)] * 3
        with pytest.raises(ValueError, match="and 0 of 3 have one"):
            alignment_of(bounded, self.LOG_T[:3], np.full(3, 0.1), list("abc"))
        with pytest.raises(ValueError, match="all have the same"):
            alignment_of(optima_at(self.LOG_T), np.ones(8), np.full(8, 0.1), list("abcdefgh"))
        with pytest.raises(ValueError, match="must be finite"):
            alignment_of(optima_at(self.LOG_T), self.LOG_T, np.full(8, np.nan), list("abcdefgh"))

    @pytest.mark.parametrize("sizes", [(1,) * 8, (1, 2, 3) * 3])
    def test_intervals_cover_and_the_test_seldom_cries_wolf(self, sizes: tuple[int, ...]) -> None:
        """Of 40 studies per slope: 95 % less four standard errors are 81 %, 5 % more are 19 %."""
        rng = np.random.default_rng(12)
        flat = [aligned(0.0, rng, sizes) for _ in range(40)]
        assert np.mean([found.slope.holds(0) for found in flat]) >= 0.81
        assert np.mean([(found.p or 0) <= 0.05 for found in flat]) <= 0.19
        unit = [aligned(1.0, rng, sizes) for _ in range(40)]
        assert np.mean([found.slope.holds(1) for found in unit]) >= 0.81
        assert np.mean([(found.p or 1) <= 0.05 for found in unit]) >= 0.7
        assert np.mean([found.slope.value for found in unit]) == pytest.approx(1, abs=0.15)

    def test_from_students(self) -> None:
        rng = np.random.default_rng(5)
        optima = [
            softening_optimum(SOFTENINGS, seeded(bell(x + math.log(1.5)), 3, 0.3, rng))
            for x in self.LOG_T
        ]
        found = alignment_of(optima, self.LOG_T, np.full(8, 0.05), list("abcdefgh"))
        assert found.reads_as == "T is the unit"
        assert found.factor.holds(1.5)


def test_estimates_are_t_intervals() -> None:
    samples = np.array([2.0, 1.0, 3.0, np.nan, np.inf])
    found = estimate_of(samples, 6)
    half = stats.t.ppf(0.975, 5)  # the standard deviation of 1 and 3 is 1
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
    assert estimate_of(samples[:1], 3) == Estimate(2.0, None, None)
    assert Estimate(2.0, None, None).holds(99)


def test_resamples_hold_families_and_begin_with_all_of_them() -> None:
    counts = resampled_families(5)
    assert counts[0].tolist() == [1] * 5
    assert (counts.sum(1) == 5).all()
    assert ((counts > 0).sum(1) >= 3).all()
    assert resampled_families(4).tolist() == [[1] * 4]


class TestCommonCurve:
    LOG_T = np.log([1.0, 1.3, 1.5, 1.9, 2.2, 2.6, 3.1, 4.0])
    FAMILIES = "abcdefgh"

    def curves(self, slope: float) -> np.ndarray:
        """With levels of their own and some noise."""
        rng = np.random.default_rng(6)
        levels, noise = rng.normal(0, 2, (8, 1)), rng.normal(0, 0.1, (8, len(GRID)))
        centres = 1.2 + slope * (self.LOG_T - self.LOG_T.mean())
        return np.stack([bell(centre) for centre in centres]) + levels + noise

    def test_the_better_unit_has_the_smaller_error(self) -> None:
        unit = common_curve(SOFTENINGS, self.curves(1.0), self.LOG_T, self.FAMILIES)
        assert unit.relative == pytest.approx(0.1, abs=0.03)
        assert unit.difference.low is not None
        assert unit.difference.low > 0
        constant = common_curve(SOFTENINGS, self.curves(0.0), self.LOG_T, self.FAMILIES)
        assert constant.absolute == pytest.approx(0.1, abs=0.03)
        assert constant.difference.high is not None
        assert constant.difference.high < 0
        for found in (unit, constant):
            assert found.difference.value == pytest.approx(found.absolute - found.relative)
            assert (found.n, found.families) == (8, 8)

    def test_levels_do_not_matter(self) -> None:
        curves = self.curves(1.0)
        found = common_curve(SOFTENINGS, curves, self.LOG_T, self.FAMILIES)
        moved = curves + 10 * np.arange(8)[:, None]
        again = common_curve(SOFTENINGS, moved, self.LOG_T, self.FAMILIES)
        assert again.absolute == pytest.approx(found.absolute)
        assert again.relative == pytest.approx(found.relative)

    def test_same_t_makes_both_units_one(self) -> None:
        found = common_curve(SOFTENINGS, self.curves(0.0), np.ones(8), self.FAMILIES)
        assert found.difference.value == pytest.approx(0, abs=1e-9)

    def test_each_teacher_is_predicted_from_the_others(self) -> None:
        """Refitted without it, with a dummy variable per teacher, by plain least squares."""
        curves = self.curves(0.6)
        found = common_curve(SOFTENINGS, curves, self.LOG_T, self.FAMILIES)
        absolute = np.tile(GRID, (8, 1))
        relative = absolute - self.LOG_T[:, None]
        reached = np.array(
            [
                (own >= np.delete(relative, i, 0).min()) & (own <= np.delete(relative, i, 0).max())
                for i, own in enumerate(relative)
            ]
        )
        assert found.points == reached.sum() < curves.size
        assert found.absolute == pytest.approx(refitted(absolute, curves, reached), rel=1e-6)
        assert found.relative == pytest.approx(refitted(relative, curves, reached), rel=1e-6)

    def test_few_families_get_no_interval(self) -> None:
        found = common_curve(SOFTENINGS, self.curves(1.0), self.LOG_T, "aabbccdd")
        assert (found.difference.low, found.families) == (None, 4)

    def test_too_little_is_refused(self) -> None:
        curves = self.curves(1.0)
        with pytest.raises(ValueError, match="needs 3 teachers, got 2"):
            common_curve(SOFTENINGS, curves[:2], self.LOG_T[:2], "ab")
        with pytest.raises(ValueError, match=r"and \d of 3 do"):
            common_curve(SOFTENINGS, curves[:3], np.array([-9.0, 0.0, 9.0]), "abc")
        with pytest.raises(ValueError, match="must be finite"):
            common_curve(SOFTENINGS, curves * np.nan, self.LOG_T, self.FAMILIES)


def refitted(x: np.ndarray, y: np.ndarray, reached: np.ndarray) -> float:
    """Root mean square error, of the best of the same roughnesses."""
    pieces = math.ceil(np.ptp(x) / math.log(2))
    step = np.ptp(x) / pieces
    knots = x.min() + step * np.arange(-3, pieces + 4)
    splines = interpolate.BSpline(knots, np.eye(pieces + 3), 3)
    bends = np.diff(np.eye(pieces + 3), 2, axis=0)
    totals = []
    for roughness in 10.0 ** np.arange(-3, 3):
        total = 0.0
        for i in range(len(x)):
            others = [j for j in range(len(x)) if j != i]
            dummies = np.repeat(np.eye(len(others)), x.shape[1], 0)
            fit = np.hstack([splines(x[others].ravel()), dummies])
            penalty = np.hstack([math.sqrt(roughness) * bends, np.zeros((len(bends), len(others)))])
            target = np.append(y[others].ravel(), np.zeros(len(bends)))
            solution = np.linalg.lstsq(np.vstack([fit, penalty]), target, rcond=1e-10)[0]
            rest = (y[i] - splines(x[i]) @ solution[: pieces + 3])[reached[i]]
            total += float(((rest - rest.mean()) ** 2).sum())
        totals.append(total)
    return math.sqrt(min(totals) / reached.sum())
