from __future__ import annotations

import numpy as np
import pytest
import torch

from reference import relational_logit_oracles as oracle
from temperance.objectives.dist import DIST, inter_class_loss, intra_class_loss
from temperance.rows import Rows, Signal

STUDENT = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0], [1.0, 1.5, 0.0]], dtype=torch.float64)
TEACHER = torch.tensor([[3.0, 1.0, -2.0], [1.0, 0.0, 2.0], [0.0, 4.0, 1.0]], dtype=torch.float64)
GOLDEN_INTER, GOLDEN_INTRA = [0.7512472014, 7.5055429602, 10.1897480260], 4.3614382110
SOFTENINGS = {"softening": 2.0, "teacher_softening": 3.0}


def drawn(seed: int, rows: int = 6, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    return logits[0], logits[1]


def losses(dist: DIST, student: torch.Tensor, teacher: torch.Tensor) -> dict[str, torch.Tensor]:
    rows = Rows(targets=None, ids=torch.arange(len(student)))
    return dist(Signal(student), Signal(teacher), rows, 0.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("tau", "teacher_tau"), [(1.0, 1.0), (4.0, 4.0), (0.7, 5.0), (8.0, 2.0)])
@pytest.mark.parametrize(("variant", "epsilon"), [("paper", 0.0), ("code", 1e-8)])
def test_both_relations_are_the_equations(
    seed: int, tau: float, teacher_tau: float, variant: str, epsilon: float
) -> None:
    student, teacher = drawn(seed)
    dist = DIST(softening=tau, teacher_softening=teacher_tau, variant=variant)
    found = losses(dist, student, teacher)
    args = (student.tolist(), teacher.tolist(), tau, teacher_tau, epsilon)
    np.testing.assert_allclose(found["inter_class"], 2 * np.array(oracle.inter_class(*args)))
    np.testing.assert_allclose(found["intra_class"], 2 * oracle.intra_class(*args))
    assert found["inter_class"].shape == (6,)
    assert found["intra_class"].shape == ()


def test_golden_values_at_the_defaults() -> None:
    found = losses(DIST(), STUDENT, TEACHER)
    np.testing.assert_allclose(found["inter_class"], GOLDEN_INTER, rtol=1e-9)
    np.testing.assert_allclose(found["intra_class"], GOLDEN_INTRA, rtol=1e-9)


def test_with_two_classes_only_the_order_counts() -> None:
    """Two points always lie on a line: the correlation is 1 or −1, whatever the confidence."""
    student = torch.tensor([[0.0, 1.0], [0.0, 30.0], [0.0, 2.0]])
    teacher = torch.tensor([[0.0, 9.0], [0.0, 0.1], [1.0, 0.0]])
    found = inter_class_loss(student, teacher, **SOFTENINGS)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 8.0]))


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_gradients_are_those_of_the_values(variant: str) -> None:
    student, teacher = drawn(7)
    student.requires_grad_()
    for loss in (inter_class_loss, intra_class_loss):
        assert torch.autograd.gradcheck(
            lambda z, loss=loss: loss(z, teacher, **SOFTENINGS, variant=variant), (student,)
        )


@pytest.mark.parametrize("tau", [0.5, 4.0])
def test_nothing_to_learn_from_oneself(tau: float) -> None:
    student = drawn(1)[0].requires_grad_()
    found = losses(DIST(softening=tau), student, student.detach())
    assert not any(loss.detach().any() for loss in found.values())
    sum(loss.sum() for loss in found.values()).backward()
    assert not student.grad.any()


def test_a_positive_affine_change_of_the_probabilities_costs_nothing() -> None:
    student, teacher = drawn(2)
    target = torch.softmax(teacher, 1)
    closer_to_uniform = (0.3 * target + 0.7 / 5).log()  # the same relations
    settings = {"softening": 1.0, "teacher_softening": 1.0}
    for loss in (inter_class_loss, intra_class_loss):
        expected = loss(student, teacher, **settings)
        torch.testing.assert_close(loss(student, closer_to_uniform, **settings), expected)
        assert float(loss(closer_to_uniform, teacher, **settings).sum()) < 1e-12


def test_shifted_logits_say_the_same() -> None:
    student, teacher = drawn(3)
    shift = torch.arange(6)[:, None] * 10.0
    torch.testing.assert_close(
        losses(DIST(), student + shift, teacher - shift), losses(DIST(), student, teacher)
    )


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_predictions_without_variance(variant: str) -> None:
    """One constant row, in the student, the teacher or both."""
    student = torch.tensor([[0.0, 0, 0], [1, 0, 2], [5, 5, 5]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0, 2], [3, 3, 3], [0, 0, 0]])
    found = inter_class_loss(student, teacher, **SOFTENINGS, variant=variant)
    expected = [4.0, 4.0, 0.0] if variant == "paper" else [4.0, 4.0, 4.0]
    torch.testing.assert_close(found.detach(), torch.tensor(expected))
    found.sum().backward()
    if variant == "paper":
        torch.testing.assert_close(student.grad, torch.zeros(3, 3))
    else:
        assert torch.isfinite(student.grad).all()
        assert float(student.grad[0].abs().max()) > 1e6  # the 1e-8 of the published code


def test_one_row_has_no_relation_between_rows() -> None:
    student = torch.tensor([[1.0, 0.0, 2.0]], requires_grad=True)
    loss = intra_class_loss(student, torch.tensor([[0.0, 3.0, 1.0]]), **SOFTENINGS)
    assert loss.item() == 0
    loss.backward()
    assert not student.grad.any()


def test_the_paper_sees_improbable_classes_and_the_code_does_not() -> None:
    """A class of probability 1e-9 in every row correlates as well as any; 1e-8 hides it."""
    student = torch.tensor([[0.0, -20.0], [0.0, -22.0], [0.0, -21.0]], dtype=torch.float64)
    settings = {"softening": 1.0, "teacher_softening": 1.0}
    paper = intra_class_loss(student, student, **settings, variant="paper")
    code = intra_class_loss(student, student, **settings, variant="code")
    assert float(paper) == 0
    assert float(code) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e-2, 1.0, 1e4])
def test_float32_is_finite_and_keeps_its_digits(scale: float) -> None:
    """Uniform to certain predictions, against float64 where float32 can tell them from uniform."""
    student, teacher = ((scale * z).float() for z in drawn(5))
    for loss in (inter_class_loss, intra_class_loss):
        exact = loss(student.double(), teacher.double(), **SOFTENINGS)
        z = student.clone().requires_grad_()
        found = loss(z, teacher, **SOFTENINGS)
        if scale > 1e-3:
            torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-3)
        assert torch.isfinite(found).all()
        found.sum().backward()
        assert torch.isfinite(z.grad).all()


def test_each_setting_has_its_effect() -> None:
    student, teacher = drawn(4)
    one, tripled = (
        losses(DIST(inter_weight=a, intra_weight=b), student, teacher)
        for a, b in ((1.0, 1.0), (3.0, 0.5))
    )
    torch.testing.assert_close(tripled["inter_class"], 3 * one["inter_class"])
    torch.testing.assert_close(tripled["intra_class"], 0.5 * one["intra_class"])
    softer = losses(DIST(teacher_softening=9.0), student, teacher)
    calibrated = losses(DIST(), student, teacher * 4 / 9)  # T = 9 / 4 at τ = 4
    torch.testing.assert_close(softer, calibrated)
    plain = losses(DIST(), student, teacher)
    assert not torch.allclose(softer["inter_class"], plain["inter_class"])
