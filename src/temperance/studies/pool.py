"""The teachers and students of a study: one base, and what sets each of them apart."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import Field, model_validator

from temperance.config import Args, load_config, merge, parse_override
from temperance.objectives.labels import LabelsArgs
from temperance.training import Recipe

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$"  # fit for a folder on every system


class TeacherArgs(Recipe):
    """A teacher: trained by this recipe on labels alone, or given."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"name", "family"})

    name: str = Field(default="teacher", pattern=NAME)
    """What it is called; unique in the pool."""
    family: str | None = None
    """Teachers of one family count as alike in every statistic; null: the states of one training
    (and, for what is said across teachers, those of one recipe)."""
    weights: Path | None = None
    """A trained model: the folder of a run, or of the weights. Then nothing is trained here, and
    the rest of the recipe means nothing."""
    objective: LabelsArgs = LabelsArgs()


class StudentArgs(Recipe):
    """A student's recipe."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"name"})

    name: str = Field(default="student", pattern=NAME)
    """What it is called; unique in the study."""


Entry = TypeVar("Entry", TeacherArgs, StudentArgs)


class PoolArgs(Args):
    """Variants of a base: a list of them, crossed with factors."""

    variants: tuple[dict[str, Any], ...] = ()
    """Settings on top of the base, a mapping for each, with a `name`; empty: the base alone."""
    factors: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Keys with several values, such as `training.epochs: [5, 20, 60]`: every variant is crossed
    with all their combinations."""

    @model_validator(mode="after")
    def _values_for_every_factor(self) -> Self:
        empty = [key for key, values in self.factors.items() if not values]
        if empty:
            raise ValueError(f"the factor '{empty[0]}' has no values")
        return self


def resolve_pool(base: Entry, pool: PoolArgs) -> tuple[Entry, ...]:
    """The base's variants, each with every combination of the factors, in their order.

    Names: a variant's own, else the base's with a number, then the values of its factors.

    Raises:
        UserError: if a setting does not exist or does not fit.
        ValueError: if two have the same name.

    Examples:
        >>> pool = PoolArgs(factors={"training.epochs": (2, 8), "model.width": (4,)})
        >>> [entry.name for entry in resolve_pool(StudentArgs(), pool)]
        ['student-epochs2-width4', 'student-epochs8-width4']
    """
    settings = base.model_dump()
    combinations = [
        list(zip(pool.factors, values, strict=True))
        for values in itertools.product(*pool.factors.values())
    ]
    entries = []
    for number, variant in enumerate(pool.variants or ({},), start=1):
        default = base.name if len(pool.variants) < 2 else f"{base.name}{number}"
        for combination in combinations:
            entry = merge(settings, {"name": default, **variant})
            for key, value in combination:
                entry = merge(entry, _nested(key, value))
                entry["name"] += f"-{key.rpartition('.')[2]}{_short(value)}"
            entries.append(load_config(type(base), entry))
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two are called '{twice[0]}': give each variant a name of its own")
    return tuple(entries)


def _nested(key: str, value: Any) -> Mapping[str, Any]:
    """What `key=value` would say on the command line, the value being there already."""
    nested = parse_override(f"{key}=null")
    inner = nested
    *parents, last = key.split(".")
    for part in parents:
        inner = inner[part]
    inner[last] = value
    return nested


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("name", "")
    return "".join(c for c in f"{value}" if c.isalnum() or c in "_.+-")


@dataclass(frozen=True)
class PlannedTraining:
    """One training of a teacher, or one given teacher; several teachers if it has snapshots."""

    recipe: TeacherArgs
    replicate: int

    @property
    def name(self) -> str:
        """Unique in the study."""
        return f"r{self.replicate}-{self.recipe.name}"


@dataclass(frozen=True)
class PlannedTeacher:
    """One teacher: a training's last state, or an earlier one."""

    training: PlannedTraining
    family: str
    epoch: int | None = None
    """Of the snapshot; None for the last state."""

    @property
    def name(self) -> str:
        """Unique in the study."""
        return self.training.name + ("" if self.epoch is None else f"@{self.epoch}")


def planned_teachers(entries: Sequence[TeacherArgs], replicates: int) -> list[PlannedTeacher]:
    """Every teacher of the study, replicate by replicate; a training's snapshots come first."""
    teachers = []
    for replicate in range(replicates):
        for entry in entries:
            training = PlannedTraining(entry, replicate)
            family = entry.family or training.name
            epochs = (*sorted(entry.training.snapshots), None)
            teachers += [PlannedTeacher(training, family, epoch) for epoch in epochs]
    return teachers
