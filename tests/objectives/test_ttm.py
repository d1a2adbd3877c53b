import math

import numpy as np
import pytest
import torch

from reference import divergence_oracles as oracles
from temperance.errors import UserError
from temperance.objectives.kd import KD
from temperance.objectives.ttm import TTM, transformed_teacher_kl
from temperance.objectives.wttm import WTTM, power_sum
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(2)
STUDENT, TEACHER = (RNG.normal(scale=3, size=(6, 5)) for _ in range(2))
ROWS = Rows(targets=torch.arange(6) % 5, ids=torch.arange(6))
EXPONENTS = [0.1, 0.5, 1.0]


def signal(z):
    return Signal(torch.as_tensor(z))


def of(method, student=STUDENT, teacher=TEACHER, rows=ROWS, **values):
    objective = method(**{"weight": 1.0, **values})
    return objective(signal(student), signal(teacher), rows, 0.0)[objective.name]


@pytest.mark.parametrize("exponent", [*EXPONENTS, 2.5])
def test_ttm_is_the_equation(exponent):
    expected = [oracles.ttm(s, t, exponent) for s, t in zip(STUDENT, TEACHER, strict=True)]
    np.testing.assert_allclose(of(TTM, exponent=exponent), expected, rtol=1e-9)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_wttm_is_the_equation(exponent):
    expected = [oracles.wttm(s, t, exponent) for s, t in zip(STUDENT, TEACHER, strict=True)]
    np.testing.assert_allclose(of(WTTM, exponent=exponent), expected, rtol=1e-9)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_power_sum_is_the_equation(exponent):
    expected = [oracles.power_sum(t, exponent) for t in TEACHER]
    np.testing.assert_allclose(power_sum(torch.tensor(TEACHER), exponent=exponent), expected)


def test_by_hand():
    # p = (9/10, 1/10), γ = 1/2: p̃ = (3/4, 1/4), U = 4 / √10; q = (1/2, 1/2)
    student, teacher = [[0.0, 0.0]], [[math.log(9), 0.0]]
    expected = 0.75 * math.log(3 / 2) + 0.25 * math.log(1 / 2)
    rows = Rows(targets=None, ids=torch.tensor([0]))
    ttm, wttm = (of(m, student, teacher, rows, exponent=0.5).item() for m in (TTM, WTTM))
    assert ttm == pytest.approx(expected, abs=1e-7)
    assert wttm == pytest.approx(4 / math.sqrt(10) * expected, abs=1e-7)


def test_golden_values_at_the_defaults():
    student = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    teacher = torch.tensor([[3.0, 1.0, 0.0]], dtype=torch.float64)
    rows = Rows(targets=torch.tensor([0]), ids=torch.tensor([0]))
    for method, golden in ((TTM, 9.706933635250767), (WTTM, 1.2213473361283012)):
        losses = method()(Signal(student), Signal(teacher), rows, 0.0)
        assert losses[method.name].item() == pytest.approx(golden, rel=1e-9)
        assert losses["labels"].item() == pytest.approx(0.40760596444438, rel=1e-9)


@pytest.mark.parametrize("exponent", [0.1, 0.5, 3.0])
def test_ttm_is_kd_whose_teacher_alone_is_softened(exponent):
    kd = of(KD, softening=1.0, teacher_softening=1 / exponent)
    torch.testing.assert_close(of(TTM, exponent=exponent), kd, rtol=1e-12, atol=0)


@pytest.mark.parametrize("u", [0.5, 1.5, 4.0])
def test_an_under_confident_teacher_at_softening_1_is_ttm(u):
    """Logits divided by u, then KD without softening: TTM with γ = 1/u."""
    kd = of(KD, teacher=TEACHER / u, softening=1.0)
    torch.testing.assert_close(of(TTM, exponent=1 / u), kd, rtol=1e-12, atol=0)


def test_a_calibration_temperature_divides_the_exponent_of_ttm_but_not_of_wttm():
    calibrated = TEACHER / 2
    torch.testing.assert_close(of(TTM, teacher=calibrated, exponent=0.8), of(TTM, exponent=0.4))
    ratio = of(WTTM, teacher=calibrated, exponent=0.8) / of(WTTM, exponent=0.4)
    logits = torch.tensor(TEACHER)
    expected = power_sum(logits / 2, exponent=0.8) / power_sum(logits, exponent=0.4)
    torch.testing.assert_close(ratio, expected)
    assert (ratio - 1).abs().min() > 0.01


def test_ttm_adds_a_renyi_entropy_to_kd():
    """Eq. 15 of the paper, at T = 4."""
    t = 4.0
    q = torch.tensor(STUDENT).softmax(1)
    renyi = q.pow(1 / t).sum(1).log() / (1 - 1 / t)
    target = (torch.tensor(TEACHER) / t).softmax(1)
    shannon = -(target * target.log()).sum(1)
    kd = of(KD, softening=t) / t**2
    expected = t * kd - (t - 1) * renyi + (t - 1) * shannon
    torch.testing.assert_close(of(TTM, exponent=1 / t), expected)


@pytest.mark.parametrize("method", [TTM, WTTM])
def test_gradient_is_that_of_the_value(method):
    objective = method(exponent=0.4, weight=1.0)

    def of_student(z):
        return objective(Signal(z), signal(TEACHER), ROWS, 0.0)[objective.name]

    assert torch.autograd.gradcheck(of_student, (torch.tensor(STUDENT, requires_grad=True),))


@pytest.mark.parametrize("method", [TTM, WTTM])
def test_nothing_to_learn_from_the_transformed_teacher(method):
    """The optimum is the smoothed teacher, not the teacher."""
    student = torch.tensor(TEACHER * 0.4, requires_grad=True)
    found = of(method, student=student, exponent=0.4)
    found.sum().backward()
    assert found.abs().max() < 1e-12
    assert student.grad.abs().max() < 1e-12
    assert of(method, student=TEACHER, exponent=0.4).min() > 1e-3


def test_hard_rows_weigh_more_up_to_the_uniform_one():
    logits = torch.tensor([[0.0] * 4, [1.0, 0, 0, 0], [5.0, 0, 0, 0], [1e4, 0, 0, -1e4]])
    weights = power_sum(logits, exponent=0.25)
    assert weights[0].item() == pytest.approx(4**0.75)
    assert weights[3].item() == 1.0
    assert (weights.diff() < 0).all()


def test_at_exponent_1_every_row_weighs_1():
    torch.testing.assert_close(of(WTTM, exponent=1.0), of(TTM, exponent=1.0))


@pytest.mark.parametrize("method", [TTM, WTTM])
@pytest.mark.parametrize("exponent", [0.01, 0.1, 1.0])
def test_certain_teachers_and_students_are_finite(method, exponent):
    student = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[1e4, -1e4], [1e4, -1e4], [1e4, -1e4]])
    rows = Rows(targets=None, ids=torch.arange(3))
    found = of(method, student, teacher, rows, exponent=exponent)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(student.grad).all()


def test_the_exponent_is_positive_and_a_weight_only_smooths():
    for method, exponent in ((TTM, 0.0), (TTM, -1.0), (WTTM, 0.0), (WTTM, 1.5)):
        with pytest.raises(UserError, match="exponent"):
            method(exponent=exponent)


def test_the_pure_function_takes_signals():
    found = transformed_teacher_kl(signal(STUDENT), signal(TEACHER), exponent=0.3)
    torch.testing.assert_close(found, of(TTM, exponent=0.3))
