from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest

from studies.simulated_studies import students_of
from temperance.config import load_config
from temperance.errors import UserError
from temperance.studies.arms import ArmName
from temperance.studies.contrasts import Contrast, Contrasts
from temperance.studies.plan import PlannedStudent, StudyArgs
from temperance.studies.verdict import Step, ladder, sentences, status

NOISE = [0.0, 0.1, -0.1, 0.05, -0.05, 0.0]
CLAIMED: tuple[ArmName, ...] = (
    *("labels", "labels+calibration", "raw", "calibrated", "under-confident", "constant-T"),
)
CONTROLS: tuple[ArmName, ...] = (
    *("raw", "calibrated", "constant-T", "permuted-T", "shuffled-entropy", "equal-entropy"),
)


def study(arms: Sequence[ArmName] = CLAIMED, n: int = 5, taus: tuple[float, ...] = (1.0,)):
    return StudyArgs(arms=tuple(arms), replicates=n, softenings=taus, margin=0.5)


def table(
    args: StudyArgs,
    points: Mapping[str, Sequence[float] | float] | None = None,
    validation: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Students with what `points` says of their arm, or arm@τ, for each replicate or for all."""

    def gain(planned: PlannedStudent) -> float:
        tau = planned.cell.softening if planned.cell else None
        found = (points or {}).get(planned.arm)
        if found is None:
            found = (points or {}).get(f"{planned.arm}@{tau:g}", 0) if tau else 0
        return found if isinstance(found, int | float) else found[planned.replicate]

    return students_of(args, gain, lambda planned: (validation or {}).get(planned.arm, 0))


def around(mean: float, n: int = 5) -> list[float]:
    return [mean + noise for noise in NOISE[:n]]


def contrasts(args: StudyArgs, students: pd.DataFrame) -> list[Contrast]:
    return Contrasts(args, students).all()


def said(args: StudyArgs, students: pd.DataFrame) -> tuple[str, ...]:
    found = contrasts(args, students)
    taught = students[students["teacher"].notna()]
    units = taught["teacher"].nunique() or students["replicate"].nunique()
    steps = ladder(found, args.margin)
    return sentences(found, steps, margin=args.margin, units=units, alone=taught.empty)


def test_the_best_arm_is_chosen_on_validation() -> None:
    args = study()
    students = table(
        args, {"calibrated": around(5), "raw": around(-1)}, {"raw": 3, "calibrated": 1}
    )
    primary, *others = contrasts(args, students)
    assert (primary.arm, primary.against, primary.primary) == ("raw", "labels+calibration", True)
    assert primary.difference.mean == pytest.approx(-1)
    assert not any(contrast.primary for contrast in others)


def test_the_best_softening_is_chosen_on_validation() -> None:
    args = study(("labels+calibration", "raw"), taus=(1.0, 4.0))
    students = table(args, {"raw@1": around(3), "raw@4": around(-3)})
    at_four = (students["arm"] == "raw") & (students["softening"] == 4)
    students.loc[at_four, "validation_accuracy"] += 0.01
    primary = contrasts(args, students)[0]
    assert (primary.arm, primary.way.softening) == ("raw", 4.0)
    assert primary.difference.mean == pytest.approx(-3)


@pytest.mark.parametrize("arm", ["A/A", "grid"])
def test_what_nobody_would_ship_is_not_the_best_arm(arm: ArmName) -> None:
    args = study(("labels+calibration", "raw", arm))
    primary = contrasts(args, table(args, validation={arm: 5}))[0]
    assert (primary.arm, primary.primary) == ("raw", True)


def test_without_validation_no_arm_is_best() -> None:
    args = study()
    students = table(args).assign(validation_accuracy=np.nan)
    with pytest.raises(UserError, match=r"split\.validation"):
        contrasts(args, students)
    registered = load_config(
        StudyArgs, {"arms": list(CLAIMED), "softenings": [1], "primary": {"against": "raw"}}
    )
    assert contrasts(registered, students)[0].primary


def test_differences_are_paired_by_replicate_in_points() -> None:
    args = study()
    students = table(args, {"calibrated": [1, 2, 3, 2, 2]})
    shuffled = students.sample(frac=1, random_state=0)
    for rows, order in ((students, list), (shuffled, sorted)):
        (contrast,) = [
            c for c in contrasts(args, rows) if (c.arm, c.against) == ("calibrated", "raw")
        ]
        assert order(contrast.differences) == pytest.approx(order((1, 2, 3, 2, 2)))
        assert contrast.difference.mean == pytest.approx(2)
        assert contrast.difference.sd == pytest.approx(np.std([1, 2, 3, 2, 2], ddof=1))


def test_arms_are_compared_at_the_same_softening() -> None:
    args = study(("raw", "calibrated", "labels"), taus=(1.0, 4.0))
    students = table(args, {"calibrated@1": 1, "raw@1": 3, "calibrated@4": 10, "raw@4": 5})
    found = {c.way.softening: c for c in contrasts(args, students) if "τ" not in c.arm}
    means = {tau: c.difference.mean for tau, c in found.items()}
    assert means == pytest.approx({1: -2, 4: 5})
    assert found[4.0].label == "calibrated − raw (τ = 4)"


@pytest.mark.parametrize("n", [5, 6])
def test_it_helps(n: int) -> None:
    args = study(n=n)
    first, second = said(args, table(args, {"calibrated": around(2, n)}, {"calibrated": 1}))[:2]
    assert first.startswith(f"Over {n} teachers")
    assert "the best arm with a teacher, calibrated, beats labels only at equal labels" in first
    assert "calibrated beats raw" in first
    assert "calibrated beats constant-T" in first
    assert "under-confident falls behind calibrated" in first
    assert "+2.00" in first
    assert second == "It does not support that an under-confident teacher helps more."


def test_it_harms() -> None:
    args = study()
    first, second = said(args, table(args, {"calibrated": around(-2)}, {"calibrated": 1}))[:2]
    assert "calibrated, falls behind labels only" in first
    assert "calibrated falls behind raw" in first
    assert "−2.00" in first
    assert first.count("beats") == 1
    assert "under-confident beats calibrated" in first
    for claim in ("a teacher helps", "calibrating helps", "the fitted T beats one constant T"):
        assert claim in second
    assert "undecided" not in second


def test_it_is_undecided() -> None:
    args = study()
    first, second, *more = said(
        args, table(args, {"calibrated": [4, -3, 2, -2, 3]}, {"calibrated": 1})
    )
    assert first == "Over 5 teachers this table decides nothing."
    assert second.count("undecided") == 4  # each of the claims
    assert "+0.80 points [" in second
    assert not any("1 of 1" in sentence for sentence in more)


def test_it_is_equivalent() -> None:
    args = study()
    first, second = said(args, table(args, {"calibrated": around(0.05)}, {"calibrated": 1}))[:2]
    assert "calibrated equals, within ±0.5 points, raw" in first
    assert "calibrating helps" in second
    assert "undecided" not in second
    assert "beats" not in first


def test_margin_decides_what_is_equivalent() -> None:
    students = table(study(), {"calibrated": around(0.05)}, {"calibrated": 1})
    strict = study().model_copy(update={"margin": 0.01})
    first, second = said(strict, students)[:2]
    assert "calibrated equals" not in first.replace("calibrated, equals", "calibrated equals")
    assert "undecided" in second


def test_a_claim_holds_at_one_softening_and_not_at_another() -> None:
    args = study(taus=(1.0, 4.0))
    points = {"calibrated@1": around(2), "calibrated@4": around(-2)}
    first = said(args, table(args, points))[0]
    assert "calibrated beats raw (τ = 1: +2.00" in first
    assert "calibrated falls behind raw (τ = 4: −2.00" in first


@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_teachers_decide_nothing(n: int) -> None:
    args = study(n=n)
    first, second = said(args, table(args, {"calibrated": around(20, n)}))[:2]
    teachers = "1 teacher" if n == 1 else f"{n} teachers"
    assert first == f"Over {teachers} this table decides nothing."
    assert f"no interval from {teachers})" in second


def test_only_what_is_listed_is_counted() -> None:
    args = study(("raw", "calibrated"), taus=(1.0, 2.0, 3.0, 4.0, 5.0))
    first = said(args, table(args, {"calibrated": around(2)}))[0]
    assert first.count("+2.00") == 3
    assert "and 2 more" in first


@pytest.mark.parametrize(
    ("arms", "absent"),
    [
        (("labels", "raw", "calibrated"), ("equal labels", "constant")),
        (("labels+calibration", "raw"), ("calibrating", "constant")),
        (("calibrated", "constant-T"), ("equal labels", "calibrating")),
        (("raw",), ("equal labels", "calibrating", "constant")),
        (("labels", "labels+calibration"), ("teacher helps", "calibrating", "constant")),
    ],
)
def test_arms_that_are_missing_are_not_talked_about(
    arms: tuple[ArmName, ...], absent: tuple[str, ...]
) -> None:
    args = study(arms)
    students = table(args, {arm: around(i) for i, arm in enumerate(arms)})
    found = contrasts(args, students)
    assert {arm for c in found for arm in (c.arm, c.against)} <= set(arms)
    text = " ".join(said(args, students))
    for words in absent:
        assert words not in text


def test_contrasts_name_objectives_where_there_are_several() -> None:
    args = load_config(
        StudyArgs,
        {"arms": ["labels+calibration", "raw"], "objectives": ["kd", "at"], "softenings": []},
    )
    gains = {"kd": 1.0, "at": 3.0}

    def gain(planned: PlannedStudent) -> float:
        return gains[planned.cell.objective] if planned.cell else 0.0

    primary, *others = contrasts(args, students_of(args, gain, gain))
    assert primary.primary
    assert primary.way.objective == "at"
    assert [contrast.label for contrast in others] == [
        "raw − labels+calibration (kd)",
        "raw − labels+calibration (at)",
    ]
    assert [contrast.difference.mean for contrast in others] == pytest.approx([1, 3])


# The ladder.

RUNGS = {
    "softening helps": ("raw",),
    "the fitted T picks the softening": ("constant-T", "permuted-T"),
    "calibrated confidence matters": ("shuffled-entropy", "equal-entropy"),
}


@pytest.mark.parametrize(
    ("as_good_as_calibrated", "reached"),
    [
        ((), [True, True, True]),
        (("equal-entropy",), [True, True, False]),
        (("shuffled-entropy",), [True, True, False]),
        (("permuted-T",), [True, False, False]),
        (("constant-T",), [True, False, False]),
        (("raw",), [False, False, False]),
        (("raw", "equal-entropy"), [False, False, False]),
    ],
)
def test_each_rung_counts_on_top_of_the_ones_below(
    as_good_as_calibrated: tuple[str, ...], reached: list[bool]
) -> None:
    args = study(CONTROLS)
    points: dict[str, list[float]] = {"calibrated": around(2)}
    points |= {arm: around(2) for arm in as_good_as_calibrated}
    steps = ladder(contrasts(args, table(args, points)), args.margin)
    assert {step.conclusion: step.against for step in steps} == RUNGS
    assert [step.reached for step in steps] == reached
    for step in steps:
        for arm, state in step.found.items():
            assert state == ("equivalent" if arm in as_good_as_calibrated else "better")


def test_what_was_not_run_is_not_concluded() -> None:
    args = study(("raw", "calibrated", "constant-T", "shuffled-entropy"))
    steps = ladder(contrasts(args, table(args, {"calibrated": around(2)})), args.margin)
    assert [step.found for step in steps] == [
        {"raw": "better"},
        {"constant-T": "better", "permuted-T": "not run"},
        {"shuffled-entropy": "better", "equal-entropy": "not run"},
    ]
    assert [step.reached for step in steps] == [True, False, False]


def test_every_way_climbs_for_itself_and_the_sentence_counts_them() -> None:
    args = study(CONTROLS, taus=(1.0, 4.0))
    points = {"calibrated@1": around(2), "calibrated@4": around(2)}
    points |= {"constant-T@4": around(2)}
    students = table(args, points)
    steps = ladder(contrasts(args, students), args.margin)
    reached = {tau: [s.reached for s in steps if s.way.softening == tau] for tau in (1.0, 4.0)}
    assert reached == {1.0: [True, True, True], 4.0: [True, False, False]}
    *_, last = said(args, students)
    assert last == (
        "The ladder of verdicts, each rung on top of the one before: 'softening helps' in 2 of 2,"
        " 'the fitted T picks the softening' in 1 of 2, 'calibrated confidence matters' in 1 of 2"
        " ways of teaching."
    )


def test_one_rung_is_no_ladder_to_talk_about() -> None:
    args = study(("raw", "calibrated"))
    assert len(said(args, table(args, {"calibrated": around(2)}))) == 2


def test_a_lower_loss_is_better() -> None:
    args = load_config(
        StudyArgs,
        {"arms": ["raw", "calibrated"], "softenings": [1], "replicates": 5,
         "primary": {"arm": "calibrated", "against": "raw", "endpoint": "nll",
                     "direction": "less"}},
    )  # fmt: skip
    (loss, *accuracy) = contrasts(args, table(args, {"calibrated": around(2)}))
    assert loss.difference.mean == pytest.approx(-2)
    assert status(loss, 0.5) == "better"
    assert [status(c, 0.5) for c in accuracy] == ["better"]


def test_losses_and_accuracies_are_not_mixed_up() -> None:
    """A secondary contrast on NLL is no accuracy of the ladder, nor of the sentences."""
    args = load_config(
        StudyArgs,
        {"arms": ["raw", "calibrated"], "softenings": [1], "replicates": 5,
         "primary": {"arm": "calibrated", "against": "raw", "endpoint": "nll"}},
    )  # fmt: skip
    students = table(args, {"calibrated": around(2)})
    first = said(args, students)[0]
    assert first.count("points") == 1
    assert "+2.00 points" in first
    assert ladder(contrasts(args, students), 0.5)[0].found == {"raw": "better"}


def test_steps_come_back_from_json() -> None:
    args = study(CONTROLS, taus=(1.0, 4.0))
    steps = ladder(contrasts(args, table(args)), args.margin)
    kept = json.loads(json.dumps([step.to_dict() for step in steps], allow_nan=False))
    assert [Step.from_dict(record) for record in kept] == steps
