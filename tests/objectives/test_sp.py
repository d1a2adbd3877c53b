import numpy as np
import pytest
import torch

from reference import feature_oracles as oracle
from temperance.objectives.sp import SP, similarity_loss
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(0)


def draw(*shape):
    return torch.tensor(RNG.normal(size=shape))


@pytest.mark.parametrize(
    "shapes", [((5, 3), (5, 7)), ((6, 2, 3, 3), (6, 4, 2, 2)), ((2, 4), (2, 4))]
)
def test_loss_is_the_equation(shapes):
    for _ in range(3):
        student, teacher = (draw(*shape) for shape in shapes)
        expected = oracle.similarity(student.numpy(), teacher.numpy())
        assert float(similarity_loss(student, teacher)) == pytest.approx(expected, rel=1e-12)


def test_golden_value_at_the_default():
    """Unrelated rows against equal rows: G is I and all 1/√2, so 3000 · (1 − 1/√2)."""
    objective = SP()
    objective.student_taps = objective.teacher_taps = ("x",)
    signals = [
        Signal(torch.zeros(2, 2), features={"x": x}) for x in (torch.eye(2), torch.ones(2, 1))
    ]
    losses = objective(*signals, Rows(None, torch.arange(2)), 0.0)
    assert losses["sp"].item() == pytest.approx(3000 * (1 - 2**-0.5), rel=1e-6)
    assert losses["sp"].shape == ()


def test_gradient_is_that_of_the_value():
    teacher = draw(5, 4)
    assert torch.autograd.gradcheck(
        lambda x: similarity_loss(x, teacher), (draw(5, 2, 2).requires_grad_(),)
    )


def test_nothing_to_learn_from_oneself_turned_or_scaled():
    student = draw(6, 4).requires_grad_()
    rotation = torch.linalg.qr(draw(4, 4)).Q
    for teacher in (student, student @ rotation, -3 * student):
        loss = similarity_loss(student, teacher.detach())
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.item() < 1e-28
        assert gradient.abs().max() < 1e-14


@pytest.mark.parametrize("scale", [1e-25, 1e4, 1e25])
def test_scale_does_not_matter_in_single_precision(scale):
    student, teacher = draw(5, 40).float(), draw(5, 30).float()
    expected = similarity_loss(student, teacher)
    scaled = (student * scale).requires_grad_()
    found = similarity_loss(scaled, teacher * scale)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert scaled.grad.isfinite().all()


def test_a_row_without_activation_gets_no_huge_gradient():
    student = draw(4, 3).float()
    student[1] = 0
    student.requires_grad_()
    teacher = draw(4, 5).float()
    loss = similarity_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(
        oracle.similarity(student.detach().numpy(), teacher.numpy()), rel=1e-5
    )
    assert student.grad.abs().max() < 10
    assert similarity_loss(torch.zeros(3, 2), torch.zeros(3, 2)) == 0


def test_one_row_says_nothing():
    student = draw(1, 3).requires_grad_()
    loss = similarity_loss(student, draw(1, 4))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-30)
    assert student.grad.abs().max() < 1e-15


def test_order_of_rows_does_not_matter():
    student, teacher, order = draw(5, 3), draw(5, 4), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(
        similarity_loss(student, teacher), similarity_loss(student[order], teacher[order])
    )
