"""Distillation losses: one small file per method, and the one list of them."""

from __future__ import annotations

from typing import Any

from temperance.config import look_up, one_of
from temperance.objectives.base import MethodArgs, Objective, Pair
from temperance.objectives.kd import KD
from temperance.objectives.labels import Labels

__all__ = ["OBJECTIVES", "Objective", "ObjectiveArgs", "Pair", "get_objective", "list_objectives"]

OBJECTIVES: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (
        Labels,
        KD,
    )
}

ObjectiveArgs = one_of(*(objective.args_class for objective in OBJECTIVES.values()))


def get_objective(name: str | MethodArgs, **args: Any) -> Objective:
    """An objective by its name and settings, or from its settings alone.

    Raises:
        UserError: if there is none of that name, or a setting does not fit.

    Examples:
        >>> get_objective("kd", softening=2.0).args.softening
        2.0
    """
    if isinstance(name, MethodArgs):
        return OBJECTIVES[name.name](name)  # type: ignore[attr-defined]
    return look_up("objective", name, OBJECTIVES)(**args)


def list_objectives() -> list[str]:
    """The names that `get_objective` knows."""
    return sorted(OBJECTIVES)
