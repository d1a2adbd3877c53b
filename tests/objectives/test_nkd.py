from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from reference import label_logit_oracles as oracle
from temperance.errors import UserError
from temperance.objectives.dkd import decoupled_kl
from temperance.objectives.nkd import NKD, normalized_cross_entropies
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(2)
STUDENT, TEACHER = (torch.tensor(RNG.normal(scale=3, size=(7, 5))) for _ in range(2))
TARGETS = torch.tensor([0, 1, 2, 3, 4, 0, 4])


def rows(targets: torch.Tensor | None = TARGETS) -> Rows:
    return Rows(targets=targets, ids=torch.arange(7 if targets is None else len(targets)))


def losses(teacher: torch.Tensor = TEACHER, **values: Any) -> dict[str, torch.Tensor]:
    return NKD(**values)(Signal(STUDENT), Signal(teacher), rows(), 0.0)


def parts(
    student: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor, tau: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    return normalized_cross_entropies(
        student, teacher, targets, softening=tau, teacher_softening=tau
    )


@pytest.mark.parametrize(("tau", "tau_teacher"), [(1.0, 1.0), (4.0, 4.0), (0.7, 3.0), (6.0, 2.0)])
def test_both_parts_are_the_equation(tau: float, tau_teacher: float) -> None:
    found = normalized_cross_entropies(
        STUDENT, TEACHER, TARGETS, softening=tau, teacher_softening=tau_teacher
    )
    expected = oracle.each(oracle.nkd, STUDENT, TEACHER, TARGETS, tau, tau_teacher)
    np.testing.assert_allclose(torch.stack(found, dim=1), expected, rtol=1e-9)


def test_gradients_are_those_of_the_values() -> None:
    student = STUDENT.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: normalized_cross_entropies(
            z, TEACHER, TARGETS, softening=3.0, teacher_softening=2.0
        ),
        (student,),
    )


def test_golden_values_at_the_defaults() -> None:
    # p(label) is 7/8 and 1/2, the others' shares are 3/4, 1/4 and 1/4, 3/4.
    teacher = torch.tensor([[28.0, 3, 1]], dtype=torch.float64).log()
    student = torch.tensor([[4.0, 1, 3]], dtype=torch.float64).log()
    found = NKD()(Signal(student), Signal(teacher), rows(torch.tensor([0])), 0.0)
    assert set(found) == {"target_nkd", "non_target_nkd", "labels"}
    assert found["target_nkd"].item() == pytest.approx(7 / 8 * math.log(2))
    assert found["target_nkd"].item() == pytest.approx(0.606504)
    others = 3 / 4 * math.log(4) + 1 / 4 * math.log(4 / 3)
    assert found["non_target_nkd"].item() == pytest.approx(1.5 * others)
    assert found["non_target_nkd"].item() == pytest.approx(1.667462)
    assert found["labels"].item() == pytest.approx(math.log(2))


def test_agreement_is_the_others_minimum_and_not_the_targets() -> None:
    student = TEACHER.clone().requires_grad_()
    target, non_target = parts(student, TEACHER, TARGETS, 2.0)
    (gradient,) = torch.autograd.grad(non_target.sum(), student, retain_graph=True)
    assert gradient.abs().max() < 1e-12
    # p(y) · (softmax − one-hot): a cross-entropy with the label, weighted.
    (gradient,) = torch.autograd.grad(target.sum(), student)
    p = TEACHER.softmax(1)
    one_hot = torch.eye(5, dtype=torch.float64)[TARGETS]
    torch.testing.assert_close(gradient, (p * one_hot).sum(1, keepdim=True) * (p - one_hot))


def test_the_others_term_has_the_gradient_of_nckd() -> None:
    """A cross-entropy rather than a divergence: more by the teacher's entropy, a constant."""
    student = STUDENT.clone().requires_grad_()
    taus = {"softening": 3.0, "teacher_softening": 2.0}
    _, cross_entropy = normalized_cross_entropies(student, TEACHER, TARGETS, **taus)
    _, nckd = decoupled_kl(student, TEACHER, TARGETS, **taus)
    assert (cross_entropy > nckd).all()
    torch.testing.assert_close(
        torch.autograd.grad(cross_entropy.sum(), student),
        torch.autograd.grad(nckd.sum(), student),
    )


def test_each_setting_acts_on_its_term() -> None:
    plain = losses()
    found = losses(gamma=0.5, weight=0.1, label_weight=2.0)
    torch.testing.assert_close(found["target_nkd"], 0.1 * plain["target_nkd"])
    torch.testing.assert_close(found["non_target_nkd"], 0.1 / 3 * plain["non_target_nkd"])
    torch.testing.assert_close(found["labels"], 2 * plain["labels"])
    softer = losses(softening=2.0, teacher_softening=5.0, gamma=1.0)
    expected = oracle.each(oracle.nkd, STUDENT, TEACHER, TARGETS, 2.0, 5.0)
    np.testing.assert_allclose(softer["non_target_nkd"], [other for _, other in expected])


def test_softening_leaves_the_targets_term_alone_and_calibration_does_not() -> None:
    """A temperature of the teacher is no softening of it: it also changes the weight p(label)."""
    plain = losses(softening=2.0, teacher_softening=2.0)
    softer = losses(softening=2.0, teacher_softening=6.0)
    calibrated = losses(TEACHER / 3, softening=2.0)
    torch.testing.assert_close(softer["target_nkd"], plain["target_nkd"])
    torch.testing.assert_close(calibrated["non_target_nkd"], softer["non_target_nkd"])
    ratio = calibrated["target_nkd"] / plain["target_nkd"]
    every = torch.arange(7)
    expected = (TEACHER / 3).softmax(1)[every, TARGETS] / TEACHER.softmax(1)[every, TARGETS]
    torch.testing.assert_close(ratio, expected)


def test_shifted_logits_say_the_same() -> None:
    shift = torch.arange(7.0, dtype=torch.float64)[:, None] * 3
    one, other = parts(STUDENT, TEACHER, TARGETS), parts(STUDENT + shift, TEACHER - shift, TARGETS)
    torch.testing.assert_close(one, other)


def test_two_classes_have_no_others_to_compare() -> None:
    student = STUDENT[:, :2].clone().requires_grad_()
    _, non_target = parts(student, TEACHER[:, :2], torch.tensor([0, 1, 1, 0, 1, 0, 1]), 4.0)
    (gradient,) = torch.autograd.grad(non_target.sum(), student)
    assert torch.equal(non_target, torch.zeros_like(non_target))
    assert torch.equal(gradient, torch.zeros_like(student))


@pytest.mark.parametrize("tau", [0.1, 1.0, 100.0])
def test_a_certain_teacher_and_a_certain_student(tau: float) -> None:
    """Probabilities that are exactly 0 or 1 in float32: the limits are known."""
    certain, doubting, wrong = [1e4, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1e4, 0.0]
    student = torch.tensor([doubting, wrong, wrong, certain], requires_grad=True)
    teacher = torch.tensor([certain, certain, wrong, certain])
    target, non_target = parts(student, teacher, torch.zeros(4, dtype=torch.int64), tau)
    torch.testing.assert_close(target, torch.tensor([math.log(3), 1e4, 0.0, 0.0]))
    expected = [math.log(2), 5e3 / tau + math.log1p(math.exp(-1e4 / tau)), 0.0, math.log(2)]
    torch.testing.assert_close(non_target, tau**2 * torch.tensor(expected))
    (gradient,) = torch.autograd.grad((target + non_target).sum(), student)
    assert gradient.isfinite().all()


def test_the_target_is_not_among_the_others() -> None:
    """Published code once left it there: then the label's logits would move the term."""
    moved = (
        z.scatter_add(1, TARGETS[:, None], torch.full((7, 1), by, dtype=torch.float64))
        for z, by in ((STUDENT, 5.0), (TEACHER, -2.0))
    )
    torch.testing.assert_close(parts(*moved, TARGETS)[1], parts(STUDENT, TEACHER, TARGETS)[1])


def test_input_that_it_cannot_use() -> None:
    soft = torch.full((7, 5), 0.2, dtype=torch.float64)
    with pytest.raises(UserError, match="needs class indices as targets"):
        NKD()(Signal(STUDENT), Signal(TEACHER), rows(soft), 0.0)
    with pytest.raises(UserError, match="needs labels"):
        NKD()(Signal(STUDENT), Signal(TEACHER), rows(None), 0.0)
    with pytest.raises(UserError, match="gamma"):
        NKD(gamma=-1)
