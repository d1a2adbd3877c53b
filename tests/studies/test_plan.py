from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from temperance.config import load_config
from temperance.errors import UserError
from temperance.run import identity
from temperance.studies.arms import ARMS, DEFAULT, WITHOUT_TEACHER
from temperance.studies.plan import StudyArgs, planned_students, trainings
from temperance.training import CalibrationArgs

WIDE: dict[str, Any] = {
    "pool": {"factors": {"training.epochs": [3, 9], "objective.label_smoothing": [0.0, 0.1]}},
    "teacher": {"training": {"snapshots": [1, 2]}},
    "students": {"factors": {"model.width": [4, 8]}},
    "split": {"labelled": 0.5},
    "arms": [arm for arm in ARMS if arm != "bayes"],
    "transfer": ["in-sample", "out-of-fold", "unlabelled"],
    "underconfidence": [0.5, 2.0],
    "grid": [0.5, 1.0, 2.0],
    "softenings": [1.0, 4.0],
    "replicates": 2,
    "student_seeds": 2,
}
STUDIES = [
    StudyArgs(),
    StudyArgs(replicates=1, softenings=(2.0,)),
    StudyArgs(arms=("labels", "raw"), softenings=(1.0, 2.5, 4.0), replicates=3),
    StudyArgs(arms=("labels",)),
    StudyArgs(calibration=CalibrationArgs(fit="held-out")),
    load_config(StudyArgs, WIDE),
]
TEACHERS = 2 * 4 * 3  # replicates × recipes × states of a training
CELLS = 2 * 2 * 3  # softenings × students × transfer
TAUGHT = len(WIDE["arms"]) - 4 + 2 + 3  # two factors, three softenings of the grid


def test_the_default_study_trains_eighty_models() -> None:
    """5 × (teacher + 5 folds + 2 students without a teacher + 4 arms at 2 softenings)."""
    counts = trainings(StudyArgs())
    assert counts == {"teachers": 5, "fold teachers": 25, "students": 5 * (2 + 4 * 2)}
    assert sum(counts.values()) == 80


@pytest.mark.parametrize(
    ("study", "students", "models"),
    list(
        zip(
            STUDIES,
            [50, 6, 12, 5, 50, 2 * (2 * 2 * 2 + TEACHERS * CELLS * TAUGHT)],
            [80, 12, 30, 35, 55, None],
            strict=True,
        )
    ),
)
def test_how_many_there_are(study: StudyArgs, students: int, models: int | None) -> None:
    assert len(planned_students(study)) == students
    own = 2 * 4 * (1 + 5)  # states of one training are no trainings
    assert sum(trainings(study).values()) == (students + own if models is None else models)


def test_a_held_out_fit_trains_teachers_on_all_labels_again() -> None:
    held_out = CalibrationArgs(fit="held-out")
    study = StudyArgs(arms=("raw", "raw+calibration"), calibration=held_out, replicates=3)
    assert trainings(study)["teachers"] == 2 * 3
    assert trainings(StudyArgs(arms=("raw", "raw+calibration"), replicates=3))["teachers"] == 3


@pytest.mark.parametrize("study", STUDIES)
def test_names_are_unique_and_fit_for_folders(study: StudyArgs) -> None:
    """A student's is its row's; its folder is named after its training (test_treatments)."""
    names = [student.name for student in planned_students(study)]
    teachers = [teacher.name for teacher in study.teachers]
    assert len({*names, *teachers}) == len(names) + len(teachers)
    for name in (*(name.replace("A/A", "AA") for name in names), *teachers):
        assert name == name.strip()
        assert not set(name) & set("/\\ :*?")


def test_objectives_that_calibration_cannot_touch_learn_from_the_raw_teacher_only() -> None:
    objectives = ["kd", "lskd", "fitnet", "kd+fitnet", {"name": "kd", "weight": 0.5}]
    study = load_config(StudyArgs, {"objectives": objectives, "softenings": [], "replicates": 1})
    planned = planned_students(study)
    of = {
        name: [p.arm for p in planned if p.cell and p.cell.objective == name]
        for name in study.named_objectives
    }
    hearing = ["raw", "calibrated", "under-confident", "constant-T"]
    assert of == {
        "kd": hearing, "lskd": ["raw"], "fitnet": ["raw"], "kd+fitnet": hearing, "kd-2": hearing,
    }  # fmt: skip
    assert len(planned) == 2 + 3 * 4 + 2
    assert len({student.name for student in planned}) == len(planned)


def test_arms_that_need_a_softening_are_for_objectives_that_have_one() -> None:
    arms = ["raw", "A/A", "calibrated", "grid", "symmetric", "equal-entropy", "weight-matched"]
    study = load_config(
        StudyArgs, {"objectives": ["kd", "ttm", "lskd"], "arms": arms, "replicates": 1}
    )
    planned = planned_students(study)
    of = {
        name: {p.arm for p in planned if p.cell and p.cell.objective == name}
        for name in study.named_objectives
    }
    assert of["kd"] == set(arms)
    assert of["ttm"] == {"raw", "A/A", "calibrated", "weight-matched"}
    assert of["lskd"] == {"raw", "A/A"}


def test_softenings_are_for_objectives_that_have_one() -> None:
    def softenings(study: StudyArgs) -> dict[str, set[float | None]]:
        cells = [p.cell for p in planned_students(study) if p.cell]
        return {
            name: {cell.softening for cell in cells if cell.objective == name}
            for name in study.named_objectives
        }

    study = load_config(StudyArgs, {"objectives": ["kd", "ttm"], "softenings": [1, 2]})
    assert softenings(study) == {"kd": {1.0, 2.0}, "ttm": {None}}
    own = load_config(StudyArgs, {"objectives": ["kd", "ttm"], "softenings": []})
    assert softenings(own) == {"kd": {None}, "ttm": {None}}


@pytest.mark.parametrize("study", STUDIES[:-1])
def test_every_replicate_has_every_arm(study: StudyArgs) -> None:
    planned = planned_students(study)
    for replicate in range(study.replicates):
        found = {
            (p.arm, p.cell.softening if p.cell else None)
            for p in planned
            if p.replicate == replicate
        }
        assert {arm for arm, _ in found} == set(study.arms) <= set(ARMS)
        for arm, softening in found:
            assert (softening is None) == arm.startswith("labels")
        taught = {softening for _, softening in found if softening is not None}
        assert taught in (set(), set(study.softenings))


def test_every_teacher_has_every_arm_in_every_cell() -> None:
    study = STUDIES[-1]
    taught = [p for p in planned_students(study) if p.teacher]
    counts = Counter((p.teacher, p.cell, p.arm, p.seed) for p in taught)
    assert len(counts) == TEACHERS * CELLS * (len(study.arms) - 2) * 2
    several = {"under-confident": 2, "grid": 3}
    assert all(count == several.get(arm, 1) for (_, _, arm, _), count in counts.items())
    assert {p.factor for p in taught} == {None, 0.5, 2.0}
    assert {p.teacher_softening for p in taught} == {None, 0.5, 1.0, 2.0}


@pytest.mark.parametrize("one_in", [2, 3, 5, 12])
def test_a_fraction_is_balanced_and_part_of_the_whole(one_in: int) -> None:
    whole = load_config(StudyArgs, WIDE | {"student_seeds": 1})
    part = load_config(StudyArgs, WIDE | {"student_seeds": 1, "one_in": one_in})
    planned = planned_students(part)
    assert set(planned) <= set(planned_students(whole))
    pairs = {(p.teacher, p.cell) for p in planned if p.teacher}
    for counts in (Counter(teacher for teacher, _ in pairs), Counter(cell for _, cell in pairs)):
        assert max(counts.values()) - min(counts.values()) <= 1
    arms = Counter((p.teacher, p.cell) for p in planned if p.teacher)
    assert set(arms.values()) == {TAUGHT}  # arms stay whole
    alone = [p for p in planned if not p.teacher]
    assert len(alone) == 2 * 2 * 2


def test_seeds_come_one_after_the_other() -> None:
    """What is done early is balanced, and what is added comes at the end."""
    planned = planned_students(StudyArgs(student_seeds=3))
    assert all(first.seed <= second.seed for first, second in pairwise(planned))
    assert planned[:50] == planned_students(StudyArgs())


def test_what_a_study_grows_by_is_no_part_of_its_identity() -> None:
    same = [StudyArgs(), StudyArgs(replicates=9), StudyArgs(arms=("raw",), one_in=2, margin=1.0)]
    assert len({identity(study, data="") for study in same}) == 1
    assert identity(StudyArgs(teacher_seed=1), data="") != identity(StudyArgs(), data="")


def test_arms_are_known() -> None:
    assert set(DEFAULT) <= set(ARMS)
    assert set(WITHOUT_TEACHER) <= set(ARMS)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"arms": []}, "at least one"),
        ({"arms": ["raw", "raw"]}, "given twice"),
        ({"objectives": ["kd", "kd"]}, "given twice"),
        ({"arms": ["raw", "callibrated"]}, "'calibrated'"),
        ({"calibration": {"calibrator": "vector"}}, "'temperature', not 'vector'"),
        ({"calibration": {"fit": "none"}}, "held-out or cross-fit"),
        ({"calibration": {"underconfidence": 2.0}}, "`underconfidence`"),
        ({"arms": ["raw", "permuted-T"], "replicates": 1}, "temperature of another teacher"),
        ({"arms": ["grid"], "grid": []}, "'grid' has no values"),
        ({"arms": ["under-confident"], "underconfidence": []}, "'under-confident' has no values"),
        ({"arms": ["raw", "grid"], "objectives": ["ttm"]}, "none of the objectives (ttm)"),
        ({"arms": ["calibrated"], "objectives": ["lskd"]}, "can have the arm 'calibrated'"),
        ({"engine": {"devices": 2}}, "one device"),
        ({"arms": ["raw", "bayes"]}, "known truth"),
        ({"transfer": ["unlabelled"]}, "split.labelled"),
        (
            {"transfer": ["out-of-fold"], "calibration": {"fit": "held-out"}},
            "calibration.fit=cross-fit",
        ),
        (
            {"transfer": ["out-of-fold"], "objectives": ["fitnet"], "arms": ["raw"]},
            "'fitnet' compares activations",
        ),
        (
            {"objectives": ["nkd"], "transfer": ["unlabelled"], "split": {"labelled": 0.5}},
            "'nkd' needs labels",
        ),
        ({"objectives": ["labels"], "arms": ["raw"]}, "'labels' learns nothing from a teacher"),
        ({"arms": ["raw", "weight-matched"], "objectives": ["kd+fitnet"]}, "'weight-matched'"),
        ({"primary": {"against": "permuted-T"}}, "no arm 'permuted-T'"),
        ({"teacher": {"weights": "here"}, "replicates": 2}, "cannot be redrawn"),
        ({"teacher": {"weights": "here"}, "replicates": 1}, "has no folds"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_impossible_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as refused:
        load_config(StudyArgs, given)
    assert words in str(refused.value)


def test_a_sum_of_objectives_is_named_by_its_parts() -> None:
    study = load_config(StudyArgs, {"objectives": ["kd+at", "kd", {"name": "kd", "weight": 2.0}]})
    assert list(study.named_objectives) == ["kd+at", "kd", "kd-2"]
