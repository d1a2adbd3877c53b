"""The rows that a calibrator is fitted on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.errors import UserError


class CalibrationRows(NamedTuple):
    """Rows to fit on, checked."""

    logits: Float[Tensor, "rows classes"]
    targets: Int[Tensor, " rows"]
    weights: Float[Tensor, " rows"] | None = None
    groups: Int[Tensor, " rows"] | None = None

    @classmethod
    def of_positive_weight(
        cls, logits: Tensor, targets: Tensor, weights: Tensor | None, groups: Tensor | None
    ) -> CalibrationRows:
        """Without the rows that weigh nothing."""
        rows = cls(logits, targets, weights, groups)
        if weights is None or not bool((weights == 0).any()):
            return rows
        return rows.take(weights > 0)

    def take(self, kept: Tensor) -> CalibrationRows:
        """These rows only."""
        return CalibrationRows(
            self.logits[kept],
            self.targets[kept],
            None if self.weights is None else self.weights[kept],
            None if self.groups is None else self.groups[kept],
        )

    def check_classes(self) -> None:
        """Refuse rows of one class only."""
        if bool((self.targets == self.targets[0]).all()):
            raise UserError(
                f"the calibration split holds only one class ({int(self.targets[0])})",
                where="targets",
                mend="Draw it stratified by class, or make it larger",
            )

    def folds(self, folds: int, seed: int) -> Int[Tensor, " rows"]:
        """Which fold each row belongs to: of equal sizes, at random, groups kept together."""
        member = None
        if self.groups is not None:
            _, member = torch.unique(self.groups, return_inverse=True)
        units = len(self.targets) if member is None else int(member.max()) + 1
        if not 2 <= folds <= units:
            raise UserError(
                f"{folds} folds of {units} {'rows' if member is None else 'groups'}",
                where="cross_fit",
                mend=f"Choose 2 to {units}",
            )
        order = torch.randperm(units, generator=torch.Generator().manual_seed(seed))
        fold_of = torch.empty(units, dtype=torch.int64)
        fold_of[order] = torch.arange(units) % folds
        fold_of = fold_of.to(self.logits.device)
        return fold_of if member is None else fold_of[member]
