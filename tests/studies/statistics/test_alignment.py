from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

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
        assert line.slope[0] == pytest.approx(-0.48053340745, abs=1e-10)
        assert line.intercept[0] == pytest.approx(5.47991022403, abs=1e-9)

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


def bell(best: float, height: float = 3.0, width: float = 1.0) -> np.ndarray:
    return 80 + height * np.exp(-((GRID - best) ** 2) / (2 * width**2))


def shoulder(best: float) -> np.ndarray:
    """Flat, a rise, a broad maximum, a fall."""
    u = GRID - best - 0.01
    return 80 + 1.5 / (1 + np.exp(-(u + 0.9) / 0.35)) - 1.5 * np.logaddexp(0, (u - 0.49) / 0.5)


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

    @pytest.mark.parametrize("curve", [bell(1.0), bell(1.0, width=1.8), shoulder(1.0)])
    def test_error_covers_the_optimum(self, curve: np.ndarray) -> None:
        """95 % of 60: four standard errors below are 84 %."""
        best = 1.0 if curve.argmax() != shoulder(1.0).argmax() else best_of_shoulder()
        rng = np.random.default_rng(4)
        drawn = [softening_optimum(SOFTENINGS, seeded(curve, 3, 0.4, rng)) for _ in range(60)]
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


def best_of_shoulder() -> float:
    fine = np.linspace(-1, 2, 3001)
    u = fine - 1.01
    value = 1.5 / (1 + np.exp(-(u + 0.9) / 0.35)) - 1.5 * np.logaddexp(0, (u - 0.49) / 0.5)
    return float(fine[value.argmax()])
