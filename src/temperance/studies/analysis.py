"""Everything that is computed from a study's tables, as it is kept in metrics.json."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from temperance.studies.arms import WITHOUT_TEACHER
from temperance.studies.contrasts import Contrast, Contrasts, Hits
from temperance.studies.plan import StudyArgs
from temperance.studies.statistics.across import correlations
from temperance.studies.statistics.alignment import alignment_of
from temperance.studies.statistics.balance import ace_axis, pool_balance
from temperance.studies.statistics.error_or_accuracy import compare_with_accuracy
from temperance.studies.statistics.families import FEWEST_TEACHERS
from temperance.studies.statistics.mixed import mixed_effect
from temperance.studies.statistics.optimum import softening_optimum
from temperance.studies.statistics.predictors import collinearity, identities
from temperance.studies.statistics.units import common_curve
from temperance.studies.treatments import softening_of
from temperance.studies.verdict import ladder, sentences

PREDICTORS = (
    *("accuracy", "confidence", "gap", "absolute_gap", "ece", "ace", "log_T"),
    *("refinement", "calibration", "nll", "brier"),
)
TRUTH = ("truth_kl", "truth_kl_refinement", "truth_kl_calibration", "truth_mse")
"""Further predictors where the truth is known."""
FEWEST_GRID = 5  # softenings below which no optimum is looked for


def analyse(
    args: StudyArgs,
    teachers: pd.DataFrame,
    students: pd.DataFrame,
    missing: pd.DataFrame,
    hits: Hits | None = None,
) -> dict[str, Any]:
    """The study's statistics, as JSON can hold them.

    Args:
        hits: see `Contrasts`.
    """
    if students.empty:
        why = ["No student was trained.", *_missing_sentences(missing)]
        return {"sentences": why, "contrasts": [], "ladder": [], "alignment": [], "across": [],
                "mixed": None, "failed": _failed(missing)}  # fmt: skip
    contrasts = Contrasts(args, students, hits).all()
    steps = ladder(contrasts, args.margin)
    taught = students[students["teacher"].notna()]
    units = taught["teacher"].nunique() or students["replicate"].nunique()
    said = sentences(contrasts, steps, margin=args.margin, units=units, alone=taught.empty)
    aligned = list(_alignments(args, teachers, taught))
    found: dict[str, Any] = {
        "sentences": [*said, *_alignment_sentences(args, aligned), *_missing_sentences(missing)],
        "contrasts": [contrast.to_dict() for contrast in contrasts],
        "ladder": [step.to_dict() for step in steps],
        "alignment": aligned,
        "across": list(_across(teachers, taught)),
        "mixed": _mixed(contrasts, students),
        "failed": _failed(missing),
    }
    known: dict[str, Any] = _known(found)
    return known


def _known(value: Any) -> Any:
    """The same with None for numbers that are not known or not finite: JSON has none of these."""
    if isinstance(value, Mapping):
        return {key: _known(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_known(inner) for inner in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def _alignments(
    args: StudyArgs, teachers: pd.DataFrame, taught: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    """The alignment test, for every way of teaching that has a grid."""
    grid = taught[taught["arm"] == "grid"]
    ways = ["objective", "softening", "student", "transfer"]
    for way, group in grid.groupby(ways, dropna=False, sort=False):
        student_softening = way[1]
        if pd.isna(student_softening):
            student_softening = softening_of(args.named_objectives[way[0]])
        found: dict[str, Any] = {
            "way": [None if pd.isna(value) else value for value in way],
            "student_softening": student_softening,
        }
        curves = group.pivot_table("accuracy", ["teacher", "seed"], "teacher_softening", sort=True)
        curves = 100 * curves.dropna()
        names = list(dict.fromkeys(curves.index.get_level_values("teacher")))
        if not names:
            continue
        known = teachers.set_index("teacher").loc[names]
        found["softenings"] = curves.columns.tolist()
        found["teachers"] = names
        found["families"] = _families(known)
        found["T"] = known["T"].tolist()
        found["T_se_log"] = known["T_se_log"].tolist()
        found["curves"] = [curves.loc[name].mean().tolist() for name in names]
        if len(curves.columns) >= FEWEST_GRID:
            found |= _aligned(curves, known, student_softening)
        else:
            found["why_not"] = (
                f"a grid needs {FEWEST_GRID} softenings, and has {len(curves.columns)}"
            )
        yield found


def _aligned(curves: pd.DataFrame, known: pd.DataFrame, student_softening: float) -> dict[str, Any]:
    softenings = curves.columns.to_numpy(dtype=np.float64)
    optima = [softening_optimum(softenings, curves.loc[name].to_numpy()) for name in known.index]
    found: dict[str, Any] = {"optima": [asdict(optimum) for optimum in optima]}
    log_t, se = np.log(known["T"].to_numpy()), known["T_se_log"].to_numpy(dtype=np.float64)
    families = _families(known)
    try:
        line = alignment_of(optima, log_t, se, families, student_softening=student_softening)
        found["line"] = asdict(line) | {
            "reads_as": line.reads_as,
            "provisional": line.provisional,
        }
    except ValueError as error:
        found["why_not"] = str(error)
    if len(known) >= FEWEST_TEACHERS:
        means = np.stack([curves.loc[name].mean().to_numpy() for name in known.index])
        try:
            found["units"] = asdict(common_curve(softenings, means, log_t, families))
        except ValueError as error:
            found["units_why_not"] = str(error)
    return found


def _families(teachers: pd.DataFrame) -> list[str]:
    """Clusters for what is said across teachers: two of one recipe are alike, however they differ
    in split and seed; unless families were given."""
    training = "r" + teachers["replicate"].astype(str) + "-" + teachers["recipe"]
    several = teachers["recipe"].nunique() > 1
    by_recipe = several and bool((teachers["family"] == training).all())
    families: list[str] = teachers["recipe" if by_recipe else "family"].tolist()
    return families


def _alignment_sentences(args: StudyArgs, aligned: list[dict[str, Any]]) -> Iterator[str]:
    for found in aligned:
        line = found.get("line")
        shown = "" if len(aligned) == 1 else f" ({', '.join(str(w) for w in found['way'] if w)})"
        if line is None:
            yield f"Alignment test{shown}: not decided, since {found['why_not']}."
            continue
        slope = line["slope"]
        ends = (
            f"[{slope['low']:.2f}, {slope['high']:.2f}]"
            if slope["low"] is not None
            else "no interval under 5 families"
        )
        hint = " (provisional: under 8 families)" if line["provisional"] else ""
        left_out = f", {line['excluded']} teachers left out" if line["excluded"] else ""
        yield (
            f"Alignment test{shown}: the slope of log best teacher softening on log fitted T is"
            f" {slope['value']:.2f} {ends}{hint} over {line['n']} teachers{left_out}:"
            f" {line['reads_as']}."
        )


def _failed(missing: pd.DataFrame) -> int:
    return int((missing["state"] == "failed").sum())


def _missing_sentences(missing: pd.DataFrame) -> list[str]:
    counts = missing["state"].value_counts()
    broken = [f"{counts[state]} {state}" for state in ("failed", "blocked") if counts.get(state)]
    if not broken:
        return []
    return [
        f"Runs that are missing from this: {', '.join(broken)}; the table of missing runs says why."
    ]


def _across(teachers: pd.DataFrame, taught: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Predictors of student accuracy over teachers, for the raw arm of every student."""
    raw = taught[taught["arm"] == "raw"]
    if teachers.empty:
        return
    columns = teachers.assign(absolute_gap=teachers["gap"].abs(), log_T=np.log(teachers["T"]))
    columns = columns.set_index("teacher")
    ways = ["objective", "softening", "student", "transfer"]
    for way, group in raw.groupby(ways, dropna=False, sort=False):
        outcome = 100 * group.groupby("teacher", sort=False)["accuracy"].mean()
        known = columns.loc[outcome.index]
        truth = [name for name in TRUTH if name in known]
        predictors = known[[*PREDICTORS, *truth]]
        families = _families(known)
        found: dict[str, Any] = {
            "way": [None if pd.isna(value) else value for value in way],
            "teachers": outcome.index.tolist(),
            "outcome": outcome.tolist(),
        }
        found["families"] = families
        found["correlations"] = _records(correlations(predictors, outcome.to_numpy(), families))
        for error in ("ece", "absolute_gap", "ace"):
            try:
                compared = compare_with_accuracy(
                    known[error], known["accuracy"], outcome.to_numpy(), families
                )
            except ValueError:
                continue  # too few teachers, or all alike
            found.setdefault("comparisons", {})[error] = asdict(compared) | {
                "footnote": None if compared.footnote is None else compared.footnote._asdict()
            }
        found["collinearity"] = _records(collinearity(predictors))
        found["identities"] = identities(predictors)
        balance = pool_balance(known.assign(family=families).reset_index(), outcome.to_numpy())
        found["balance"] = asdict(balance) | {"remarks": balance.remarks}
        changes = known.get("ace_change")
        if changes is not None and changes.notna().all():
            axis = ace_axis(changes.tolist())
            found["ace"] = {"usable": axis.usable, "sentence": axis.sentence}
        yield found


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows with their index as `predictor`, and None for what is not known."""
    named = table.rename_axis("predictor").reset_index().astype(object)
    records: list[dict[str, Any]] = named.where(named.notna(), None).to_dict("records")
    return records


def _mixed(contrasts: list[Contrast], students: pd.DataFrame) -> dict[str, Any] | None:
    """The primary contrast by a mixed model, where both arms have teachers."""
    primary = next((contrast for contrast in contrasts if contrast.primary), None)
    if primary is None or primary.against in WITHOUT_TEACHER or primary.endpoint != "accuracy":
        return None
    of_way = students[students["arm"].isin([primary.arm, primary.against])]
    for name, value in primary.way._asdict().items():
        if value is not None and name != "factor":
            of_way = of_way[of_way[name] == value]
    effect = mixed_effect(of_way, primary.arm, primary.against)
    return None if effect is None else asdict(effect) | {"contrast": primary.label}
