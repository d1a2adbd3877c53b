from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from reference import relational_logit_oracles as oracle
from temperance.errors import UserError
from temperance.objectives.cist import CIST, consistent_kl, row_weights
from temperance.rows import Rows, Signal

STUDENT = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]], dtype=torch.float64)
TEACHER = torch.tensor([[3.0, 1.0, -2.0], [1.0, 0.0, 2.0]], dtype=torch.float64)
GOLDEN = [0.000420097204146, 0.000762146482973]


def drawn(seed: int, rows: int = 6, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    return logits[0], logits[1]


def loss(cist: CIST, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    rows = Rows(targets=None, ids=torch.arange(len(student)))
    return cist(Signal(student), Signal(teacher), rows, 0.0)["cist"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ratio": 1.5},
        {"ratio": 3.0, "teacher_ratio": 5.0},
        {"confidence_power": 0.0, "difficulty_power": 0.0},
        {"confidence_power": 2.0, "difficulty_power": 0.5},
    ],
)
def test_the_loss_is_as_described(seed: int, settings: dict[str, float]) -> None:
    student, teacher = drawn(seed)
    found = loss(CIST(**settings), student, teacher)
    given = {"ratio": 4.0, "confidence_power": 1.0, "difficulty_power": 1.0, **settings}
    given.setdefault("teacher_ratio", given["ratio"])
    expected = oracle.cist(student.tolist(), teacher.tolist(), **given)
    np.testing.assert_allclose(found, 0.9 * np.array(expected), rtol=1e-9)


def test_golden_values_at_the_defaults() -> None:
    found = loss(CIST(), STUDENT, TEACHER)
    np.testing.assert_allclose(found, GOLDEN, rtol=1e-9)


def test_by_hand() -> None:
    """Two classes, one apart: heights of ½, ratio ½, so softenings of 1 and a plain KL."""
    student, teacher = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    found = consistent_kl(student, teacher, ratio=0.5, teacher_ratio=0.5)
    p = 1 / (1 + math.exp(-1))
    assert float(found) == pytest.approx((2 * p - 1) * 1.0)  # (p − q) · log(p / q), the logit of 1
    weights = row_weights(student, teacher, confidence_power=1.0, difficulty_power=1.0)
    assert float(weights) == pytest.approx(p * p)  # its class has 1 − p of the student


def test_all_targets_are_as_sharp() -> None:
    """The highest logit over the softening is the ratio, however confident the teacher is."""
    _, teacher = drawn(1)
    factors = torch.logspace(-3, 3, 6, dtype=torch.float64)[:, None]
    zeros = torch.zeros_like(teacher)  # KL(p ‖ uniform) = log K − entropy of p
    entropies = [
        consistent_kl(zeros, z, ratio=2.0, teacher_ratio=2.0) for z in (teacher, teacher * factors)
    ]
    torch.testing.assert_close(*entropies)
    two = teacher[:, :2]
    same = consistent_kl(zeros[:, :2], two, ratio=2.0, teacher_ratio=2.0)
    torch.testing.assert_close(same, same[:1].expand(6))


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_scaling_the_teacher_changes_the_weights_alone(power: float) -> None:
    student, teacher = drawn(2)
    cist = CIST(confidence_power=power)
    assert cist.teacher_logits == ("used" if power else "scale_invariant")
    expected = loss(cist, student, teacher)
    per_row = torch.logspace(-3, 3, 6, dtype=torch.float64)[:, None]
    for factor in (1e-3, 0.5, 1e3, per_row):
        found = loss(cist, student, teacher * factor)
        if power == 0:
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
        else:
            confidences = [torch.softmax(z, 1).amax(1) for z in (teacher, teacher * factor)]
            torch.testing.assert_close(found / confidences[1], expected / confidences[0])
            assert not torch.allclose(found, expected)


def test_shifted_logits_say_the_same() -> None:
    student, teacher = drawn(3)
    shift = torch.arange(6)[:, None] * 10.0
    torch.testing.assert_close(
        loss(CIST(), student + shift, teacher - shift), loss(CIST(), student, teacher)
    )


def test_softenings_and_weights_are_constants_to_the_gradient() -> None:
    student, teacher = drawn(4)
    student.requires_grad_()
    loss(CIST(ratio=3.0), student, teacher).sum().backward()
    z = student.detach()
    weights = row_weights(z, teacher, confidence_power=1.0, difficulty_power=1.0)[:, None]
    softening, teacher_softening = (
        torch.tensor([[oracle.cist_softening(row, 3.0)] for row in logits.tolist()]).double()
        for logits in (z, teacher)
    )
    difference = torch.softmax(z / softening, 1) - torch.softmax(teacher / teacher_softening, 1)
    expected = 0.9 * weights * softening * difference  # τ² · (p − t) / τ
    torch.testing.assert_close(student.grad, expected, rtol=1e-6, atol=1e-9)


def test_gradient_is_that_of_the_value_at_fixed_softenings() -> None:
    """A shift of the mean and the highest logit would change them, so only others are moved."""
    student, teacher = drawn(5, rows=2, classes=4)
    highest = student.argmax(1)

    def moved(step: torch.Tensor) -> torch.Tensor:
        free = torch.stack([step[:, 0], -step[:, 0]], dim=1)  # the mean stays
        others = torch.tensor([[k for k in range(4) if k != top][:2] for top in highest.tolist()])
        return consistent_kl(
            student.scatter_add(1, others, free), teacher, ratio=2.0, teacher_ratio=3.0
        )

    step = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(moved, (step,))


def test_nothing_to_learn_from_a_scaled_self() -> None:
    student = drawn(6)[0].requires_grad_()
    found = loss(CIST(), student, 3 * student.detach())
    found.sum().backward()
    assert float(found.detach().abs().max()) < 1e-12
    assert float(student.grad.abs().max()) < 1e-12


def test_predictions_without_a_direction() -> None:
    """Constant rows of the student, the teacher, both: uniform predictions at softening 1."""
    student = torch.tensor([[0.1, 0.1, 0.1], [1.0, 0.0, 2.0], [5.0, 5.0, 5.0]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, 2.0], [0.1, 0.1, 0.1], [0.0, 0.0, 0.0]])
    found = loss(CIST(confidence_power=0.0, difficulty_power=0.0), student, teacher)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(student.grad).all()
    assert student.grad[0].any()  # KL(target ‖ uniform), which the student can learn from
    assert found[2].item() == 0


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e4])
@pytest.mark.parametrize("ratio", [0.1, 4.0, 100.0])
def test_float32_stays_finite_and_near(scale: float, ratio: float) -> None:
    student, teacher = ((scale * z).float() for z in drawn(7))
    exact = consistent_kl(student.double(), teacher.double(), ratio=ratio, teacher_ratio=ratio)
    z = student.clone().requires_grad_()
    found = consistent_kl(z, teacher, ratio=ratio, teacher_ratio=ratio)
    largest = float(exact.abs().max())
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-5 * largest)
    found.sum().backward()
    assert torch.isfinite(z.grad).all()


def test_weights_at_certainty() -> None:
    """Both certain of one class: hardly a weight, but more than 1 − p of float32 would leave."""
    student = torch.tensor([[0.0, -40.0], [-40.0, 0.0], [0.0, -1e4]])
    teacher = torch.tensor([[1e4, 0.0]]).expand(3, 2)
    found = row_weights(student, teacher, confidence_power=1.0, difficulty_power=1.0)
    torch.testing.assert_close(found, torch.tensor([math.exp(-40), 1.0, 0.0]))


def test_each_setting_has_its_effect() -> None:
    student, teacher = drawn(8)
    torch.testing.assert_close(
        loss(CIST(weight=1.8), student, teacher), 2 * loss(CIST(), student, teacher)
    )
    powers: dict[str, Any] = {"confidence_power": 2.0, "difficulty_power": 3.0}
    weights = row_weights(student, teacher, **powers)
    plain = loss(CIST(confidence_power=0.0, difficulty_power=0.0), student, teacher)
    torch.testing.assert_close(loss(CIST(**powers), student, teacher), weights * plain)
    assert ((weights > 0) & (weights < 1)).all()
    for setting in ({"ratio": 0}, {"teacher_ratio": -1}, {"confidence_power": -0.5}):
        with pytest.raises(UserError, match=next(iter(setting))):
            CIST(**setting)
