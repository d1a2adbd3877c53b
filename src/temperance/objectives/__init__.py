"""Distillation losses: one small file per method; the list of them is in `methods.py`."""

from __future__ import annotations

from typing import Any

from temperance.config import Args, by_name, look_up, one_of
from temperance.objectives.base import Objective, Pair
from temperance.objectives.combined import Combined, expand_sum
from temperance.objectives.lskd import LSKD
from temperance.objectives.methods import METHODS
from temperance.objectives.pairing import attach
from temperance.objectives.weight_matched import WeightMatched

__all__ = [
    "OBJECTIVES",
    "Objective",
    "ObjectiveArgs",
    "Pair",
    "attach",
    "get_objective",
    "list_objectives",
]

_ALL: tuple[type[Objective], ...] = (*METHODS, LSKD, Combined, WeightMatched)

OBJECTIVES: dict[str, type[Objective]] = by_name("objective", _ALL)

ObjectiveArgs = one_of(
    *(objective.args_class for objective in OBJECTIVES.values()), expand=expand_sum
)


def get_objective(name: str | Args, **args: Any) -> Objective:
    """An objective by its name and settings, or from its settings alone.

    Args:
        name: as in `list_objectives`; or a sum of names such as `kd+reviewkd`.

    Raises:
        UserError: if there is none of that name, or a setting does not fit.

    Examples:
        >>> get_objective("kd", softening=2.0).args.softening
        2.0
    """
    if isinstance(name, Args):
        return OBJECTIVES[name.name](name)  # type: ignore[attr-defined]
    settings = {"name": name, **expand_sum(name), **args}
    return look_up("objective", settings["name"], OBJECTIVES)(None, **settings)


def list_objectives() -> list[str]:
    """The names that `get_objective` knows."""
    return sorted(OBJECTIVES)
