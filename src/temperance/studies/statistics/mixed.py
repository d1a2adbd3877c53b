"""Two arms by a mixed model of all students: the check on paired means of teachers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from temperance.studies.statistics.paired import FEWEST


@dataclass(frozen=True)
class MixedEffect:
    """Difference of two arms by a mixed model, in percentage points; sensitivity only.

    There is no p-value: statsmodels has no degrees of freedom for few groups (Satterthwaite).
    """

    estimate: float
    se: float
    n: int
    """Number of students."""
    groups: int
    """Number of families."""
    converged: bool
    """False if the optimiser failed or stopped where a variance is 0, taken for known by `se`."""


def mixed_effect(frame: pd.DataFrame, arm: str, against: str) -> MixedEffect | None:
    """`arm` minus `against` by restricted maximum likelihood (statsmodels' MixedLM).

    Random intercepts and random effects of the arm, independent of each other, for families and
    for teachers in them; one level only where every family is one teacher. The teachers' random
    effects of the arm need students that differ by seed alone, else the residual stands for them.
    With equal numbers everywhere, and no variance at 0, the result is the mean and standard
    error of `paired_difference`.

    Args:
        frame: one row per student, with teacher, family, arm and accuracy in [0, 1]; of one
            objective and softening. Other arms are ignored.

    Returns:
        None under 5 families, and where the fit has no standard error (nothing varies).

    Raises:
        ValueError: if an arm has no student.

    Examples:
        >>> accuracy = [0.70, 0.71, 0.72, 0.75, 0.66, 0.66, 0.69, 0.71, 0.73, 0.74]
        >>> frame = pd.DataFrame({"teacher": np.repeat([*"ABCDE"], 2), "accuracy": accuracy})
        >>> frame["family"], frame["arm"] = frame["teacher"], ["raw", "calibrated"] * 5
        >>> round(mixed_effect(frame, "calibrated", "raw").estimate, 2)
        1.4
    """
    from statsmodels.regression.mixed_linear_model import MixedLM  # slow to import
    from statsmodels.tools.sm_exceptions import ConvergenceWarning

    students = frame[frame["arm"].isin([arm, against])]
    for name in (arm, against):
        if name not in set(students["arm"]):
            raise ValueError(f"no student of the arm {name!r}")
    n, families = len(students), students["family"].nunique()
    if families < FEWEST:
        return None

    cells = students.groupby(["family", "teacher", "arm"])["accuracy"]
    several_seeds = bool(cells.std().max() > 1e-9)
    data = students if several_seeds else cells.mean().reset_index()
    data = pd.DataFrame(
        {
            "points": 100 * data["accuracy"],
            "side": (data["arm"] == arm) - 0.5,  # ± ½: intercept and effect are then independent
            "family": data["family"],
            "teacher": data["teacher"],
        }
    )
    parts = {"teacher": "0 + C(teacher)"}
    if several_seeds:
        parts["teacher's effect"] = "0 + C(teacher):side"
    if students.groupby("family")["teacher"].nunique().max() > 1:
        parts |= {"family": "0 + C(family)", "family's effect": "0 + C(family):side"}
    model = MixedLM.from_formula("points ~ side", data, groups="family", vc_formula=parts)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit = model.fit()
            se = float(fit.bse_fe["side"])
        except np.linalg.LinAlgError:
            return None
    if not np.isfinite(se):
        return None
    complaints = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
    return MixedEffect(
        estimate=float(fit.fe_params["side"]),
        se=se,
        n=n,
        groups=families,
        converged=bool(fit.converged) and not complaints,
    )
