from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest

from temperance.config import load_config
from temperance.errors import UserError
from temperance.studies.plan import ARMS, WITHOUT_TEACHER, ArmName, StudyArgs
from temperance.studies.verdict import contrasts, sentences

NOISE = [0.0, 0.1, -0.1, 0.05, -0.05, 0.0]


def study(arms: Sequence[ArmName] = tuple(ARMS), n: int = 5, taus: tuple[float, ...] = (1.0,)):
    return StudyArgs(arms=tuple(arms), replicates=n, softenings=taus, margin=0.5)


def table(
    args: StudyArgs,
    points: Mapping[str, Sequence[float] | float] | None = None,
    validation: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Students whose accuracy is 80 % plus what `points` says per replicate, in points."""
    rows = []
    for arm in args.arms:
        for tau in [None] if arm in WITHOUT_TEACHER else args.softenings:
            gain = (points or {}).get(arm, (points or {}).get(f"{arm}@{tau:g}", 0) if tau else 0)
            gains = [gain] * args.replicates if isinstance(gain, int | float) else gain
            rows += [
                {
                    "replicate": replicate,
                    "arm": arm,
                    "objective": None if tau is None else "kd",
                    "softening": tau,
                    # every replicate is harder or easier for all arms: only pairing sees through
                    "accuracy": 0.8 + 0.05 * np.sin(replicate) + gains[replicate] / 100,
                    "validation_accuracy": 0.8 + (validation or {}).get(arm, 0) / 100,
                }
                for replicate in range(args.replicates)
            ]
    return pd.DataFrame(rows)


def around(mean: float, n: int = 5) -> list[float]:
    return [mean + noise for noise in NOISE[:n]]


def said(args: StudyArgs, students: pd.DataFrame) -> tuple[str, str]:
    return sentences(args, contrasts(args, students))


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
    assert (primary.arm, primary.softening) == ("raw", 4.0)
    assert primary.difference.mean == pytest.approx(-3)


def test_without_validation_no_arm_is_best() -> None:
    args = study()
    students = table(args).assign(validation_accuracy=np.nan)
    with pytest.raises(UserError, match=r"split\.validation"):
        contrasts(args, students)


def test_differences_are_paired_by_replicate_in_points() -> None:
    args = study()
    students = table(args, {"calibrated": [1, 2, 3, 2, 2]})
    shuffled = students.sample(frac=1, random_state=0)
    for found in (contrasts(args, students), contrasts(args, shuffled)):
        (contrast,) = [c for c in found if (c.arm, c.against) == ("calibrated", "raw")]
        assert contrast.differences == pytest.approx((1, 2, 3, 2, 2))
        assert contrast.difference.mean == pytest.approx(2)
        assert contrast.difference.sd == pytest.approx(np.std([1, 2, 3, 2, 2], ddof=1))


def test_arms_are_compared_at_the_same_softening() -> None:
    args = study(("raw", "calibrated", "labels"), taus=(1.0, 4.0))
    students = table(args, {"calibrated@1": 1, "raw@1": 3, "calibrated@4": 10, "raw@4": 5})
    found = {c.softening: c for c in contrasts(args, students)}
    assert {tau: c.difference.mean for tau, c in found.items()} == pytest.approx({1: -2, 4: 5})
    assert found[4.0].label == "calibrated − raw (τ = 4)"


@pytest.mark.parametrize("n", [5, 6])
def test_it_helps(n: int) -> None:
    args = study(n=n)
    first, second = said(args, table(args, {"calibrated": around(2, n)}, {"calibrated": 1}))
    assert first.startswith(f"Over {n} replicates")
    assert "the best arm with a teacher, calibrated, beats labels only at equal labels" in first
    assert "calibrated beats raw" in first
    assert "calibrated beats constant-T" in first
    assert "under-confident falls behind calibrated" in first
    assert "+2.00" in first
    assert second == "It does not support that an under-confident teacher helps more."


def test_it_harms() -> None:
    args = study()
    first, second = said(args, table(args, {"calibrated": around(-2)}, {"calibrated": 1}))
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
    first, second = said(args, table(args, {"calibrated": [4, -3, 2, -2, 3]}, {"calibrated": 1}))
    assert first == "Over 5 replicates this table decides nothing."
    assert second.count("undecided") == 4  # each of the claims
    assert "+0.80 points [" in second


def test_it_is_equivalent() -> None:
    args = study()
    first, second = said(args, table(args, {"calibrated": around(0.05)}, {"calibrated": 1}))
    assert "calibrated equals, within ±0.5 points, raw" in first
    assert "calibrating helps" in second
    assert "undecided" not in second
    assert "beats" not in first


def test_margin_decides_what_is_equivalent() -> None:
    students = table(study(), {"calibrated": around(0.05)}, {"calibrated": 1})
    strict = study().model_copy(update={"margin": 0.01})
    first, second = said(strict, students)
    assert "equals" not in first
    assert "undecided" in second


def test_a_claim_holds_at_one_softening_and_not_at_another() -> None:
    args = study(taus=(1.0, 4.0))
    points = {"calibrated@1": around(2), "calibrated@4": around(-2)}
    first, _ = said(args, table(args, points))
    assert "calibrated beats raw (τ = 1: +2.00" in first
    assert "calibrated falls behind raw (τ = 4: −2.00" in first


@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_replicates_decide_nothing(n: int) -> None:
    args = study(n=n)
    first, second = said(args, table(args, {"calibrated": around(20, n)}))
    assert first == f"Over {n} replicates this table decides nothing."
    assert f"no interval from {n} replicates" in second


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
    found = contrasts(args, table(args, {arm: around(i) for i, arm in enumerate(arms)}))
    assert {arm for c in found for arm in (c.arm, c.against)} <= set(arms)
    text = " ".join(sentences(args, found))
    for words in absent:
        assert words not in text


def test_contrasts_name_objectives_where_there_are_several() -> None:
    args = load_config(
        StudyArgs,
        {"arms": ["labels+calibration", "raw"], "objectives": ["kd", "at"], "softenings": []},
    )
    rows = [
        {
            "replicate": replicate,
            "arm": arm,
            "objective": objective,
            "softening": None,
            "accuracy": 0.8 + gain + 0.05 * np.sin(replicate),
            "validation_accuracy": 0.8 + gain,
        }
        for arm, objective, gain in [
            ("labels+calibration", None, 0.0), ("raw", "kd", 0.01), ("raw", "at", 0.03),
        ]
        for replicate in range(5)
    ]  # fmt: skip
    primary, *others = contrasts(args, pd.DataFrame(rows))
    assert primary.primary
    assert primary.objective == "at"
    assert [contrast.label for contrast in others] == [
        "raw − labels+calibration (kd)",
        "raw − labels+calibration (at)",
    ]
    assert [contrast.difference.mean for contrast in others] == pytest.approx([1, 3])
