"""Calibrators, modules from logits to logits: one small file per method, and the one list."""

from __future__ import annotations

from typing import Any

from temperance.calibration.calibrators.base import Calibrator
from temperance.calibration.calibrators.temperature import TemperatureArgs, TemperatureScaling
from temperance.config import Args, look_up, one_of

__all__ = [
    "CALIBRATORS",
    "Calibrator",
    "CalibratorArgs",
    "TemperatureArgs",
    "TemperatureScaling",
    "get_calibrator",
    "list_calibrators",
]

CALIBRATORS: dict[str, type[Calibrator]] = {
    calibrator.name: calibrator for calibrator in (TemperatureScaling,)
}

CalibratorArgs = one_of(*(calibrator.args_class for calibrator in CALIBRATORS.values()))


def get_calibrator(name: str | Args, **args: Any) -> Calibrator:
    """A calibrator by its name and settings, or from its settings alone; not fitted yet.

    Raises:
        UserError: if there is none of that name, or a setting does not fit.

    Examples:
        >>> get_calibrator("temperature").keeps_argmax
        True
    """
    if isinstance(name, Args):
        return CALIBRATORS[name.name](name)  # type: ignore[attr-defined]
    return look_up("calibrator", name, CALIBRATORS)(**args)


def list_calibrators() -> list[str]:
    """The names that `get_calibrator` knows."""
    return sorted(CALIBRATORS)
