"""How sure a statistic of clustered teachers is: every family is left out in turn.

The unit of sampling is the family: teachers of one family are alike, and seventeen of five families
are not seventeen points. Of the ways measured (`benchmarks/results/study_coverage/across.md`) the
delete-one-family jackknife with a t quantile covers best (94 to 97 %); resampling families covers
89 to 94 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import stats

from temperance.studies.statistics.paired import FEWEST

FEWEST_TEACHERS = 3  # below, a correlation is ±1 and says nothing
FEWEST_FOR_P = 8  # families below which no p-value is given

CERTAIN = 1 - 1e-12  # a correlation beyond has no finite Fisher z

Values = Float[np.ndarray, " teachers"]
Families = Int[np.ndarray, " teachers"]
Statistic = Callable[[Values, Values], float]


class ClusteredCorrelation(NamedTuple):
    """A correlation with what families say about it; what cannot be said is NaN."""

    r: float
    low: float
    high: float
    """95 % interval; NaN under 5 families."""
    p: float
    """Two-sided, of no correlation; NaN under 8 families."""


def family_codes(families: Sequence[object] | Families) -> Families:
    """Families as numbers from 0.

    Examples:
        >>> family_codes(["wide", "deep", "wide"]).tolist()
        [0, 1, 0]
    """
    codes: Families
    codes, _ = pd.factorize(np.array(list(families), dtype=object), use_na_sentinel=False)
    return codes


def correlate(
    statistic: Statistic, x: Values, y: Values, families: Families
) -> ClusteredCorrelation:
    """A correlation; its interval and p on Fisher's z with families − 1 degrees of freedom."""
    r = statistic(x, y)
    left_out = leave_out(lambda *columns: [statistic(*columns)], families, x, y)
    groups = len(left_out)
    if groups < FEWEST or not np.isfinite([r, *left_out[:, 0]]).all():
        return ClusteredCorrelation(r, math.nan, math.nan, math.nan)
    z = fisher_z(np.array([r]))
    se = math.sqrt(family_covariance(z, fisher_z(left_out))[0, 0])
    low, high = np.tanh(z[0] + se * family_quantile(groups) * np.array([-1, 1]))
    p = math.nan
    if groups >= FEWEST_FOR_P and se > 0:
        p = 2 * float(stats.t.sf(abs(z[0]) / se, groups - 1))
    return ClusteredCorrelation(r, float(low), float(high), p)


def leave_out(
    statistic: Callable[..., Sequence[float]], families: Families, *columns: Values
) -> Float[np.ndarray, "families values"]:
    """The statistic's values without the teachers of each family in turn."""
    return np.array(
        [
            statistic(*(column[families != family] for column in columns))
            for family in np.unique(families)
        ]
    )


def family_covariance(
    values: Float[np.ndarray, " values"], left_out: Float[np.ndarray, "families values"]
) -> Float[np.ndarray, "values values"]:
    """Delete-one-cluster jackknife about the full estimate.

    CV3 of MacKinnon, Nielsen & Webb (2023), Journal of Applied Econometrics 38.
    """
    away = left_out - values
    groups = len(left_out)
    covariance: Float[np.ndarray, "values values"] = (groups - 1) / groups * away.T @ away
    return covariance


def family_quantile(groups: int) -> float:
    """Of the t distribution with families − 1 degrees of freedom, for a 95 % interval."""
    return float(stats.t.ppf(0.975, groups - 1))


def fisher_z(r: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Fisher's z; ±1 becomes a large number."""
    z: Float[np.ndarray, "*shape"] = np.arctanh(np.clip(r, -CERTAIN, CERTAIN))
    return z


def pearson(x: Values, y: Values) -> float:
    """Pearson's r; NaN where a column is constant or has fewer than 3 values.

    Examples:
        >>> round(pearson(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])), 3)
        0.5
    """
    if len(x) < FEWEST_TEACHERS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / math.sqrt((x @ x) * (y @ y)), -1, 1))


def spearman(x: Values, y: Values) -> float:
    """Spearman's rank correlation, ties averaged; NaN as `pearson`.

    Examples:
        >>> round(spearman(np.array([1.0, 2.0, 30.0]), np.array([1.0, 9.0, 2.0])), 3)
        0.5
    """
    return pearson(stats.rankdata(x), stats.rankdata(y))


def slope(x: Values, y: Values) -> float:
    """Of the least-squares line; NaN where x is constant.

    Examples:
        >>> slope(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]))
        2.0
    """
    away = x - x.mean()
    spread = float(away @ away)
    return float(away @ y) / spread if np.ptp(x) > 0 else math.nan


def within_family(values: Values, families: Families) -> Values:
    """Each value minus its family's mean."""
    away: Values = values - family_means(values, families)[families]
    return away


def family_means(values: Values, families: Families) -> Float[np.ndarray, " families"]:
    """One mean per family; families are numbered from 0 without a gap."""
    means: Float[np.ndarray, " families"] = np.bincount(families, values) / np.bincount(families)
    return means
