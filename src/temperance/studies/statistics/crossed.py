"""Uncertainty over teachers and test rows at once: what new data would do to a difference."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import special


@dataclass(frozen=True)
class CrossedVariance:
    """Variance of a mean over clusters of teachers crossed with test rows, in its parts."""

    from_clusters: float
    """Other clusters, same test rows: squared sd of the clusters' means over their number."""
    from_rows: float
    """Other test rows (or groups of them), same clusters."""
    in_both: float
    """What the two have in common and would count twice."""
    clusters: int
    rows: int
    """Test rows, or groups of them."""

    @property
    def total(self) -> float:
        """Never below either part: subtraction must not promise less than one source alone."""
        total = self.from_clusters + self.from_rows - self.in_both
        return max(total, self.from_clusters, self.from_rows)

    def half_width(self, level: float = 0.95) -> float:
        """Half an interval of this level, with Cochran's quantile.

        The t quantiles of clusters − 1 and of rows − 1 degrees of freedom are averaged with the
        shares of the variance as weights (Cochran & Cox 1950, for the Behrens–Fisher problem):
        clusters − 1 alone is far too wide where test rows dominate, Satterthwaite's degrees of
        freedom cover a point too little where a few clusters do.
        """
        if self.total == 0:
            return 0.0
        share = self.from_clusters / self.total
        of_clusters, of_rows = special.stdtrit([self.clusters - 1, self.rows - 1], (1 + level) / 2)
        return float(share * of_clusters + (1 - share) * of_rows) * math.sqrt(self.total)


def crossed_variance(
    rows: Float[np.ndarray, "teachers rows"],
    clusters: Int[np.ndarray, " teachers"],
    row_groups: Int[np.ndarray, " rows"] | None = None,
) -> CrossedVariance:
    """Two-way cluster-robust variance of the mean over clusters of the teachers' means.

    Cameron, Gelbach & Miller (2011): clusters + rows − intersection, each with its small-sample
    factor. The intersection is centred so that the total is unbiased for the model cluster +
    teacher + row + interaction at any number of clusters and, up to a share of 1 / rows, any
    overlap of test sets. With one test set for all it is the analysis of variance with both
    factors random; with disjoint ones rows add nothing to clusters. (A crossed bootstrap,
    teachers × rows, counts the interaction three times: Owen 2007, "The pigeonhole bootstrap".)

    Args:
        rows: differences; NaN where a row is not in that teacher's test set.
        clusters: number of each teacher's cluster, 0 … clusters − 1, at least two.
        row_groups: number of the group of each row, where rows belong together.

    Raises:
        ValueError: if a teacher has no row, or there are fewer than two rows (or groups).

    Examples:
        >>> rows = np.array([[1.0, 0.0, 2.0], [2.0, 1.0, 3.0]])  # teacher + row, no interaction
        >>> found = crossed_variance(rows, np.array([0, 1]))
        >>> round(found.from_clusters, 3), round(found.from_rows, 3), round(found.in_both, 3)
        (0.25, 0.333, 0.0)
    """
    present = ~np.isnan(rows)
    lengths = present.sum(1)
    if not lengths.all():
        raise ValueError("every teacher needs a test row")
    filled = np.where(present, rows, 0.0).astype(np.float64)
    means = filled.sum(1) / lengths
    membership = clusters == np.arange(clusters.max() + 1)[:, None]
    membership = membership / membership.sum(1, keepdims=True)
    count = len(membership)

    # each row's part in the error of the mean, by cluster
    centred = np.where(present, filled - means[:, None], 0.0) / lengths[:, None]
    errors = membership @ centred / count
    seen = present.any(0)
    if row_groups is not None:
        errors = np.stack([np.bincount(row_groups, weights=error) for error in errors])
        seen = np.bincount(row_groups, weights=seen) > 0
    groups = int(seen.sum())
    if groups < 2:
        raise ValueError("fewer than two test rows, or groups of them, say nothing about others")

    factor = groups / (groups - 1)
    apart = errors - errors.mean(0)
    return CrossedVariance(
        from_clusters=float((membership @ means).var(ddof=1)) / count,
        from_rows=factor * float((errors.sum(0) ** 2).sum()),
        in_both=factor * count / (count - 1) * float((apart**2).sum()),
        clusters=count,
        rows=groups,
    )
