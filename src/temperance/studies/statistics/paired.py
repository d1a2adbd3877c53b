"""Paired statistics over replicates; the unit of replication is the teacher with its split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

FEWEST = 5  # replicates below which no interval is given
FEWEST_FOR_SIGN_FLIP = 6  # below, the smallest attainable two-sided p exceeds 0.05


@dataclass(frozen=True)
class PairedDifference:
    """Mean of paired differences with its uncertainty over replicates (not over test rows)."""

    mean: float
    n: int
    """Number of replicates."""
    sd: float | None
    """Standard deviation of the differences; None for one replicate."""
    low: float | None
    """95 % t interval with n − 1 degrees of freedom; None under 5 replicates."""
    high: float | None
    p_sign_flip: float | None
    """Two-sided sign-flip test; None under 6 replicates."""
    detectable: float | None
    """Smallest true difference found with 80 % power at this n and sd; None under 5 replicates."""

    @property
    def direction(self) -> int:
        """+1 or −1 where the interval excludes 0, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    def within(self, margin: float) -> bool:
        """Whether the 90 % interval lies inside ± margin: equivalence by two one-sided tests."""
        if self.low is None or self.sd is None:
            return False
        half = float(stats.t.ppf(0.95, self.n - 1)) * self.sd / math.sqrt(self.n)
        return abs(self.mean) + half < margin


def paired_difference(differences: Sequence[float]) -> PairedDifference:
    """Statistics of one difference per replicate.

    Raises:
        ValueError: without a single difference, or if one is not finite.

    Examples:
        >>> result = paired_difference([1.0, 2.0, 3.0, 2.0, 2.0])
        >>> result.mean, round(result.low, 2), round(result.high, 2)
        (2.0, 1.12, 2.88)
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"differences must be finite and at least one, got {differences}")
    n, mean = values.size, float(values.mean())
    sd = float(values.std(ddof=1)) if n > 1 else None
    if sd is None or n < FEWEST:
        return PairedDifference(mean, n, sd, None, None, None, None)
    error = sd / math.sqrt(n)
    quantile = float(stats.t.ppf(0.975, n - 1))
    return PairedDifference(
        mean=mean,
        n=n,
        sd=sd,
        low=mean - quantile * error,
        high=mean + quantile * error,
        p_sign_flip=_sign_flip(values) if n >= FEWEST_FOR_SIGN_FLIP else None,
        detectable=(quantile + float(stats.t.ppf(0.8, n - 1))) * error,
    )


def _sign_flip(values: Float[np.ndarray, " replicates"]) -> float:
    """Two-sided p of the mean under random signs; exact up to 16 replicates."""
    result = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=2**16, rng=0
    )
    return float(result.pvalue)


def geometric_mean(values: Sequence[float]) -> float:
    """The mean that suits temperatures: ½ and 2 average to 1.

    Examples:
        >>> geometric_mean([0.5, 2.0])
        1.0
    """
    return float(np.exp(np.mean(np.log(values))))
