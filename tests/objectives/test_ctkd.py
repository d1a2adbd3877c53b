from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from reference import relational_logit_oracles as oracle
from temperance.errors import UserError
from temperance.objectives.base import Pair
from temperance.objectives.ctkd import CTKD, against, reversal_strength, softened_kl_at
from temperance.objectives.kd import KD
from temperance.rows import Rows, Signal

STUDENT = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]], dtype=torch.float64)
TEACHER = torch.tensor([[3.0, 1.0, -2.0], [1.0, 0.0, 2.0]], dtype=torch.float64)
GOLDEN = [0.3685193952, 0.3938511269]
START = 1 + 20 / (1 + np.exp(-1))  # 15.62, at θ = 1


def drawn(seed: int, rows: int = 6, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    return logits[0], logits[1]


def loss(
    ctkd: Any, student: torch.Tensor, teacher: torch.Tensor, progress: float = 1.0
) -> torch.Tensor:
    rows = Rows(targets=None, ids=torch.arange(len(student)))
    (found,) = ctkd(Signal(student), Signal(teacher), rows, progress).values()
    return found


def built(classes: int = 5, **settings: Any) -> CTKD:
    ctkd = CTKD(variant="instance", **settings)
    probe: Any = SimpleNamespace(classes=classes)
    ctkd.build(Pair(probe, probe, ids=torch.arange(3)), seed=0)
    return ctkd.double()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("theta", "start", "width", "ratio"),
    [(1.0, 1.0, 20.0, 1.0), (-2.0, 1.0, 20.0, 1.0), (0.3, 0.5, 4.0, 2.5), (3.0, 2.0, 1.0, 0.4)],
)
def test_the_loss_is_the_equation(
    seed: int, theta: float, start: float, width: float, ratio: float
) -> None:
    student, teacher = drawn(seed)
    ctkd = CTKD(softening_start=start, softening_range=width, teacher_softening_ratio=ratio)
    ctkd = ctkd.double()
    with torch.no_grad():
        ctkd.theta.fill_(theta)
    expected = oracle.ctkd(student.tolist(), teacher.tolist(), theta, start, width, ratio)
    np.testing.assert_allclose(loss(ctkd, student, teacher).detach(), 0.9 * np.array(expected))


def test_golden_values_at_the_defaults() -> None:
    found = loss(CTKD().double(), STUDENT, TEACHER)
    np.testing.assert_allclose(found.detach(), GOLDEN, rtol=1e-9)


def test_the_curriculum_is_the_equation() -> None:
    for epoch in range(25):
        found = reversal_strength(epoch / 240, 10 / 240)
        assert found == pytest.approx(oracle.curriculum(epoch, 10), abs=1e-9)
    strengths = [reversal_strength(progress, 0.4) for progress in np.linspace(0, 1, 50)]
    assert strengths == sorted(strengths)
    assert reversal_strength(0.0, 0.0) == 1  # no curriculum: at once


@pytest.mark.parametrize(
    ("progress", "strength"), [(0.0, 0.0), (5 / 240, 0.5), (10 / 240, 1.0), (1.0, 1.0)]
)
def test_the_softenings_gradient_is_reversed_and_scaled(progress: float, strength: float) -> None:
    student, teacher = drawn(0)
    ctkd = CTKD().double()
    loss(ctkd, student, teacher, progress).sum().backward()

    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    softening = 1 + 20 * theta.sigmoid()
    plain = softened_kl_at(student, teacher, softening, teacher_softening=softening)
    (0.9 * plain.sum()).backward()
    torch.testing.assert_close(ctkd.theta.grad, -strength * theta.grad)
    assert float(theta.grad.abs()) > 0.01


def test_the_students_gradient_is_kds_at_that_softening() -> None:
    gradients = []
    for objective in (CTKD().double(), KD(softening=START, weight=0.9)):
        student, teacher = drawn(1)
        student.requires_grad_()
        loss(objective, student, teacher).sum().backward()
        gradients.append(student.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("variant", ["global", "instance"])
def test_what_learns_raises_the_loss(variant: str) -> None:
    student, teacher = drawn(2)
    ctkd = built() if variant == "instance" else CTKD().double()
    optimizer = torch.optim.SGD(ctkd.parameters(), lr=1e-3)
    seen = []
    for _ in range(20):
        optimizer.zero_grad()
        found = loss(ctkd, student, teacher).mean()
        found.backward()
        optimizer.step()
        seen.append(found.item())
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


def test_gradients_are_those_of_the_values() -> None:
    student, teacher = drawn(3, rows=3)
    student.requires_grad_()
    softenings = torch.tensor([[0.7], [2.0], [9.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z, tau: softened_kl_at(z, teacher, tau, teacher_softening=2 * tau),
        (student, softenings),
    )


def test_reversal_leaves_the_value() -> None:
    value = torch.tensor([0.1, -3e30, 7e-30], requires_grad=True)
    found = against(value, 0.3)
    assert torch.equal(found, value)
    found.sum().backward()
    torch.testing.assert_close(value.grad, torch.full((3,), -0.3))


def test_nothing_to_learn_from_oneself() -> None:
    student = drawn(4)[0].requires_grad_()
    ctkd = CTKD().double()
    found = loss(ctkd, student, student.detach())
    found.sum().backward()
    assert float(found.detach().abs().max()) < 1e-12
    assert float(student.grad.abs().max()) < 1e-12
    assert float(ctkd.theta.grad.abs()) < 1e-12


def test_the_softening_stays_in_its_range() -> None:
    """Even for a θ at which the sigmoid is 0 or 1 in float32."""
    student, teacher = (z.float() for z in drawn(5))
    for theta, softening in ((-200.0, 1.0), (200.0, 21.0)):
        ctkd = CTKD()
        with torch.no_grad():
            ctkd.theta.fill_(theta)
        found = loss(ctkd, student, teacher)
        expected = loss(KD(softening=softening, weight=0.9), student, teacher)
        torch.testing.assert_close(found.detach(), expected)
        found.sum().backward()
        assert torch.isfinite(ctkd.theta.grad)


def test_one_parameter_without_a_dimension() -> None:
    """So that the optimiser takes it for a temperature and does not decay it."""
    ((name, theta),) = CTKD().named_parameters()
    assert (name, theta.ndim, float(theta.detach())) == ("theta", 0, 1.0)


def test_each_row_finds_its_own_softening() -> None:
    """At first the global one; once the network differs, a row's depends on that row alone."""
    student, teacher = drawn(6)
    ctkd = built()
    torch.testing.assert_close(
        loss(ctkd, student, teacher), loss(CTKD().double(), student, teacher)
    )
    with torch.no_grad():
        for parameter in ctkd.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    found = loss(ctkd, student, teacher)
    torch.testing.assert_close(loss(ctkd, student[2:4], teacher[2:4]), found[2:4])

    theta = ctkd.network(torch.cat([teacher, student], dim=1))[:, 0].tolist()
    expected = [
        0.9 * oracle.ctkd([s], [t], one, 1.0, 20.0, 1.0)[0]
        for s, t, one in zip(student.tolist(), teacher.tolist(), theta, strict=True)
    ]
    np.testing.assert_allclose(found.detach(), expected)
    assert len({round(one, 3) for one in theta}) == 6


def test_the_student_gets_no_gradient_through_the_network() -> None:
    student, teacher = drawn(7)
    student.requires_grad_()
    ctkd = built()
    with torch.no_grad():
        ctkd.network[-1].weight.normal_()
    loss(ctkd, student, teacher).sum().backward()
    theta = ctkd.network(torch.cat([teacher, student.detach()], dim=1)).detach()
    softening = 1 + 20 * theta.sigmoid()
    z = student.detach().requires_grad_()
    (0.9 * softened_kl_at(z, teacher, softening, teacher_softening=softening).sum()).backward()
    torch.testing.assert_close(student.grad, z.grad)


def test_the_network_has_to_be_built_first() -> None:
    with pytest.raises(UserError, match="does not know yet how many classes"):
        loss(CTKD(variant="instance"), *drawn(0))


def test_each_setting_has_its_effect() -> None:
    student, teacher = drawn(8)
    ctkd = CTKD(weight=1.8, reversal=0.25).double()
    doubled = loss(ctkd, student, teacher)
    torch.testing.assert_close(doubled, 2 * loss(CTKD().double(), student, teacher))
    doubled.sum().backward()
    plain = CTKD().double()
    loss(plain, student, teacher).sum().backward()
    torch.testing.assert_close(ctkd.theta.grad, 2 * 0.25 * plain.theta.grad)
    assert built(hidden=7).network[0].out_features == 7
    for setting in ({"softening_start": 0}, {"softening_range": -1}, {"curriculum": 1.5}):
        with pytest.raises(UserError, match=next(iter(setting))):
            CTKD(**setting)


def test_a_calibration_temperature_is_a_ratio_of_the_softenings() -> None:
    student, teacher = drawn(9)
    calibrated = loss(CTKD().double(), student, teacher / 1.7)
    softened = loss(CTKD(teacher_softening_ratio=1.7).double(), student, teacher)
    torch.testing.assert_close(calibrated, softened)
