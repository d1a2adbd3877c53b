from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from reference import adapter_oracles as oracles
from temperance.errors import UserError
from temperance.objectives import attach
from temperance.objectives.cc import CC, correlation_distance, neighbour_product
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(6)
INPUTS = torch.tensor(RNG.normal(size=(6, 4)))
ROWS = Rows(targets=None, ids=torch.arange(6))


def network(units: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, units), nn.Tanh(), nn.Linear(units, 3)).double()


def built(cc: CC, own: int = 5, others: int = 7) -> tuple[Signal, Signal]:
    tapped = attach(cc, network(own), network(others), INPUTS)
    cc.double()
    signals = []
    for model in tapped:
        assert model is not None
        logits, features = model(INPUTS)
        signals.append(Signal(logits.detach(), features=features))
    return signals[0], signals[1]


def embeddings(cc: CC, student: Signal, teacher: Signal) -> tuple[np.ndarray, np.ndarray]:
    own = cc.student_embedding(student.features["2:in"])
    others = cc.teacher_embedding(teacher.features["2:in"])
    return own.detach().numpy(), others.detach().numpy()


@pytest.mark.parametrize("order", [None, 1, 2, 5])
@pytest.mark.parametrize("gamma", [0.1, 0.4, 2.0])
def test_it_is_the_equation(order: int | None, gamma: float) -> None:
    student, teacher = RNG.normal(size=(6, 3)), RNG.normal(scale=9, size=(6, 4))
    found = correlation_distance(
        torch.tensor(student), torch.tensor(teacher), gamma=gamma, order=order
    )
    expected = oracles.correlation_distance(student, teacher, gamma, order)
    np.testing.assert_allclose(float(found), expected, rtol=1e-10)


def test_a_long_series_is_the_gaussian_kernel() -> None:
    """exp(−γ‖x − y‖²) of unit vectors, against the teacher's correlation of 1 with itself."""
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    teacher = torch.ones(2, 1, dtype=torch.float64)
    found = correlation_distance(student, teacher, gamma=0.4, order=20)
    assert float(found) == pytest.approx(2 * (np.exp(-0.8) - 1) ** 2 / 4, rel=1e-9)


def test_golden() -> None:
    """γ 0.4, P 2. By hand, off the diagonal: exp(−0.8) · [1 − (1 + 0.8 + 0.32)], squared; half."""
    student = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    teacher = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    found = correlation_distance(student, teacher, gamma=0.4, order=2)
    assert float(found) == pytest.approx(0.5 * (np.exp(-0.8) * 1.12) ** 2, rel=1e-6)
    assert float(found) == pytest.approx(0.12662947, abs=1e-7)


@pytest.mark.parametrize("order", [None, 2])
def test_gradient_is_that_of_the_value(order: int | None) -> None:
    student = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: correlation_distance(x, teacher, gamma=0.4, order=order), (student,)
    )
    other = torch.randn(4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: neighbour_product(x, other), (student,))


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_nothing_to_learn_from_oneself(variant: str) -> None:
    cc = CC(variant=variant, embedding_size=None)
    student, _ = built(cc, 5, 5)
    embedding = student.features["2:in"].detach().requires_grad_()
    own = Signal(student.logits, features={"2:in": embedding})
    (loss,) = cc(own, own, ROWS, 0.0).values()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-20)
    assert embedding.grad is not None
    assert embedding.grad.abs().max() < 1e-15


def test_correlations_know_no_length_and_no_rotation() -> None:
    student, teacher = (torch.tensor(RNG.normal(size=(5, 3))) for _ in range(2))
    turn = torch.linalg.qr(torch.tensor(RNG.normal(size=(3, 3))))[0]
    length = torch.tensor(RNG.uniform(0.1, 9, (5, 1)))
    one = correlation_distance(student, teacher, gamma=0.4, order=2)
    other = correlation_distance(length * student @ turn, teacher / length, gamma=0.4, order=2)
    torch.testing.assert_close(one, other, rtol=1e-10, atol=0)


def test_dead_embeddings_have_a_gradient_of_usual_size() -> None:
    student = torch.zeros(3, 4, requires_grad=True)
    correlation_distance(student, torch.randn(3, 4), gamma=0.4, order=2).backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1


def test_the_published_code() -> None:
    student, teacher = RNG.normal(size=(2, 6, 3))
    found = neighbour_product(torch.tensor(student), torch.tensor(teacher))
    expected = oracles.neighbour_product(student, teacher)
    np.testing.assert_allclose(float(found), expected, rtol=1e-12)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_a_single_row_has_nothing_to_correlate_with(variant: str) -> None:
    cc = CC(variant=variant)
    student, teacher = built(cc)
    one = [Signal(s.logits[:1], features={"2:in": s.features["2:in"][:1]}) for s in (student,)]
    other = Signal(teacher.logits[:1], features={"2:in": teacher.features["2:in"][:1]})
    (loss,) = cc(one[0], other, Rows(None, torch.arange(1)), 0.0).values()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-20)
    loss.backward()


def test_settings_choose_what_is_compared() -> None:
    def loss(**settings: object) -> tuple[float, np.ndarray, np.ndarray]:
        torch.manual_seed(0)
        cc = CC(**settings)
        signals = built(cc)
        (found,) = cc(*signals, ROWS, 0.0).values()
        return float(found.detach()), *embeddings(cc, *signals)

    found, own, others = loss()
    assert own.shape == others.shape == (6, 128)
    assert found == pytest.approx(0.003 * oracles.correlation_distance(own, others, 0.4, 2), 1e-9)
    found, own, others = loss(gamma=0.9, order=3, weight=2.0, embedding_size=4)
    assert own.shape == others.shape == (6, 4)
    assert found == pytest.approx(2 * oracles.correlation_distance(own, others, 0.9, 3), 1e-9)
    found, own, others = loss(kernel="bilinear", embedding_size=None)
    assert (own.shape, others.shape) == ((6, 5), (6, 7))
    expected = 0.003 * oracles.correlation_distance(own, others, 0.4, None)
    assert found == pytest.approx(expected, 1e-9)
    found, own, others = loss(variant="code", weight=0.02)
    assert found == pytest.approx(0.02 * oracles.neighbour_product(own, others), 1e-9)


def test_embeddings_of_different_sizes_cannot_be_subtracted() -> None:
    with pytest.raises(UserError, match=r"has 5 units, the teacher's 7.* Set embedding_size"):
        built(CC(variant="code", embedding_size=None))
