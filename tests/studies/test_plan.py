from __future__ import annotations

import pytest

from temperance.config import load_config
from temperance.studies.plan import ARMS, StudyArgs, planned_students, trainings
from temperance.training import CalibrationArgs

STUDIES = [
    StudyArgs(),
    StudyArgs(replicates=1, softenings=(2.0,)),
    StudyArgs(arms=("labels", "raw"), softenings=(1.0, 2.5, 4.0), replicates=3),
    StudyArgs(arms=("labels",)),
    StudyArgs(calibration=CalibrationArgs(fit="held-out")),
]


def test_the_default_study_trains_eighty_models() -> None:
    """5 × (teacher + 5 folds + 2 students without a teacher + 4 arms at 2 softenings)."""
    assert trainings(StudyArgs()) == 5 * (1 + 5 + 2 + 4 * 2) == 80


@pytest.mark.parametrize(
    ("study", "students", "models"),
    list(zip(STUDIES, [50, 6, 12, 5, 50], [80, 12, 30, 35, 55], strict=True)),
)
def test_how_many_there_are(study: StudyArgs, students: int, models: int) -> None:
    assert len(planned_students(study)) == students
    assert trainings(study) == models


@pytest.mark.parametrize("study", STUDIES)
def test_names_are_unique_and_fit_for_folders(study: StudyArgs) -> None:
    names = [student.name for student in planned_students(study)]
    assert len(set(names)) == len(names)
    assert all(name == name.strip() and not set(name) & set("/\\ :*?") for name in names)


def test_objectives_that_calibration_cannot_touch_learn_from_the_raw_teacher_only() -> None:
    objectives = ["kd", "lskd", "fitnet", "kd+fitnet", {"name": "kd", "weight": 0.5}]
    study = load_config(StudyArgs, {"objectives": objectives, "softenings": [], "replicates": 1})
    planned = planned_students(study)
    of = {name: [p.arm for p in planned if p.objective == name] for name in study.named_objectives}
    hearing = ["raw", "calibrated", "under-confident", "constant-T"]
    assert of == {
        "kd": hearing, "lskd": ["raw"], "fitnet": ["raw"], "kd+fitnet": hearing, "kd-2": hearing,
    }  # fmt: skip
    assert len(planned) == 2 + 3 * 4 + 2
    assert len({student.name for student in planned}) == len(planned)


def test_softenings_are_for_objectives_that_have_one() -> None:
    study = load_config(StudyArgs, {"objectives": ["kd", "ttm"], "softenings": [1, 2]})
    planned = planned_students(study)
    assert {p.softening for p in planned if p.objective == "kd"} == {1.0, 2.0}
    assert {p.softening for p in planned if p.objective == "ttm"} == {None}
    own = load_config(StudyArgs, {"objectives": ["kd", "ttm"], "softenings": []})
    assert {p.softening for p in planned_students(own)} == {None}


@pytest.mark.parametrize("study", STUDIES)
def test_every_replicate_has_every_arm(study: StudyArgs) -> None:
    planned = planned_students(study)
    for replicate in range(study.replicates):
        found = {(p.arm, p.softening) for p in planned if p.replicate == replicate}
        assert {arm for arm, _ in found} == set(study.arms) <= set(ARMS)
        for arm, softening in found:
            assert (softening is None) == arm.startswith("labels")
        taught = {softening for _, softening in found if softening is not None}
        assert taught in (set(), set(study.softenings))
