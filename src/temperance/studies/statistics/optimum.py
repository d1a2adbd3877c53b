"""Where on a grid of softenings the students of one teacher do best, and how well that is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

FEWEST_SOFTENINGS = 5  # below, a curve with a maximum inside cannot be told from noise
CANDIDATES = 57  # places of the maximum; half-octaves from 0.5 to 16 are cut into steps of 6 %
DRAWS = 1000
LENGTHS = (1.0, 1.4, 2.0, 2.8)  # over which the curve bends, in log softening: at least ×2.7
AMPLITUDES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the curve, in sds of the mean accuracies
NOISES = (0.05, 0.1, 0.2, 0.4, 0.8)  # of one seed alone, in the same unit
LEVEL = 10.0  # of the curve as a whole, in the same unit: as good as unknown

Edge = Literal["low", "high", "flat"]


@dataclass(frozen=True)
class Optimum:
    """The best teacher softening of one teacher, in natural logarithms."""

    log_softening: float
    se: float
    """Posterior standard deviation; it holds the chance that another hump is the higher one."""
    edge: Edge | None
    """None for a maximum inside the grid. `low`, `high`: the best softening is more likely at that
    end of the grid, or beyond, than inside. `flat`: students do not say more than that it is on
    the grid. With an edge the optimum is only bounded, and takes no part in regressions."""
    n: int
    """Number of students: seeds × grid."""


def softening_optimum(
    softenings: Float[np.ndarray, " grid"], accuracies: Float[np.ndarray, "seeds grid"]
) -> Optimum:
    """The softening at which one teacher's students do best, the students' own softening fixed.

    The curve of accuracy over log softening is a Gaussian process (squared exponential, its length
    and amplitude averaged over their likelihoods on a fixed grid), its noise is what seeds differ
    by at the same softening (Rasmussen & Williams 2006, §2.2 and §5.2); what a seed has in common
    over the grid cancels. The optimum is the mean place of the maximum over curves drawn from the
    posterior, its error their standard deviation. A parabola about the best mean is not used: on
    asymmetric curves its error covers the optimum far too seldom, at any width
    (`benchmarks/results/study_coverage/alignment.md`).

    Args:
        softenings: of the teacher, positive and ascending, at least five.
        accuracies: one row per student seed; any unit (only ratios to their spread matter). With
            one seed the noise is inferred from the curve as well.

    Raises:
        ValueError: if softenings are too few or do not ascend, or an accuracy is not finite.

    Examples:
        >>> softenings = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
        >>> curve = -((np.log(softenings) - np.log(3.0)) ** 2)
        >>> found = softening_optimum(softenings, np.stack([curve - 0.01, curve + 0.01]))
        >>> round(float(np.exp(found.log_softening)), 1), found.edge, found.n
        (3.0, None, 12)
    """
    softenings = np.asarray(softenings, dtype=np.float64)
    accuracies = np.atleast_2d(np.asarray(accuracies, dtype=np.float64))
    if len(softenings) < FEWEST_SOFTENINGS or softenings[0] <= 0 or min(np.diff(softenings)) <= 0:
        raise ValueError(
            f"softenings must be positive, ascending, at least {FEWEST_SOFTENINGS}: {softenings}"
        )
    if accuracies.shape[1] != len(softenings) or not np.isfinite(accuracies).all():
        raise ValueError(f"accuracies must be finite, one per seed and softening: {accuracies}")

    x = np.log(softenings)
    places = np.linspace(x[0], x[-1], CANDIDATES)
    unknown = (x[-1] - x[0]) / math.sqrt(12)  # sd of a place of which nothing is known
    means = accuracies.mean(0)
    spread = float(means.std())
    if spread <= 1e-12 * max(1.0, float(np.abs(means).max())):
        return Optimum(float(x.mean()), unknown, "flat", accuracies.size)
    means = (means - means.mean()) / spread
    noises = [_seed_noise(accuracies) / spread] if len(accuracies) > 1 else NOISES
    best = _places_of_maximum(_posterior(x, means, places, noises))

    step = places[1] - places[0]
    se = math.hypot(float(places[best].std()), step / math.sqrt(12))
    low, high = float(np.mean(best == 0)), float(np.mean(best == CANDIDATES - 1))
    edge: Edge | None = None
    if low + high > 0.5:
        edge = "low" if low > high else "high"
    if se > unknown:
        edge = "flat"
    return Optimum(float(places[best].mean()), se, edge, accuracies.size)


def _seed_noise(accuracies: Float[np.ndarray, "seeds grid"]) -> float:
    """Standard error of a mean over seeds, from the interaction of seeds and softenings."""
    seeds, grid = accuracies.shape
    rest = accuracies - accuracies.mean(0) - accuracies.mean(1, keepdims=True) + accuracies.mean()
    return math.sqrt(float((rest**2).sum()) / ((seeds - 1) * (grid - 1)) / seeds)


class _Posterior(NamedTuple):
    """Curves at the candidate places, per setting of length, amplitude and noise."""

    weights: Float[np.ndarray, " settings"]
    means: Float[np.ndarray, "settings places"]
    covariances: Float[np.ndarray, "settings places places"]


def _posterior(
    x: Float[np.ndarray, " grid"],
    y: Float[np.ndarray, " grid"],
    places: Float[np.ndarray, " places"],
    noises: list[float] | tuple[float, ...],
) -> _Posterior:
    length, amplitude, noise = (
        values.reshape(-1, 1, 1)
        for values in np.meshgrid(LENGTHS, AMPLITUDES, np.maximum(noises, 1e-4))
    )

    def covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = (a[:, None] - b) ** 2
        kernel: np.ndarray = amplitude**2 * np.exp(-squared / (2 * length**2))
        return LEVEL**2 + kernel

    of_data = covariance(x, x) + noise**2 * np.eye(len(x))
    _, log_determinant = np.linalg.slogdet(of_data)
    solved = np.linalg.solve(of_data, np.broadcast_to(y[:, None], (len(of_data), len(y), 1)))
    likelihood = -0.5 * (y @ solved[..., 0].T + log_determinant)
    weights = np.exp(likelihood - likelihood.max())
    likely = weights > 0.01 * weights.sum()  # the others cost time and change nothing

    between = covariance(x, places)[likely]
    explained = between.transpose(0, 2, 1) @ np.linalg.solve(of_data[likely], between)
    return _Posterior(
        weights=weights[likely] / weights[likely].sum(),
        means=(between.transpose(0, 2, 1) @ solved[likely])[..., 0],
        covariances=covariance(places, places)[likely] - explained,
    )


def _places_of_maximum(posterior: _Posterior) -> Int[np.ndarray, " draws"]:
    """Index of the highest place, per curve drawn; always from the same seed."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(DRAWS, posterior.weights)
    variances, axes = np.linalg.eigh(posterior.covariances)
    factors = axes * np.sqrt(np.maximum(variances, 0))[:, None]
    return np.concatenate(
        [
            (mean + rng.standard_normal((count, len(mean))) @ factor.T).argmax(1)
            for mean, factor, count in zip(posterior.means, factors, counts, strict=True)
        ]
    )
