"""What every calibrator has in common: fit, apply, temper, remember."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from temperance.calibration.fit_report import FEW_WRONG, CrossFit, FitReport, Status
from temperance.calibration.fitting import look_at
from temperance.calibration.metrics.bins import ECE_BINS, equal_width
from temperance.calibration.metrics.checks import check_groups, check_logits
from temperance.calibration.metrics.scores import score_rows, weighted_mean
from temperance.calibration.rows import CalibrationRows
from temperance.config import Args, load_config
from temperance.errors import UserError


class Solved(NamedTuple):
    """How a calibrator's own optimisation ended."""

    iterations: int = 0
    status: Status = "converged"
    notes: Mapping[str, Any] = {}


class Calibrator(nn.Module):
    """A map from logits to calibrated logits, fitted on held-out rows.

    A subclass declares its settings, registers its fitted arrays as buffers (empty until fitted),
    and defines `solve` and `calibrate`. Fits are in float64; `forward` keeps the dtype of its
    logits.

    Args:
        args: the settings; or their values as keyword arguments.
    """

    name: ClassVar[str]
    args_class: ClassVar[type[Args]]
    keeps_argmax: bool
    """Whether the predicted class, and so the accuracy, stays what it was."""
    scales_rows: ClassVar[bool] = False
    """Whether it does nothing but divide each row's logits by a positive number."""
    handles: ClassVar[frozenset[Status]] = frozenset()
    """Degenerate statuses that this calibrator is made for."""

    def __init__(self, args: Args | None = None, **values: Any) -> None:
        super().__init__()
        self.args = args if args is not None else load_config(self.args_class, values=values)
        self.fit_report: FitReport | None = None
        self.factor = 1.0
        """By how much the calibrated logits are divided on top, see `tempered`."""

    # What a subclass defines.

    def solve(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None,
    ) -> Solved:
        """Fit the buffers on rows that are checked, not degenerate, and of positive weight."""
        raise NotImplementedError

    def calibrate(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """Calibrated logits of the same dtype and device; −inf stays −inf."""
        raise NotImplementedError

    # What they share.

    @property
    def fitted(self) -> bool:
        """Whether there is anything to apply."""
        return self.fit_report is not None

    def fit(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None = None,
        *,
        groups: Int[Tensor, " rows"] | None = None,
        cross_fit: int | None = None,
        seed: int = 0,
    ) -> Self:
        """Fit on the rows of the calibration split; `fit_report` says whether that is usable.

        On degenerate rows (`flat`, `uninformative`, `separable`) the calibrator becomes the
        identity, and its report says `usable=False`.

        Args:
            weights: of the rows, relative.
            groups: which rows are not independent (image, document): folds keep them together,
                standard errors are cluster-robust.
            cross_fit: also report NLL and ECE over so many folds, each calibrated by the fit of
                the others.
            seed: of the folds.

        Raises:
            UserError: see `check_logits` and `check_groups`; if all targets are the same class;
                for fewer than 2 folds, or more than rows or groups.
        """
        logits = logits.detach()
        check_logits(logits, targets, weights)
        check_groups(groups, len(logits))
        rows = CalibrationRows.of_positive_weight(logits, targets, weights, groups)
        rows.check_classes()
        fold_of = None if cross_fit is None else rows.folds(cross_fit, seed)
        self.factor = 1.0
        self.fit_report = self._fit_rows(rows)
        if fold_of is not None:
            held_out = self._cross_fit(rows, fold_of)
            self.fit_report = replace(self.fit_report, cross_fit=held_out)
        return self

    def fit_batches(self, batches: Iterable[Sequence[Tensor]], **settings: Any) -> Self:
        """Fit on all rows of a loader that yields `(logits, targets)` or with weights.

        Args:
            batches: for instance `((model(images), labels) for images, labels in loader)`, with
                the model in eval mode and without gradients; what they yield is kept in memory.
            settings: as in `fit`.

        Raises:
            UserError: as `fit`; if there is no batch.
        """
        columns = list(zip(*((part.detach() for part in batch) for batch in batches), strict=True))
        if not columns:
            raise UserError("yield nothing", where="batches", mend="Give at least one batch")
        return self.fit(*(torch.cat(column) for column in columns), **settings)

    def forward(self, logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
        """Calibrated logits in the dtype of the logits; any leading axes will do.

        Raises:
            UserError: if it was not fitted yet, or for another number of classes.
        """
        self._check_fitted()
        calibrated = logits
        if self.fit_report is not None and self.fit_report.usable:
            calibrated = self.calibrate(logits.reshape(-1, logits.shape[-1])).view_as(logits)
        return calibrated if self.factor == 1 else calibrated / self.factor

    def tempered(self, factor: float) -> Self:
        """A copy whose logits are divided by `factor` on top of the calibration.

        Above 1 the teacher becomes under-confident on purpose.

        Raises:
            UserError: if the factor is not positive and finite, or nothing was fitted yet.
        """
        check_positive(factor, where="factor")
        self._check_fitted()
        calibrator = copy.deepcopy(self)
        calibrator.factor = self.factor * factor
        return calibrator

    def record(self) -> dict[str, Any]:
        """What the tensors do not hold, for JSON: settings, factor, fit.

        Raises:
            UserError: if nothing was fitted yet.
        """
        self._check_fitted()
        return {
            "settings": self.args.model_dump(mode="json"),
            "factor": self.factor,
            "fit": self.fit_report.to_dict() if self.fit_report else None,
        }

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over the factor and the fit that `record` gave."""
        self.factor = record["factor"]
        self.fit_report = FitReport.from_dict(record["fit"]) if record["fit"] else None

    def _fit_rows(self, rows: CalibrationRows) -> FitReport:
        logits, targets, weights, _ = rows
        before = score_rows(logits, targets)
        wrong = int((before.correct == 0).sum())
        status = look_at(rows).degenerate_status(weights)
        usable = status is None or status in self.handles
        solved = self.solve(logits, targets, weights) if usable else Solved()
        after = score_rows(self.calibrate(logits), targets) if usable else before

        def ece(confidence: Tensor, correct: Tensor) -> float:
            return equal_width(confidence, correct, weights, n_bins=ECE_BINS).error.total

        return FitReport(
            status=status or solved.status,
            usable=usable,
            fragile=usable and wrong < FEW_WRONG,
            iterations=solved.iterations,
            n=len(logits),
            wrong=wrong,
            nll_before=weighted_mean(before.nll, weights),
            nll_after=weighted_mean(after.nll, weights),
            ece_before=ece(before.confidence, before.correct),
            ece_after=ece(after.confidence, after.correct),
            notes=solved.notes,
        )

    def _cross_fit(self, rows: CalibrationRows, fold_of: Int[Tensor, " rows"]) -> CrossFit:
        """NLL and ECE of every row under a calibrator of the other folds."""
        nll = torch.empty(len(rows.logits), dtype=torch.float64, device=rows.logits.device)
        confidence, correct = torch.empty_like(nll), torch.empty_like(nll)
        folds = int(fold_of.max()) + 1
        for fold in range(folds):
            held_out = fold_of == fold
            other = type(self)(self.args)
            other.fit_report = other._fit_rows(rows.take(~held_out))
            scores = score_rows(other(rows.logits[held_out]), rows.targets[held_out])
            nll[held_out] = scores.nll
            confidence[held_out], correct[held_out] = scores.confidence, scores.correct
        ece = equal_width(confidence, correct, rows.weights, n_bins=ECE_BINS).error.total
        return CrossFit(folds, weighted_mean(nll, rows.weights), ece)

    def _check_fitted(self) -> None:
        if not self.fitted:
            raise UserError(
                "is not fitted", where=type(self).__name__, mend="Call fit, or load a fitted one"
            )

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Buffers take the shape of what is loaded: how many classes there are is fitted, too."""
        for name, buffer in self._buffers.items():
            stored = state_dict.get(prefix + name)
            if isinstance(stored, Tensor) and buffer is not None and buffer.shape != stored.shape:
                self._buffers[name] = torch.empty_like(stored, device=buffer.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def check_positive(value: float, *, where: str) -> None:
    """Refuse what is not a positive, finite number."""
    if not 0 < value < math.inf:
        raise UserError(f"{value} is not a positive number", where=where)
