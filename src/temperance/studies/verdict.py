"""What a study's tables support, in contrasts and in two sentences made from the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from temperance.errors import UserError
from temperance.reporting.format import interval, signed
from temperance.studies.plan import EQUAL_LABELS, WITHOUT_TEACHER, StudyArgs
from temperance.studies.statistics import PairedDifference, paired_difference


@dataclass(frozen=True)
class Contrast:
    """One arm minus another over the same replicates, in percentage points of test accuracy."""

    arm: str
    against: str
    objective: str | None
    """Of the arms with a teacher; None where both are without, or the study has but one."""
    softening: float | None
    """τ of the arms with a teacher; None where both are without, or it is the objective's own."""
    differences: tuple[float, ...]
    """One per replicate."""
    difference: PairedDifference
    """Their statistics."""
    primary: bool = False

    @property
    def label(self) -> str:
        """How the contrast is called in tables."""
        return f"{self.arm} − {self.against}" + (f" ({self.how})" if self.how else "")

    @property
    def how(self) -> str:
        """Objective and softening, as far as they tell contrasts of the study apart."""
        tau = "" if self.softening is None else f"τ = {self.softening:g}"
        return ", ".join(part for part in (self.objective or "", tau) if part)


def contrasts(args: StudyArgs, students: pd.DataFrame) -> list[Contrast]:
    """The contrasts that the arms allow, the primary one first.

    Primary: the best arm with a teacher minus labels only at equal labels. Which arm is best is
    decided on the validation split, since choosing it by the test numbers that are then compared
    would flatter it.
    """
    found = []
    several = len(args.objectives) > 1
    taught = students[~students["arm"].isin(WITHOUT_TEACHER)]
    if EQUAL_LABELS in args.arms and len(taught):
        arm, way = best_arm(taught)
        found.append(_contrast(students, arm, EQUAL_LABELS, way, several, primary=True))
    pairs = [
        ("labels+calibration", "labels"),
        *(("raw", EQUAL_LABELS), ("calibrated", EQUAL_LABELS)),
        *(("calibrated", "raw"), ("calibrated", "constant-T")),
        *(("under-confident", "raw"), ("under-confident", "calibrated")),
        ("constant-T", "raw"),
    ]
    for arm, against in pairs:
        if arm in args.arms and against in args.arms:
            ways = _ways(students[students["arm"] == arm])
            found += [_contrast(students, arm, against, way, several) for way in ways]
    return found


class Way(NamedTuple):
    """How an arm's students learned from their teacher; None, None without one."""

    objective: str | None
    softening: float | None
    """None if it is the objective's own."""


def _ways(students: pd.DataFrame) -> list[Way]:
    """The ways of these students, in their order."""
    each = students[["objective", "softening"]].drop_duplicates()
    return [
        Way(None if pd.isna(objective) else objective, None if pd.isna(tau) else float(tau))
        for objective, tau in each.itertuples(index=False)
    ]


def best_arm(taught: pd.DataFrame) -> tuple[str, Way]:
    """The arm, and its way, with the highest mean validation accuracy; the first of equals.

    Raises:
        UserError: if there was no validation split.
    """
    if taught["validation_accuracy"].isna().any():
        raise UserError(
            "the best arm is chosen on the validation split, which is empty",
            where="split.validation",
            mend="Set it above 0",
        )
    candidates = [
        (str(arm), way)
        for arm in taught["arm"].unique()
        for way in _ways(taught[taught["arm"] == arm])
    ]
    means = [_of(taught, *candidate)["validation_accuracy"].mean() for candidate in candidates]
    return candidates[int(np.argmax(means))]


def _contrast(
    students: pd.DataFrame,
    arm: str,
    against: str,
    way: Way,
    several: bool,
    *,
    primary: bool = False,
) -> Contrast:
    """`several`: whether the study has more than one objective, so that theirs has to be named."""
    minuend, subtrahend = (_of(students, one, way)["accuracy"] for one in (arm, against))
    differences = tuple((100 * (minuend - subtrahend)).tolist())
    objective = way.objective if several else None
    difference = paired_difference(differences)
    return Contrast(arm, against, objective, way.softening, differences, difference, primary)


def _of(students: pd.DataFrame, arm: str, way: Way) -> pd.DataFrame:
    """The students of an arm, by replicate; of one way if the arm has a teacher."""
    rows = students[students["arm"] == arm]
    if arm not in WITHOUT_TEACHER:
        tau = rows["softening"]
        same = tau.isna() if way.softening is None else tau == way.softening
        rows = rows[same & (rows["objective"] == way.objective)]
    return rows.set_index("replicate").sort_index()


def sentences(args: StudyArgs, found: list[Contrast]) -> tuple[str, str]:
    """What the table supports, and what it does not: two sentences made from the numbers alone.

    They are about four claims: a teacher helps at all (the primary contrast), calibrating it
    helps, the fitted T does better than one constant T for all, and going beyond T helps more. A
    difference that lies within the margin is a finding too; one that is neither established nor
    excluded is undecided.
    """
    claims = [
        ("a teacher helps at equal labels", [c for c in found if c.primary]),
        ("calibrating helps", _pairs(found, "calibrated", "raw")),
        ("the fitted T beats one constant T", _pairs(found, "calibrated", "constant-T")),
        ("an under-confident teacher helps more", _pairs(found, "under-confident", "calibrated")),
    ]
    findings = [
        _finding(
            status, [c for c in contrasts_of if _status(c, args.margin) == status], args.margin
        )
        for _, contrasts_of in claims
        for status in ("better", "worse", "equivalent")
        if any(_status(c, args.margin) == status for c in contrasts_of)
    ]
    unsupported = [
        _not_supported(claim, contrasts_of, args.margin)
        for claim, contrasts_of in claims
        if contrasts_of and not any(_status(c, args.margin) == "better" for c in contrasts_of)
    ]
    head = f"Over {args.replicates} replicates this table"
    first = f"{head} supports: {'; '.join(findings)}." if findings else f"{head} decides nothing."
    second = (
        f"It does not support that {'; nor that '.join(unsupported)}."
        if unsupported
        else "It says nothing about other data, models, or test images."
    )
    return first, second


def _pairs(found: list[Contrast], arm: str, against: str) -> list[Contrast]:
    return [c for c in found if (c.arm, c.against) == (arm, against) and not c.primary]


def _status(contrast: Contrast, margin: float) -> str:
    """better, worse, equivalent (within the margin) or undecided."""
    difference = contrast.difference
    if difference.within(margin):
        return "equivalent"
    return {1: "better", -1: "worse", 0: "undecided"}[difference.direction]


def _finding(status: str, alike: list[Contrast], margin: float) -> str:
    """One clause about contrasts of the same two arms that came out alike."""
    contrast = alike[0]
    verb = {
        "better": "beats",
        "worse": "falls behind",
        "equivalent": f"equals, within ±{margin:g} points,",
    }[status]
    arm = f"the best arm with a teacher, {contrast.arm}," if contrast.primary else contrast.arm
    against = contrast.against
    if against == EQUAL_LABELS:
        against = "labels only at equal labels"
    return f"{arm} {verb} {against} ({'; '.join(_numbers(c) for c in alike)})"


def _not_supported(claim: str, contrasts_of: list[Contrast], margin: float) -> str:
    """The claim, and for what is undecided the numbers that leave it so."""
    undecided = [c for c in contrasts_of if _status(c, margin) == "undecided"]
    if not undecided:
        return claim
    return f"{claim} (undecided: {'; '.join(_numbers(c) for c in undecided)})"


def _numbers(contrast: Contrast) -> str:
    difference = contrast.difference
    how = f"{contrast.how}: " if contrast.how else ""
    text = f"{how}{signed(difference.mean, 2)} points"
    if difference.low is None or difference.high is None:
        return f"{text}, no interval from {difference.n} replicates"
    return f"{text} {interval(difference.low, difference.high, 2)}"
