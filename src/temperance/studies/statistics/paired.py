"""Paired statistics over replicates; the unit of replication is the teacher with its split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import special, stats

from temperance.studies.statistics.crossed import crossed_variance

FEWEST = 5  # clusters below which no interval is given
FEWEST_FOR_SIGN_FLIP = 6  # below, the smallest attainable two-sided p exceeds 0.05
MOST_FOR_EVERY_SIGN = 20  # above, random signs are drawn
POWER = 0.8


@dataclass(frozen=True)
class PairedDifference:
    """Mean of paired differences with its uncertainty.

    The differences are those of the clusters: each the mean of its teachers', or single teachers
    where none are alike. Nothing but `mean`, the counts and `sd` is given under 5 clusters.
    """

    mean: float
    """Mean of the clusters, each weighing the same whatever its number of teachers."""
    n: int
    """Number of teachers."""
    clusters: int
    """Number of clusters; the number of teachers without any."""
    sd: float | None
    """Standard deviation between clusters; None for one."""
    low: float | None = None
    """95 % t interval with clusters − 1 degrees of freedom: other teachers, this test set."""
    high: float | None = None
    new_low: float | None = None
    """95 % interval for new data: other teachers and other test rows; None without rows."""
    new_high: float | None = None
    p: float | None = None
    """Two-sided t-test."""
    p_sign_flip: float | None = None
    """Two-sided sign-flip test over clusters; None under 6 clusters."""
    detectable: float | None = None
    """Smallest true difference found with 80 % power, with these clusters and this sd."""

    @property
    def direction(self) -> int:
        """+1 or −1 where the interval for this test set excludes 0, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    def within(self, margin: float) -> bool:
        """Whether the 90 % interval lies inside ± margin: equivalence by two one-sided tests."""
        if self.low is None or self.sd is None:
            return False
        error = self.sd / math.sqrt(self.clusters)
        return abs(self.mean) + _quantile(0.95, self.clusters) * error < margin


def paired_difference(
    differences: Sequence[float],
    clusters: Sequence[str] | None = None,
    rows: Float[np.ndarray, "teachers rows"] | None = None,
    row_groups: Sequence[int] | Sequence[str] | None = None,
) -> PairedDifference:
    """Statistics of one difference per teacher, its seeds averaged.

    With clusters, everything is about their means: the mean difference of a family drawn at
    random, not of a teacher drawn at random (the same where families are equally large). The
    sign-flip test turns whole clusters. The interval for new data is that of `crossed_variance`.

    Args:
        differences: in percentage points.
        clusters: label of each teacher's family; none: every teacher for itself.
        rows: differences on single test rows, in percentage points, NaN where a row is not in
            the teacher's test set; each teacher's mean is its difference.
        row_groups: label of each row's group, where rows belong together (image, document).

    Raises:
        ValueError: without a single difference, if one is not finite, or if clusters or rows do
            not fit to them.

    Examples:
        >>> result = paired_difference([1.0, 2.0, 3.0, 2.0, 2.0])
        >>> result.mean, round(result.low, 2), round(result.high, 2)
        (2.0, 1.12, 2.88)
        >>> result = paired_difference([1.0, 3.0, 5.0], clusters=["wide", "wide", "deep"])
        >>> result.mean, result.n, result.clusters
        (3.5, 3, 2)
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"differences must be finite and at least one, got {differences}")
    n = values.size
    codes = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    if len(codes) != n:
        raise ValueError(f"{n} differences, but {len(codes)} labels of clusters")
    if rows is not None:
        _check_rows(rows, values)

    means = np.bincount(codes, weights=values) / np.bincount(codes)
    count, mean = means.size, float(means.mean())
    sd = float(means.std(ddof=1)) if count > 1 else None
    if sd is None or count < FEWEST:
        return PairedDifference(mean, n, count, sd)
    error = sd / math.sqrt(count)
    half = _quantile(0.975, count) * error
    new_half = None if rows is None else _half_for_new_data(rows, codes, row_groups)
    return PairedDifference(
        mean=mean,
        n=n,
        clusters=count,
        sd=sd,
        low=mean - half,
        high=mean + half,
        new_low=None if new_half is None else mean - new_half,
        new_high=None if new_half is None else mean + new_half,
        p=_t_test(mean, error, count),
        p_sign_flip=_sign_flip(means) if count >= FEWEST_FOR_SIGN_FLIP else None,
        detectable=half + _quantile(POWER, count) * error,
    )


def required(sd: float, effect: float) -> int:
    """Replicates (clusters) needed to detect a true difference with 80 % power, at least 5.

    The smallest number whose `detectable` is at most `effect`, both in the unit of `sd`.

    Raises:
        ValueError: if the effect is not positive or the sd negative.

    Examples:
        >>> required(sd=1.0, effect=1.0)
        10
    """
    if effect <= 0 or sd < 0:
        raise ValueError(f"needs a positive effect and no negative sd, got {effect} and {sd}")
    # quantiles of t exceed the normal's: its answer is a lower bound, and close
    normal = float(special.ndtri([0.975, POWER]).sum())
    n = max(FEWEST, math.ceil((normal * sd / effect) ** 2))
    while (_quantile(0.975, n) + _quantile(POWER, n)) * sd / math.sqrt(n) > effect:
        n += 1
    return n


def _quantile(probability: float, count: int) -> float:
    """Of Student's t with `count` − 1 degrees of freedom."""
    return float(special.stdtrit(count - 1, probability))


def _check_rows(
    rows: Float[np.ndarray, "teachers rows"], differences: Float[np.ndarray, " teachers"]
) -> None:
    if len(rows) != len(differences):
        raise ValueError(f"{len(differences)} differences, but rows of {len(rows)} teachers")
    with np.errstate(invalid="ignore"):  # who has no rows has no mean, and is refused, too
        means = np.nansum(rows, axis=1) / (~np.isnan(rows)).sum(axis=1)
    # single precision is allowed for rows
    if not np.allclose(means, differences, rtol=1e-4, atol=1e-3):
        raise ValueError(f"means of rows {means} are not the differences {differences}")


def _half_for_new_data(
    rows: Float[np.ndarray, "teachers rows"],
    codes: Int[np.ndarray, " teachers"],
    row_groups: Sequence[int] | Sequence[str] | None,
) -> float:
    groups = None if row_groups is None else np.unique(row_groups, return_inverse=True)[1]
    return crossed_variance(rows, codes, groups).half_width()


def _t_test(mean: float, error: float, count: int) -> float:
    """Two-sided p; without any spread, differences are certainly 0 or certainly not."""
    if error == 0:
        return float(mean == 0)
    return 2 * float(special.stdtr(count - 1, -abs(mean) / error))


def _sign_flip(values: Float[np.ndarray, " clusters"]) -> float:
    """Two-sided p of the mean under random signs; exact up to 20 clusters."""
    if values.size > MOST_FOR_EVERY_SIGN:
        drawn = stats.permutation_test(
            (values,), np.mean, permutation_type="samples", n_resamples=2**16, rng=0
        )
        return float(drawn.pvalue)
    sums = values[:1]  # every sum of signed values whose first sign is +: the others mirror them
    for value in values[1:]:
        sums = np.concatenate([sums + value, sums - value])
    rounding = 1e-9 * np.abs(values).sum()
    return float((np.abs(sums) >= abs(values.sum()) - rounding).mean())


def geometric_mean(values: Sequence[float]) -> float:
    """The mean that suits temperatures: ½ and 2 average to 1.

    Examples:
        >>> geometric_mean([0.5, 2.0])
        1.0
    """
    return float(np.exp(np.mean(np.log(values))))
