from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from temperance.objectives import get_objective
from temperance.objectives.kd import softened_kl
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(0)
STUDENT, TEACHER = (RNG.normal(scale=4, size=(7, 5)) for _ in range(2))
TARGETS = RNG.integers(0, 5, 7)

logits = arrays(np.float64, (4, 3), elements=st.floats(-30, 30))
softenings = st.floats(0.5, 20)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def kl_oracle(
    student: np.ndarray, teacher: np.ndarray, tau: float, tau_teacher: float
) -> np.ndarray:
    """τ² Σ p log(p / q), term by term (Hinton 2015)."""
    p, q = softmax(teacher / tau_teacher), softmax(student / tau)
    rows = [
        tau**2 * sum(a * np.log(a / b) for a, b in zip(*row, strict=True) if a > 0)
        for row in zip(p, q, strict=True)
    ]
    return np.array(rows)


def rows(targets: np.ndarray | None = TARGETS) -> Rows:
    given = None if targets is None else torch.tensor(targets)
    return Rows(targets=given, ids=torch.arange(len(STUDENT)))


def signal(z: np.ndarray) -> Signal:
    return Signal(torch.tensor(z))


@given(logits, logits, softenings, softenings)
@settings(max_examples=60, deadline=None)
def test_kl_is_the_equation(
    student: np.ndarray, teacher: np.ndarray, tau: float, tau_teacher: float
) -> None:
    found = softened_kl(
        torch.tensor(student), torch.tensor(teacher), softening=tau, teacher_softening=tau_teacher
    )
    expected = kl_oracle(student, teacher, tau, tau_teacher)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8, atol=1e-10)
    assert (found > -1e-10).all()


def test_gradient_is_that_of_the_value() -> None:
    teacher = torch.tensor(TEACHER)
    student = torch.tensor(STUDENT, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z: softened_kl(z, teacher, softening=3.0, teacher_softening=2.0), (student,)
    )


def test_gradient_keeps_its_size() -> None:
    """τ² undoes the 1/τ² of the gradients: for high τ they no longer depend on it."""

    def gradient(tau: float) -> torch.Tensor:
        student = torch.tensor(STUDENT, requires_grad=True)
        softened_kl(
            student, torch.tensor(TEACHER), softening=tau, teacher_softening=tau
        ).sum().backward()
        assert student.grad is not None
        return student.grad

    # Hinton 2015, eq. 4: (z − v) / N for centred logits.
    centred = [z - z.mean(axis=1, keepdims=True) for z in (STUDENT, TEACHER)]
    expected = (centred[0] - centred[1]) / STUDENT.shape[1]
    np.testing.assert_allclose(gradient(1e4).numpy(), expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_nothing_to_learn_from_oneself(tau: float) -> None:
    student = torch.tensor(TEACHER, requires_grad=True)
    loss = softened_kl(student, torch.tensor(TEACHER), softening=tau, teacher_softening=tau)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.zeros(7, dtype=torch.float64))
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12


@given(st.floats(0.1, 10), st.floats(0.5, 8))
@settings(max_examples=30, deadline=None)
def test_a_calibration_temperature_is_a_softening_of_the_teacher(t: float, tau: float) -> None:
    """KD(z / T; τ) is KD with teacher softening T·τ: what the study's controls hang on."""
    calibrated = get_objective("kd", softening=tau)
    softened = get_objective("kd", softening=tau, teacher_softening=t * tau)
    one = calibrated(signal(STUDENT), signal(TEACHER / t), rows(), 0.0)
    other = softened(signal(STUDENT), signal(TEACHER), rows(), 0.0)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-12)


def test_shifted_logits_say_the_same() -> None:
    shift = np.arange(7)[:, None] * 3.0
    one = get_objective("kd")(signal(STUDENT), signal(TEACHER), rows(), 0.0)
    other = get_objective("kd")(signal(STUDENT + shift), signal(TEACHER - shift), rows(), 0.0)
    torch.testing.assert_close(one, other)


def test_the_teacher_gets_no_gradient() -> None:
    student = torch.tensor(STUDENT, requires_grad=True)
    teacher = torch.tensor(TEACHER, requires_grad=True)
    losses = get_objective("kd")(Signal(student), Signal(teacher), rows(), 0.0)
    sum(losses.values()).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_at_extreme_logits(dtype: torch.dtype) -> None:
    student = torch.tensor([[100.0, 0, -100], [-100, 100, 0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[100.0, 0, -100], [100, -100, 0]], dtype=dtype)
    kd = get_objective("kd", softening=4.0)
    batch = Rows(targets=torch.tensor([0, 0]), ids=torch.arange(2))
    with torch.autocast("cpu", dtype):  # as the training loop does
        losses = kd(Signal(student), Signal(teacher), batch, 0.0)
        total = sum(loss.sum() for loss in losses.values())
    total.backward()
    for name, loss in losses.items():
        assert torch.isfinite(loss).all(), name
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_weights_scale_the_two_terms() -> None:
    losses = get_objective("kd", weight=0.3, label_weight=2.0, softening=5.0)(
        signal(STUDENT), signal(TEACHER), rows(), 0.0
    )
    q = softmax(STUDENT)
    np.testing.assert_allclose(losses["kd"], 0.3 * kl_oracle(STUDENT, TEACHER, 5.0, 5.0))
    np.testing.assert_allclose(losses["labels"], -2.0 * np.log(q[np.arange(7), TARGETS]))
    assert losses["kd"].shape == losses["labels"].shape == (7,)


def test_rows_without_labels_are_taught_by_the_teacher_alone() -> None:
    kd = get_objective("kd")
    assert kd.needs.targets == "optional"
    assert set(kd(signal(STUDENT), signal(TEACHER), rows(None), 0.0)) == {"kd"}


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_labels_are_cross_entropy_with_smoothed_targets(smoothing: float) -> None:
    (loss,) = get_objective("labels", label_smoothing=smoothing)(
        signal(STUDENT), None, rows(), 0.0
    ).values()
    target = (1 - smoothing) * np.eye(5)[TARGETS] + smoothing / 5
    np.testing.assert_allclose(loss, -(target * np.log(softmax(STUDENT))).sum(axis=1))


def test_the_softenings_have_to_be_positive() -> None:
    for softening in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="softening"):
            get_objective("kd", softening=softening)
