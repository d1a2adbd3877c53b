"""Sums of objectives, such as a feature method with a logit method beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from temperance.config import Args, one_of
from temperance.objectives.base import Objective, Pair
from temperance.objectives.lskd import LSKD
from temperance.objectives.methods import BY_NAME
from temperance.rows import Needs, Rows, Signal

_BY_NAME: dict[str, type[Objective]] = {**BY_NAME, LSKD.name: LSKD}

if TYPE_CHECKING:
    PartArgs = Any
else:
    PartArgs = one_of(*(method.args_class for method in _BY_NAME.values()))


class CombinedArgs(Args):
    """A sum of objectives; `kd+reviewkd` is short for two with their defaults."""

    name: Literal["combined"] = "combined"
    parts: tuple[PartArgs, ...] = Field(min_length=1)
    """Each a name, or a mapping with the name and its settings. Everything is summed, the label
    terms too: set label_weight to 0 in all but one to count the labels once."""


class Combined(Objective):
    """The sum of its parts, loss by loss; losses of the same name are added.

    Examples:
        >>> from temperance.objectives import get_objective
        >>> both = get_objective("combined", parts=["kd", {"name": "labels", "label_weight": 0.5}])
        >>> both.needs.logits, both.needs.targets, both.row_wise
        ('sparse', 'required', True)
    """

    name: ClassVar[str] = "combined"
    args_class = CombinedArgs
    args: CombinedArgs

    def __init__(self, args: CombinedArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        self.parts = nn.ModuleList(_BY_NAME[part.name](part) for part in self.args.parts)
        parts = self._parts
        self.needs = _all_needs([part.needs for part in parts])
        self.row_wise = all(part.row_wise for part in parts)
        self.calibration = "; ".join(f"{part.name}: {part.calibration}" for part in parts)
        self.caution = "; ".join(part.caution for part in parts if part.caution)
        self.teacher_logits = _strongest([part.teacher_logits for part in parts])

    @property
    def _parts(self) -> list[Objective]:
        return cast(list[Objective], list(self.parts))

    def adapt(self, pair: Pair) -> None:
        """Build every part."""
        for part in self._parts:
            part.adapt(pair)
        self.student_taps = tuple(tap for part in self._parts for tap in part.student_taps)
        self.teacher_taps = tuple(tap for part in self._parts for tap in part.teacher_taps)

    def forward(
        self, student: Signal, teacher: Signal | None, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The losses of all parts.

        Raises:
            UserError: if signals and rows are not what a part needs.
        """
        losses: dict[str, Tensor] = {}
        for part in self._parts:
            for name, loss in part(student, teacher, rows, progress).items():
                losses[name] = losses[name] + loss if name in losses else loss
        return losses


def expand_sum(name: str) -> dict[str, Any]:
    """The settings that `kd+reviewkd` is short for; nothing if the name is no sum.

    Examples:
        >>> expand_sum("kd + labels")
        {'name': 'combined', 'parts': ['kd', 'labels']}
    """
    parts = [part.strip() for part in name.split("+")]
    return {"name": "combined", "parts": parts} if len(parts) > 1 else {}


def _all_needs(needs: Sequence[Needs]) -> Needs:
    """What all of them need together."""
    logits: Literal["none", "dense", "sparse"] = "none"
    if any(one.logits != "none" for one in needs):
        logits = "dense" if any(one.logits == "dense" for one in needs) else "sparse"
    features = {one.features for one in needs if one.features != "none"}
    return Needs(
        logits=logits,
        targets="required" if any(one.targets == "required" for one in needs) else "optional",
        soft_targets=all(one.soft_targets for one in needs),
        features=features.pop() if len(features) == 1 else "any" if features else "none",
        views=max(one.views for one in needs),
        ids=any(one.ids for one in needs),
    )


def _strongest(uses: Sequence[str]) -> Literal["none", "used", "scale_invariant"]:
    return "used" if "used" in uses else "scale_invariant" if "scale_invariant" in uses else "none"
