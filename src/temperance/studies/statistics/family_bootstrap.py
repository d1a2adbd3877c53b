"""How sure a number is over families of teachers: families are resampled with all of theirs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from temperance.studies.statistics.families import family_quantile
from temperance.studies.statistics.paired import FEWEST

RESAMPLES = 499
FEWEST_DRAWN = 3  # families in a resample; fewer do not say what a slope varies by


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval over families of teachers; None under 5 families."""

    value: float
    low: float | None
    high: float | None

    def holds(self, value: float) -> bool:
        """Whether the interval contains the value; one that is unknown contains any."""
        return self.low is None or self.high is None or self.low <= value <= self.high


def resampled_families(groups: int) -> Int[np.ndarray, "resamples families"]:
    """How often each family is in each sample: the families themselves first, then resamples.

    There are no resamples under 5 families. They are drawn from a fixed seed.
    """
    themselves = np.ones((1, groups), dtype=np.int64)
    if groups < FEWEST:
        return themselves
    drawn = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), RESAMPLES)
    return np.concatenate([themselves, drawn[(drawn > 0).sum(1) >= FEWEST_DRAWN]])


def estimate_of(values: Float[np.ndarray, " samples"], groups: int) -> Estimate:
    """The value of the families themselves, ± t quantile × the standard deviation of resamples.

    The t distribution has families − 1 degrees of freedom. The percentiles of the resamples cover
    too little (`benchmarks/results/study_coverage/alignment.md`).

    Args:
        values: of the samples of `resampled_families`; what is not finite is left out.
        groups: number of families.
    """
    value, resampled = float(values[0]), values[1:]
    resampled = resampled[np.isfinite(resampled)]
    if not len(resampled):
        return Estimate(value, None, None)
    half = family_quantile(groups) * float(resampled.std())
    return Estimate(value, value - half, value + half)
