"""Which arms are worth running with a teacher, from measuring it alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd

from temperance.calibration import Interval, TemperatureFit
from temperance.reporting.format import interval, number, signed
from temperance.studies.arms import ArmName
from temperance.studies.evidence import CLASSES_WITHIN, ORDER, Evidence, Sign

Z95 = 1.959963984540054
FACTOR = 2.0  # of under-confidence that is proposed: the default of a study
When = Literal["yes", "later", "no"]


@dataclass(frozen=True)
class Measurement:
    """What measuring says of a teacher."""

    gap: Interval
    """95 % interval of mean confidence − accuracy, on rows it has not seen."""
    fit: TemperatureFit
    """On the same rows."""

    @property
    def sign(self) -> Sign | None:
        """over or under, where the interval of the gap excludes 0."""
        if self.gap.low > 0:
            return "over"
        return "under" if self.gap.high < 0 else None

    @property
    def temperature(self) -> Interval | None:
        """95 % interval of T; None where the fit has no standard error."""
        error = self.fit.se_log_temperature
        if error is None:
            return None
        middle, half = math.log(self.fit.temperature), Z95 * error
        return Interval(math.exp(middle - half), math.exp(middle + half))


class Proposal(NamedTuple):
    """An arm, whether to run it, and why."""

    arm: ArmName
    run: When
    why: str


def proposals(measured: Measurement, constant: float | None = None) -> list[Proposal]:
    """The arms of a first study with this teacher, from its T and how sure that is.

    Args:
        constant: geometric mean of the T of all teachers at hand; None if this is the only one.
    """
    fit = measured.fit
    baseline = [
        Proposal(
            "labels+calibration",
            "yes",
            f"the {fit.n:,} labels that T costs, spent on training: a teacher helps if its student"
            " beats this",
        ),
        Proposal("raw", "yes", "what every other teacher's arm is compared with"),
    ]
    if not fit.usable:
        why = f"no temperature can be fitted to these {fit.n:,} rows ('{fit.status}')"
        return [*baseline, Proposal("calibrated", "no", why)]
    return [*baseline, *_softenings(measured, constant)]


def _softenings(measured: Measurement, constant: float | None) -> Iterator[Proposal]:
    fit, ends = measured.fit, measured.temperature
    T = number(fit.temperature, 2)
    known = f"T = {T}" if ends is None else f"T = {T} {interval(*ends, 2)}"
    beyond = number(FACTOR * fit.temperature, 2)
    if ends is not None and ends.low <= 1 <= ends.high:
        yield Proposal("calibrated", "no", f"{known} contains 1: it can hardly be told from raw")
        yield Proposal(
            "under-confident", "yes", f"{FACTOR:g} × T = {beyond} softens, whatever T is"
        )
        if constant is not None and not ends.low <= constant <= ends.high:
            why = f"the {number(constant, 2)} of all these teachers is another target than raw's"
            yield Proposal("constant-T", "yes", why)
        else:
            yield Proposal("grid", "yes", "T does not say which softening is best; a grid does")
        return
    sure = "excludes 1" if ends is not None else "has no interval (it lies at a bound)"
    fragile = f"; fragile, with {fit.wrong} wrong rows: prefer a cross-fit" if fit.fragile else ""
    yield Proposal("calibrated", "yes", f"{known} {sure}: another target than raw's{fragile}")
    against_constant = _constant(ends, constant)
    yield against_constant
    why = (
        f"{FACTOR:g} × T = {beyond}: the labels beside it are over-confident themselves"
        if fit.temperature > 1
        else f"T sharpens; {FACTOR:g} × T = {beyond} says whether less of that is better"
    )
    yield Proposal("under-confident", "yes", why)
    if against_constant.run != "no":
        why = "once calibrated beats constant-T: whether the confidence of the single row matters"
        yield Proposal("shuffled-entropy", "later", why)


def _constant(ends: Interval | None, constant: float | None) -> Proposal:
    if constant is None:
        why = "with further teachers: whether the fitted T does more than one T for all"
        return Proposal("constant-T", "later", why)
    mean = number(constant, 2)
    if ends is not None and ends.low <= constant <= ends.high:
        why = f"the {mean} of all these teachers lies in T's interval: hardly another target"
        return Proposal("constant-T", "no", why)
    why = f"whether the fitted T does more than the {mean} of all these teachers"
    return Proposal("constant-T", "yes", why)


def evidence_table(found: Sequence[Evidence]) -> pd.DataFrame:
    """What the comparisons of a regime come to, contrast by contrast."""
    rows = []
    for contrast in dict.fromkeys(one.contrast for one in found if one.contrast != ORDER):
        alike = [one for one in found if one.contrast == contrast]
        directions = [one.direction for one in alike]
        differences = [one.difference for one in alike]
        rows.append(
            {
                "contrast": contrast,
                "comparisons": len(alike),
                "studies": len({one.study for one in alike}),
                "n of each": _span([one.n for one in alike]),
                "above 0": directions.count(1),
                "below 0": directions.count(-1),
                "undecided": directions.count(0),
                "least (points)": signed(min(differences)),
                "most (points)": signed(max(differences)),
            }
        )
    return pd.DataFrame(rows)


def evidence_sentence(
    found: Sequence[Evidence], *, transfer: str, sign: Sign | None, classes: int
) -> str:
    """What committed studies found for such teachers, or that there is none."""
    few, many = math.ceil(classes / CLASSES_WITHIN), math.floor(classes * CLASSES_WITHIN)
    # Of a teacher whose sign is not known only what holds for both may be quoted.
    who = "teachers of both signs together" if sign is None else f"{sign}-confident teachers"
    regime = f"{who}, {transfer} rows and {few} to {many} classes"
    alike = [one for one in found if one.contrast == "calibrated − raw"]
    if not alike:
        return f"No committed study is about {regime}: nothing can be said of what will help."
    directions = [one.direction for one in alike]
    studies = ", ".join(dict.fromkeys(one.study for one in alike))
    return (
        f"Committed evidence for {regime}: calibrated − raw in {len(alike)} comparisons"
        f" ({studies}; n = {_span([one.n for one in alike])} each): {directions.count(1)} above 0,"
        f" {directions.count(-1)} below, {directions.count(0)} undecided, from"
        f" {signed(min(one.difference for one in alike))} to"
        f" {signed(max(one.difference for one in alike))} points; unadjusted."
    )


def order_sentence(found: Sequence[Evidence]) -> str:
    """Whether committed studies say that such an order picks the better teacher."""
    orders = [one for one in found if one.contrast == ORDER]
    if not orders:
        return (
            "An order by measuring alone is a guess about students: no committed study of this"
            " regime tested it."
        )
    quoted = "; ".join(str(one) for one in orders)
    if all(one.direction > 0 for one in orders):
        return f"Committed studies of this regime support such an order: {quoted}."
    return (
        "An order by measuring alone is a guess about students; committed studies of this regime"
        f" do not settle it: {quoted}."
    )


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"
