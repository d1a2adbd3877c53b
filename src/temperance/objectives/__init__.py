"""Distillation losses: one small file per method, and the one list of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from temperance.config import Args, look_up, one_of
from temperance.objectives.kd import KD, KDArgs
from temperance.objectives.labels import Labels, LabelsArgs
from temperance.rows import Needs, Rows, Signal

__all__ = ["OBJECTIVES", "Objective", "ObjectiveArgs", "get_objective", "list_objectives"]


class Objective(Protocol):
    """A distillation loss, and the declaration of what it needs."""

    needs: Needs
    row_wise: bool
    """Whether losses are `(rows,)`; otherwise they are scalars over the local batch."""
    teacher_logits: str
    """`none`, `used` or `scale_invariant`: whether calibrating the teacher can matter."""

    def __call__(
        self, student: Signal, teacher: Any, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """Named losses of a batch; `progress` runs from 0 to 1 over the training."""
        ...


OBJECTIVES: dict[str, tuple[type[Args], Callable[[Any], Objective]]] = {
    "labels": (LabelsArgs, Labels),
    "kd": (KDArgs, KD),
}

ObjectiveArgs = one_of(*(args for args, _ in OBJECTIVES.values()))


def get_objective(name: str | Args, **args: Any) -> Objective:
    """An objective by its name and settings, or from its settings alone.

    Raises:
        UserError: if there is none of that name.

    Examples:
        >>> get_objective("kd", softening=2.0).args.softening
        2.0
    """
    if isinstance(name, Args):
        settings = name
        _, objective = OBJECTIVES[settings.name]  # type: ignore[attr-defined]
    else:
        args_class, objective = look_up("objective", name, OBJECTIVES)
        settings = args_class(**args)
    return objective(settings)


def list_objectives() -> list[str]:
    """The names that `get_objective` knows."""
    return sorted(OBJECTIVES)
