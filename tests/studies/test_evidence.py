from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from temperance.studies.evidence import (
    FILE,
    ORDER,
    Evidence,
    evidence_of,
    in_regime,
    load_evidence,
    to_json,
)

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def script() -> Any:
    """`benchmarks/evidence.py`, which is no package."""
    spec = importlib.util.spec_from_file_location("script", ROOT / "benchmarks" / "evidence.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["script"] = module
    spec.loader.exec_module(module)
    return module


def test_the_packaged_file_is_what_the_script_makes_of_the_committed_results(script: Any) -> None:
    packaged = ROOT / "src" / "temperance" / "studies" / FILE
    assert packaged.read_text(encoding="utf-8") == to_json(script.collected()), (
        "run: python benchmarks/evidence.py"
    )


def test_differences_are_those_of_the_tables() -> None:
    """By pandas and SciPy alone, from the CSV."""
    students = pd.read_csv(RESULTS / "cifar10" / "students.csv")
    students = students[students["softening"] == 1]
    accuracy = students.pivot(index="replicate", columns="arm", values="accuracy")
    differences = 100 * (accuracy["calibrated"] - accuracy["raw"])
    (found,) = [
        one
        for one in load_evidence()
        if (one.study, one.contrast, one.softening) == ("cifar10", "calibrated − raw", 1.0)
    ]
    low, high = stats.t.interval(0.95, 4, differences.mean(), stats.sem(differences))
    assert found.difference == pytest.approx(differences.mean(), rel=1e-5)
    assert (found.low, found.high) == (pytest.approx(low, rel=1e-5), pytest.approx(high, rel=1e-5))
    half = stats.t.ppf(0.975, 4) * differences.std() * math.sqrt(1 + 1 / 5)
    assert found.next_high == pytest.approx(differences.mean() + half, rel=1e-5)
    assert (found.classes, found.rows, found.transfer, found.sign) == (
        10,
        4000,
        "in-sample",
        "over",
    )
    assert (found.n, found.families) == (5, 5)
    assert (found.objective, found.student, found.data) == ("kd", "cnn", "cifar10")


def test_differences_are_those_of_the_committed_table_of_objectives() -> None:
    table = pd.read_csv(RESULTS / "objectives" / "differences.csv").set_index("objective")
    for objective in ("kd", "ttm", "kd+crd"):
        for contrast in ("calibrated − raw", "calibrated − constant-T"):
            (found,) = [
                one
                for one in load_evidence()
                if (one.study, one.objective, one.contrast) == ("objectives", objective, contrast)
            ]
            expected = table.loc[objective, [contrast, f"{contrast} low", f"{contrast} high"]]
            assert [found.difference, found.low, found.high] == pytest.approx(
                list(expected),
                abs=6e-5,  # it is rounded to four decimals
            )


def test_every_source_is_a_committed_folder() -> None:
    assert load_evidence()
    for one in load_evidence():
        assert (ROOT / one.source / "students.csv").is_file()
        assert one.contrast.count(" − ") == 1
        assert one.n >= one.families > 0


def one(**changes: Any) -> Evidence:
    settings: dict[str, Any] = {
        "study": "s", "data": "d", "classes": 10, "rows": 100, "transfer": "in-sample",
        "sign": "over", "contrast": "calibrated − raw", "objective": "kd", "softening": 1.0,
        "factor": None, "student": "cnn", "difference": 1.0, "low": 0.5, "high": 1.5,
        "next_low": 0.0, "next_high": 2.0, "n": 8, "families": 6, "source": "results/s",
    }  # fmt: skip
    return Evidence(**{**settings, **changes})


@pytest.mark.parametrize(
    ("classes", "quoted"), [(4, False), (5, True), (10, True), (20, True), (21, False)]
)
def test_evidence_is_of_at_most_twice_and_at_least_half_as_many_classes(
    classes: int, quoted: bool
) -> None:
    found = in_regime([one()], transfer="in-sample", sign="over", classes=classes)
    assert bool(found) == quoted


def test_evidence_is_of_the_same_rows_and_sign() -> None:
    known = [one(), one(sign="under"), one(sign="either"), one(transfer="unlabelled")]
    assert in_regime(known, transfer="in-sample", sign="over", classes=10) == known[:1]
    assert in_regime(known, transfer="in-sample", sign="either", classes=10) == known[2:3]
    assert in_regime(known, transfer="unlabelled", sign="over", classes=10) == known[3:]
    assert not in_regime(known, transfer="out-of-fold", sign="over", classes=10)


def test_it_is_quoted_with_n_families_interval_and_source() -> None:
    assert str(one()) == (
        "calibrated − raw (kd, τ = 1): +1.00 points [0.50, 1.50], next [0.00, 2.00], n = 8 of 6"
        " families; d, 10 classes, 100 rows in-sample (results/s)"
    )
    few = one(low=None, high=None, next_low=None, next_high=None)
    assert "no interval, n = 8" in str(few)
    assert few.direction == 0
    assert [one().direction, one(low=-2, high=-1).direction, one(low=-1).direction] == [1, -1, 0]


def tables(gaps: list[float], *, splits: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Teachers of these gaps in every split; calibrating gains one point for the over-confident,
    loses two for the others, and the teacher of the lowest refinement teaches best."""
    teachers, students = [], []
    for split in range(splits):
        for number, gap in enumerate(gaps):
            name = f"r{split}-t{number}"
            teachers.append({"teacher": name, "family": name, "gap": gap, "refinement": -number})
            for arm, gain in (("raw", 0.0), ("calibrated", 0.01 if gap > 0 else -0.02)):
                accuracy = 0.5 + 0.1 * number + gain + 0.001 * split
                students.append(student(arm, split, name, accuracy))
        students.append(student("labels+calibration", split, None, 0.4))
    return pd.DataFrame(teachers), pd.DataFrame(students)


def student(arm: str, split: int, teacher: str | None, accuracy: float) -> dict[str, Any]:
    cell = {"objective": "kd", "softening": 1.0, "transfer": "in-sample"}
    return {
        "teacher": teacher, "family": teacher, "replicate": split, "arm": arm, "seed": 0,
        "factor": np.nan, "student": "cnn", "accuracy": accuracy, "validation_accuracy": accuracy,
        "train_rows": 100, "T": 1.0, "run": f"{arm}-{teacher}",
        **(cell if teacher else dict.fromkeys(cell)),
    }  # fmt: skip


def made(gaps: list[float], *, splits: int = 1) -> dict[tuple[str, str], Evidence]:
    teachers, students = tables(gaps, splits=splits)
    found = evidence_of(teachers, students, study="s", data="d", classes=10, source="results/s")
    assert len({(x.sign, x.contrast) for x in found}) == len(found)
    return {(x.sign, x.contrast): x for x in found}


def test_teachers_of_both_signs_are_told_apart_and_taken_together() -> None:
    found = made([0.1, 0.2, -0.1])
    difference = {sign: found[sign, "calibrated − raw"].difference for sign in
                  ("over", "under", "either")}  # fmt: skip
    assert difference == pytest.approx({"over": 1.0, "under": -2.0, "either": 0.0})
    assert {sign: found[sign, "calibrated − raw"].n for sign in difference} == {
        "over": 2, "under": 1, "either": 3,
    }  # fmt: skip
    assert {sign for sign, _ in made([0.1, 0.2])} == {"over"}
    assert {sign for sign, _ in made([-0.1])} == {"under"}


def test_an_order_is_tested_where_splits_have_several_teachers() -> None:
    assert not any(contrast == ORDER for _, contrast in made([0.1], splits=3))
    order = made([0.1, 0.1, 0.1], splits=5)["over", ORDER]
    assert order.difference == pytest.approx(10)  # the best of 0.5, 0.6, 0.7 against their mean
    assert (order.n, order.families) == (5, 5)
    assert order.low == pytest.approx(10)


def test_what_is_written_is_what_is_read() -> None:
    records = json.loads(to_json([one(difference=1 / 3)]))
    assert Evidence(**records[0]) == one(difference=0.333333)
