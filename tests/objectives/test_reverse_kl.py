import math

import numpy as np
import pytest
import torch

from reference import divergence_oracles as oracles
from temperance.objectives.reverse_kl import ReverseKL, softened_reverse_kl
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(0)
STUDENT, TEACHER = (RNG.normal(scale=3, size=(6, 5)) for _ in range(2))
ROWS = Rows(targets=torch.arange(6) % 5, ids=torch.arange(6))


def loss(student, teacher, tau=1.0, tau_teacher=1.0):
    student, teacher = (Signal(torch.as_tensor(z)) for z in (student, teacher))
    return softened_reverse_kl(student, teacher, softening=tau, teacher_softening=tau_teacher)


@pytest.mark.parametrize(("tau", "tau_teacher"), [(1.0, 1.0), (4.0, 4.0), (2.0, 7.0), (5.0, 0.7)])
def test_it_is_the_equation(tau, tau_teacher):
    expected = [
        oracles.reverse_kl(s, t, tau, tau_teacher) for s, t in zip(STUDENT, TEACHER, strict=True)
    ]
    np.testing.assert_allclose(loss(STUDENT, TEACHER, tau, tau_teacher), expected, rtol=1e-10)


def test_by_hand():
    # q = (1/2, 1/2), p = (3/4, 1/4): ½ log(½ / ¾) + ½ log(½ / ¼) = ½ log(4/3)
    found = loss([[0.0, 0.0]], [[math.log(3), 0.0]])
    assert found.item() == pytest.approx(0.5 * math.log(4 / 3), abs=1e-7)


def test_golden_value_at_the_defaults():
    objective = ReverseKL()
    student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[3.0, 1.0, 0.0]])
    rows = Rows(targets=torch.tensor([0]), ids=torch.tensor([0]))
    losses = objective(Signal(student.double()), Signal(teacher.double()), rows, 0.0)
    assert losses["reverse_kl"].item() == pytest.approx(0.110768320602683, rel=1e-9)
    assert losses["labels"].item() == pytest.approx(0.1 * 0.40760596444438, rel=1e-9)


def test_gradient_is_that_of_the_value():
    student = torch.tensor(STUDENT, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: loss(z, TEACHER, 3.0, 2.0), (student,))


def test_nothing_to_learn_from_oneself():
    student = torch.tensor(TEACHER, requires_grad=True)
    found = loss(student, TEACHER, 4.0, 4.0)
    found.sum().backward()
    torch.testing.assert_close(found.detach(), torch.zeros(6, dtype=torch.float64))
    assert student.grad.abs().max() < 1e-12


def test_a_student_may_leave_out_what_the_teacher_thinks_possible_but_not_add():
    """Mode-seeking: the direction is the one named."""
    two_modes = torch.tensor([[5.0, 5.0, -5.0]])
    one_mode = torch.tensor([[5.0, -5.0, -5.0]])
    assert loss(one_mode, two_modes).item() == pytest.approx(math.log(2), abs=1e-3)
    assert loss(two_modes, one_mode).item() > 4


def test_one_softening_serves_both_unless_two_are_given():
    def of(**values):
        return ReverseKL(**values, weight=1.0)(
            Signal(torch.tensor(STUDENT)), Signal(torch.tensor(TEACHER)), ROWS, 0.0
        )["reverse_kl"]

    torch.testing.assert_close(of(softening=3.0), loss(STUDENT, TEACHER, 3.0, 3.0))
    two = of(softening=3.0, teacher_softening=6.0)
    torch.testing.assert_close(two, loss(STUDENT, TEACHER, 3.0, 6.0))
    torch.testing.assert_close(two, loss(STUDENT, TEACHER / 2, 3.0, 3.0))


def test_the_gradient_grows_with_the_sharpness_of_the_teacher_and_stays_finite():
    student = torch.tensor([[0.0, 1.0]], requires_grad=True)
    previous = 0.0
    for scale in (1.0, 10.0, 1e3, 1e4):
        student.grad = None
        found = loss(student, torch.tensor([[scale, -scale]]))
        found.sum().backward()
        assert torch.isfinite(student.grad).all()
        assert found.item() > previous
        previous = found.item()


def test_shifted_logits_say_the_same():
    shift = np.arange(6)[:, None] * 3.0
    torch.testing.assert_close(
        loss(STUDENT + shift, TEACHER - shift, 2.0, 3.0), loss(STUDENT, TEACHER, 2.0, 3.0)
    )
