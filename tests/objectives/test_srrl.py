from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reference import adapter_oracles as oracles
from temperance.errors import UserError
from temperance.objectives import attach
from temperance.objectives.srrl import SRRL, representation_losses
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(10)
INPUTS = torch.tensor(RNG.normal(size=(6, 4)))
ROWS = Rows(targets=None, ids=torch.arange(6))
TAP = "2:in"


def network(units: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, units), nn.ReLU(), nn.Linear(units, 3)).double()


def built(teacher: nn.Module | None = None, **settings: Any) -> tuple[SRRL, Signal, Signal]:
    srrl = SRRL(None, **settings)
    tapped = attach(srrl, network(5), teacher or network(7), INPUTS)
    srrl.double()
    signals = []
    for model in tapped:
        assert model is not None
        logits, features = model(INPUTS)
        signals.append(Signal(logits.detach(), features=features))
    for module in srrl.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return srrl, signals[0], signals[1]


def connected(srrl: SRRL, student: Signal, *, rectify: bool = True) -> np.ndarray:
    linear, norm = srrl.connector[0], srrl.connector[1]
    x = student.features[TAP].detach().numpy() @ linear.weight.detach().numpy().T
    x = oracles.batch_norm(x, norm.weight.detach().numpy(), norm.bias.detach().numpy())
    return np.maximum(x, 0) if rectify else x


def test_it_is_the_equations() -> None:
    student, teacher = RNG.normal(size=(2, 5, 4))
    head, bias = RNG.normal(size=(3, 4)), RNG.normal(size=3)
    found = representation_losses(*(torch.tensor(x) for x in (student, teacher, head)))
    expected = oracles.representation_losses(student, teacher, head, bias)
    for loss, oracle in zip(found, expected, strict=True):
        np.testing.assert_allclose(loss, oracle, rtol=1e-12)


def test_golden() -> None:
    """By hand, Δ = (1, −2): (1 + 4) / 2; W Δ = (−1, 3, −2): (1 + 9 + 4) / 3."""
    head = torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.0, 1.0]])
    student, teacher = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 3.0]])
    features, logits = representation_losses(student, teacher, head)
    assert float(features) == 2.5
    assert float(logits) == pytest.approx(14 / 3)


def test_gradient_is_that_of_the_value() -> None:
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 4, dtype=torch.float64)
    head = torch.randn(2, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: representation_losses(x, teacher, head), (student,))


def test_nothing_to_learn_from_oneself() -> None:
    student = torch.randn(3, 4, requires_grad=True)
    losses = representation_losses(student, student.detach(), torch.randn(2, 4))
    torch.stack(losses).sum().backward()
    assert [loss.tolist() for loss in losses] == [[0, 0, 0], [0, 0, 0]]
    assert student.grad is not None
    assert student.grad.abs().max() == 0


@pytest.mark.parametrize("rectify", [True, False])
def test_the_head_is_the_teachers(rectify: bool) -> None:
    teacher = network(7)
    srrl, own, others = built(teacher, weight=3.0, feature_weight=0.5, rectify=rectify)
    head, bias = (x.detach().numpy() for x in (teacher[2].weight, teacher[2].bias))
    guess = connected(srrl, own, rectify=rectify)
    assert (guess.min() < 0) != rectify
    expected = oracles.representation_losses(
        guess, others.features[TAP].detach().numpy(), head, bias
    )
    found = srrl(own, others, ROWS, 0.0)
    np.testing.assert_allclose(found["srrl_features"].detach(), 0.5 * expected[0], rtol=1e-9)
    np.testing.assert_allclose(found["srrl"].detach(), 3 * expected[1], rtol=1e-9)
    # What it regresses are the teacher's logits as the teacher gives them.
    raw = ((guess @ head.T + bias - others.logits.numpy()) ** 2).mean(1)
    np.testing.assert_allclose(found["srrl"].detach(), 3 * raw, rtol=1e-9)


def test_a_calibrator_changes_nothing() -> None:
    srrl, own, others = built()
    calibrated = replace(others, logits=others.logits / 2.5 + 1, raw_logits=others.logits)
    srrl.eval()
    one, other = (srrl(own, teacher, ROWS, 0.0) for teacher in (others, calibrated))
    for name in one:
        assert torch.equal(one[name], other[name])


def test_the_head_is_neither_trained_nor_stored() -> None:
    teacher = network(7)
    srrl, own, others = built(teacher)
    assert {name.split(".")[0] for name in srrl.state_dict()} == {"connector"}
    sum(loss.sum() for loss in srrl(own, others, ROWS, 0.0).values()).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in srrl.parameters())


def test_the_head_takes_the_precision_of_what_it_gets() -> None:
    srrl, own, others = built()
    half = [
        Signal(s.logits.float(), features={TAP: s.features[TAP].detach().float()})
        for s in (own, others)
    ]
    wide = srrl(own, others, ROWS, 0.0)["srrl"]
    narrow = srrl.float()(*half, ROWS, 0.0)["srrl"]
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-3, atol=1e-5)


def test_one_row_trains() -> None:
    srrl, own, others = built()
    one = [Signal(s.logits[:1], features={TAP: s.features[TAP][:1]}) for s in (own, others)]
    losses = srrl(*one, Rows(None, torch.arange(1)), 0.0)
    assert all(torch.isfinite(loss).all() for loss in losses.values())


def test_embeddings_have_to_fit_the_head() -> None:
    with pytest.raises(UserError, match="it takes 7 units, not 4"):
        built(student_taps=["2:in"], teacher_taps=["0:in"])


def test_the_teacher_needs_a_head() -> None:
    class Doubling(nn.Module):
        """Ends in something else than a linear layer."""

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 7)
            self.norm = nn.LayerNorm(7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.body(x))[:, :3]

    with pytest.raises(UserError, match="the teacher has none"):
        built(Doubling().double(), student_taps=["2:in"], teacher_taps=["norm"])
