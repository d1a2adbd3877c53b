"""One arm minus another over the same teachers: pairs, their statistics, their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from statsmodels.stats.multitest import multipletests

from temperance.errors import UserError
from temperance.studies.arms import ARMS, EQUAL_LABELS, WITHOUT_TEACHER
from temperance.studies.plan import StudyArgs
from temperance.studies.registration import ContrastArgs
from temperance.studies.statistics import PairedDifference, paired_difference

Standing = Literal["primary", "secondary", "exploratory"]

PAIRS = (
    ("labels+calibration", "labels"),
    *((arm, EQUAL_LABELS) for arm in ("raw", "raw+calibration", "calibrated", "bayes")),
    *(
        ("calibrated", against)
        for against in (
            *("raw", "constant-T", "permuted-T", "shuffled-entropy", "equal-entropy"),
            *("uniform-mix", "label-smoothing", "symmetric", "weight-matched"),
        )
    ),
    *(("under-confident", against) for against in ("raw", "calibrated")),
    ("constant-T", "raw"),
    ("bayes", "calibrated"),
    ("A/A", "raw"),
    ("calibrated, τ chosen", "raw, τ chosen"),
)
"""What is compared wherever the study has both arms."""
CHOSEN = {"raw": "raw, τ chosen", "calibrated": "calibrated, τ chosen"}
"""Arms at the softening that each teacher's students do best with on validation."""
WAY = ["objective", "softening", "student", "transfer", "factor"]
"""Columns that tell students of one arm apart, beside teacher and seed."""


class Way(NamedTuple):
    """How students learned from their teacher; None where a column does not apply."""

    objective: str | None = None
    softening: float | None = None
    student: str | None = None
    transfer: str | None = None
    factor: float | None = None


@dataclass(frozen=True)
class Contrast:
    """One arm minus another, in percentage points of test accuracy or 100 × another endpoint."""

    arm: str
    against: str
    way: Way
    shown: str
    """Of the way what tells contrasts of the study apart; empty if nothing has to."""
    endpoint: str
    units: Literal["teachers", "replicates"]
    """What each difference is of: students without a teacher are those of their replicate."""
    differences: tuple[float, ...]
    """One per unit, its seeds averaged."""
    difference: PairedDifference
    """Their statistics."""
    standing: Standing = "exploratory"
    direction: str = "two-sided"
    """Of the hypothesis."""
    p_adjusted: float | None = None
    """Of a secondary contrast: Holm's, over all of them."""

    @property
    def primary(self) -> bool:
        """Whether it is the study's one primary contrast."""
        return self.standing == "primary"

    @property
    def label(self) -> str:
        """How the contrast is called in tables."""
        endpoint = "" if self.endpoint == "accuracy" else f"{self.endpoint}: "
        return f"{endpoint}{self.arm} − {self.against}" + (f" ({self.shown})" if self.shown else "")

    @property
    def p(self) -> float | None:
        """In the hypothesis's direction: by sign flips from 6 clusters on, else by the t-test."""
        both = self.difference.p_sign_flip
        both = self.difference.p if both is None else both
        if both is None or self.direction == "two-sided":
            return both
        agrees = (self.difference.mean > 0) == (self.direction == "greater")
        return both / 2 if agrees else 1 - both / 2

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; `from_dict` reads it."""
        return asdict(self) | {"way": list(self.way), "label": self.label, "p": self.p}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Contrast:
        """The contrast that `to_dict` wrote."""
        known = {name: record[name] for name in (field.name for field in fields(cls))}
        known |= {
            "way": Way(*record["way"]),
            "differences": tuple(record["differences"]),
            "difference": PairedDifference(**record["difference"]),
        }
        return cls(**known)


Hits = Callable[[str], "pd.Series | None"]
"""Gives the test rows of a run, 1 where its student was right, by their id; None if not kept."""


class Contrasts:
    """Makes the contrasts of a study.

    Args:
        students: the table, one row per student.
        hits: for the intervals for new data; None for a study whose runs are not there.
    """

    def __init__(self, args: StudyArgs, students: pd.DataFrame, hits: Hits | None = None) -> None:
        self.args, self.hits = args, hits
        self.students = with_chosen(students)
        taught = self.students[self.students["teacher"].notna()]
        self.several = [name for name in WAY if taught[name].nunique() > 1]

    def all(self) -> list[Contrast]:
        """The primary one, the secondary ones, and what else the arms allow."""
        found = [contrast for contrast in [self.primary()] if contrast]
        secondary = [self.registered(block, "secondary") for block in self.args.secondary]
        found += _adjusted([contrast for contrast in secondary if contrast])
        decided = {(c.arm, c.against, c.way, c.endpoint) for c in found if self.args.primary}
        arms = set(self.students["arm"])
        for arm, against in PAIRS:
            if arm in arms and against in arms:
                for way in self._ways(arm):
                    if (arm, against, way, "accuracy") not in decided:
                        contrast = self.contrast(arm, against, way)
                        found += [contrast] if contrast else []
        return found

    def primary(self) -> Contrast | None:
        """The registered one, or the best arm with a teacher against labels at equal labels.

        Which arm is best is decided on the validation split, since choosing it by the test numbers
        that are then compared would flatter it.
        """
        block = self.args.primary
        if block is not None:
            return None if block.analysis == "alignment" else self.registered(block, "primary")
        taught = self.students[
            self.students["teacher"].notna() & self.students["arm"].isin(list(ARMS))
        ]
        if EQUAL_LABELS not in set(self.students["arm"]) or taught.empty:
            return None
        arm, way = self._best(taught)
        contrast = self.contrast(arm, EQUAL_LABELS, way)
        return contrast and replace(contrast, standing="primary")

    def registered(self, block: ContrastArgs, standing: Standing) -> Contrast | None:
        """A contrast that was decided on beforehand; None if none of its students is there."""
        factored = "under-confident" in (block.arm, block.against)
        first = {
            "objective": next(iter(self.args.named_objectives)),
            "softening": self.args.softenings[0] if self.args.softenings else None,
            "student": next(iter(self.args.student_recipes)),
            "transfer": self.args.transfer[0],
            "factor": self.args.underconfidence[0] if factored else None,
        }
        given = {name: getattr(block, name) for name in WAY if getattr(block, name) is not None}
        ways = []
        for arm in (block.arm, block.against):
            fitting = [way for way in self._ways(arm) if _fits(way, first | given)]
            if not fitting:
                return None
            ways.append(fitting[0])
        # A column may apply to one arm only: a factor, or all of them against labels.
        way = Way(*(a if a is not None else b for a, b in zip(*ways, strict=True)))
        contrast = self.contrast(block.arm, block.against, way, block.endpoint)
        return contrast and replace(contrast, standing=standing, direction=block.direction)

    def contrast(
        self, arm: str, against: str, way: Way, endpoint: str = "accuracy"
    ) -> Contrast | None:
        """`arm` − `against` over the teachers that have both; None if none has."""
        first, second = self._of(arm, way), self._of(against, way)
        alone = bool(second["teacher"].isna().all() or first["teacher"].isna().all())
        keys = ["replicate", "seed"] if alone else ["teacher", "seed"]
        # Students of the labels and of the known truth, and another seed, are the same for all
        # teachers of a replicate: their luck is no teacher's.
        pairs = first.merge(second, on=keys, suffixes=("", "_against"))
        if pairs.empty:
            return None
        pairs["difference"] = 100 * (pairs[endpoint] - pairs[f"{endpoint}_against"])
        shared = alone or not {"A/A", "bayes"}.isdisjoint((arm, against))
        unit = "replicate" if shared else "teacher"
        by_unit = pairs.groupby(unit, sort=False)
        differences = by_unit["difference"].mean()
        clusters = None if shared else by_unit["family"].first().tolist()
        rows = self._rows(pairs, unit) if endpoint == "accuracy" else None
        return Contrast(
            arm,
            against,
            way,
            self._shown(way),
            endpoint,
            "replicates" if shared else "teachers",
            tuple(differences.tolist()),
            paired_difference(differences.tolist(), clusters, rows),
        )

    def _rows(self, pairs: pd.DataFrame, unit: str) -> Float[np.ndarray, "units rows"] | None:
        """Differences on single test rows, in points, seeds averaged."""
        if self.hits is None or pairs[unit].nunique() < 2:
            return None
        of_units = []
        for _, group in pairs.groupby(unit, sort=False):
            differences = []
            for run, against in zip(group["run"], group["run_against"], strict=True):
                first, second = self.hits(run), self.hits(against)
                if first is None or second is None:
                    return None
                differences.append(100 * (first - second))
            of_units.append(pd.concat(differences, axis=1).mean(axis=1))
        rows: Float[np.ndarray, "units rows"] = pd.concat(of_units, axis=1).to_numpy(np.float64).T
        return rows

    def _of(self, arm: str, way: Way) -> pd.DataFrame:
        """The students of an arm; of one way, as far as it applies to them."""
        rows = self.students[self.students["arm"] == arm]
        for name, value in zip(WAY, way, strict=True):
            if value is not None and rows[name].notna().any():
                rows = rows[rows[name] == value]
        return rows

    def _ways(self, arm: str) -> list[Way]:
        """The ways of an arm's students, in their order."""
        each = self.students.loc[self.students["arm"] == arm, WAY].drop_duplicates()
        return [
            Way(*(None if pd.isna(value) else value for value in row))
            for row in each.itertuples(index=False)
        ]

    def _best(self, taught: pd.DataFrame) -> tuple[str, Way]:
        """The arm, and its way, with the highest mean validation accuracy; the first of equals.

        Raises:
            UserError: if there was no validation split.
        """
        if taught["validation_accuracy"].isna().any():
            raise UserError(
                "the best arm is chosen on the validation split, which is empty",
                where="split.validation",
                mend="Set it above 0, or name a primary contrast",
            )
        candidates = [
            (str(arm), way)
            for arm in taught["arm"].unique()
            if arm not in ("A/A", "grid", "bayes")  # a repetition, a scale, and no arm to ship
            for way in self._ways(arm)
        ]
        means = [self._of(*each)["validation_accuracy"].mean() for each in candidates]
        return candidates[int(np.argmax(means))]

    def _shown(self, way: Way) -> str:
        words = {
            "objective": way.objective,
            "softening": None if way.softening is None else f"τ = {way.softening:g}",
            "student": way.student,
            "transfer": way.transfer,
            "factor": None if way.factor is None else f"{way.factor:g} × T",
        }
        # τ is always shown: what a softening does is what a study is about.
        named = [name for name in WAY if name in self.several or name == "softening"]
        return ", ".join(str(words[name]) for name in named if words[name] is not None)


def contrast_table(contrasts: Sequence[Contrast]) -> pd.DataFrame:
    """One row per contrast, without the single differences."""
    return pd.DataFrame(
        {
            "comparison": contrast.label,
            "standing": contrast.standing,
            "arm": contrast.arm,
            "against": contrast.against,
            **contrast.way._asdict(),
            "endpoint": contrast.endpoint,
            "units": contrast.units,
            **asdict(contrast.difference),
            "direction": contrast.direction,
            "p_directed": contrast.p,
            "p_adjusted": contrast.p_adjusted,
        }
        for contrast in contrasts
    )


def _fits(way: Way, wanted: Mapping[str, Any]) -> bool:
    """Whether a way is the wanted one, in what applies to it."""
    return all(value in (None, wanted[name]) for name, value in zip(WAY, way, strict=True))


def with_chosen(students: pd.DataFrame) -> pd.DataFrame:
    """The table with further arms: τ chosen for each teacher by its students on validation.

    Those of a teacher at its best τ are listed again; only where there is a choice.
    """
    taught = students[students["arm"].isin(list(CHOSEN)) & students["softening"].notna()]
    if taught["softening"].nunique() < 2 or taught["validation_accuracy"].isna().any():
        return students
    keys = ["arm", "teacher", "objective", "student", "transfer"]
    chosen = []
    for _, group in taught.groupby(keys, sort=False):
        best = group.groupby("softening")["validation_accuracy"].mean().idxmax()
        rows = group[group["softening"] == best]
        chosen.append(rows.assign(arm=CHOSEN[rows["arm"].iloc[0]], softening=np.nan))
    return pd.concat([students, *chosen], ignore_index=True)


def _adjusted(secondary: Sequence[Contrast]) -> list[Contrast]:
    """With Holm's p-values over those that have one."""
    known = [contrast for contrast in secondary if contrast.p is not None]
    if not known:
        return list(secondary)
    adjusted = dict(zip(
        map(id, known), multipletests([c.p for c in known], method="holm")[1], strict=True
    ))  # fmt: skip
    return [
        replace(contrast, p_adjusted=float(adjusted[id(contrast)]))
        if id(contrast) in adjusted
        else contrast
        for contrast in secondary
    ]


__all__ = ["CHOSEN", "PAIRS", "WAY", "WITHOUT_TEACHER", "Contrast", "Contrasts", "Way"]
