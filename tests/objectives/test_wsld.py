from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from reference import label_logit_oracles as oracle
from temperance.errors import UserError
from temperance.objectives.wsld import WSLD, soft_label_weight
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(3)
STUDENT, TEACHER = (torch.tensor(RNG.normal(scale=2, size=(7, 5))) for _ in range(2))
TARGETS = torch.tensor([0, 1, 2, 3, 4, 0, 4])


def rows(targets: torch.Tensor | None = TARGETS) -> Rows:
    return Rows(targets=targets, ids=torch.arange(7 if targets is None else len(targets)))


def losses(student: torch.Tensor = STUDENT, **values: Any) -> dict[str, torch.Tensor]:
    return WSLD(**values)(Signal(student), Signal(TEACHER), rows(), 0.0)


@pytest.mark.parametrize("epsilon", [0.0, 1e-7, 0.3])
def test_the_weight_is_the_equation(epsilon: float) -> None:
    found = soft_label_weight(STUDENT, TEACHER, TARGETS, epsilon=epsilon)
    expected = oracle.each(oracle.wsld_weight, STUDENT, TEACHER, TARGETS, epsilon)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found.min() < 0.5 < found.max()


@pytest.mark.parametrize(("tau", "tau_teacher"), [(1.0, 1.0), (4.0, 4.0), (0.7, 3.0), (6.0, 2.0)])
def test_the_loss_is_the_weight_times_kd(tau: float, tau_teacher: float) -> None:
    found = losses(softening=tau, teacher_softening=tau_teacher, weight=1.0)
    expected = oracle.each(
        lambda student, teacher, label: (
            oracle.wsld_weight(student, teacher, label)
            * oracle.kd(student, teacher, tau, tau_teacher)
        ),
        STUDENT,
        TEACHER,
        TARGETS,
    )
    np.testing.assert_allclose(found["wsld"], expected, rtol=1e-9)


def test_gradient_is_the_authors_with_the_weight_held_fixed() -> None:
    """Of the cross-entropy that they code: the divergence has the same."""
    student = STUDENT.clone().requires_grad_()
    loss = losses(student, softening=3.0, teacher_softening=2.0, weight=1.0)["wsld"]
    (found,) = torch.autograd.grad(loss.sum(), student)

    def expected(own: list[float], teacher: list[float], label: int) -> list[float]:
        weight = oracle.wsld_weight(own, teacher, label)
        return oracle.gradient(
            lambda z: weight * oracle.soft_cross_entropy(z, teacher, 3.0, 2.0), own
        )

    np.testing.assert_allclose(
        found, oracle.each(expected, STUDENT, TEACHER, TARGETS), rtol=1e-6, atol=1e-8
    )


def test_golden_value_at_the_defaults() -> None:
    # At τ = 4 the shares are 3, 2, 1 of 6 and 2, 1, 1 of 4; at 1 they are the 4th powers'.
    teacher = 4 * torch.tensor([[3.0, 2, 1]], dtype=torch.float64).log()
    student = 4 * torch.tensor([[2.0, 1, 1]], dtype=torch.float64).log()
    found = WSLD()(Signal(student), Signal(teacher), rows(torch.tensor([0])), 0.0)
    assert set(found) == {"wsld", "labels"}
    weight = 1 - math.exp(-math.log(18 / 16) / math.log(98 / 81))
    kl = 1 / 3 * math.log(4 / 3) + 1 / 6 * math.log(2 / 3)
    assert found["wsld"].item() == pytest.approx(2.25 * 16 * weight * kl)
    assert found["wsld"].item() == pytest.approx(0.470042, abs=1e-6)
    assert found["labels"].item() == pytest.approx(math.log(18 / 16))


def test_nothing_to_learn_from_oneself() -> None:
    student = TEACHER.clone().requires_grad_()
    loss = losses(student)["wsld"]
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12
    weight = soft_label_weight(TEACHER, TEACHER, TARGETS)
    torch.testing.assert_close(weight, torch.full((7,), 1 - math.exp(-1), dtype=torch.float64))


def test_each_setting_scales_its_term() -> None:
    plain = losses()
    found = losses(weight=0.1, label_weight=2.0)
    torch.testing.assert_close(found["wsld"], 0.1 / 2.25 * plain["wsld"])
    torch.testing.assert_close(found["labels"], 2 * plain["labels"])
    ratio = losses(epsilon=0.5)["wsld"] / plain["wsld"]
    expected = soft_label_weight(STUDENT, TEACHER, TARGETS, epsilon=0.5) / soft_label_weight(
        STUDENT, TEACHER, TARGETS
    )
    torch.testing.assert_close(ratio, expected)


def test_softening_leaves_the_weight_alone_and_calibration_does_not() -> None:
    """A temperature of the teacher is no softening of it: where it is right, its loss rises."""
    student = torch.tensor([[1.0, 0, 0]])
    teacher = torch.tensor([[4.0, 0, 1]])
    label = rows(torch.tensor([0]))
    softer = WSLD(softening=2.0, teacher_softening=6.0)
    calibrated = WSLD(softening=2.0)
    ratio = (
        calibrated(Signal(student), Signal(teacher / 3), label, 0.0)["wsld"]
        / softer(Signal(student), Signal(teacher), label, 0.0)["wsld"]
    )
    weights = [oracle.wsld_weight([1.0, 0, 0], [4 / t, 0, 1 / t], 0) for t in (3, 1)]
    assert ratio.item() == pytest.approx(weights[0] / weights[1], rel=1e-5)
    assert ratio.item() < 1


@pytest.mark.parametrize(
    ("student", "teacher", "weight"),
    [
        ([0.0, 0.0], [1e4, 0.0], 1.0),  # only the teacher is certain of the label
        ([1e4, 0.0], [0.0, 0.0], 0.0),  # only the student
        ([1e4, 0.0], [1e4, 0.0], 0.0),  # both: nothing left to learn
        ([0.0, 0.0], [0.0, 1e4], math.log(2) / 1e4),  # the teacher is certain of another class
        ([0.0, 1e4], [0.0, 1e4], 1 - math.exp(-1)),  # both are
        ([0.0, 1e4], [1e4, 0.0], 1.0),
    ],
)
@pytest.mark.parametrize("tau", [0.1, 4.0, 100.0])
def test_certain_models_have_the_limits(
    student: list[float], teacher: list[float], weight: float, tau: float
) -> None:
    z_student = torch.tensor([student], requires_grad=True)
    z_teacher, label = torch.tensor([teacher]), torch.tensor([0])
    found = soft_label_weight(z_student, z_teacher, label)
    assert found.item() == pytest.approx(weight, rel=1e-4)
    loss = WSLD(softening=tau)(Signal(z_student), Signal(z_teacher), rows(label), 0.0)["wsld"]
    (gradient,) = torch.autograd.grad(loss.sum(), z_student)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


def test_the_weight_tells_very_confident_models_apart_in_float32() -> None:
    """Both p(label) are 1 in float32; their losses are e⁻³⁰ and 2 e⁻³⁰."""
    lead = torch.tensor([[30.0, 0.0]])
    twice = torch.tensor([[30.0 - math.log(2), 0.0]])
    assert lead.softmax(1)[0, 0] == twice.softmax(1)[0, 0] == 1
    label = torch.tensor([0])
    assert soft_label_weight(twice, lead, label).item() == pytest.approx(1 - math.exp(-2), rel=1e-4)
    assert soft_label_weight(lead, twice, label).item() == pytest.approx(
        1 - math.exp(-0.5), rel=1e-4
    )
    # The authors' guard against a division by zero hides it.
    assert soft_label_weight(lead, twice, label, epsilon=1e-7).item() < 1e-5


def test_a_broken_model_is_not_hidden_by_the_limits() -> None:
    broken = torch.tensor([[float("nan"), 0.0]])
    fine, label = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    assert soft_label_weight(broken, fine, label).isnan().all()
    assert soft_label_weight(fine, broken, label).isnan().all()


def test_shifted_logits_say_the_same() -> None:
    shift = torch.arange(7.0, dtype=torch.float64)[:, None] * 3
    torch.testing.assert_close(losses(STUDENT + shift)["wsld"], losses()["wsld"])
    torch.testing.assert_close(
        soft_label_weight(STUDENT, TEACHER - shift, TARGETS),
        soft_label_weight(STUDENT, TEACHER, TARGETS),
    )


def test_input_that_it_cannot_use() -> None:
    soft = torch.full((7, 5), 0.2, dtype=torch.float64)
    with pytest.raises(UserError, match="needs class indices as targets"):
        WSLD()(Signal(STUDENT), Signal(TEACHER), rows(soft), 0.0)
    with pytest.raises(UserError, match="needs labels"):
        WSLD()(Signal(STUDENT), Signal(TEACHER), rows(None), 0.0)
    with pytest.raises(UserError, match="epsilon"):
        WSLD(epsilon=-1)
