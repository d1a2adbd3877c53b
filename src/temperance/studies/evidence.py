"""What committed studies found, regime by regime: what advice may quote."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Literal, NamedTuple

import pandas as pd
from scipy import special

from temperance.reporting.format import interval, signed
from temperance.studies.contrasts import Contrasts, Way
from temperance.studies.plan import StudyArgs
from temperance.studies.statistics import PairedDifference, paired_difference

Sign = Literal["over", "under", "either"]
ORDER = "first by NLL at T − pool"
"""The contrast that speaks of an order of teachers: students of the one with the lowest held-out
NLL at T, against the mean over all teachers of the split."""
CLASSES_WITHIN = 2.0  # factor up to which a number of classes counts as alike
FILE = "evidence.json"


@dataclass(frozen=True)
class Evidence:
    """One comparison of a study, over the teachers of one sign."""

    study: str
    data: str
    classes: int
    rows: int
    """That the arm's students were taught on."""
    transfer: str
    """Which rows those are: in-sample, out-of-fold or unlabelled."""
    sign: Sign
    """Of mean confidence − accuracy of the teachers, on rows they have not seen; `either`: the
    study had both, and this is over all of them."""
    contrast: str
    """arm − against."""
    objective: str
    softening: float | None
    """τ of the student; None: the objective's own."""
    factor: float | None
    """Of under-confidence, where an arm has one."""
    student: str
    difference: float
    """Mean difference of test accuracy in percentage points."""
    low: float | None
    """95 % interval of the mean; None under 5 families."""
    high: float | None
    next_low: float | None
    """95 % prediction interval for one more family of such teachers."""
    next_high: float | None
    n: int
    """Teachers; replicates, where teachers share what they are compared with."""
    families: int
    source: str
    """Folder of the committed result, from the repository's root."""

    @property
    def direction(self) -> int:
        """+1 or −1 where the interval excludes 0, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    def __str__(self) -> str:
        tau = "" if self.softening is None else f", τ = {self.softening:g}"
        sure = "no interval" if self.low is None else interval(self.low, self.high)
        ahead = "" if self.next_low is None else f", next {interval(self.next_low, self.next_high)}"
        return (
            f"{self.contrast} ({self.objective}{tau}): {signed(self.difference)} points {sure}"
            f"{ahead}, n = {self.n} of {self.families} families; {self.data}, {self.classes}"
            f" classes, {self.rows:,} rows {self.transfer} ({self.source})"
        )


@cache
def load_evidence() -> tuple[Evidence, ...]:
    """The comparisons of all committed studies, as `benchmarks/evidence.py` wrote them."""
    text = (resources.files(__package__) / FILE).read_text(encoding="utf-8")
    return tuple(Evidence(**record) for record in json.loads(text))


def in_regime(
    known: Sequence[Evidence], *, transfer: str, sign: Sign, classes: int
) -> list[Evidence]:
    """What is of the same regime: the same transfer rows, the same sign, and no more than twice or
    less than half as many classes."""
    return [
        one
        for one in known
        if one.transfer == transfer
        and one.sign == sign
        and 1 / CLASSES_WITHIN <= one.classes / classes <= CLASSES_WITHIN
    ]


def evidence_of(
    teachers: pd.DataFrame,
    students: pd.DataFrame,
    *,
    study: str,
    data: str,
    classes: int,
    source: str,
) -> list[Evidence]:
    """The comparisons of a study's tables: over its over-confident teachers, over its
    under-confident ones and, where it has both, over all.

    Args:
        teachers: the study's table, one row per teacher.
        students: the study's table, one row per student.
    """
    found = []
    for sign, some in _by_sign(teachers):
        taught = students["teacher"].isin(some["teacher"])
        table = students[taught | students["teacher"].isna()].reset_index(drop=True)
        found += [(sign, one) for one in (*_comparisons(table), *_orders(some, table))]
    return [
        Evidence(
            study=study,
            data=data,
            classes=classes,
            rows=one.rows,
            transfer=str(one.way.transfer),
            sign=sign,
            contrast=one.contrast,
            objective=str(one.way.objective),
            softening=one.way.softening,
            factor=one.way.factor,
            student=str(one.way.student),
            difference=one.difference.mean,
            low=one.difference.low,
            high=one.difference.high,
            **_ahead(one.difference),
            n=one.difference.n,
            families=one.difference.clusters,
            source=source,
        )
        for sign, one in found
    ]


def to_json(found: Sequence[Evidence]) -> str:
    """What `load_evidence` reads; numbers to six digits, a line for each comparison."""
    lines = [
        json.dumps(
            {
                name: float(f"{value:.6g}") if isinstance(value, float) else value
                for name, value in asdict(one).items()
            },
            ensure_ascii=False,
        )
        for one in found
    ]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _by_sign(teachers: pd.DataFrame) -> Iterator[tuple[Sign, pd.DataFrame]]:
    over = teachers["gap"] > 0
    signs: tuple[tuple[Sign, pd.Series], ...] = (("over", over), ("under", ~over))
    for sign, of_sign in signs:
        if of_sign.any():
            yield sign, teachers[of_sign]
    if over.any() and not over.all():
        yield "either", teachers


class _Found(NamedTuple):
    contrast: str
    way: Way
    rows: int
    difference: PairedDifference


def _comparisons(students: pd.DataFrame) -> Iterator[_Found]:
    """Of one arm with another; those of arms without a teacher say nothing of teachers."""
    for contrast in Contrasts(StudyArgs(), students).all():
        way = contrast.way
        # The primary one is that of the best arm: chosen by this study, it is not of a kind.
        if contrast.primary or way.objective is None:
            continue
        alike = students[
            (students["objective"] == way.objective)
            & (students["transfer"] == way.transfer)
            & (students["student"] == way.student)
        ]
        of_arm = alike[alike["arm"] == contrast.arm]  # none for an arm whose τ was chosen
        rows = int((of_arm if len(of_arm) else alike)["train_rows"].median())
        name = f"{contrast.arm} − {contrast.against}"
        yield _Found(name, way, rows, contrast.difference)


def _orders(teachers: pd.DataFrame, students: pd.DataFrame) -> Iterator[_Found]:
    """For each way of the calibrated arm: what choosing a teacher by its NLL at T gained, one
    difference per split, of the splits that have several teachers."""
    if "refinement" not in teachers:
        return
    columns = ["objective", "softening", "student", "transfer"]
    taught = students[students["arm"] == "calibrated"].merge(
        teachers[["teacher", "refinement"]], on="teacher"
    )
    by_teacher = taught.groupby([*columns, "replicate", "teacher"], dropna=False, sort=False)
    means = by_teacher[["accuracy", "refinement", "train_rows"]].mean().reset_index()
    for key, of_way in means.groupby(columns, dropna=False, sort=False):
        gains = [
            100 * (split.loc[split["refinement"].idxmin(), "accuracy"] - split["accuracy"].mean())
            for _, split in of_way.groupby("replicate")
            if len(split) > 1
        ]
        if gains:
            way = Way(*(None if pd.isna(value) else value for value in key))
            yield _Found(ORDER, way, int(of_way["train_rows"].median()), paired_difference(gains))


def _ahead(difference: PairedDifference) -> dict[str, float | None]:
    """95 % prediction interval of one more cluster's difference, from Student's t."""
    if difference.low is None or difference.sd is None:
        return {"next_low": None, "next_high": None}
    count = difference.clusters
    half = float(special.stdtrit(count - 1, 0.975)) * difference.sd * math.sqrt(1 + 1 / count)
    return {"next_low": difference.mean - half, "next_high": difference.mean + half}
