"""Can a pool of teachers tell calibration from accuracy? What its design should have seen to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from temperance.calibration.floors import SEEN
from temperance.studies.statistics.families import FEWEST_FOR_P, Values, pearson

BALANCED = 0.3  # |r| of accuracy and gap below which a pool can tell them apart
FEWEST_SEEDS = 2  # of training, for each recipe


@dataclass(frozen=True)
class PoolBalance:
    """What a pool of teachers can show; descriptive."""

    n: int
    families: int
    correlation: float
    """Pearson's r of accuracy and signed gap; NaN under 3 teachers."""
    over: int
    """How many are over-confident (gap > 0)."""
    under: int
    recipes: int
    fewest_seeds: int
    """Training seeds of the recipe that has fewest."""
    seeds_correlation: float | None
    """Intraclass correlation of student accuracy between the seeds of a recipe: near 1, another
    seed adds nothing; near 0, a recipe says nothing. None where no recipe has two seeds."""

    @property
    def remarks(self) -> list[str]:
        """What it cannot show, a sentence each; empty for a balanced pool."""
        found = []
        if not abs(self.correlation) < BALANCED:
            shown = "unknown" if math.isnan(self.correlation) else f"{self.correlation:.2f}"
            found.append(
                f"accuracy and signed gap are not separated over the pool (r = {shown}, wanted"
                f" within ±{BALANCED:g})"
            )
        if not self.over or not self.under:
            kind = "over" if not self.over else "under"
            found.append(f"no teacher is {kind}-confident: only one side of calibration is seen")
        if self.fewest_seeds < FEWEST_SEEDS:
            found.append("a recipe was trained with one seed only: its luck looks like its effect")
        if self.families < FEWEST_FOR_P:
            found.append(
                f"{self.families} families are too few for a p-value (from {FEWEST_FOR_P})"
            )
        return found


def pool_balance(teachers: pd.DataFrame, outcome: Sequence[float] | Values) -> PoolBalance:
    """Whether accuracy and calibration are crossed in a pool, both signs seen, recipes repeated.

    Args:
        teachers: one row per teacher with `family`, `recipe`, `replicate`, `checkpoint` (epoch, or
            NaN for the last), `accuracy` and `gap` (mean confidence − accuracy).
        outcome: mean accuracy of each teacher's students.

    Raises:
        ValueError: without a teacher.

    Examples:
        >>> pool = pd.DataFrame({
        ...     "family": list("aabb"), "recipe": list("aabb"), "replicate": [0, 1, 0, 1],
        ...     "checkpoint": math.nan, "accuracy": [0.90, 0.91, 0.92, 0.93],
        ...     "gap": [0.05, -0.02, -0.02, 0.05],
        ... })
        >>> balance = pool_balance(pool, [80.0, 80.2, 84.0, 84.2])
        >>> abs(round(balance.correlation, 2)), balance.over, balance.under, balance.fewest_seeds
        (0.0, 2, 2, 2)
    """
    if teachers.empty:
        raise ValueError("a pool has at least one teacher")
    accuracy, gap = (teachers[name].to_numpy(dtype=np.float64) for name in ("accuracy", "gap"))
    states = teachers.groupby(["recipe", "checkpoint"], dropna=False, sort=False)
    return PoolBalance(
        n=len(teachers),
        families=int(teachers["family"].nunique()),
        correlation=pearson(accuracy, gap),
        over=int((gap > 0).sum()),
        under=int((gap < 0).sum()),
        recipes=int(teachers["recipe"].nunique()),
        fewest_seeds=int(teachers.groupby("recipe")["replicate"].nunique().min()),
        seeds_correlation=intraclass_correlation(
            np.asarray(outcome, dtype=np.float64), states.ngroup().to_numpy()
        ),
    )


def intraclass_correlation(
    values: Float[np.ndarray, " values"], groups: Sequence[object] | np.ndarray
) -> float | None:
    """Correlation of two values of one group, from a one-way analysis of variance.

    ICC(1) of Shrout & Fleiss (1979), Psychological Bulletin 86, with the mean group size for
    unequal groups of Donner (1986). May be negative. None under two groups, if no group has two
    values, or if all values are equal.

    Examples:
        >>> intraclass_correlation(np.array([1.0, 1.0, 3.0, 3.0]), ["a", "a", "b", "b"])
        1.0
    """
    frame = pd.DataFrame({"value": values, "group": groups})
    by_group = frame.groupby("group")["value"]
    sizes = by_group.size().to_numpy()
    n, k = len(frame), len(sizes)
    if k < 2 or n == k or np.ptp(values) == 0:
        return None
    means = by_group.transform("mean")
    between = float(((means - frame["value"].mean()) ** 2).sum()) / (k - 1)
    within = float(((frame["value"] - means) ** 2).sum()) / (n - k)
    size = (n - float((sizes**2).sum()) / n) / (k - 1)
    return (between - within) / (between + (size - 1) * within)


@dataclass(frozen=True)
class AxisPower:
    """Whether ACE may be an axis over these teachers."""

    n: int
    seeing: int
    """For how many a temperature wrong by a factor of 1.3 moves ACE by 3 sds of its floor."""
    median: float
    """Of the changes, in sds of the floor."""

    @property
    def usable(self) -> bool:
        """Only if it sees for every teacher: a point that noise has put there misleads."""
        return self.seeing == self.n

    @property
    def sentence(self) -> str:
        """For the report."""
        verdict = (
            "ACE sees miscalibration here"
            if self.usable
            else "ACE is nearly blind here and is refused as an axis"
        )
        return (
            f"{verdict}: a temperature wrong by a factor of 1.3 changes it by {SEEN:g} standard"
            f" deviations of its noise floor for {self.seeing} of {self.n} teachers (median"
            f" {self.median:.1f})."
        )


def ace_axis(changes: Sequence[float]) -> AxisPower:
    """The power of ACE over a pool.

    Args:
        changes: for each teacher, the smaller of `AcePower.change` and
            `AcePower.change_sharpened`, in standard deviations of the floor.

    Raises:
        ValueError: without a teacher, or if a change is missing.

    Examples:
        >>> ace_axis([5.0, 0.4, 7.0]).usable
        False
    """
    values = np.asarray(changes, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"changes must be finite and at least one, got {changes}")
    return AxisPower(len(values), int((values >= SEEN).sum()), float(np.median(values)))
