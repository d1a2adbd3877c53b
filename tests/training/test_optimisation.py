from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temperance.models.features import Tapped
from temperance.objectives import get_objective
from temperance.training import AdamWArgs, CosineArgs, SGDArgs, StepArgs
from temperance.training.learner import Learner
from temperance.training.optimisation import build_optimizer, rate_factor

warmups = st.sampled_from([0.0, 0.05, 0.1, 0.5])
schedules = st.one_of(
    st.builds(CosineArgs, warmup=warmups),
    st.builds(
        StepArgs,
        warmup=warmups,
        milestones=st.lists(st.floats(0, 1), max_size=3).map(tuple),
        factor=st.floats(0.01, 1),
    ),
)


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1.0),
        (25, (1 + math.sqrt(0.5)) / 2),
        (50, 0.5),
        (75, (1 - math.sqrt(0.5)) / 2),
        (99, 2.467198e-4),
    ],
)
def test_cosine(step: int, factor: float) -> None:
    assert rate_factor(CosineArgs(), step, 100) == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize(
    ("epoch", "factor"), [(0, 1), (149, 1), (150, 0.1), (179, 0.1), (180, 0.01), (210, 0.001)]
)
@pytest.mark.parametrize("per_epoch", [1, 7, 390])
def test_steps_of_the_cifar_recipe(epoch: int, factor: float, per_epoch: int) -> None:
    """240 epochs, the rate divided by ten after 150, 180 and 210 of them, to the step."""
    found = rate_factor(StepArgs(), epoch * per_epoch, 240 * per_epoch)
    assert found == pytest.approx(factor)
    last = rate_factor(StepArgs(), epoch * per_epoch + per_epoch - 1, 240 * per_epoch)
    assert last == pytest.approx(factor)


@pytest.mark.parametrize("schedule", [CosineArgs(warmup=0.1), StepArgs(warmup=0.1)])
def test_warm_up_rises_in_a_line_to_the_highest_rate(schedule: CosineArgs | StepArgs) -> None:
    rates = [rate_factor(schedule, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10] == 1.0
    assert max(rates) == 1.0


@given(schedules, st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
@settings(max_examples=200, deadline=None)
def test_factors_are_above_zero_and_at_most_one(
    schedule: CosineArgs | StepArgs, steps: int, where: float
) -> None:
    assert 0 < rate_factor(schedule, int(where * steps), steps) <= 1


@given(schedules, st.integers(2, 200))
@settings(max_examples=60, deadline=None)
def test_the_rate_rises_then_falls(schedule: CosineArgs | StepArgs, steps: int) -> None:
    rates = [rate_factor(schedule, step, steps) for step in range(steps)]
    top = math.ceil(schedule.warmup * steps)
    if isinstance(schedule, CosineArgs):
        assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_only_what_learns_is_optimised() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    module[0].requires_grad_(False)
    learner = Learner(Tapped(module), get_objective("labels"))
    for args in (SGDArgs(), SGDArgs(momentum=0.0), AdamWArgs()):
        (group,) = build_optimizer(args, learner).param_groups
        assert [id(p) for p in group["params"]] == [id(p) for p in module[1].parameters()]
        assert group["lr"] == args.lr
        assert group["weight_decay"] == args.weight_decay
    assert build_optimizer(SGDArgs(momentum=0.0), learner).param_groups[0]["nesterov"] is False
    assert build_optimizer(SGDArgs(), learner).param_groups[0]["nesterov"] is True


def test_what_an_objective_learns_is_optimised_with_the_student() -> None:
    """Its matrices as the student's; its scalars and vectors without weight decay."""
    objective = get_objective("labels")
    objective.adapter = torch.nn.Linear(2, 3)
    objective.temperature = torch.nn.Parameter(torch.tensor(1.0))
    learner = Learner(Tapped(torch.nn.Linear(2, 2)), objective)
    for args in (SGDArgs(), AdamWArgs()):
        decayed, others = build_optimizer(args, learner).param_groups
        assert [p.shape for p in decayed["params"]] == [(2, 2), (2,), (3, 2)]
        assert {id(p) for p in others["params"]} == {
            id(objective.temperature),
            id(objective.adapter.bias),
        }
        assert decayed["weight_decay"] == args.weight_decay
        assert others["weight_decay"] == 0
