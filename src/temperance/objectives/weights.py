"""Weights of losses that may change over the training: warm-up, ramps, half a cosine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from temperance.config import Args


class WeightArgs(Args):
    """A loss weight; a bare number is one that stays, a mapping changes the method's default."""

    value: NonNegativeFloat
    """At the beginning, once warmed up."""
    warmup: float = Field(default=0.0, ge=0, le=1)
    """Share of the training over which it rises from zero, linearly."""
    end: NonNegativeFloat | None = None
    """At the end of the training; null: as at the beginning."""
    shape: Literal["linear", "cosine"] = "linear"
    """Of the way from `value` to `end`."""

    @model_serializer(mode="wrap")
    def _number_if_it_stays(self, serialise: SerializerFunctionWrapHandler) -> Any:
        return self.value if self == WeightArgs(value=self.value) else serialise(self)

    def at(self, progress: float) -> float:
        """The weight when a share `progress` (0 to 1) of the training is done.

        Examples:
            >>> WeightArgs(value=2.0, warmup=0.5).at(0.25)
            1.0
            >>> WeightArgs(value=1.0, end=0.0, shape="cosine").at(0.5)
            0.5
        """
        weight = self.value
        if self.end is not None:
            done = progress if self.shape == "linear" else (1 - math.cos(math.pi * progress)) / 2
            weight = round(self.value + done * (self.end - self.value), 12)
        return weight if progress >= self.warmup else weight * progress / self.warmup


def _from_number(value: Any) -> Any:
    return {"value": value} if isinstance(value, int | float) else value


def weights_onto_defaults(cls: type[Args], given: Any) -> Any:
    """Settings whose weights are whole: what a mapping leaves out is as in the default of `cls`.

    So `{"warmup": 0.1}` warms up to the method's own weight.
    """
    if not isinstance(given, Mapping):
        return given
    whole = dict(given)
    for name, field in cls.model_fields.items():
        if isinstance(field.default, WeightArgs) and isinstance(given.get(name), Mapping):
            whole[name] = {**dict(field.default), **given[name]}
    return whole


Weight = Annotated[WeightArgs, BeforeValidator(_from_number)]
"""The type of a setting that is a weight: a number, or a mapping as `WeightArgs`."""


def constant(value: float) -> WeightArgs:
    """A weight that stays."""
    return WeightArgs(value=value)
