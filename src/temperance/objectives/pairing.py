"""For one's own training loop: build an objective for two models and tap them."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor, nn

from temperance.models.features import Tapped, probe
from temperance.objectives.base import Objective, Pair


def attach(
    objective: Objective,
    student: nn.Module,
    teacher: nn.Module | None,
    inputs: Tensor,
    *,
    ids: Int[Tensor, " samples"] | None = None,
    targets: Int[Tensor, " samples"] | None = None,
    seed: int = 0,
) -> tuple[Tapped, Tapped | None]:
    """Build the objective for these two models and tap them where it compares activations.

    Optimise `objective.parameters()` with the student's and move both to the same device.

    Args:
        inputs: two rows or more, as both models take them.
        ids: of all samples that will be trained on, where the objective remembers samples.
        targets: their labels.
        seed: of the objective's initial weights.

    Returns:
        student and teacher, from inputs to logits and a dict of features.

    Raises:
        UserError: if the models have not what the objective needs.

    Examples:
        >>> from temperance.objectives import get_objective
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> student, teacher = attach(get_objective("kd"), model, model, torch.zeros(2, 4))
        >>> student(torch.zeros(3, 4))[0].shape
        torch.Size([3, 2])
    """
    pair = Pair(
        probe(student, inputs),
        None if teacher is None else probe(teacher, inputs),
        ids=torch.arange(0) if ids is None else ids,
        targets=targets,
    )
    objective.build(pair, seed=seed)
    tapped = None if teacher is None else Tapped(teacher, objective.teacher_taps)
    return Tapped(student, objective.student_taps), tapped
