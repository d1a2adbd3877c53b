"""Temperature scaling: one number for all rows (Guo et al. 2017, §4.2)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor

from temperance.calibration.calibrators.base import Calibrator, check_positive
from temperance.calibration.fit_report import TemperatureFit
from temperance.calibration.fitting import fit_rows
from temperance.calibration.rows import CalibrationRows
from temperance.config import Args


class TemperatureArgs(Args):
    """Temperature scaling."""

    name: Literal["temperature"] = "temperature"
    lowest: PositiveFloat = 0.01
    """Bounds of T; they surround 1."""
    highest: PositiveFloat = 100.0


class TemperatureScaling(Calibrator):
    """logits / T, with one calibration temperature T > 0.

    T > 1 softens an over-confident model. The order of the classes stays; two logits that are
    neighbours in half precision may round to a tie.

    Examples:
        >>> logits = torch.tensor([[3.0, 0.0]]).expand(100, 2)
        >>> calibrator = TemperatureScaling().fit(logits, (torch.arange(100) % 4 == 0).long())
        >>> round(float(calibrator(logits)[0].softmax(0)[0]), 4)
        0.75
    """

    name = "temperature"
    args_class = TemperatureArgs
    keeps_argmax = True
    scales_rows = True
    args: TemperatureArgs
    fit_report: TemperatureFit | None
    calibration_temperature: Tensor

    def __init__(self, args: TemperatureArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        self.register_buffer(
            "calibration_temperature", torch.tensor(math.nan, dtype=torch.float64)
        )  # NaN until fitted

    @classmethod
    def from_temperature(cls, temperature: float) -> Self:
        """A calibrator with a given temperature instead of a fitted one.

        Raises:
            UserError: if it is not positive and finite.
        """
        check_positive(temperature, where="temperature")
        calibrator = cls()
        calibrator.calibration_temperature.fill_(temperature)
        return calibrator

    @property
    def fitted(self) -> bool:
        """Whether there is a temperature."""
        return not math.isnan(float(self.calibration_temperature))

    @property
    def temperature(self) -> float:
        """T > 0.

        Raises:
            UserError: if it was not fitted yet.
        """
        self._check_fitted()
        return float(self.calibration_temperature)

    def forward(self, logits: Float[Tensor, "*rows classes"]) -> Float[Tensor, "*rows classes"]:
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
        check_positive(factor, where="factor")
        calibrator = copy.deepcopy(self)
        calibrator.calibration_temperature.fill_(self.temperature * factor)
        calibrator.factor = self.factor * factor
        return calibrator

    def record(self) -> dict[str, Any]:
        """As of any calibrator, and the temperature (for readers: the buffer holds it)."""
        return {"temperature": self.temperature, **super().record()}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over the factor and the fit."""
        self.factor = record["factor"]
        self.fit_report = TemperatureFit.from_dict(record["fit"]) if record["fit"] else None

    def extra_repr(self) -> str:
        """Shown in `print(model)`."""
        return f"T={float(self.calibration_temperature):.4g}"

    def _fit_rows(self, rows: CalibrationRows) -> TemperatureFit:
        report = fit_rows(rows, bounds=(self.args.lowest, self.args.highest))
        self.calibration_temperature.fill_(report.temperature)
        return report
