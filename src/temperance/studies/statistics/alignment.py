"""Is the fitted temperature the unit of softening? The best softening against it, over teachers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int

from temperance.studies.statistics.errors_in_variables import straight_lines
from temperance.studies.statistics.families import FEWEST_FOR_P, FEWEST_TEACHERS, family_codes
from temperance.studies.statistics.family_bootstrap import (
    Estimate,
    estimate_of,
    resampled_families,
)
from temperance.studies.statistics.optimum import Optimum

PERMUTATIONS = 9999  # where not all are counted
COUNTED = 40_320  # permutations up to which all are: those of 8 families

Teachers = Float[np.ndarray, " teachers"]
Families = Int[np.ndarray, " teachers"]


@dataclass(frozen=True)
class Alignment:
    """Line of the log best teacher softening over log T, and what it says of T as a unit."""

    slope: Estimate
    """1: the best softening is proportional to T. 0: it does not depend on T."""
    intercept: Estimate
    """Log best softening of a teacher with T = 1."""
    scatter: float
    """Of the log best softening about the line, beyond the errors: a standard deviation."""
    factor: Estimate
    """Best under-confidence factor u, if the slope is 1: best softening = u · T · τ_student."""
    constant: Estimate
    """Best teacher softening for every teacher, if the slope is 0."""
    p: float | None
    """Two-sided permutation test of slope 0; None under 8 families."""
    n: int
    """Number of teachers in the regression."""
    families: int
    """Of these teachers."""
    excluded: int
    """Number of teachers left out, since their optimum is only bounded."""

    @property
    def provisional(self) -> bool:
        """Whether the families are too few (under 8) to lean on the interval."""
        return self.families < FEWEST_FOR_P

    @property
    def reads_as(self) -> str:
        """The slope's interval in words, by which of 0 and 1 it contains."""
        return {
            (False, True): "T is the unit",
            (True, False): "one constant does as well",
            (True, True): "undecided",
            (False, False): "neither",
        }[self.slope.holds(0), self.slope.holds(1)]


def alignment_of(
    optima: Sequence[Optimum],
    log_temperatures: Teachers,
    se_log_temperatures: Teachers,
    families: Sequence[object],
    *,
    student_softening: float = 1.0,
) -> Alignment:
    """Regress the log of each teacher's best softening on the log of its fitted temperature.

    Errors in both variables and a scatter about the line (`straight_lines`). Intervals: families
    are resampled with all their teachers (pairs cluster bootstrap, 499 times from a fixed seed),
    and its standard error is multiplied by the t quantile of families − 1 degrees of freedom; its
    percentiles cover too little (`benchmarks/results/study_coverage/alignment.md`). The test
    permutes the families' mean log T over the families, whose mean log optima are weighted by
    their errors; all permutations are counted for 8 families, 9,999 are drawn for more.

    Args:
        optima: one per teacher; those with an edge are counted and left out.
        log_temperatures: natural logarithm of T.
        se_log_temperatures: their standard errors.
        families: labels of the clusters of alike teachers.
        student_softening: τ of the students, the same for all.

    Raises:
        ValueError: if fewer than 3 teachers have an optimum inside their grid, if these have all
            the same T, or if a temperature or its error is not finite.

    Examples:
        >>> log_t = np.log([1.0, 1.5, 2.0, 3.0, 4.0])
        >>> optima = [Optimum(x + np.log(2.0), 0.1, None, 33) for x in log_t]
        >>> found = alignment_of(optima, log_t, np.full(5, 0.05), list("abcde"))
        >>> round(found.slope.value, 3), round(found.factor.value, 3), found.reads_as
        (1.0, 2.0, 'T is the unit')
    """
    inside = np.array([optimum.edge is None for optimum in optima], dtype=bool)
    x, se_x = (np.asarray(v, np.float64) for v in (log_temperatures, se_log_temperatures))
    if not np.isfinite([x, se_x]).all():
        raise ValueError("log temperatures and their errors must be finite")
    if inside.sum() < FEWEST_TEACHERS:
        raise ValueError(
            f"the alignment needs {FEWEST_TEACHERS} teachers whose best softening lies inside the"
            f" grid, and {inside.sum()} of {len(inside)} have one"
        )
    x, se_x = x[inside], se_x[inside]
    if np.ptp(x) == 0:
        raise ValueError("the alignment needs teachers of different T, and all have the same")
    y = np.array([optimum.log_softening for optimum in optima])[inside]
    se_y = np.array([optimum.se for optimum in optima])[inside]
    family = family_codes(list(itertools.compress(families, inside)))
    groups = int(family.max()) + 1

    counts = resampled_families(groups)[:, family]
    line, unit, flat = (
        straight_lines(x, y, se_x, se_y, counts=counts, slope=slope) for slope in (None, 1.0, 0.0)
    )
    estimates = {
        "slope": estimate_of(line.slope, groups),
        "intercept": estimate_of(line.intercept, groups),
        "factor": _exponential(estimate_of(unit.intercept - math.log(student_softening), groups)),
        "constant": _exponential(estimate_of(flat.intercept, groups)),
    }
    return Alignment(
        **estimates,
        scatter=float(line.scatter[0]),
        p=_permuted(x, y, se_y, family) if groups >= FEWEST_FOR_P else None,
        n=len(x),
        families=groups,
        excluded=int((~inside).sum()),
    )


def _exponential(log: Estimate) -> Estimate:
    if log.low is None or log.high is None:
        return Estimate(math.exp(log.value), None, None)
    return Estimate(*(math.exp(value) for value in (log.value, log.low, log.high)))


def _permuted(x: Teachers, y: Teachers, se_y: Teachers, family: Families) -> float:
    """Two-sided p of the correlation over families, weighted by what the null hypothesis says.

    Weights stay with the optima, so under the hypothesis every assignment of temperatures to
    families is as likely as any other.
    """
    scatter = straight_lines(x, y, np.zeros_like(x), se_y, slope=0.0).scatter[0]
    precision = 1 / (se_y**2 + scatter**2)
    total = np.bincount(family, precision)
    y = np.bincount(family, precision * y) / total
    x = np.bincount(family, x) / np.bincount(family)
    if np.ptp(x) == 0:  # every permutation is the same
        return 1.0
    null = straight_lines(x, y, np.zeros_like(x), total**-0.5, slope=0.0)
    weights = 1 / (1 / total + null.scatter[0] ** 2)
    pull = weights * (y - null.intercept[0])

    permuted = x[_orders(len(x))]
    mean = permuted @ weights / weights.sum()
    size = np.sqrt((permuted - mean[:, None]) ** 2 @ weights)
    found = np.abs(permuted @ pull) / size
    return float(np.mean(found >= found[0] * (1 - 1e-9)))


@cache
def _orders(groups: int) -> Int[np.ndarray, "permutations families"]:
    """Permutations, the identity first; drawn from a fixed seed where all are too many."""
    if math.factorial(groups) <= COUNTED:
        return np.array(list(itertools.permutations(range(groups))))
    identity = np.arange(groups)[None]
    drawn = np.random.default_rng(0).permuted(np.repeat(identity, PERMUTATIONS, 0), axis=1)
    return np.concatenate([identity, drawn])
