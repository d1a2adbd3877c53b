import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reference import divergence_oracles as oracles
from temperance.errors import UserError
from temperance.objectives.jensen_shannon import JensenShannon, softened_jensen_shannon
from temperance.objectives.kd import softened_kl
from temperance.objectives.reverse_kl import softened_reverse_kl
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(1)
STUDENT, TEACHER = (RNG.normal(scale=3, size=(6, 5)) for _ in range(2))


def loss(student, teacher, beta=0.5, tau=1.0, tau_teacher=1.0):
    return softened_jensen_shannon(
        Signal(torch.as_tensor(student)),
        Signal(torch.as_tensor(teacher)),
        beta=beta,
        softening=tau,
        teacher_softening=tau_teacher,
    )


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
@pytest.mark.parametrize(("tau", "tau_teacher"), [(1.0, 1.0), (4.0, 4.0), (2.0, 7.0), (5.0, 0.7)])
def test_it_is_the_equation(beta, tau, tau_teacher):
    expected = [
        oracles.jensen_shannon(s, t, beta, tau, tau_teacher)
        for s, t in zip(STUDENT, TEACHER, strict=True)
    ]
    found = loss(STUDENT, TEACHER, beta, tau, tau_teacher)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2), m = (5/8, 3/8)
    expected = 0.5 * (0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3))
    expected += 0.5 * (0.5 * math.log(4 / 5) + 0.5 * math.log(4 / 3))
    found = loss([[0.0, 0.0]], [[math.log(3), 0.0]])
    assert found.item() == pytest.approx(expected, abs=1e-7)


def test_golden_value_at_the_defaults():
    student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[3.0, 1.0, 0.0]])
    rows = Rows(targets=torch.tensor([0]), ids=torch.tensor([0]))
    losses = JensenShannon()(Signal(student.double()), Signal(teacher.double()), rows, 0.0)
    assert losses["jensen_shannon"].item() == pytest.approx(0.02190650886155193, rel=1e-9)
    assert losses["labels"].item() == 0.0


@given(
    arrays(np.float64, (3, 4), elements=st.floats(-60, 60)),
    arrays(np.float64, (3, 4), elements=st.floats(-60, 60)),
    st.floats(0.01, 0.99),
    st.floats(0.3, 10),
)
@settings(max_examples=60, deadline=None)
def test_it_is_bounded_and_the_same_from_both_sides(student, teacher, beta, tau):
    found = loss(student, teacher, beta, tau, tau) / tau**2
    bound = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert (found > -1e-12).all()
    assert (found < bound + 1e-12).all()
    exchanged = loss(teacher, student, 1 - beta, tau, tau) / tau**2
    torch.testing.assert_close(found, exchanged, rtol=1e-6, atol=1e-10)


def test_its_ends_are_the_two_divergences():
    """JSD(β) / β → KD for β → 0, JSD(β) / (1 − β) → reverse KL for β → 1."""
    signals = [Signal(torch.tensor(z)) for z in (STUDENT, TEACHER)]
    taus = {"softening": 3.0, "teacher_softening": 2.0}
    near_0, near_1 = (loss(STUDENT, TEACHER, beta, 3.0, 2.0) for beta in (1e-6, 1 - 1e-6))
    torch.testing.assert_close(near_0 / 1e-6, softened_kl(*signals, **taus), rtol=1e-4, atol=0)
    expected = softened_reverse_kl(*signals, **taus)
    torch.testing.assert_close(near_1 / 1e-6, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("beta", [0.05, 0.5, 0.95])
def test_gradient_is_that_of_the_value(beta):
    student = torch.tensor(STUDENT, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: loss(z, TEACHER, beta, 3.0, 2.0), (student,))


def test_nothing_to_learn_from_oneself():
    student = torch.tensor(TEACHER, requires_grad=True)
    found = loss(student, TEACHER, 0.3, 4.0, 4.0)
    found.sum().backward()
    torch.testing.assert_close(found.detach(), torch.zeros(6, dtype=torch.float64))
    assert student.grad.abs().max() < 1e-12


def test_predictions_that_exclude_each_other_are_finite():
    student = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 1e4]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [0.0, 0.0, 1e4]])
    found = loss(student, teacher)
    found.sum().backward()
    torch.testing.assert_close(found.detach(), torch.tensor([math.log(2), 0.0]))
    assert torch.isfinite(student.grad).all()


def test_every_setting_is_heeded():
    signals = [Signal(torch.tensor(z)) for z in (STUDENT, TEACHER)]
    objective = JensenShannon(
        beta=0.2, softening=3.0, teacher_softening=5.0, weight=0.5, label_weight=2.0
    )
    rows = Rows(targets=torch.arange(6) % 5, ids=torch.arange(6))
    losses = objective(*signals, rows, 0.0)
    torch.testing.assert_close(
        losses["jensen_shannon"], 0.5 * loss(STUDENT, TEACHER, 0.2, 3.0, 5.0)
    )
    assert losses["labels"].min() > 0
    one = JensenShannon(beta=0.2, softening=3.0)(*signals, rows, 0.0)["jensen_shannon"]
    torch.testing.assert_close(one, loss(STUDENT, TEACHER, 0.2, 3.0, 3.0))


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, 2.0])
def test_the_mixture_has_both(beta):
    with pytest.raises(UserError, match="beta"):
        JensenShannon(beta=beta)
