"""Sums of objectives, and one's own training loop with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import temperance
from reference.objective_problems import problem
from temperance.errors import UserError
from temperance.objectives import get_objective
from temperance.rows import Rows, Signal

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TAUGHT = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
ROWS = Rows(targets=torch.arange(6) % 4, ids=torch.arange(6))


def test_a_sum_is_the_sum_of_its_parts() -> None:
    parts = [{"name": "kd", "label_weight": 0.5}, {"name": "reverse-kl", "weight": 0.2}, "labels"]
    found = get_objective("combined", parts=parts)(Signal(LOGITS), Signal(TAUGHT), ROWS, 0.5)
    expected: dict[str, torch.Tensor] = {}
    for part in parts:
        one = get_objective(part) if isinstance(part, str) else get_objective(**part)
        for name, loss in one(Signal(LOGITS), Signal(TAUGHT), ROWS, 0.5).items():
            expected[name] = expected.get(name, 0) + loss
    assert found.keys() == expected.keys() == {"kd", "labels", "reverse_kl"}
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_a_string_of_names_is_a_sum_with_the_defaults() -> None:
    short = get_objective("kd + reviewkd")
    assert short.args == get_objective("combined", parts=["kd", "reviewkd"]).args
    assert [part.name for part in short.args.parts] == ["kd", "reviewkd"]


@pytest.mark.parametrize(
    ("name", "logits", "targets", "views", "ids", "row_wise", "teacher"),
    [
        ("kd+labels", "sparse", "required", 1, False, True, "used"),
        ("kd+dkd", "dense", "required", 1, False, True, "used"),
        ("fitnet+at", "none", "optional", 1, False, True, "none"),
        ("fitnet+lskd", "dense", "optional", 1, False, True, "scale_invariant"),
        ("crd+lskd", "dense", "optional", 1, True, False, "scale_invariant"),
        ("sp+kd", "sparse", "optional", 1, False, False, "used"),
    ],
)
def test_it_needs_what_its_parts_need(
    name: str, logits: str, targets: str, views: int, ids: bool, row_wise: bool, teacher: str
) -> None:
    both = get_objective(name)
    needs = both.needs
    assert (needs.logits, needs.targets, needs.views, needs.ids) == (logits, targets, views, ids)
    assert (both.row_wise, both.teacher_logits) == (row_wise, teacher)


def test_parts_are_built_and_tapped_together() -> None:
    both = problem("dkd+reviewkd").objective
    alone = problem("reviewkd").objective
    assert both.student_taps == alone.student_taps
    assert sum(p.numel() for p in both.parameters()) == sum(p.numel() for p in alone.parameters())


@pytest.mark.parametrize("parts", [[], "kd", ["combined"], ["kdd"]])
def test_what_is_no_sum(parts: object) -> None:
    with pytest.raises(UserError, match="parts"):
        get_objective("combined", parts=parts)


@pytest.mark.parametrize("name", ["kd", "kd+fitnet", "crd", "ctkd"])
def test_an_own_loop_of_a_few_lines(name: str) -> None:
    """As in docs/objectives.md: the student comes closer to its teacher."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(64, 1, 8, 8), torch.arange(64) % 4

    def network(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, width, 3, 2), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(width, 4),
        )  # fmt: skip

    objective = temperance.get_objective(name)
    ids = torch.arange(64)
    student, teacher = temperance.attach(
        objective, network(4), network(8).eval(), inputs[:2], ids=ids, targets=targets
    )
    assert teacher is not None
    learned = [*student.parameters(), *objective.parameters()]
    optimizer = torch.optim.Adam(learned, lr=0.01)
    history = []
    for step in range(60):
        logits, features = student(inputs)
        with torch.no_grad():
            taught, hints = teacher(inputs)
        losses = objective(
            Signal(logits, features=features),
            Signal(taught, features=hints),
            Rows(targets=targets, ids=ids),
            progress=step / 60,
        )
        total = sum(loss.mean() for loss in losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(total.item())
    assert history[-1] < 0.95 * history[0]
