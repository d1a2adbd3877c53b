"""Which unit of softening makes the teachers' curves one: an absolute one, or multiples of T."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.interpolate import BSpline

from temperance.studies.statistics.families import FEWEST_TEACHERS, family_codes
from temperance.studies.statistics.family_bootstrap import (
    Estimate,
    estimate_of,
    resampled_families,
)

KNOT = np.log(2.0)  # distance of the spline's knots: one octave of softening
ROUGHNESS = 10.0 ** np.arange(-3, 3)  # weights of the squared second differences, to choose from
FEWEST_POINTS = 3  # of a teacher, for its curve's shape to be compared

Curves = Float[np.ndarray, "teachers grid"]


@dataclass(frozen=True)
class CommonCurve:
    """How far teachers lie from the curve that the other teachers have in common."""

    absolute: float
    """Root mean square error over the teachers' softenings τ, in the unit of the accuracies."""
    relative: float
    """The same over τ / T."""
    difference: Estimate
    """Absolute − relative: above 0, T is the better unit."""
    points: int
    """Number of accuracies predicted: those that both curves reach."""
    n: int
    """Number of teachers with such points."""
    families: int


def common_curve(
    softenings: Float[np.ndarray, " grid"],
    accuracies: Curves,
    log_temperatures: Float[np.ndarray, " teachers"],
    families: Sequence[object],
) -> CommonCurve:
    """Predict each teacher's curve from the other teachers', in absolute and in relative units.

    Accuracy is a level of the teacher's own plus one smooth curve of log softening: a cubic
    spline with a knot per octave and a penalty on roughness (Eilers & Marx 1996), which each unit
    chooses for itself. A teacher left out is predicted but for its level, and only where its
    softenings lie within the range of the others in both units, so that both are judged on the
    same points. The interval resamples families' squared errors (`estimate_of`), as if the curves
    were known: of simulated pools it covered 85 to 94 %, so it describes and does not decide
    (`benchmarks/results/study_coverage/alignment.md`).

    Args:
        softenings: of the teachers, absolute, positive, the same for all.
        accuracies: means over student seeds.
        log_temperatures: natural logarithm of T.
        families: labels of the clusters of alike teachers.

    Raises:
        ValueError: if fewer than 3 teachers can be predicted, or a number is not finite.

    Examples:
        >>> softenings, log_t = 2.0 ** np.arange(-1, 4.5, 0.5), np.log([1.0, 1.5, 2.0, 3.0, 4.0])
        >>> x = np.log(softenings) - log_t[:, None]
        >>> found = common_curve(softenings, 80 - (x - 0.5) ** 2, log_t, list("abcde"))
        >>> found.difference.value > 0.1, found.relative < 0.01
        (True, True)
    """
    absolute = np.broadcast_to(np.log(softenings), accuracies.shape)
    relative = absolute - np.asarray(log_temperatures)[:, None]
    if not (np.isfinite(accuracies).all() and np.isfinite(relative).all()):
        raise ValueError("accuracies, softenings and log temperatures must be finite")
    if len(accuracies) < FEWEST_TEACHERS:
        raise ValueError(f"a common curve needs {FEWEST_TEACHERS} teachers, got {len(accuracies)}")
    reached = _reached(relative)
    reached &= reached.sum(1, keepdims=True) >= FEWEST_POINTS
    compared = np.flatnonzero(reached.any(1))
    if len(compared) < FEWEST_TEACHERS:
        raise ValueError(
            f"a common curve needs {FEWEST_TEACHERS} teachers whose softenings overlap in units of"
            f" T, and {len(compared)} of {len(accuracies)} do"
        )
    errors = np.stack([_left_out(x, accuracies, reached) for x in (absolute, relative)])

    family = family_codes([families[teacher] for teacher in compared.tolist()])
    groups = int(family.max()) + 1
    counts = resampled_families(groups)
    squares = np.stack([np.bincount(family, own) for own in (errors**2).sum(2)[:, compared]])
    points = np.bincount(family, reached.sum(1)[compared])
    rmse = np.sqrt((squares @ counts.T) / (counts @ points))
    return CommonCurve(
        absolute=float(rmse[0, 0]),
        relative=float(rmse[1, 0]),
        difference=estimate_of(rmse[0] - rmse[1], groups),
        points=int(reached.sum()),
        n=len(compared),
        families=groups,
    )


def _reached(x: Curves) -> Bool[np.ndarray, "teachers grid"]:
    """Which points lie within the range of the other teachers' points."""
    others = [np.delete(x, teacher, axis=0) for teacher in range(len(x))]
    return np.array(
        [(own >= other.min()) & (own <= other.max()) for own, other in zip(x, others, strict=True)]
    )


def _left_out(x: Curves, y: Curves, reached: Bool[np.ndarray, "teachers grid"]) -> Curves:
    """Errors of predicting each teacher's curve from the others', 0 where it is not reached.

    Levels are taken out of the curve's terms and of the accuracies alike, so the sums that a fit
    needs are sums over teachers, and a teacher is left out by subtracting its own.
    """
    terms = _spline_terms(x)
    centred, level = terms - terms.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    squares = np.einsum("igk,igl->ikl", centred, centred)
    products = np.einsum("igk,ig->ik", centred, level)
    bends = np.diff(np.eye(terms.shape[2]), 2, axis=0)
    # A constant curve is a level: pinned to 0, it does not leave the equations undetermined.
    pinned = np.ones((terms.shape[2],) * 2)

    def errors(roughness: float) -> Curves:
        system = squares.sum(0) - squares + roughness * bends.T @ bends + pinned
        curve = np.linalg.solve(system, (products.sum(0) - products)[..., None])
        rest = np.where(reached, y - (terms @ curve)[..., 0], 0)
        own = rest.sum(1, keepdims=True) / np.maximum(reached.sum(1, keepdims=True), 1)
        return np.where(reached, rest - own, 0)

    return min((errors(roughness) for roughness in ROUGHNESS), key=lambda e: float((e**2).sum()))


def _spline_terms(x: Curves) -> Float[np.ndarray, "teachers grid terms"]:
    """Cubic B-splines over the range of x."""
    low, high = float(x.min()), float(x.max())
    pieces = max(int(np.ceil((high - low) / KNOT)), 1)
    step = (high - low) / pieces
    knots = low + step * np.arange(-3, pieces + 4)
    inside = np.clip(x.ravel(), knots[3], knots[-4])
    terms: np.ndarray = BSpline.design_matrix(inside, knots, 3).toarray()
    return terms.reshape(*x.shape, -1)
