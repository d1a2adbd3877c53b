"""Logit standardisation around any logit method (Sun et al., CVPR 2024, arXiv 2403.01427)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor

from temperance.config import one_of
from temperance.objectives.base import LogitObjective, MethodArgs, Objective, Pair
from temperance.objectives.kd import KDArgs
from temperance.objectives.methods import LOGIT_METHODS
from temperance.objectives.weights import Weight, constant
from temperance.rows import Rows, Signal

Variant = Literal["paper", "code"]

_BY_NAME = {method.name: method for method in LOGIT_METHODS}

if TYPE_CHECKING:
    LogitMethodArgs = Any
else:
    LogitMethodArgs = one_of(*(method.args_class for method in LOGIT_METHODS))


class LSKDArgs(MethodArgs):
    """A logit method on standardised logits; the defaults are the CIFAR-100 recipe's for KD."""

    name: Literal["lskd"] = "lskd"
    method: LogitMethodArgs = KDArgs(softening=2.0, weight=constant(9.0))
    """The method: a name, or a mapping with the name and its settings, but not its label_weight.
    Its softening is in units of standard deviations. The recipe's weights are ten times (KD) or
    nine times (DKD) those of the method alone."""
    variant: Variant = "paper"
    """Divide by the standard deviation over all classes; or, as the published code, by the sample
    standard deviation + 1e-7."""
    label_weight: Weight = constant(0.1)
    """Weight of the cross-entropy with the labels, of the logits as they are."""

    @model_validator(mode="after")
    def _one_label_weight(self) -> Self:
        if self.method.label_weight != type(self.method)().label_weight:
            raise ValueError(
                "method.label_weight has no effect inside 'lskd': set label_weight beside method"
            )
        return self


class LSKD(Objective):
    """label_weight · cross-entropy + the losses of a method that is shown standardised logits.

    Both models' logits are standardised row by row, then the method's own transforms and softenings
    follow. All that the method takes from the logits it takes from these. The published code
    differs in one method: of MLKD it standardises what the instance level sees, and neither the
    batch and class level nor the confidences.
    """

    name: ClassVar[str] = "lskd"
    args_class = LSKDArgs
    args: LSKDArgs
    teacher_logits: Literal["none", "used", "scale_invariant"] = "scale_invariant"
    calibration = "not by a positive factor per row, so by no temperature"

    def __init__(self, args: LSKDArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        self.method: LogitObjective = _BY_NAME[self.args.method.name](self.args.method)
        self.needs = replace(self.method.needs, logits="dense")
        self.row_wise = self.method.row_wise
        if self.method.teacher_logits == "none":
            self.teacher_logits = self.method.teacher_logits
            self.calibration = self.method.calibration

    def adapt(self, pair: Pair) -> None:
        """Build the method."""
        self.method.adapt(pair)

    def terms(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The method's losses, by its names."""
        shown, heard = (
            replace(signal, logits=standardize(signal.logits, variant=self.args.variant))
            for signal in (student, teacher)
        )
        return self.method.terms(shown, heard, rows, progress)


def standardize(
    logits: Float[Tensor, "rows classes"], *, variant: Variant = "paper"
) -> Float[Tensor, "rows classes"]:
    """(z − mean) / standard deviation over the classes of each row (Sun et al. 2024, §3).

    Invariant to a shift and to a positive factor per row, to rounding. A row whose logits are all
    the same (to 1e-19 in float32) has no direction: it becomes zeros, with a gradient of zero. The
    gradient next to it grows like 1 / its standard deviation.

    In the paper the standard deviation σ is that of all K classes, so no value exceeds √(K − 1).
    The published code (`code`) takes σ √(K / (K − 1)) + 1e-7: a softening that is larger by that
    root, and not quite invariant for logits of 1e-3 and less.

    Examples:
        >>> standardize(torch.tensor([[1.0, 3.0], [-20.0, -10.0], [0.1, 0.1]])).tolist()
        [[-1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]]
    """
    # Relative to the highest, a constant row is exactly zero, and centring rounds less.
    relative = logits - logits.detach().amax(1, keepdim=True)
    largest = relative.detach().abs().amax(1, keepdim=True)
    is_constant = largest < torch.finfo(largest.dtype).tiny ** 0.5
    unit = torch.where(is_constant, 1.0, largest)
    # In units of the spread squares neither overflow nor underflow.
    scaled = relative / unit
    centred = scaled - scaled.mean(1, keepdim=True)
    squares = centred.square()
    if variant == "code":
        variance = squares.sum(1, keepdim=True) / (logits.shape[1] - 1)
        deviation = torch.where(is_constant, 1.0, variance).sqrt() + 1e-7 / unit
    else:
        deviation = torch.where(is_constant, 1.0, squares.mean(1, keepdim=True)).sqrt()
    return torch.where(is_constant, 0.0, centred / deviation)
