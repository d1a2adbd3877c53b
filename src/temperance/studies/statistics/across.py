"""Across teachers: how a teacher's measures go along with its students' accuracy.

Descriptive. Teachers differ in more than a measure, so nothing here says that changing the measure
changes a student; only interventions within a teacher (its temperature) do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from temperance.studies.statistics.families import (
    FEWEST_TEACHERS,
    Families,
    Values,
    correlate,
    family_codes,
    family_covariance,
    family_means,
    leave_out,
    pearson,
    slope,
    spearman,
    within_family,
)
from temperance.studies.statistics.paired import FEWEST

EQUAL = 1e-12  # standard deviations of a predictor: no more than rounding
STATISTICS = (
    *("pearson", "pearson_low", "pearson_high"),
    *("spearman", "spearman_low", "spearman_high"),
    *("within_slope", "within_se", "between_slope", "between_se", "left_out_r2", "p"),
)


def correlations(
    predictors: pd.DataFrame,
    outcome: Sequence[float] | Values,
    families: Sequence[object],
) -> pd.DataFrame:
    """How each predictor goes along with the outcome over teachers; descriptive.

    One row per predictor, over the teachers that have it; what cannot be said is NaN (everything
    but n under 3 teachers or where a column is constant, intervals and standard errors under 5
    families, p under 8).

    - `n` teachers of so many `families`;
    - `pearson` and `spearman` with 95 % intervals: families left out in turn, on Fisher's z, t with
      families − 1 degrees of freedom;
    - `within_slope`: of the line through teachers about their family's mean (jackknife error);
      `between_slope`: of the line through the families' means, each counting once (least-squares
      error). In points of student accuracy per standard deviation of the predictor over teachers;
      where they differ, families differ in more than the predictor;
    - `left_out_r2`: 1 − squared error of the line through the other families / squared error of the
      other families' mean; negative where the predictor is worse than none. From 3 families;
    - `p`: two-sided, that Pearson's r is 0, from the same families left out as its interval.

    Args:
        predictors: one row per teacher. Not measured on the rows that the students were tested on.
        outcome: mean accuracy of each teacher's students, percentage points.
        families: label of each teacher's family.

    Raises:
        ValueError: if the lengths differ.

    Examples:
        >>> gap = pd.DataFrame({"gap": [0.02, 0.03, 0.08, 0.10, 0.11, 0.15]})
        >>> table = correlations(gap, [90, 91, 88, 87, 87, 84], ["a", "a", "b", "b", "c", "c"])
        >>> table[["n", "families", "pearson", "left_out_r2"]].round(2).loc["gap"].tolist()
        [6.0, 3.0, -0.97, 0.94]
    """
    y, codes = np.asarray(outcome, dtype=np.float64), family_codes(families)
    if not len(predictors) == len(y) == len(codes):
        raise ValueError(
            f"one row per teacher: got {len(predictors)} of predictors, {len(y)} outcomes and"
            f" {len(codes)} families"
        )
    rows = {
        name: _describe(predictors[name].to_numpy(dtype=np.float64), y, codes)
        for name in predictors.columns
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["n", "families", *STATISTICS])


def _describe(x: Values, y: Values, families: Families) -> list[float]:
    known = np.isfinite(x) & np.isfinite(y)
    x, y, families = x[known], y[known], family_codes(families[known])
    groups = len(np.unique(families))
    if len(x) < FEWEST_TEACHERS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return [len(x), groups, *[math.nan] * len(STATISTICS)]
    straight, ranked = (correlate(r, x, y, families) for r in (pearson, spearman))
    unit = x / x.std(ddof=1)
    return [
        len(x),
        groups,
        *straight[:3],
        *ranked[:3],
        *_within(unit, y, families),
        *_between(unit, y, families),
        left_out_r2(unit, y, families),
        straight.p,
    ]


def _within(x: Values, y: Values, families: Families) -> tuple[float, float]:
    """Slope about the families' means, and its standard error."""
    x, y = within_family(x, families), within_family(y, families)
    if np.ptp(x) < EQUAL:  # families of one teacher, or of equal ones
        return math.nan, math.nan
    value = slope(x, y)
    if len(np.unique(families)) < FEWEST:
        return value, math.nan
    left_out = leave_out(lambda *columns: [slope(*columns)], families, x, y)
    return value, math.sqrt(family_covariance(np.array([value]), left_out)[0, 0])


def _between(x: Values, y: Values, families: Families) -> tuple[float, float]:
    """Slope through the families' means, and its standard error."""
    x, y = family_means(x, families), family_means(y, families)
    if len(x) < FEWEST_TEACHERS or np.ptp(x) < EQUAL:
        return math.nan, math.nan
    line = stats.linregress(x, y)
    return float(line.slope), float(line.stderr) if len(x) >= FEWEST else math.nan


def left_out_r2(x: Values, y: Float[np.ndarray, " teachers"], families: Families) -> float:
    """Share of the squared error of the other families' mean that the line through them saves.

    NaN under 3 families.

    Examples:
        >>> x, families = np.array([0.0, 1.0, 1.0, 2.0, 2.0, 3.0]), np.array([0, 0, 1, 1, 2, 2])
        >>> left_out_r2(x, 1 - 2 * x, families)
        1.0
    """
    error = bound = 0.0
    names = np.unique(families)
    if len(names) < FEWEST_TEACHERS:
        return math.nan
    for family in names:
        own = families == family
        others_x, others_y = x[~own], y[~own]
        steepness = slope(others_x, others_y) if np.ptp(others_x) > 0 else 0.0
        predicted = others_y.mean() + steepness * (x[own] - others_x.mean())
        error += float(((y[own] - predicted) ** 2).sum())
        bound += float(((y[own] - others_y.mean()) ** 2).sum())
    return 1 - error / bound
