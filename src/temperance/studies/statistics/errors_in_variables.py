"""Straight lines through points of which neither coordinate is known exactly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

STEPS = 200
TOLERANCE = 1e-8

Points = Float[np.ndarray, " points"]


class Lines(NamedTuple):
    """y = intercept + slope · x, one per sample; NaN where a sample does not determine it."""

    slope: Float[np.ndarray, " samples"]
    intercept: Float[np.ndarray, " samples"]
    scatter: Float[np.ndarray, " samples"]
    """Standard deviation of y about the line beyond its errors."""


def straight_lines(
    x: Points,
    y: Points,
    se_x: Points,
    se_y: Points,
    *,
    counts: Num[np.ndarray, "samples points"] | None = None,
    slope: float | None = None,
    scatter: float | None = None,
) -> Lines:
    """Lines with errors in both coordinates and a scatter about them that is estimated.

    The slope is that of York et al. (2004), American Journal of Physics 72, eq. 13, for
    uncorrelated errors; the scatter, added in quadrature to the errors of y, makes χ² equal to
    the degrees of freedom, or is 0 (Paule & Mandel 1982; for lines Tremaine et al. 2002, ApJ 574,
    §3). Both are iterated together, for all samples at once.

    Args:
        x: first coordinates.
        y: second coordinates.
        se_x: standard errors of x; 0 where it is exact.
        se_y: standard errors of y, positive.
        counts: how often each point is in each sample; by default one sample of every point once.
        slope: fixed, if given.
        scatter: fixed, if given; 0 gives York's line.

    Examples:
        >>> x, none, error = np.array([0.0, 1.0, 2.0]), np.zeros(3), np.full(3, 0.1)
        >>> line = straight_lines(x, 1 + 2 * x, none, error)
        >>> line.slope.round(6).tolist(), line.intercept.round(6).tolist(), line.scatter.tolist()
        ([2.0], [1.0], [0.0])
    """
    counts = np.ones((1, len(x))) if counts is None else counts
    own_x, own_y = se_x**2, se_y**2
    b = np.full((len(counts), 1), 0.0 if slope is None else slope)
    variance = np.full((len(counts), 1), 0.0 if scatter is None else scatter**2)
    freedom = counts.sum(1, keepdims=True) - (2 if slope is None else 1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for _ in range(STEPS):
            before = b, variance
            if slope is None:
                w, u, v = _centred(x, y, own_x, own_y, counts, b, variance)
                pull = w * (u * (own_y + variance) + b * v * own_x)
                b = _sum(counts * w * pull * v) / _sum(counts * w * pull * u)
            if scatter is None:
                w, u, v = _centred(x, y, own_x, own_y, counts, b, variance)
                squares = w * (v - b * u) ** 2
                newton = (_sum(counts * squares) - freedom) / _sum(counts * w * squares)
                variance = np.maximum(variance + np.where(np.isfinite(newton), newton, 0), 0)
            moved = np.abs(b - before[0]) + np.abs(variance - before[1])
            if not (moved > TOLERANCE * (1 + np.abs(b))).any():
                break
        w, _, _ = _centred(x, y, own_x, own_y, counts, b, variance)
        intercept = _sum(counts * w * (y - b * x)) / _sum(counts * w)
    return Lines(b[:, 0], intercept[:, 0], np.sqrt(variance[:, 0]))


def _centred(
    x: Points, y: Points, own_x: Points, own_y: Points, counts: np.ndarray, *line: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of the points about a line (slope, variance), x and y minus their weighted means."""
    b, variance = line
    w = 1 / (own_y + variance + b**2 * own_x)
    total = _sum(counts * w)
    return w, x - _sum(counts * w * x) / total, y - _sum(counts * w * y) / total


def _sum(values: np.ndarray) -> np.ndarray:
    total: np.ndarray = values.sum(1, keepdims=True)
    return total
