from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from reference import relational_logit_oracles as oracle
from temperance.config import load_config, to_yaml
from temperance.errors import UserError
from temperance.objectives.base import Pair
from temperance.objectives.kd import KDArgs
from temperance.objectives.lskd import LSKD, LSKDArgs, standardize
from temperance.objectives.methods import LOGIT_METHODS
from temperance.rows import Rows, Signal

STUDENT = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]], dtype=torch.float64)
TEACHER = torch.tensor([[3.0, 1.0, -2.0], [1.0, 0.0, 2.0]], dtype=torch.float64)
GOLDEN = [0.3824468641, 2.0902297887]
METHODS = [method.name for method in LOGIT_METHODS]


def drawn(seed: int, rows: int = 6, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    return logits[0], logits[1]


def built(**settings: Any) -> LSKD:
    lskd = LSKD(**settings)
    probe: Any = SimpleNamespace(classes=5)
    lskd.build(Pair(probe, probe, ids=torch.arange(6)), seed=0)
    return lskd


def losses(
    objective: Any, student: torch.Tensor, teacher: torch.Tensor, *, labels: bool = True
) -> dict[str, torch.Tensor]:
    n, classes = student.shape
    targets = torch.arange(n) % classes if labels else None
    rows = Rows(targets=targets, ids=torch.arange(n), views=objective.needs.views)
    found: dict[str, torch.Tensor] = objective(Signal(student), Signal(teacher), rows, 0.5)
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("variant", ["paper", "code"])
def test_logits_are_standardised_as_in_the_equation(seed: int, variant: str) -> None:
    z, _ = drawn(seed)
    expected = [oracle.standardized(row, published=variant == "code") for row in z.tolist()]
    np.testing.assert_allclose(standardize(z, variant=variant), expected, rtol=1e-12)


def test_paper_and_code_differ_by_a_softening() -> None:
    """σ over K classes, or over K − 1; the paper's bounds a value by √(K − 1)."""
    z, _ = drawn(0)
    ratio = standardize(z) / standardize(z, variant="code")
    torch.testing.assert_close(ratio, torch.full_like(ratio, math.sqrt(5 / 4)), rtol=1e-6, atol=0)
    one_hot = torch.tensor([[0.0, 0.0, 7.0, 0.0, 0.0]])
    assert float(standardize(one_hot).max()) == pytest.approx(math.sqrt(4))
    torch.testing.assert_close(standardize(z).mean(1), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(standardize(z).square().mean(1), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize(("tau", "teacher_tau"), [(2.0, None), (1.0, 3.0), (5.0, 0.5)])
def test_kd_on_standardised_logits(tau: float, teacher_tau: float | None) -> None:
    student, teacher = drawn(1)
    method = {"name": "kd", "softening": tau, "teacher_softening": teacher_tau, "weight": 3.0}
    found = losses(LSKD(method=method), student, teacher)["kd"]
    z, t = ([oracle.standardized(row) for row in logits.tolist()] for logits in (student, teacher))
    expected = 3 * np.array(oracle.instance_level(z, t, tau, teacher_tau or tau))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_golden_values_at_the_defaults() -> None:
    found = losses(LSKD(), STUDENT, TEACHER)
    np.testing.assert_allclose(found["kd"], GOLDEN, rtol=1e-9)
    labels = torch.nn.functional.cross_entropy(STUDENT, torch.tensor([0, 1]), reduction="none")
    torch.testing.assert_close(found["labels"], 0.1 * labels)  # of the logits as they are


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_no_positive_factor_of_the_teacher_changes_a_loss(
    method: str, dtype: torch.dtype, tolerance: float
) -> None:
    # In float32 a divergence is exact to about τ² · 1e-7 only, with or without a factor.
    student, teacher = (z.to(dtype) for z in drawn(2))
    lskd = built(method=method).to(dtype)
    assert lskd.teacher_logits == "scale_invariant"
    expected = losses(lskd, student, teacher)
    per_row = torch.logspace(-3, 3, 6, dtype=dtype)[:, None]
    for factor in (1e-3, 0.1, 0.37, 10.0, 1e3, per_row):
        found = losses(lskd, student, teacher * factor + 2.0 * factor)
        for name, loss in expected.items():
            torch.testing.assert_close(
                found[name], loss, rtol=tolerance, atol=tolerance * float(loss.detach().abs().max())
            )


@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_method_on_standardised_logits(method: str) -> None:
    student, teacher = drawn(3)
    lskd = built(method=method).double()
    alone = lskd.method
    assert (lskd.row_wise, lskd.needs.views) == (alone.row_wise, alone.needs.views)
    assert (lskd.needs.targets, lskd.needs.logits) == (alone.needs.targets, "dense")
    found = losses(lskd, student, teacher)
    expected = losses(alone, standardize(student), standardize(teacher))
    assert set(found) == set(expected)
    for name in set(expected) - {"labels"}:
        torch.testing.assert_close(found[name], expected[name])
    assert dict(lskd.named_parameters()).keys() == {
        f"method.{name}" for name, _ in alone.named_parameters()
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variant", ["paper", "code"])
def test_rows_without_a_direction_are_finite(method: str, variant: str) -> None:
    """Constant rows of the student, the teacher and both; 0.1 has no exact float."""
    student, teacher = (z.float() for z in drawn(4))
    student[0], teacher[1], student[2], teacher[2] = 0.1, 0.1, -1e4, 1e4
    student.requires_grad_()
    found = losses(built(method=method, variant=variant), student, teacher, labels=True)
    terms = [loss for name, loss in found.items() if name != "labels"]
    sum(loss.sum() for loss in terms).backward()
    assert all(torch.isfinite(loss).all() for loss in terms)
    assert torch.isfinite(student.grad).all()
    assert not student.grad[[0, 2]].any()


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_gradients_are_those_of_the_values(variant: str) -> None:
    z = drawn(5)[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: standardize(logits, variant=variant), (z,))


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1.0, 1e30])
def test_float32_standardises_at_every_scale(scale: float) -> None:
    z = drawn(6)[0]
    found = standardize((scale * z).float())
    torch.testing.assert_close(found, standardize(z).float(), rtol=1e-5, atol=1e-6)


def test_nothing_to_learn_from_a_scaled_self() -> None:
    """Not even the scale: that is what the method is for."""
    student = drawn(7)[0].requires_grad_()
    loss = losses(LSKD(), student, 5 * student.detach() + 1, labels=False)["kd"]
    loss.sum().backward()
    assert float(loss.detach().abs().max()) < 1e-12
    assert float(student.grad.abs().max()) < 1e-12


def test_the_method_is_built_too() -> None:
    lskd, seen = LSKD(), []
    lskd.method.adapt = seen.append
    pair = Pair(None, None, ids=torch.arange(6))
    lskd.build(pair)
    assert seen == [pair]


def test_the_method_keeps_its_transforms() -> None:
    student, teacher = drawn(8)
    transforms = [{"name": "asymmetric", "target_softening": 3.0, "other_softening": 1.0}]
    lskd = LSKD(method={"name": "kd", "transforms": transforms})
    expected = losses(lskd.method, standardize(student), standardize(teacher))
    torch.testing.assert_close(losses(lskd, student, teacher)["kd"], expected["kd"])
    with pytest.raises(UserError, match="needs labels"):
        losses(lskd, student, teacher, labels=False)


def test_there_is_one_label_weight() -> None:
    student, teacher = drawn(9)
    found = losses(LSKD(label_weight=0.7), student, teacher)["labels"]
    torch.testing.assert_close(found, 7 * losses(LSKD(), student, teacher)["labels"])
    with pytest.raises(UserError, match=r"method\.label_weight has no effect inside 'lskd'"):
        LSKD(method=KDArgs(label_weight=0.7))


def test_settings_survive_a_file(tmp_path: Any) -> None:
    args = load_config(LSKDArgs, values={"label_weight": 0.3, "method": {"softening": 3.0}})
    assert (args.method.name, args.method.weight.value) == ("kd", 9.0)
    (tmp_path / "lskd.yaml").write_text(to_yaml(args))
    assert load_config(LSKDArgs, tmp_path / "lskd.yaml") == args
    assert load_config(LSKDArgs, tmp_path / "lskd.yaml", ["label_weight=0.5"]).label_weight


def test_only_logit_methods_can_be_wrapped() -> None:
    with pytest.raises(UserError, match="labels"):
        LSKD(method="labels")
