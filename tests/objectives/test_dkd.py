from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reference import label_logit_oracles as oracle
from temperance.errors import UserError
from temperance.objectives.dkd import DKD, decoupled_kl, target_log_odds, without_target
from temperance.objectives.kd import softened_kl
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(1)
STUDENT, TEACHER = (torch.tensor(RNG.normal(scale=4, size=(7, 5))) for _ in range(2))
TARGETS = torch.tensor([0, 1, 2, 3, 4, 0, 4])  # the first and the last class among them

logits = arrays(np.float64, (4, 3), elements=st.floats(-30, 30))
softenings = st.floats(0.5, 20)


def rows(targets: torch.Tensor | None = TARGETS) -> Rows:
    return Rows(targets=targets, ids=torch.arange(7 if targets is None else len(targets)))


def losses(progress: float = 1.0, **values: Any) -> dict[str, torch.Tensor]:
    return DKD(**values)(Signal(STUDENT), Signal(TEACHER), rows(), progress)


def parts(
    student: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor, tau: float = 4.0
) -> tuple[torch.Tensor, torch.Tensor]:
    return decoupled_kl(student, teacher, targets, softening=tau, teacher_softening=tau)


@pytest.mark.parametrize(("tau", "tau_teacher"), [(1.0, 1.0), (4.0, 4.0), (0.7, 3.0), (6.0, 2.0)])
def test_both_parts_are_the_equations(tau: float, tau_teacher: float) -> None:
    found = decoupled_kl(STUDENT, TEACHER, TARGETS, softening=tau, teacher_softening=tau_teacher)
    expected = oracle.each(oracle.dkd, STUDENT, TEACHER, TARGETS, tau, tau_teacher)
    np.testing.assert_allclose(torch.stack(found, dim=1), expected, rtol=1e-9)


@given(logits, logits, softenings, softenings)
@settings(max_examples=60, deadline=None)
def test_kd_is_tckd_and_a_share_of_nckd(
    student: np.ndarray, teacher: np.ndarray, tau: float, tau_teacher: float
) -> None:
    """Zhao et al. 2022, eq. 6: α = 1 and β = 1 − p(label) of the teacher make it KD."""
    targets = torch.tensor([0, 1, 2, 1])
    z_student, z_teacher = torch.tensor(student), torch.tensor(teacher)
    target, non_target = decoupled_kl(
        z_student, z_teacher, targets, softening=tau, teacher_softening=tau_teacher
    )
    beta = (-target_log_odds(z_teacher / tau_teacher, targets)).sigmoid()
    kd = softened_kl(
        Signal(z_student), Signal(z_teacher), softening=tau, teacher_softening=tau_teacher
    )
    torch.testing.assert_close(target + beta * non_target, kd, rtol=1e-8, atol=1e-9)
    assert (target > -1e-9).all()
    assert (non_target > -1e-9).all()


def test_gradients_are_those_of_the_values() -> None:
    student = STUDENT.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: decoupled_kl(z, TEACHER, TARGETS, softening=3.0, teacher_softening=2.0),
        (student,),
    )


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_nothing_to_learn_from_oneself(tau: float) -> None:
    for part in (0, 1):
        student = TEACHER.clone().requires_grad_()
        loss = parts(student, TEACHER, TARGETS, tau)[part]
        assert loss.abs().max() < 1e-12
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert gradient.abs().max() < 1e-12


def test_golden_values_at_the_defaults() -> None:
    # At τ = 4: p(label) is 7/8 and 1/2, the others' shares are 3/4, 1/4 and 1/4, 3/4.
    teacher = 4 * torch.tensor([[28.0, 3, 1]], dtype=torch.float64).log()
    student = 4 * torch.tensor([[4.0, 1, 3]], dtype=torch.float64).log()
    found = DKD()(Signal(student), Signal(teacher), rows(torch.tensor([0])), 1.0)
    assert set(found) == {"target_kd", "non_target_kd", "labels"}
    assert found["target_kd"].item() == pytest.approx(
        16 * (7 / 8 * math.log(7 / 4) + 1 / 8 * math.log(1 / 4))
    )
    assert found["target_kd"].item() == pytest.approx(5.062033)
    assert found["non_target_kd"].item() == pytest.approx(8 * 16 * math.log(3) / 2)
    assert found["non_target_kd"].item() == pytest.approx(70.311186)
    # At 1 the student's classes weigh 4⁴, 1 and 3⁴.
    assert found["labels"].item() == pytest.approx(math.log(338 / 256))


def test_both_terms_warm_up_over_20_of_240_epochs() -> None:
    full = losses()
    for progress, share in ((0.0, 0.0), (10 / 240, 0.5), (20 / 240, 1.0), (0.5, 1.0)):
        found = losses(progress)
        for name in ("target_kd", "non_target_kd"):
            torch.testing.assert_close(found[name], share * full[name])
        torch.testing.assert_close(found["labels"], full["labels"])


def test_each_setting_scales_its_term() -> None:
    target, non_target = parts(STUDENT, TEACHER, TARGETS)
    found = losses(alpha=0.5, beta=3.0, weight=0.1, label_weight=2.0)
    torch.testing.assert_close(found["target_kd"], 0.05 * target)
    torch.testing.assert_close(found["non_target_kd"], 0.3 * non_target)
    torch.testing.assert_close(found["labels"], 2 * losses()["labels"])
    asymmetric = losses(softening=2.0, teacher_softening=5.0, beta=1.0)
    expected = oracle.each(oracle.dkd, STUDENT, TEACHER, TARGETS, 2.0, 5.0)
    np.testing.assert_allclose(asymmetric["target_kd"], [t for t, _ in expected])
    np.testing.assert_allclose(asymmetric["non_target_kd"], [n for _, n in expected])


def test_shifted_logits_say_the_same() -> None:
    shift = torch.arange(7.0, dtype=torch.float64)[:, None] * 3
    one, other = parts(STUDENT, TEACHER, TARGETS), parts(STUDENT + shift, TEACHER - shift, TARGETS)
    torch.testing.assert_close(one, other)


def test_two_classes_leave_the_target_alone() -> None:
    """Then NCKD compares 1 with 1, and TCKD is KD."""
    student = STUDENT[:, :2].clone().requires_grad_()
    targets = torch.tensor([0, 1, 1, 0, 1, 0, 1])
    target, non_target = parts(student, TEACHER[:, :2], targets)
    kd = softened_kl(Signal(student), Signal(TEACHER[:, :2]), softening=4.0, teacher_softening=4.0)
    torch.testing.assert_close(target, kd)
    assert torch.equal(non_target, torch.zeros_like(non_target))
    (gradient,) = torch.autograd.grad(non_target.sum(), student)
    assert torch.equal(gradient, torch.zeros_like(student))


@pytest.mark.parametrize("tau", [0.1, 1.0, 4.0, 100.0])
def test_a_certain_teacher_and_a_certain_student(tau: float) -> None:
    """Probabilities that are exactly 0 or 1 in float32: the limits are known."""
    certain, doubting = [1e4 * tau, 0.0, 0.0], [0.0, 0.0, 0.0]
    wrong = [0.0, 1e4 * tau, 0.0]
    student = torch.tensor([doubting, doubting, wrong, certain, wrong], requires_grad=True)
    teacher = torch.tensor([certain, wrong, certain, wrong, wrong])
    target, non_target = parts(student, teacher, torch.zeros(5, dtype=torch.int64), tau)
    third = math.log(3)
    expected = torch.tensor([third, math.log(3 / 2), 1e4, 1e4, 0.0])
    torch.testing.assert_close(target, tau**2 * expected, rtol=1e-4, atol=1e-6)
    # Among the others: equal; certain against equal; equal against certain; …; certain both.
    expected = torch.tensor([0.0, math.log(2), 5e3 - math.log(2), math.log(2), 0.0])
    torch.testing.assert_close(non_target, tau**2 * expected, rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad((target + non_target).sum(), student)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("lead", [50.0, 3000.0])
def test_the_others_of_a_certain_teacher_keep_their_shape(lead: float) -> None:
    """In float32 1 − p(label) is 0, and a lead of 1000 is what published code takes away."""
    others = [1.0, 0.0, -1.0]
    teacher, student = torch.tensor([[lead, *others]]), torch.tensor([[lead, 0.0, 0.0, 0.0]])
    p = oracle.softmax(others, 1.0)
    _, non_target = parts(student, teacher, torch.tensor([0]), 1.0)
    assert non_target.item() == pytest.approx(oracle.divergence(p, [1 / 3] * 3), rel=1e-5)


def test_the_target_is_left_out_wherever_it_stands() -> None:
    z = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    found = without_target(z, torch.tensor([0, 1, 2]))
    assert found.tolist() == [[2, 3], [4, 6], [7, 8]]


def test_input_that_it_cannot_use() -> None:
    soft = torch.full((7, 5), 0.2, dtype=torch.float64)
    with pytest.raises(UserError, match="needs class indices as targets"):
        DKD()(Signal(STUDENT), Signal(TEACHER), rows(soft), 0.0)
    with pytest.raises(UserError, match="needs labels"):
        DKD()(Signal(STUDENT), Signal(TEACHER), rows(None), 0.0)
    for bad in ({"beta": -1}, {"alpha": float("nan")}, {"softening": 0}):
        with pytest.raises(UserError, match=next(iter(bad))):
            DKD(**bad)
