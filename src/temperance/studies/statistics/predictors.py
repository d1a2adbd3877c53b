"""Can the predictors of student accuracy be told apart at all? Descriptive."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
from jaxtyping import Float

from temperance.studies.statistics.families import pearson

SAME = 1e-6  # largest difference between two measures that are one
SUMS = {  # each is the first plus, or minus, the second
    "gap": ("confidence", "accuracy", -1),
    "nll": ("refinement", "calibration", 1),
}


def collinearity(predictors: pd.DataFrame) -> pd.DataFrame:
    """How far each predictor is told by the others; descriptive.

    Index: the predictors. Columns:

    - `vif`: variance inflation factor, 1 / (1 − R²) of the regression on all other predictors;
      above 10 a joint regression says nothing about this one. Infinite for one that is another
      listed before it, or the sum of two: the regression does without it, else theirs would be
      infinite too. NaN for a constant one, and with too few teachers for the regression;
    - `with_accuracy`, `with_gap`: Pearson's r with those two; NaN where they are not given;
    - `same_as`: what it equals for every teacher, empty for nothing (see `identities`).

    Args:
        predictors: one row per teacher. Predictors that no teacher has are left out, and then
            teachers with a missing value.

    Examples:
        >>> measures = pd.DataFrame({
        ...     "accuracy": [0.90, 0.91, 0.93, 0.92, 0.94], "gap": [0.05, 0.02, 0.06, 0.03, 0.04],
        ...     "ece": [0.05, 0.02, 0.06, 0.03, 0.04],
        ... })
        >>> collinearity(measures)["same_as"].tolist()
        ['', 'ece', 'gap']
        >>> collinearity(measures[["accuracy", "gap"]])["vif"].round(2).tolist()
        [1.04, 1.04]
    """
    columns = _known(predictors)
    equalities = _equalities(columns)
    same = {name: f"{'−' * (sign < 0)}{other}" for name, other, sign in equalities}
    same |= {name: f"{'−' * (sign < 0)}{other}" for other, name, sign in reversed(equalities)}
    told = {*_sums(columns), *(other for _, other, _ in equalities)}
    factors = _inflation(columns, told)
    rows = {
        name: [
            factors.get(name, math.nan),
            *(_correlation(columns, name, other) for other in ("accuracy", "gap")),
            same.get(name, ""),
        ]
        for name in predictors.columns
    }
    names = ["vif", "with_accuracy", "with_gap", "same_as"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=names)


def identities(predictors: pd.DataFrame) -> list[str]:
    """Sentences on predictors that are one and the same number for every teacher.

    Above all ECE: where all bins of all teachers are over-confident, it *is* mean confidence −
    accuracy, and nothing can tell miscalibration from plain confidence.

    Examples:
        >>> identities(pd.DataFrame({"gap": [0.05, 0.02], "ece": [0.05, 0.02]}))[0][:57]
        'ece is gap for all 2 teachers, since all are over-confide'
    """
    columns = _known(predictors)
    sentences = [
        f"{name} is {'' if sign > 0 else '−'}{other} for all {len(columns[name])} teachers"
        + _reason(name, other, columns)
        for other, name, sign in _equalities(columns)
    ]
    return sentences + [
        f"{name} is {first} {'+' if sign > 0 else '−'} {second}: a joint regression takes at most"
        " two of the three."
        for name, (first, second, sign) in _sums(columns).items()
    ]


def _correlation(
    columns: dict[str, Float[np.ndarray, " teachers"]], name: str, other: str
) -> float:
    known = {name, other} <= columns.keys()
    return pearson(columns[name], columns[other]) if known else math.nan


def _known(predictors: pd.DataFrame) -> dict[str, Float[np.ndarray, " teachers"]]:
    known = predictors.dropna(axis="columns", how="all").dropna()
    return {name: known[name].to_numpy(dtype=np.float64) for name in known.columns}


def _sums(
    columns: dict[str, Float[np.ndarray, " teachers"]],
) -> dict[str, tuple[str, str, int]]:
    """Those of `SUMS` that hold."""
    return {
        name: (first, second, sign)
        for name, (first, second, sign) in SUMS.items()
        if {name, first, second} <= columns.keys()
        and _same(columns[name], columns[first] + sign * columns[second])
    }


def _equalities(
    columns: dict[str, Float[np.ndarray, " teachers"]],
) -> list[tuple[str, str, int]]:
    """Pairs of which one is the other, or its negative."""
    return [
        (first, second, sign)
        for first, second in itertools.combinations(columns, 2)
        for sign in (1, -1)
        if _same(columns[first], sign * columns[second]) and np.ptp(columns[first]) > SAME
    ]


def _same(x: Float[np.ndarray, " teachers"], y: Float[np.ndarray, " teachers"]) -> bool:
    return len(x) > 1 and float(np.abs(x - y).max()) <= SAME


def _reason(name: str, other: str, columns: dict[str, Float[np.ndarray, " teachers"]]) -> str:
    if "gap" not in columns or not {name, other} <= {"ece", "gap", "absolute_gap"}:
        return ": they are one predictor."
    gap = columns["gap"]
    if (gap >= -SAME).all():
        why = "all are over-confident"
    elif (gap <= SAME).all():
        why = "all are under-confident"
    else:
        why = "each is over- or under-confident in all its bins"
    return f", since {why}: it says how confident a teacher is and no more about calibration."


def _inflation(
    columns: dict[str, Float[np.ndarray, " teachers"]], told: set[str]
) -> dict[str, float]:
    """Variance inflation factors; of those that are told by others, infinity."""
    factors = {name: math.inf if name in told else math.nan for name in columns}
    varying = {
        name: (column - column.mean()) / column.std()
        for name, column in columns.items()
        if name not in told and len(column) > 1 and np.ptp(column) > 0
    }
    for name, column in varying.items():
        if len(column) <= len(varying) + 1:
            break  # no degree of freedom is left
        others = np.array([other for key, other in varying.items() if key != name])
        design = others.reshape(-1, len(column)).T
        unexplained = column - design @ np.linalg.lstsq(design, column)[0]
        share = float(unexplained @ unexplained) / len(column)
        factors[name] = 1 / share if share > SAME**2 else math.inf
    return factors
