from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import label_logit_oracles as oracle
from temperance.errors import UserError
from temperance.objectives.ats import ATS
from temperance.objectives.kd import KD
from temperance.objectives.transforms.asymmetric import AsymmetricArgs, asymmetrically_softened
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(4)
STUDENT, TEACHER = (torch.tensor(RNG.normal(scale=4, size=(7, 5))) for _ in range(2))
TARGETS = torch.tensor([0, 1, 2, 3, 4, 0, 4])


def rows(targets: torch.Tensor | None = TARGETS) -> Rows:
    return Rows(targets=targets, ids=torch.arange(7 if targets is None else len(targets)))


def losses(
    student: torch.Tensor = STUDENT, teacher: torch.Tensor = TEACHER, **values: Any
) -> dict[str, torch.Tensor]:
    return ATS(**values)(Signal(student), Signal(teacher), rows(), 0.0)


@pytest.mark.parametrize("tau", [1.0, 3.0])
@pytest.mark.parametrize(("target", "others"), [(4.0, 2.0), (1.0, 5.0), (0.5, 0.5)])
def test_the_loss_is_the_equation(tau: float, target: float, others: float) -> None:
    found = losses(softening=tau, target_softening=target, other_softening=others, weight=1.0)
    expected = oracle.each(oracle.ats, STUDENT, TEACHER, TARGETS, tau, target, others)
    np.testing.assert_allclose(found["ats"], expected, rtol=1e-9)


def test_gradient_is_that_of_the_value() -> None:
    student = STUDENT.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: losses(z, softening=2.0)["ats"], (student,))


def test_golden_value_at_the_defaults() -> None:
    # Divided, the teacher's shares are 2, 3, 1 of 6; the student's are 2, 1, 1 of 4.
    teacher = torch.tensor([[4 * math.log(2), 2 * math.log(3), 0.0]], dtype=torch.float64)
    student = torch.tensor([[2.0, 1, 1]], dtype=torch.float64).log()
    found = ATS()(Signal(student), Signal(teacher), rows(torch.tensor([0])), 0.0)
    assert set(found) == {"ats", "labels"}
    kl = 1 / 3 * math.log(2 / 3) + 1 / 2 * math.log(2) + 1 / 6 * math.log(2 / 3)
    assert found["ats"].item() == pytest.approx(0.5 * kl)
    assert found["ats"].item() == pytest.approx(0.071921, abs=1e-6)
    assert found["labels"].item() == pytest.approx(0.5 * math.log(2))


@given(st.floats(0.1, 10), st.floats(0.5, 8))
@settings(max_examples=30, deadline=None)
def test_one_temperature_for_all_is_kd_of_a_calibrated_teacher(t: float, tau: float) -> None:
    """KD(z / T; τ) is ATS with both temperatures T·τ and the student's τ."""
    weights = {"weight": 0.9, "label_weight": 0.1}
    ats = losses(softening=tau, target_softening=t * tau, other_softening=t * tau, **weights)
    kd = KD(softening=tau, **weights)(Signal(STUDENT), Signal(TEACHER / t), rows(), 0.0)
    torch.testing.assert_close(ats["ats"], kd["kd"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ats["labels"], kd["labels"])


def test_it_is_kd_of_the_transformed_teacher() -> None:
    temperatures = AsymmetricArgs(target_softening=3.0, other_softening=1.5)
    kd = KD(softening=2.0, teacher_softening=1.0, weight=0.5, transforms=(temperatures,))
    torch.testing.assert_close(
        losses(softening=2.0, target_softening=3.0, other_softening=1.5)["ats"],
        kd(Signal(STUDENT), Signal(TEACHER), rows(), 0.0)["kd"],
    )


def test_nothing_to_learn_for_a_student_that_agrees_with_the_divided_teacher() -> None:
    student = asymmetrically_softened(TEACHER, rows(), AsymmetricArgs()).requires_grad_()
    loss = losses(student)["ats"]
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12


def test_each_setting_has_its_effect() -> None:
    plain = losses()
    found = losses(weight=0.1, label_weight=2.0)
    torch.testing.assert_close(found["ats"], 0.2 * plain["ats"])
    torch.testing.assert_close(found["labels"], 4 * plain["labels"])
    for setting in ("softening", "target_softening", "other_softening"):
        assert not torch.isclose(losses(**{setting: 1.7})["ats"], plain["ats"]).any()
    # Transforms come first: here the temperatures multiply.
    twice = losses(
        target_softening=2.0,
        other_softening=2.0,
        transforms=(AsymmetricArgs(target_softening=2.0, other_softening=1.0),),
    )
    torch.testing.assert_close(twice["ats"], plain["ats"])


def test_a_shift_of_the_teachers_logits_matters_unless_the_temperatures_are_one() -> None:
    """What its `caution` says."""
    assert not torch.isclose(losses(teacher=TEACHER + 3)["ats"], losses()["ats"]).any()
    same = {"target_softening": 2.0, "other_softening": 2.0}
    torch.testing.assert_close(losses(teacher=TEACHER + 3, **same), losses(**same))
    torch.testing.assert_close(losses(STUDENT + 3), losses())


@pytest.mark.parametrize("tau", [0.1, 1.0, 100.0])
def test_a_certain_teacher_and_a_certain_student(tau: float) -> None:
    certain, doubting, wrong = [1e4, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1e4, 0.0]
    student = torch.tensor([doubting, wrong, certain], requires_grad=True)
    teacher = torch.tensor([certain, certain, wrong])
    loss = ATS(softening=tau, weight=1.0)(
        Signal(student), Signal(teacher), rows(torch.zeros(3, dtype=torch.int64)), 0.0
    )["ats"]
    expected = tau**2 * torch.tensor([math.log(3), 1e4 / tau, 1e4 / tau])
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert gradient.isfinite().all()


def test_input_that_it_cannot_use() -> None:
    soft = torch.full((7, 5), 0.2, dtype=torch.float64)
    with pytest.raises(UserError, match="needs class indices as targets"):
        ATS()(Signal(STUDENT), Signal(TEACHER), rows(soft), 0.0)
    with pytest.raises(UserError, match="needs labels"):
        ATS()(Signal(STUDENT), Signal(TEACHER), rows(None), 0.0)
    with pytest.raises(UserError, match=r"unknown key 'teacher_softening'.*'other_softening'"):
        ATS(teacher_softening=2.0)
    with pytest.raises(UserError, match="target_softening"):
        ATS(target_softening=0)
