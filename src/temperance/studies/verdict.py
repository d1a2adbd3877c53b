"""What a study's tables support, in contrasts and in two sentences made from the numbers."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from temperance.studies.plan import EQUAL_LABELS, WITHOUT_TEACHER, StudyArgs
from temperance.studies.statistics import PairedDifference, paired_difference


@dataclass(frozen=True)
class Contrast:
    """One arm minus another over the same replicates, in percentage points of test accuracy."""

    arm: str
    against: str
    softening: float | None
    difference: PairedDifference
    primary: bool = False

    @property
    def label(self) -> str:
        """How the contrast is called in tables."""
        tau = "" if self.softening is None else f" (τ = {self.softening:g})"
        return f"{self.arm} − {self.against}{tau}"


def contrasts(args: StudyArgs, students: pd.DataFrame) -> list[Contrast]:
    """The contrasts that the arms allow, the primary one first.

    Primary: the best arm with a teacher minus labels only at equal labels. Which arm is best is
    decided on the validation split, since choosing it by the test numbers that are then compared
    would flatter it.
    """
    found = []
    taught = students[~students["arm"].isin(WITHOUT_TEACHER)]
    if EQUAL_LABELS in args.arms and len(taught):
        arm, softening = best_arm(taught)
        found.append(_contrast(students, arm, EQUAL_LABELS, softening, primary=True))
    pairs = [
        ("labels+calibration", "labels"),
        *(("raw", EQUAL_LABELS), ("calibrated", EQUAL_LABELS)),
        *(("calibrated", "raw"), ("calibrated", "constant-T")),
        *(("under-confident", "raw"), ("under-confident", "calibrated")),
        ("constant-T", "raw"),
    ]
    for arm, against in pairs:
        if arm not in args.arms or against not in args.arms:
            continue
        softenings = (None,) if arm in WITHOUT_TEACHER else args.softenings
        found += [_contrast(students, arm, against, tau) for tau in softenings]
    return found


def best_arm(taught: pd.DataFrame) -> tuple[str, float]:
    """Arm and softening with the highest mean validation accuracy (then the lower test NLL never
    enters: ties go to the first in the recipe)."""
    means = taught.groupby(["arm", "softening"], sort=False)["validation_accuracy"].mean()
    arm, softening = means.idxmax()
    return str(arm), float(softening)


def _contrast(
    students: pd.DataFrame,
    arm: str,
    against: str,
    softening: float | None,
    *,
    primary: bool = False,
) -> Contrast:
    base_softening = None if against in WITHOUT_TEACHER else softening
    minuend = _accuracies(students, arm, softening)
    subtrahend = _accuracies(students, against, base_softening)
    differences = 100 * (minuend - subtrahend)
    return Contrast(arm, against, softening, paired_difference(differences.tolist()), primary)


def _accuracies(students: pd.DataFrame, arm: str, softening: float | None) -> pd.Series[float]:
    rows = students[students["arm"] == arm]
    if softening is not None:
        rows = rows[rows["softening"] == softening]
    return rows.set_index("replicate")["accuracy"].sort_index()


def differences_per_replicate(students: pd.DataFrame, contrast: Contrast) -> list[float]:
    """The paired differences behind a contrast, in percentage points."""
    base_softening = None if contrast.against in WITHOUT_TEACHER else contrast.softening
    minuend = _accuracies(students, contrast.arm, contrast.softening)
    subtrahend = _accuracies(students, contrast.against, base_softening)
    return list(100 * (minuend - subtrahend))


def sentences(args: StudyArgs, found: list[Contrast]) -> tuple[str, str]:
    """What the table supports, and what it does not, from the numbers alone."""
    n = args.replicates
    supported = [_claim(contrast) for contrast in _key(found) if contrast.difference.direction]
    unsupported = [
        _gap(contrast, args.margin) for contrast in _key(found) if not contrast.difference.direction
    ]
    first = (
        f"Over {n} replicates this table supports: " + "; ".join(supported) + "."
        if supported
        else f"Over {n} replicates no difference in this table is established."
    )
    second = (
        "It does not support: " + "; ".join(unsupported) + "."
        if unsupported
        else "Every comparison named here is decided at this size; other data, models and"
        " settings are not."
    )
    return first, second


def _key(found: list[Contrast]) -> list[Contrast]:
    """The contrasts that the claim hangs on: KD at all, calibrating, and the fitted T itself."""
    wanted = {("calibrated", "raw"), ("calibrated", "constant-T")}
    return [
        contrast
        for contrast in found
        if contrast.primary or (contrast.arm, contrast.against) in wanted
    ]


def _claim(contrast: Contrast) -> str:
    difference = contrast.difference
    better = "beats" if difference.direction > 0 else "falls behind"
    return f"{_name(contrast)} {better} {_against(contrast)} by {_numbers(difference)}"


def _gap(contrast: Contrast, margin: float) -> str:
    difference = contrast.difference
    if difference.low is None:
        why = "too few replicates for an interval"
    elif difference.within(margin):
        why = f"equivalent within ±{margin:g} points"
    else:
        why = f"undecided; {difference.detectable:.1f} points would have been found"
    return (
        f"that {_name(contrast)} differs from {_against(contrast)} ({_numbers(difference)}: {why})"
    )


def _name(contrast: Contrast) -> str:
    best = "the best arm with a teacher, " if contrast.primary else ""
    tau = "" if contrast.softening is None else f" at τ = {contrast.softening:g}"
    return f"{best}{contrast.arm}{tau},".replace(",,", ",") if best else f"{contrast.arm}{tau}"


def _against(contrast: Contrast) -> str:
    return "labels only at equal labels" if contrast.against == EQUAL_LABELS else contrast.against


def _numbers(difference: PairedDifference) -> str:
    mean = f"{difference.mean:+.2f} points".replace("-", "−")
    if difference.low is None or difference.high is None:
        return mean
    return f"{mean} [{difference.low:+.2f}, {difference.high:+.2f}]".replace("-", "−")
