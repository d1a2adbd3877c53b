from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from temperance.config import load_config
from temperance.objectives import get_objective
from temperance.objectives.weight_matched import WeightMatchedArgs
from temperance.rows import Rows, Signal
from temperance.studies.arms import ARMS, ENTROPY, ArmName
from temperance.studies.plan import PlannedStudent, StudyArgs, planned_students
from temperance.studies.treatments import (
    NotApplicableError,
    Source,
    StudentTraining,
    TeacherRecord,
    effective_softening,
    student_training,
)

T, TAU, CONSTANT, PERMUTED = 2.5, 4.0, 1.7, 3.1
EVERY_ARM: dict[str, Any] = {
    "arms": list(ARMS),
    "data": {"truth": "truth"},
    "softenings": [TAU],
    "underconfidence": [0.5, 2.0],
    "grid": [1.0, 4.0, 10.0],
    "replicates": 2,
}
TEACHER = TeacherRecord("r0-teacher", "folder", "sha", T, ("fold0", "fold1"))
TRUTH = Source("truth", "truth", "sha of the truth", 1.5)


def study(**given: Any) -> StudyArgs:
    return load_config(StudyArgs, EVERY_ARM | given)


def trainings(
    args: StudyArgs, teacher: TeacherRecord = TEACHER, **only: Any
) -> list[tuple[PlannedStudent, StudentTraining]]:
    """What the students of the first replicate amount to; of one arm, factor, … if `only` says."""
    planned = [
        p
        for p in planned_students(args)
        if p.replicate == 0 and all(getattr(p, name) == value for name, value in only.items())
    ]
    return [
        (p, student_training(args, p, teacher if p.teacher else None, CONSTANT, PERMUTED, TRUTH))
        for p in planned
    ]


def training(args: StudyArgs, arm: ArmName, **only: Any) -> StudentTraining:
    ((_, one),) = trainings(args, arm=arm, **only)
    return one


def facts(one: StudentTraining) -> dict[str, Any]:
    return one.facts({"seed": 0}, "data")


def target(one: StudentTraining, logits: torch.Tensor) -> torch.Tensor:
    """What the student of plain KD is to learn: softmax of the logits over all divisors."""
    settings: Any = one.objective
    assert one.source
    divisor = one.source.temperature * (settings.teacher_softening or settings.softening)
    return (logits / divisor).softmax(1)


@pytest.mark.parametrize(
    ("arm", "temperature"),
    [
        ("raw", 1.0),
        ("raw+calibration", 1.0),
        ("A/A", 1.0),
        ("calibrated", T),
        ("constant-T", CONSTANT),
        ("permuted-T", PERMUTED),
        ("bayes", 1.5),
    ],
)
def test_arms_that_differ_in_temperature_alone(arm: ArmName, temperature: float) -> None:
    one = training(study(), arm)
    assert one.source
    assert one.source.temperature == one.temperature == temperature
    assert one.objective.model_dump() == {
        **study().objectives[0].model_dump(), "softening": TAU,
    }  # fmt: skip
    assert one.control is None


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_under_confident_is_a_factor_on_t(factor: float) -> None:
    one = training(study(), "under-confident", factor=factor)
    assert one.source
    assert one.source.temperature == one.temperature == factor * T


@pytest.mark.parametrize("own", [None, 2.0])
@pytest.mark.parametrize("softening", [1.0, 4.0, 10.0])
def test_the_grid_is_absolute(softening: float, own: float | None) -> None:
    """Whatever τ of the teacher the objective has, its logits are divided by the grid's value."""
    args = study(objectives=[{"name": "kd", "teacher_softening": own}])
    ((planned, one),) = trainings(args, arm="grid", teacher_softening=softening)
    assert one.temperature is not None
    assert effective_softening(args, planned, one.temperature) == pytest.approx(softening)
    logits = torch.randn(5, 3)
    torch.testing.assert_close(target(one, logits), (logits / softening).softmax(1))
    assert one.objective.softening == TAU  # type: ignore[attr-defined]


@pytest.mark.parametrize("own", [None, 2.0])
def test_symmetric_softens_both_alike_by_t(own: float | None) -> None:
    one = training(study(objectives=[{"name": "kd", "teacher_softening": own}]), "symmetric")
    settings: Any = one.objective
    assert one.source
    assert settings.softening == TAU * T
    assert settings.teacher_softening == (own or TAU) * T
    assert (one.source.temperature, one.temperature) == (1.0, 1.0)


def test_weight_matched_is_the_raw_teacher_inside_a_wrapper() -> None:
    one = training(study(), "weight-matched")
    assert isinstance(one.objective, WeightMatchedArgs)
    assert one.objective.objective == training(study(), "raw").objective
    assert one.source
    assert one.source.temperature == T  # whose gradient it is to match
    assert one.temperature == 1.0  # what it teaches


@pytest.mark.parametrize("arm", ENTROPY)
@pytest.mark.parametrize("own", [None, 2.0])
def test_controls_of_entropy_are_divided_before_they_are_transformed(
    arm: ArmName, own: float | None
) -> None:
    """All of T · τ is in the temperature, since what is transformed is softened at 1."""
    one = training(study(objectives=[{"name": "kd", "teacher_softening": own}]), arm)
    settings: Any = one.objective
    tau = own or TAU
    assert one.source
    assert one.control == arm
    assert one.control_softening == T * tau
    assert one.source.temperature == (tau if arm == "uniform-mix" else T * tau)
    assert (settings.softening, settings.teacher_softening) == (TAU, 1.0)
    shown = {"uniform-mix": 1.0, "label-smoothing": None}.get(arm, T)
    assert one.temperature == shown


def test_calibrating_is_softening_the_teacher_alone() -> None:
    """KD of z / T at τ has the value of KD with the teacher's softening T · τ."""
    torch.manual_seed(3)
    teacher, student = 5 * torch.randn(6, 4), torch.randn(6, 4)
    rows = Rows(targets=torch.arange(6) % 4, ids=torch.arange(6))
    calibrated = training(study(), "calibrated")
    folded = calibrated.objective.model_copy(update={"teacher_softening": T * TAU})
    losses = [
        get_objective(settings)(Signal(student), Signal(logits), rows, 0.0)
        for settings, logits in ((calibrated.objective, teacher / T), (folded, teacher))
    ]
    for name in losses[0]:
        torch.testing.assert_close(losses[0][name], losses[1][name])


@pytest.mark.parametrize("temperature", [0.4, 1.0])
def test_uniform_mixing_cannot_sharpen(temperature: float) -> None:
    with pytest.raises(NotApplicableError, match=r"r0-teacher: T is .*only raises entropy"):
        trainings(study(), replace(TEACHER, temperature=temperature), arm="uniform-mix")


def test_what_has_no_label_cannot_be_smoothed() -> None:
    args = study(arms=["label-smoothing"], transfer=["unlabelled"], split={"labelled": 0.5})
    with pytest.raises(NotApplicableError, match="no labels to smooth"):
        trainings(args)


# Rows.


@pytest.mark.parametrize(
    ("fit", "rows", "kind"),
    [("cross-fit", "train+calibration", "measured"), ("held-out", "train", "trained")],
)
def test_which_rows_are_learned_from(fit: str, rows: str, kind: str) -> None:
    record = replace(TEACHER, trained_on_all="on all" if fit == "held-out" else None)
    args = study(calibration={"fit": fit})
    for planned, one in trainings(args, record):
        if planned.arm == "labels":
            assert one.rows == "train"
        elif planned.arm in ("labels+calibration", "raw+calibration"):
            assert one.rows == "train+calibration"
        else:
            assert one.rows == rows
    ((_, on_all),) = trainings(args, record, arm="raw+calibration")
    assert on_all.source
    assert on_all.source.kind == kind
    assert on_all.source.folder == ("folder" if kind == "measured" else "on all")


def test_transfer_says_which_rows_and_whose_labels() -> None:
    args = study(
        arms=["calibrated"],
        transfer=["in-sample", "out-of-fold", "unlabelled"],
        split={"labelled": 0.5},
    )
    found = {p.cell.transfer: one for p, one in trainings(args) if p.cell}
    sources = {transfer: one.source for transfer, one in found.items()}
    assert {transfer: source and source.kind for transfer, source in sources.items()} == {
        "in-sample": "measured", "out-of-fold": "folds", "unlabelled": "measured",
    }  # fmt: skip
    assert found["unlabelled"].rows == "unlabelled"
    folds = sources["out-of-fold"]
    assert folds
    assert (folds.folds, folds.temperature) == (("fold0", "fold1"), T)
    assert len({str(facts(one)) for one in found.values()}) == 3


def test_folds_of_a_snapshot_are_those_of_its_epoch() -> None:
    args = study(arms=["raw"], transfer=["out-of-fold"])
    last, early = (
        trainings(args, replace(TEACHER, epoch=epoch))[0][1].source for epoch in (None, 3)
    )
    assert last
    assert early
    assert (last.epoch, early.epoch) == (None, 3)


def test_without_a_teacher_labels_are_not_smoothed() -> None:
    args = study(teacher={"objective": {"label_smoothing": 0.2}})
    one = training(args, "labels")
    assert one.source is None
    assert one.objective.model_dump() == {**args.teacher.objective.model_dump(),
                                          "label_smoothing": 0.0}  # fmt: skip
    assert one.temperature is None


# Seeds and identity.


def test_all_arms_of_a_replicate_share_their_seed_but_the_second_a() -> None:
    args = study(student_seed=7, student_seeds=2)
    for seed in (0, 1):
        every = trainings(args, seed=seed)
        seeds = {one.seed for p, one in every if p.arm != "A/A"}
        assert seeds == {7 + 1_000 * seed}
        ((_, again),) = trainings(args, seed=seed, arm="A/A")
        assert again.seed not in seeds
    other = [p for p in planned_students(args) if p.replicate == 1 and p.arm == "labels"]
    assert student_training(args, other[0], None).seed == 8


def test_no_seed_is_used_twice_in_a_large_study() -> None:
    args = study(arms=["A/A", "raw"], replicates=30, student_seeds=20)
    seeds = [
        (p.arm, student_training(args, p, TEACHER).seed)
        for p in planned_students(args)
    ]  # fmt: skip
    assert len({seed for _, seed in seeds}) == len(seeds)


def test_what_two_arms_share_is_one_training() -> None:
    args = study()
    raw = training(args, "raw")
    for other in (training(args, "raw+calibration"), training(args, "grid", teacher_softening=TAU)):
        assert (other.name, facts(other)) == (raw.name, facts(raw))
    record = replace(TEACHER, temperature=CONSTANT)
    ((_, calibrated),) = trainings(args, record, arm="calibrated")
    constant = training(args, "constant-T")
    assert (calibrated.name, facts(calibrated)) == (constant.name, facts(constant))


def test_arms_that_differ_are_trainings_of_their_own() -> None:
    every = [
        one
        for p, one in trainings(study(), replace(TEACHER, temperature=2.6))
        if p.arm != "raw+calibration" and p.teacher_softening != TAU
    ]
    assert len({str(facts(one)) for one in every}) == len(every)
    assert len({one.name for one in every}) >= len(every) - 1  # A/A is raw with another seed


def test_another_teacher_is_another_training() -> None:
    args = study()
    ((_, other),) = trainings(args, replace(TEACHER, sha256="another"), arm="raw")
    assert facts(other) != facts(training(args, "raw"))


def test_names_are_fit_for_folders() -> None:
    args = study(objectives=["kd+fitnet", "kd"], teacher={"training": {"snapshots": [2]}},
                 arms=[arm for arm in ARMS if arm != "weight-matched"])  # fmt: skip
    for _, one in trainings(args):
        assert not set(one.name) & set('/\\ :*?"<>|')


def test_effective_softening_is_unknown_without_a_softening() -> None:
    args = study(objectives=["lskd", "fitnet"], arms=["raw"], softenings=[])
    assert all(math.isnan(effective_softening(args, p, 1.0)) for p in planned_students(args))
