"""A control: the raw teacher, pulling as hard as the calibrated one would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.config import Args, one_of
from temperance.errors import UserError
from temperance.objectives.base import Objective, Pair, check_batch
from temperance.objectives.combined import Combined, expand_sum
from temperance.objectives.kd import KDArgs
from temperance.objectives.lskd import LSKD
from temperance.objectives.methods import BY_NAME
from temperance.rows import Rows, Signal

_BY_NAME: dict[str, type[Objective]] = {
    **BY_NAME,
    **{wrapper.name: wrapper for wrapper in (LSKD, Combined)},
}

if TYPE_CHECKING:
    MatchedArgs = Any
else:
    MatchedArgs = one_of(*(entry.args_class for entry in _BY_NAME.values()), expand=expand_sum)


class WeightMatchedArgs(Args):
    """An objective with a raw teacher, at the strength that a calibrated one would have."""

    name: Literal["weight-matched"] = "weight-matched"
    objective: MatchedArgs = KDArgs()
    """The objective: a name or a sum of names, or a mapping with the name and its settings."""


class WeightMatched(Objective):
    """The objective's losses of the teacher's raw logits, times ‖∂L/∂z‖ calibrated / raw.

    Calibrating changes the target and, with it, how hard the teacher pulls against the labels. Here
    the target stays raw and only the pull is the calibrated teacher's: z are the student's logits,
    L the batch's mean of all losses but `labels`, and the factor is a constant to the gradient. It
    is of the batch at hand: of each part and each process its own.

    A signal without `raw_logits` is of a raw teacher already: then this is the objective itself.
    """

    name: ClassVar[str] = "weight-matched"
    args_class = WeightMatchedArgs
    args: WeightMatchedArgs
    row_wise = False
    teacher_logits = "used"
    calibration = "in its weight alone: the target stays the raw teacher's"

    def __init__(self, args: WeightMatchedArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        self.objective = _BY_NAME[self.args.objective.name](self.args.objective)
        self.needs = self.objective.needs
        self.caution = self.objective.caution
        why_not = None
        if self.objective.teacher_logits != "used":
            why_not = f"does not hear calibration ({self.objective.calibration})"
        elif self.needs.features != "none":
            why_not = "compares activations too"
        if why_not:
            raise UserError(
                f"matches what calibrating changes, and '{self.args.objective.name}' {why_not}",
                where=f"objective '{self.name}'",
                mend="Give it an objective of logits, such as 'kd'",
            )

    def adapt(self, pair: Pair) -> None:
        """Build the objective."""
        self.objective.adapt(pair)

    def forward(
        self, student: Signal, teacher: Signal | None, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The objective's losses, by its names.

        Raises:
            UserError: if signals and rows are not what the objective needs.
        """
        check_batch(self, student, teacher, rows)
        if teacher is None or teacher.raw_logits is None:
            return self._losses(student, teacher, rows, progress)
        raw = Signal(teacher.raw_logits)
        factor = matching_factor(
            self._pull(student, teacher, rows, progress), self._pull(student, raw, rows, progress)
        )
        return {
            name: loss if name == "labels" else factor * loss
            for name, loss in self._losses(student, raw, rows, progress).items()
        }

    def _losses(
        self, student: Signal, teacher: Signal | None, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.objective(student, teacher, rows, progress)
        return losses

    @torch.enable_grad()
    def _pull(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> Float[Tensor, "rows classes"]:
        """Gradient of the batch's mean loss, without the labels', by the student's logits."""
        logits = student.logits.detach()
        # In half precision small gradients would vanish.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).requires_grad_()
        losses = self._losses(Signal(logits), teacher, rows, progress)
        means = [_mean(loss, rows) for name, loss in losses.items() if name != "labels"]
        (gradient,) = torch.autograd.grad(torch.stack(means).sum(), logits)
        return gradient


def _mean(loss: Tensor, rows: Rows) -> Tensor:
    if loss.ndim == 0 or rows.weights is None:
        return loss.mean()
    return (rows.weights * loss).sum() / rows.weights.sum()


def matching_factor(
    wanted: Float[Tensor, "rows classes"], given: Float[Tensor, "rows classes"]
) -> Float[Tensor, ""]:
    """‖wanted‖ / ‖given‖, both over the whole batch; 1 where there is nothing to scale.

    Examples:
        >>> float(matching_factor(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])))
        2.5
        >>> float(matching_factor(torch.ones(1, 2), torch.zeros(1, 2)))
        1.0
    """
    norm = torch.linalg.vector_norm(given)
    return torch.where(norm > 0, torch.linalg.vector_norm(wanted) / norm, 1.0)
