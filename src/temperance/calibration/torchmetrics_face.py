"""Streamed calibration as a torchmetrics metric: for Lightning, MetricCollection and their like."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.calibration.streaming.every_class import CalibrationSums
from temperance.calibration.streaming.grid import keeping_dtype
from temperance.calibration.streaming.reports import StreamingReport, TopLabelReport
from temperance.calibration.streaming.top_label import TopLabelSums
from temperance.config import look_up
from temperance.errors import UserError

try:
    from torchmetrics import Metric
except ImportError:
    raise UserError(
        "needs torchmetrics", where=__name__, mend="Run: pip install 'temperance[torchmetrics]'"
    ) from None


class CalibrationMetric(Metric):
    """The numbers of a `TopLabelSums` or `CalibrationSums`, whose sums are this metric's states.

    torchmetrics adds the states up over processes when it computes. They stay float64 and int64
    whatever the precision of the model around them.

    Args:
        sums: gives the settings; it is not changed, and rows that it holds do not count.
        key: which of its report's numbers `compute` returns; a dictionary of all if None.
        settings: as of any torchmetrics metric, for instance `sync_on_compute`.

    Raises:
        UserError: if the report has no such number.

    Examples:
        >>> metric = CalibrationMetric(TopLabelSums(), key="ece")
        >>> logits = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
        >>> metric.update(logits, torch.tensor([0, 1]))
        >>> round(float(metric.compute()), 3)
        0.4
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    _sums: TopLabelSums

    def __init__(self, sums: TopLabelSums, key: str | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        if key is not None:
            look_up("number", key, dict.fromkeys(_numbers_of(sums)))
        self.key = key
        sums = copy.deepcopy(sums)
        sums.reset()
        # hidden from torch, which would store its buffers beside the states that stand for them
        object.__setattr__(self, "_sums", sums)
        for name, buffer in sums.named_buffers(recurse=False):
            self.add_state(name, buffer, dist_reduce_fx="sum")

    def update(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None = None,
    ) -> None:
        """Add the rows of a batch; if they are refused, nothing changes.

        Raises:
            UserError: see `update` of the sums.
        """
        self._holding_states().update(logits, targets, weights)

    def compute(self) -> Float[Tensor, ""] | dict[str, Float[Tensor, ""]]:
        """One number or all, float64; ACE is NaN if some rows had weights.

        Raises:
            UserError: if there was no row.
        """
        report = self._holding_states().compute()
        numbers = {
            name: torch.tensor(
                math.nan if getattr(report, name) is None else getattr(report, name),
                dtype=torch.float64,
                device=self.device,
            )
            for name in _numbers_of(self._sums)
        }
        return numbers if self.key is None else numbers[self.key]

    def _holding_states(self) -> TopLabelSums:
        """The sums, with this metric's states as their buffers."""
        for name in self._defaults:
            setattr(self._sums, name, getattr(self, name))
        return self._sums.to(self.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Any = "") -> Self:
        super()._apply(keeping_dtype(fn), exclude_state)
        return self


def _numbers_of(sums: TopLabelSums) -> list[str]:
    """The fields of the report, without the bins."""
    report = StreamingReport if isinstance(sums, CalibrationSums) else TopLabelReport
    return [field.name for field in fields(report) if field.name != "bins"]
