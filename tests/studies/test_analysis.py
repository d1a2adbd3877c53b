from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from studies.simulated_studies import nothing_missing, students_of, teachers_of
from temperance.config import load_config
from temperance.studies.analysis import PREDICTORS, analyse
from temperance.studies.arms import ARMS
from temperance.studies.plan import PlannedStudent, StudyArgs

GRID = [0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0, 5.66, 8.0, 11.3, 16.0]


def study(**given: Any) -> StudyArgs:
    return load_config(StudyArgs, {"softenings": [1], "replicates": 6} | given)


def analysed(
    args: StudyArgs,
    teachers: pd.DataFrame,
    students: pd.DataFrame,
    missing: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """The statistics, which have to be JSON as it is defined: without NaN."""
    found = analyse(args, teachers, students, nothing_missing() if missing is None else missing)
    kept: dict[str, Any] = json.loads(json.dumps(found, allow_nan=False))
    return kept


# Alignment: the best teacher softening is known.


def aligned(
    best: Callable[[float], float], *, teachers: int = 10, noise: float = 0.3
) -> tuple[StudyArgs, dict[str, Any]]:
    """A study whose students' accuracy is a bump of three points about `best(T)`."""
    args = study(arms=["raw", "grid"], grid=GRID, replicates=teachers)
    temperatures = dict(
        zip([t.name for t in args.teachers], np.geomspace(1.0, 3.5, teachers).tolist(), strict=True)
    )
    rng = np.random.default_rng(1)

    def points(planned: PlannedStudent) -> float:
        assert planned.teacher
        tau = planned.teacher_softening or 1.0
        distance = math.log(tau) - math.log(best(temperatures[planned.teacher.name]))
        return 3 * math.exp(-(distance**2) / 2) + noise * rng.normal()

    students = students_of(args, points, temperatures=temperatures)
    return args, analysed(args, teachers_of(args, temperatures), students)


def test_slope_one_where_the_best_softening_is_a_multiple_of_t() -> None:
    _, found = aligned(lambda t: 1.5 * t)
    (of_way,) = found["alignment"]
    line = of_way["line"]
    assert line["slope"]["value"] == pytest.approx(1, abs=0.15)
    assert line["slope"]["low"] <= 1 <= line["slope"]["high"]
    assert line["factor"]["value"] == pytest.approx(1.5, rel=0.1)
    assert (line["n"], line["reads_as"]) == (10, "T is the unit")
    assert of_way["units"]["difference"]["value"] > 0  # T is the better unit
    sentence = found["sentences"][-1]
    assert sentence.startswith("Alignment test: the slope of log best teacher softening on log")
    assert sentence.endswith("over 10 teachers: T is the unit.")


def test_slope_zero_where_one_softening_is_best_for_all() -> None:
    _, found = aligned(lambda _: 2.5)
    (of_way,) = found["alignment"]
    line = of_way["line"]
    assert line["slope"]["value"] == pytest.approx(0, abs=0.15)
    assert line["constant"]["value"] == pytest.approx(2.5, rel=0.1)
    assert line["reads_as"] == "one constant does as well"
    assert of_way["units"]["difference"]["value"] < 0


def test_curves_are_what_they_are_of() -> None:
    args, found = aligned(lambda t: t)
    (of_way,) = found["alignment"]
    assert of_way["softenings"] == GRID
    assert of_way["teachers"] == [teacher.name for teacher in args.teachers]
    assert of_way["student_softening"] == 1.0
    assert np.shape(of_way["curves"]) == (10, len(GRID))
    assert len(of_way["optima"]) == 10


@pytest.mark.parametrize("teachers", [1, 2, 4])
def test_too_few_teachers_are_said_to_be_too_few(teachers: int) -> None:
    _, found = aligned(lambda t: 1.5 * t, teachers=teachers)
    sentence = found["sentences"][-1]
    assert sentence.startswith("Alignment test: ")
    if teachers < 3:
        assert "not decided, since" in sentence
    else:
        assert "no interval under 5 families" in sentence


def test_optima_at_the_ends_of_the_grid_are_left_out() -> None:
    _, found = aligned(lambda t: 100 * t)
    assert "line" not in found["alignment"][0]
    assert "not decided" in found["sentences"][-1]


def test_a_short_grid_is_said_to_be_short() -> None:
    args = study(arms=["raw", "grid"], grid=[1, 2, 4])
    found = analysed(args, teachers_of(args), students_of(args))
    assert found["alignment"][0]["why_not"] == "a grid needs 5 softenings, and has 3"
    assert "not decided, since a grid needs 5 softenings" in found["sentences"][-1]


# Across teachers: a predictor is known to decide.


def across(rng: np.random.Generator, families: int = 8) -> dict[str, Any]:
    args = study(
        arms=["raw"],
        pool={"variants": [{"name": f"t{number}"} for number in range(families)]},
        replicates=3,
    )
    n = len(args.teachers)
    gap = rng.uniform(-0.1, 0.1, n)
    teachers = teachers_of(args).assign(gap=gap, accuracy=rng.uniform(0.7, 0.9, n))
    by_name = dict(zip(teachers["teacher"], gap, strict=True))
    students = students_of(args)
    students["accuracy"] = 0.8 - 0.5 * students["teacher"].map(by_name)
    students["accuracy"] += rng.normal(0, 0.002, len(students))
    (found,) = analysed(args, teachers, students)["across"]
    assert isinstance(found, dict)
    return found


def test_the_predictor_that_decides_is_found() -> None:
    found = across(np.random.default_rng(2))
    by_name = {row["predictor"]: row for row in found["correlations"]}
    assert list(by_name) == list(PREDICTORS)
    assert by_name["gap"]["pearson"] < -0.98
    assert by_name["gap"]["pearson_high"] < -0.9
    assert abs(by_name["ace"]["pearson"]) < 0.6
    assert by_name["gap"]["p"] is not None  # eight families
    assert found["balance"]["n"] == 24


def test_under_eight_families_no_p_value() -> None:
    found = across(np.random.default_rng(3), families=5)
    assert all(row["p"] is None for row in found["correlations"])


# Everything is JSON, whatever is missing.


def everything(**given: Any) -> StudyArgs:
    return study(
        arms=[arm for arm in ARMS if arm != "bayes"],
        grid=[0.5, 1, 2, 4, 8],
        softenings=[1, 4],
        primary={"arm": "calibrated", "against": "raw"},
        secondary=[{"arm": "calibrated", "against": "constant-T"}],
        **given,
    )


@pytest.mark.parametrize(
    "given",
    [
        {"replicates": 2},
        {"replicates": 1, "pool": {"factors": {"training.epochs": [1, 2]}}},
        {"replicates": 3, "objectives": ["kd", "lskd", "ttm"]},
        {"replicates": 5, "pool": {"factors": {"training.epochs": [1, 2]}}, "student_seeds": 2},
    ],
    ids=lambda given: " ".join(given),
)
def test_whole_studies_are_json(given: dict[str, Any]) -> None:
    args = everything(**given)
    rng = np.random.default_rng(0)
    teachers = teachers_of(args)
    students = students_of(args, lambda _: rng.normal())
    found = analysed(args, teachers, students)
    assert found["contrasts"][0]["standing"] == "primary"
    assert len(found["ladder"]) % 3 == 0
    assert found["failed"] == 0


@pytest.mark.parametrize(
    "column", ["T_se_log", "ace_change", "ece", "refinement", "validation_accuracy", "nll"]
)
def test_what_is_not_known_is_none(column: str) -> None:
    args = study(arms=["labels+calibration", "raw", "calibrated", "grid"], grid=[0.5, 1, 2, 4, 8],
                 primary={}, replicates=5)  # fmt: skip
    rng = np.random.default_rng(0)
    teachers, students = teachers_of(args), students_of(args, lambda _: rng.normal())
    for table in (teachers, students):
        if column in table:
            table.loc[table.index[0], column] = math.nan
    analysed(args, teachers, students)


def test_one_teacher_says_what_needs_more() -> None:
    args = study(arms=["labels+calibration", "raw", "calibrated", "grid"], replicates=1)
    found = analysed(args, teachers_of(args), students_of(args))
    text = " ".join(found["sentences"])
    assert "Over 1 teacher this table decides nothing." in text
    assert "no interval from 1 teacher" in text
    assert "Alignment test: not decided, since" in text
    assert all(contrast["difference"]["low"] is None for contrast in found["contrasts"])


def test_labels_alone() -> None:
    args = study(arms=["labels", "labels+calibration"])
    found = analysed(args, teachers_of(args), students_of(args))
    assert found["sentences"][0].startswith("Over 6 replicates this table")
    assert [c["label"] for c in found["contrasts"]] == ["labels+calibration − labels"]
    assert (found["alignment"], found["across"], found["ladder"]) == ([], [], [])


def test_students_of_which_nothing_came() -> None:
    missing = pd.DataFrame(
        [["r0-teacher, trained", "failed", "disk full"], ["r0-student", "blocked", "the teacher"]],
        columns=["run", "state", "why"],
    )
    found = analysed(study(), pd.DataFrame(), pd.DataFrame(), missing)
    assert found["failed"] == 1
    text = " ".join(found["sentences"])
    assert text.startswith("No student was trained.")
    assert "1 failed, 1 blocked" in text


def test_runs_that_are_missing_are_counted() -> None:
    args = study(arms=["raw", "calibrated"])
    missing = pd.DataFrame(
        [["a", "failed", "x"], ["b", "failed", "x"], ["c", "blocked", "x"], ["d", "skipped", "x"]],
        columns=["run", "state", "why"],
    )
    found = analysed(args, teachers_of(args), students_of(args), missing)
    assert "missing from this: 2 failed, 1 blocked;" in found["sentences"][-1]
    assert found["failed"] == 2


def test_a_mixed_model_stands_beside_the_primary_contrast() -> None:
    args = study(arms=["raw", "calibrated"], primary={}, replicates=8, student_seeds=2)
    rng = np.random.default_rng(0)
    students = students_of(args, lambda p: (p.arm == "calibrated") + 0.3 * rng.normal())
    found = analysed(args, teachers_of(args), students)
    assert found["mixed"]["estimate"] == pytest.approx(
        found["contrasts"][0]["difference"]["mean"], abs=0.05
    )
    assert found["mixed"]["contrast"] == "calibrated − raw (τ = 1)"
