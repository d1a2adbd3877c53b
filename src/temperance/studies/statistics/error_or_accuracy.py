"""Does a teacher's error tell its students' accuracy better than its accuracy does? Descriptive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from temperance.studies.statistics.families import (
    CERTAIN,
    FEWEST_FOR_P,
    FEWEST_TEACHERS,
    Families,
    Values,
    family_codes,
    family_covariance,
    family_quantile,
    fisher_z,
    leave_out,
    pearson,
)
from temperance.studies.statistics.paired import FEWEST


class AsIfIndependent(NamedTuple):
    """A footnote: what is published for such comparisons, as if no two teachers were alike.

    With teachers of 8 families, Williams' test rejects a true null in 10 to 27 % of pools.
    """

    williams_t: float
    df: int
    williams_p: float
    zou_low: float
    zou_high: float


@dataclass(frozen=True)
class Comparison:
    """−r(error, outcome) minus r(accuracy, outcome) over teachers; descriptive."""

    n: int
    families: int
    error: float
    """−r of the error and the outcome: positive if teachers of larger error have worse students."""
    accuracy: float
    """r of accuracy and the outcome."""
    between: float
    """r of −error and accuracy: near 1, the two can hardly be told apart."""
    difference: float
    """`error − accuracy`: positive if the error tells more."""
    low: float | None
    high: float | None
    """95 % interval of the difference; None under 5 families."""
    p: float | None
    """Two-sided, of no difference; None under 8 families."""
    footnote: AsIfIndependent | None
    """None under 8 families, or if a correlation is ±1."""

    @property
    def direction(self) -> int:
        """+1 where the error tells more, −1 where accuracy does, 0 where the interval has 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def compare_with_accuracy(
    error: Sequence[float] | Values,
    accuracy: Sequence[float] | Values,
    outcome: Sequence[float] | Values,
    families: Sequence[object],
) -> Comparison:
    """Whether −r(error, outcome) exceeds r(accuracy, outcome); the signs are fixed beforehand.

    Over the teachers without a missing value. The interval joins those of the two correlations as
    Zou (2007) does, with errors and their correlation from families left out in turn. p is of the
    difference of the two Fisher z, with the same error and families − 1 degrees of freedom; near
    0.05 the two may disagree. No permutation: that of outcomes within families tests that neither
    predictor says anything, and swapping the predictors of families rejects true nulls too often.

    Args:
        error: a calibration error or another measure of which less is better. Like `accuracy`, not
            measured on the rows that the students were tested on.
        accuracy: of the teachers.
        outcome: mean accuracy of each teacher's students.
        families: label of each teacher's family.

    Raises:
        ValueError: if the lengths differ; under 3 teachers; if a column is constant.

    Examples:
        >>> found = compare_with_accuracy(
        ...     [0.02, 0.05, 0.09, 0.12], [0.90, 0.92, 0.89, 0.90], [88, 87, 85, 84], "aabb"
        ... )
        >>> round(found.error, 2), round(found.accuracy, 2), found.low
        (1.0, 0.44, None)
    """
    columns = np.array([error, accuracy, outcome], dtype=np.float64)
    codes = family_codes(families)
    if columns.shape[1] != len(codes):
        raise ValueError(f"got {columns.shape[1]} teachers and {len(codes)} families")
    known = np.isfinite(columns).all(0)
    x1, x2, y = columns[:, known]
    x1 = -x1
    codes = family_codes(codes[known])
    n, groups = len(y), len(np.unique(codes))
    if n < FEWEST_TEACHERS or min(np.ptp(x) for x in (x1, x2, y)) == 0:
        raise ValueError(f"needs 3 teachers that differ in all three columns, got {n}")
    r1, r2, r12 = pearson(x1, y), pearson(x2, y), pearson(x1, x2)
    low = high = p = None
    if groups >= FEWEST:
        low, high, p = _clustered(x1, x2, y, codes)
    told_apart = max(abs(r) for r in (r1, r2, r12)) < CERTAIN
    return Comparison(
        n=n,
        families=groups,
        error=r1,
        accuracy=r2,
        between=r12,
        difference=r1 - r2,
        low=low,
        high=high,
        p=p if groups >= FEWEST_FOR_P else None,
        footnote=as_if_independent(r1, r2, r12, n)
        if groups >= FEWEST_FOR_P and told_apart
        else None,
    )


def _clustered(
    x1: Values, x2: Values, y: Values, families: Families
) -> tuple[float | None, float | None, float | None]:
    """Interval of the difference, and p."""

    def both(x1: Values, x2: Values, y: Values) -> list[float]:
        return [pearson(x1, y), pearson(x2, y)]

    values = np.array(both(x1, x2, y))
    left_out = leave_out(both, families, x1, x2, y)
    if not np.isfinite(left_out).all():
        return None, None, None  # without one family a column is constant
    groups = len(left_out)
    z = fisher_z(values)
    covariance = family_covariance(z, fisher_z(left_out))
    se = np.sqrt(np.diag(covariance))
    half = family_quantile(groups) * se
    correlation = float(covariance[0, 1] / se.prod()) if se.all() else 0.0
    ends = difference_interval(values, np.tanh(z - half), np.tanh(z + half), correlation)
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance <= 0:
        return *ends, None
    return *ends, 2 * float(stats.t.sf(abs(z[0] - z[1]) / math.sqrt(variance), groups - 1))


def difference_interval(
    values: Float[np.ndarray, " 2"],
    lows: Float[np.ndarray, " 2"],
    highs: Float[np.ndarray, " 2"],
    correlation: float,
) -> tuple[float, float]:
    """Interval of values[0] − values[1] from the interval of each.

    Zou (2007), Psychological Methods 12, 399–413.

    Args:
        correlation: of the two estimates.

    Examples:
        >>> ends = difference_interval(np.ones(2), np.zeros(2), np.full(2, 2.0), 0.5)
        >>> ends  # as wide as each: √(1 + 1 − 2 · ½)
        (-1.0, 1.0)
    """
    down, up = values - lows, highs - values

    def reach(first: float, second: float) -> float:
        return math.sqrt(max(0.0, first**2 + second**2 - 2 * correlation * first * second))

    difference = float(values[0] - values[1])
    return difference - reach(down[0], up[1]), difference + reach(up[0], down[1])


def as_if_independent(r1: float, r2: float, r12: float, n: int) -> AsIfIndependent:
    """Two correlations that share a variable, from n independent points.

    Williams' (1959) t as in Steiger (1980), Psychological Bulletin 87; interval of Zou (2007).

    Args:
        r1: of the first predictor and the outcome; −1 < r < 1, like the others.
        r2: of the second predictor and the outcome.
        r12: of the predictors.
        n: number of points, > 3.

    Examples:
        >>> found = as_if_independent(0.396, 0.179, 0.088, 66)  # Zou's example 2
        >>> round(found.zou_low, 3), round(found.zou_high, 3)
        (-0.093, 0.517)
    """
    determinant = 1 - r1**2 - r2**2 - r12**2 + 2 * r1 * r2 * r12
    mean = (r1 + r2) / 2
    variance = 2 * (n - 1) / (n - 3) * determinant + mean**2 * (1 - r12) ** 3
    t = (r1 - r2) * math.sqrt((n - 1) * (1 + r12) / variance)
    values = np.array([r1, r2])
    half = float(stats.norm.ppf(0.975)) / math.sqrt(n - 3)
    correlation = ((r12 - r1 * r2 / 2) * (1 - r1**2 - r2**2 - r12**2) + r12**3) / (
        (1 - r1**2) * (1 - r2**2)
    )
    z = fisher_z(values)
    low, high = difference_interval(values, np.tanh(z - half), np.tanh(z + half), correlation)
    return AsIfIndependent(t, n - 3, 2 * float(stats.t.sf(abs(t), n - 3)), low, high)
