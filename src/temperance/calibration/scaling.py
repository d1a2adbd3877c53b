"""Calibrators are modules from logits to logits; temperature scaling is the first."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from temperance.calibration.fitting import TemperatureFit, fit_temperature
from temperance.calibration.metrics import check_logits
from temperance.errors import UserError


class Calibrator(nn.Module):
    """A map from logits to calibrated logits, fitted on held-out rows.

    What was fitted lives in buffers; `record` and `restore` carry the rest to and from JSON.
    """

    name: ClassVar[str]
    keeps_argmax: ClassVar[bool]
    """Whether the predicted class, and so the accuracy, stays what it was."""

    def fit(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None = None,
    ) -> Self:
        """Fit on the rows of the calibration split, which the model was not trained on."""
        raise NotImplementedError

    def forward(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """Calibrated logits."""
        raise NotImplementedError

    def record(self) -> dict[str, Any]:
        """What is known about the fit, for JSON."""
        raise NotImplementedError

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over what `record` gave."""
        raise NotImplementedError


class TemperatureScaling(Calibrator):
    """logits / T, with one calibration temperature T > 0 (Guo et al. 2017, §4.2).

    T > 1 softens an over-confident model. The order of the classes stays; two logits that are
    neighbours in half precision may round to a tie.

    Examples:
        >>> logits = torch.tensor([[3.0, 0.0]]).expand(100, 2)
        >>> calibrator = TemperatureScaling().fit(logits, (torch.arange(100) % 4 == 0).long())
        >>> round(float(calibrator(logits)[0].softmax(0)[0]), 4)
        0.75
    """

    name = "temperature"
    keeps_argmax = True
    calibration_temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(
            "calibration_temperature", torch.tensor(math.nan, dtype=torch.float64)
        )  # NaN until fitted
        self.fit_report: TemperatureFit | None = None
        self.factor = 1.0
        """By how much the temperature was raised after the fit, see `tempered`."""

    @classmethod
    def from_temperature(cls, temperature: float) -> Self:
        """A calibrator with a given temperature instead of a fitted one.

        Raises:
            UserError: if it is not positive and finite.
        """
        _check_positive(temperature, where="temperature")
        calibrator = cls()
        calibrator.calibration_temperature.fill_(temperature)
        return calibrator

    @property
    def temperature(self) -> float:
        """T > 0.

        Raises:
            UserError: if it was not fitted yet.
        """
        temperature = float(self.calibration_temperature)
        if math.isnan(temperature):
            raise UserError(
                "the temperature is not fitted",
                where="TemperatureScaling",
                mend="Call fit, or build it by from_temperature",
            )
        return temperature

    def fit(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None = None,
    ) -> Self:
        """Fit T on the calibration split; see `fit_report` for whether the fit is usable.

        Raises:
            UserError: see `check_logits`; if all targets are the same class.
        """
        check_logits(logits, targets, weights)
        if bool((targets == targets[0]).all()):
            raise UserError(
                f"the calibration split holds only one class ({int(targets[0])})",
                where="targets",
                mend="Draw it stratified by class, or make it larger",
            )
        self.fit_report = fit_temperature(logits, targets, weights)
        self.factor = 1.0
        self.calibration_temperature.fill_(self.fit_report.temperature)
        return self

    def forward(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """logits / T in the dtype of the logits; any leading axes will do.

        Raises:
            UserError: if T was not fitted yet.
        """
        return logits / self.temperature

    def tempered(self, factor: float) -> Self:
        """A copy with `factor` times the temperature; above 1 it is under-confident on purpose.

        Raises:
            UserError: if the factor is not positive and finite, or T was not fitted yet.
        """
        _check_positive(factor, where="factor")
        calibrator = copy.deepcopy(self)
        calibrator.calibration_temperature.fill_(self.temperature * factor)
        calibrator.factor = self.factor * factor
        return calibrator

    def record(self) -> dict[str, Any]:
        """The temperature (for readers: the buffer holds it), the factor in it, and the fit."""
        return {
            "temperature": self.temperature,
            "factor": self.factor,
            "fit": self.fit_report.to_dict() if self.fit_report else None,
        }

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over the factor and the fit."""
        self.factor = record["factor"]
        self.fit_report = TemperatureFit(**record["fit"]) if record["fit"] else None

    def extra_repr(self) -> str:
        """Shown in `print(model)`."""
        return f"T={float(self.calibration_temperature):.4g}"


def _check_positive(value: float, *, where: str) -> None:
    if not 0 < value < math.inf:
        raise UserError(f"{value} is not a positive number", where=where)
