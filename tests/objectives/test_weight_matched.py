"""The raw teacher at the calibrated teacher's strength."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor

from reference.objective_problems import VARIANTS, problem
from temperance.errors import UserError
from temperance.objectives import OBJECTIVES, Objective, Pair, get_objective
from temperance.rows import Rows, Signal
from temperance.training import Engine, EngineArgs

HEARING = [
    name
    for name, (key, settings) in VARIANTS.items()
    if name != "weight-matched"
    and (objective := get_objective(key, **settings)).teacher_logits == "used"
    and objective.needs.features == "none"
]
DEAF = [
    name
    for name, entry in OBJECTIVES.items()
    if name != "combined" and entry().teacher_logits != "used"
]
TAUS = [(4.0, None), (1.0, 3.0), (2.0, 0.5)]


def drawn(seed: int, rows: int = 6, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    return logits[0], logits[1]


def wrapped(key: str, settings: dict[str, Any]) -> Objective:
    """As `problem` builds the objective itself."""
    matched = get_objective("weight-matched", objective={"name": key, **settings})
    probe: Any = SimpleNamespace(classes=5)
    matched.build(Pair(probe, probe, ids=torch.arange(6)), seed=3)
    return matched.double()


def calibrated(raw: Tensor, temperature: float) -> Signal:
    return Signal(raw / temperature, raw_logits=raw)


def terms(losses: dict[str, Tensor]) -> list[Tensor]:
    return [loss for name, loss in losses.items() if name != "labels"]


def pull(losses: dict[str, Tensor], student: Tensor) -> Tensor:
    """Gradient of everything but the labels by the student's logits."""
    total = torch.stack([loss.mean() for loss in terms(losses)]).sum()
    return torch.autograd.grad(total, student)[0]


# KD, by hand.


def kd_by_hand(
    student: npt.NDArray[Any], teacher: npt.NDArray[Any], tau: float, teacher_tau: float
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """0.9 τ² KL(teacher ‖ student) per row, and the gradient of its mean."""
    p, q = softmax(teacher / teacher_tau, axis=1), softmax(student / tau, axis=1)
    logs = [log_softmax(z, axis=1) for z in (teacher / teacher_tau, student / tau)]
    loss = 0.9 * tau**2 * (p * (logs[0] - logs[1])).sum(1)
    return loss, 0.9 * tau * (q - p) / len(student)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("tau", "teacher_tau"), TAUS)
@pytest.mark.parametrize("temperature", [0.6, 2.5])
def test_kd_is_that_of_the_definition(
    seed: int, tau: float, teacher_tau: float | None, temperature: float
) -> None:
    student, raw = drawn(seed)
    z, z_raw, taus = student.numpy(), raw.numpy(), (tau, teacher_tau or tau)
    _, wanted = kd_by_hand(z, z_raw / temperature, *taus)
    loss, given = kd_by_hand(z, z_raw, *taus)
    factor = np.sqrt((wanted**2).sum()) / np.sqrt((given**2).sum())

    kd = {"name": "kd", "softening": tau, "teacher_softening": teacher_tau}
    rows = Rows(targets=torch.arange(6) % 5, ids=torch.arange(6))
    leaf = student.clone().requires_grad_()
    found = get_objective("weight-matched", objective=kd)(
        Signal(leaf), calibrated(raw, temperature), rows, 0.5
    )
    np.testing.assert_allclose(found["kd"].detach(), factor * loss, rtol=1e-10)
    np.testing.assert_allclose(pull(found, leaf), factor * given, rtol=1e-10, atol=1e-14)
    labels = torch.nn.functional.cross_entropy(student, rows.targets, reduction="none")
    torch.testing.assert_close(found["labels"], 0.1 * labels)


# Every objective that hears calibration.


@pytest.mark.parametrize("name", HEARING)
@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_calibrated_teachers_strength_and_the_raw_ones_direction(
    name: str, temperature: float
) -> None:
    given = problem(name)
    key, settings = VARIANTS[name]
    matched = wrapped(key, settings)
    raw, student = given.teacher.logits, given.student.logits
    heard = {
        "calibrated": given.losses(teacher=calibrated(raw, temperature)),
        "raw": given.losses(teacher=Signal(raw)),
        "matched": matched(given.student, calibrated(raw, temperature), given.rows, 0.7),
    }
    assert heard["matched"].keys() == heard["raw"].keys()
    torch.testing.assert_close(heard["matched"]["labels"], heard["raw"]["labels"])
    pulls = {who: pull(losses, student) for who, losses in heard.items()}
    torch.testing.assert_close(pulls["matched"].norm(), pulls["calibrated"].norm())
    torch.testing.assert_close(
        pulls["matched"] / pulls["matched"].norm(), pulls["raw"] / pulls["raw"].norm()
    )


@pytest.mark.parametrize("name", HEARING)
def test_with_a_raw_teacher_it_is_the_objective(name: str) -> None:
    given = problem(name)
    key, settings = VARIANTS[name]
    matched = wrapped(key, settings)
    assert matched.needs == given.objective.needs
    expected = given.losses()
    found = matched(given.student, given.teacher, given.rows, 0.7)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_what_is_learned_beside_is_part_of_it() -> None:
    given = problem("ctkd")
    matched = get_objective("weight-matched", objective="ctkd").double()
    assert [*matched.state_dict()] == [f"objective.{key}" for key in given.objective.state_dict()]
    losses = matched(given.student, calibrated(given.teacher.logits, 2.0), given.rows, 0.7)
    torch.stack([loss.sum() for loss in losses.values()]).sum().backward()
    assert all(parameter.grad is not None for parameter in matched.parameters())


# The batch.


@pytest.mark.parametrize("objective", ["kd", "kd+dist"])  # by row; by row and by batch
def test_weights_of_rows_count_as_in_a_step(objective: str) -> None:
    student, raw = drawn(5)
    weights = torch.tensor([0.0, 1.0, 5.0, 0.1, 2.0, 1.0], dtype=torch.float64)
    rows = Rows(targets=None, ids=torch.arange(6), weights=weights)
    engine = Engine(EngineArgs(accelerator="cpu", threads=1))
    idle = torch.nn.Linear(1, 1)
    norms = []
    for name, settings in ((objective, {}), ("weight-matched", {"objective": objective})):
        leaf = student.clone().requires_grad_()
        state = engine.start(idle, torch.optim.SGD(idle.parameters(), lr=1.0), 1)
        losses = get_objective(name, **settings)(Signal(leaf), calibrated(raw, 2.0), rows, 0.5)
        engine.backward(state, losses, rows, engine.weigh(rows))
        assert leaf.grad is not None
        norms.append(leaf.grad.norm())
    torch.testing.assert_close(norms[1], norms[0])


def test_rows_of_no_weight_are_finite() -> None:
    student, raw = drawn(6)
    rows = Rows(targets=None, ids=torch.arange(6), weights=torch.zeros(6, dtype=torch.float64))
    losses = get_objective("weight-matched")(Signal(student), calibrated(raw, 2.0), rows, 0.5)
    assert torch.isfinite(losses["kd"]).all()


def test_a_temperature_of_one_changes_nothing() -> None:
    given = problem("kd")
    found = get_objective("weight-matched")(
        given.student, calibrated(given.teacher.logits, 1.0), given.rows, 0.7
    )
    assert all(torch.equal(found[name], loss) for name, loss in given.losses().items())


def test_nothing_is_scaled_where_nothing_pulls() -> None:
    """A student that is the raw teacher has no direction to go, however hard."""
    given = problem("logit-mse")
    raw = given.student.logits.detach()
    matched = get_objective("weight-matched", objective="logit-mse")
    losses = matched(given.student, calibrated(raw, 2.0), given.rows, 0.7)
    assert not pull(losses, given.student.logits).any()
    assert not terms(losses)[0].any()


@torch.no_grad()
def test_it_needs_no_gradients_from_outside() -> None:
    student, raw = drawn(7)
    rows = Rows(targets=None, ids=torch.arange(6))
    losses = get_objective("weight-matched")(Signal(student), calibrated(raw, 2.0), rows, 0.5)
    assert not losses["kd"].requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """As good as the rounded logits allow."""
    student, raw = (z.to(dtype) for z in drawn(8))
    rows = Rows(targets=None, ids=torch.arange(6))
    matched = get_objective("weight-matched")
    with torch.autocast("cpu", dtype):
        found = matched(Signal(student), Signal(raw / 4, raw_logits=raw), rows, 0.5)["kd"]
    exact = Signal((raw / 4).double(), raw_logits=raw.double())
    expected = matched(Signal(student.double()), exact, rows, 0.5)["kd"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


# What it refuses.


def refused(objective: Any) -> str:
    with pytest.raises(UserError) as caught:
        get_objective("weight-matched", objective=objective)
    return str(caught.value)


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        *((name, name) for name in DEAF),
        ("kd+fitnet", "combined"),
        ("lskd+labels", "combined"),
        ({"name": "kd", "transforms": ["label-smoothing"]}, "kd"),
    ],
)
def test_an_objective_that_cannot_be_matched(objective: Any, name: str) -> None:
    message = refused(objective)
    assert "objective 'weight-matched'" in message
    assert f"'{name}'" in message
    assert "\n" not in message


def test_it_does_not_match_itself() -> None:
    assert "there is no 'weight-matched'" in refused("weight-matched")


def test_bad_signals_are_its_own_complaint() -> None:
    given = problem("weight-matched")
    teacher = replace(given.teacher, raw_logits=given.teacher.logits[1:])
    with pytest.raises(UserError, match="teacher's logits are of"):
        given.losses(teacher=teacher)
    with pytest.raises(UserError, match="'weight-matched': needs a teacher"):
        given.losses(teacher=None)
