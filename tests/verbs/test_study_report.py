"""The report of studies that are simulated: at full size, and with almost nothing in them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from studies.simulated_studies import nothing_missing, students_of, teachers_of
from temperance.config import load_config
from temperance.reporting.html import write_report
from temperance.run import Run
from temperance.studies.analysis import analyse
from temperance.studies.arms import ARMS
from temperance.studies.plan import StudyArgs
from temperance.studies.registration import register
from temperance.studies.store import Store
from temperance.verbs._study_report import compose

EVERY_ARM = [arm for arm in ARMS if arm != "bayes"]


@pytest.fixture
def kept(tmp_path: Path) -> Callable[..., Run]:
    """Writes what a finished study leaves behind, and gives its run."""

    def kept(
        args: StudyArgs, teachers: pd.DataFrame, students: pd.DataFrame, missing: pd.DataFrame
    ) -> Run:
        run = Run.open(
            tmp_path / "run", verb="study", config=args, identity="simulated", resume=False
        )
        register(run, args.primary, args.secondary)
        for name, table in (("teachers", teachers), ("students", students), ("missing", missing)):
            Store(run).write_table(name, table)
        run.write_json("metrics.json", analyse(args, teachers, students, missing))
        return run

    return kept


def opened(run: Run, browse: Callable[..., Any]) -> Any:
    file = run.path("report.html")
    write_report(compose(run), file)
    page = browse(file)
    assert page.console_errors == []
    assert {url for url in page.requests if not url.startswith("data:")} == {file.as_uri()}
    return page


@pytest.mark.slow
def test_ten_thousand_students(kept: Callable[..., Run], browse: Callable[..., Any]) -> None:
    args = load_config(
        StudyArgs,
        {
            "arms": EVERY_ARM,
            "pool": {
                "factors": {
                    "training.epochs": [1, 2, 3, 4, 5],
                    "objective.label_smoothing": [0.0, 0.1],
                }
            },
            "students": {"factors": {"model.width": [4, 8]}},
            "softenings": [1, 2, 4],
            "underconfidence": [0.5, 1.5, 2, 3, 4],
            "replicates": 3,
            "student_seeds": 2,
            "primary": {"arm": "calibrated", "against": "raw"},
            "secondary": [{"arm": "calibrated", "against": "constant-T"}],
        },
    )
    rng = np.random.default_rng(0)
    temperatures = {t.name: float(rng.lognormal(0.7, 0.3)) for t in args.teachers}
    teachers = teachers_of(args, temperatures)
    students = students_of(args, lambda _: rng.normal(), temperatures=temperatures)
    assert len(students) > 10_000
    run = kept(args, teachers, students, nothing_missing())
    started = time.process_time()
    report = compose(run)
    assert time.process_time() - started < 15
    write_report(report, run.path("report.html"))
    page = opened(run, browse)
    assert f"All {len(students):,} students" in page.text
    for sentence in json.loads((run.folder / "metrics.json").read_text())["sentences"]:
        assert sentence in page.text


def small(**given: Any) -> StudyArgs:
    return load_config(StudyArgs, {"softenings": [1], "replicates": 1} | given)


def test_one_teacher(kept: Callable[..., Run], browse: Callable[..., Any]) -> None:
    args = small(arms=[arm for arm in EVERY_ARM if arm != "permuted-T"])
    run = kept(args, teachers_of(args), students_of(args), nothing_missing())
    text = opened(run, browse).text
    assert "Over 1 teacher this table decides nothing." in text
    assert "Under 5 replicates: no intervals." in text
    assert "No alignment test" in text


def test_labels_alone(kept: Callable[..., Run], browse: Callable[..., Any]) -> None:
    args = small(arms=["labels", "labels+calibration"], replicates=6)
    run = kept(args, teachers_of(args), students_of(args), nothing_missing())
    text = opened(run, browse).text
    assert "labels+calibration − labels" in text
    assert "Over 6 replicates" in text
    assert "Ladder of verdicts" not in text


def test_nothing_came_of_it(kept: Callable[..., Run], browse: Callable[..., Any]) -> None:
    missing = pd.DataFrame(
        [["r0-teacher, trained", "failed", "<b>the disk is full</b>"], ["s", "blocked", "it"]],
        columns=["run", "state", "why"],
    )
    run = kept(small(), pd.DataFrame(), pd.DataFrame(), missing)
    text = opened(run, browse).text
    assert "No student was trained." in text
    assert "<b>the disk is full</b>" in text  # shown, not obeyed


def test_teachers_without_any_student(kept: Callable[..., Run], browse: Callable[..., Any]) -> None:
    args = small(replicates=2)
    run = kept(args, teachers_of(args), pd.DataFrame(), nothing_missing())
    text = opened(run, browse).text
    assert "No student was trained." in text
    assert "r1-teacher" in text


def test_ways_with_one_arm_each(kept: Callable[..., Run], browse: Callable[..., Any]) -> None:
    """Objectives that calibration cannot touch, beside one that it can."""
    args = small(objectives=["kd", "lskd", "fitnet"], replicates=6)
    run = kept(args, teachers_of(args), students_of(args), nothing_missing())
    text = opened(run, browse).text
    assert "Objectives and arms" in text
    assert "Across teachers" in text


def test_what_is_not_known_is_shown_as_a_dash(kept: Callable[..., Run]) -> None:
    args = small(arms=["labels", "raw", "calibrated", "grid"], replicates=6)
    teachers, students = teachers_of(args), students_of(args)
    unknown = {"T_se_log": np.nan, "ace_change": None, "status": "flat", "fragile": True}
    teachers = teachers.assign(**{name: [value] * 6 for name, value in unknown.items()})
    for name in ("T_student", "nll_calibrated", "ece_calibrated", "gap_calibrated",
                 "validation_accuracy", "best_validation_accuracy"):  # fmt: skip
        students[name] = np.nan
    args = args.model_copy(update={"primary": None})
    run = kept(args, teachers, students, nothing_missing())
    compose(run)


def test_the_settings_are_those_that_were_written(kept: Callable[..., Run]) -> None:
    args = small(arms=["raw", "calibrated"], replicates=2)
    run = kept(args, teachers_of(args), students_of(args), nothing_missing())
    written = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert load_config(StudyArgs, written) == args
