"""How well a model knows its own confidence, and how to mend it: stands alone, takes logits."""

from __future__ import annotations

from typing import Any

from temperance.calibration.figures import reliability_before_after, reliability_diagram
from temperance.calibration.fitting import TemperatureFit, fit_temperature
from temperance.calibration.intervals import (
    Floor,
    Interval,
    ace_floor,
    bootstrap_intervals,
    ece_floor,
)
from temperance.calibration.metrics import (
    CalibrationError,
    ReliabilityBins,
    accuracy,
    adaptive_calibration_error,
    brier_score,
    check_logits,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_bins,
)
from temperance.calibration.report import CalibrationReport, calibration_report, describe
from temperance.calibration.scaling import Calibrator, TemperatureScaling
from temperance.calibration.storage import load_calibrator, save_calibrator
from temperance.config import look_up

__all__ = [
    "CALIBRATORS",
    "CalibrationError",
    "CalibrationReport",
    "Calibrator",
    "Floor",
    "Interval",
    "ReliabilityBins",
    "TemperatureFit",
    "TemperatureScaling",
    "accuracy",
    "ace_floor",
    "adaptive_calibration_error",
    "bootstrap_intervals",
    "brier_score",
    "calibration_report",
    "check_logits",
    "describe",
    "ece_floor",
    "expected_calibration_error",
    "fit_temperature",
    "get_calibrator",
    "list_calibrators",
    "load_calibrator",
    "negative_log_likelihood",
    "reliability_before_after",
    "reliability_bins",
    "reliability_diagram",
    "save_calibrator",
]

CALIBRATORS: dict[str, type[Calibrator]] = {
    "temperature": TemperatureScaling,
}


def get_calibrator(name: str, **args: Any) -> Calibrator:
    """A calibrator by its name, not fitted yet.

    Raises:
        UserError: if there is none of that name.

    Examples:
        >>> get_calibrator("temperature").keeps_argmax
        True
    """
    return look_up("calibrator", name, CALIBRATORS)(**args)


def list_calibrators() -> list[str]:
    """The names that `get_calibrator` knows."""
    return sorted(CALIBRATORS)
