"""Calibrators, modules from logits to logits: one small file per method, and the one list.

Other packages add theirs by entry points of the group `temperance.calibrators`.
"""

from __future__ import annotations

from typing import Any

from temperance.calibration.calibrators.adaptive import AdaptiveTemperatureScaling
from temperance.calibration.calibrators.auto import AutoCalibrator
from temperance.calibration.calibrators.base import Calibrator
from temperance.calibration.calibrators.beta import BetaCalibration
from temperance.calibration.calibrators.dirichlet import DirichletCalibration
from temperance.calibration.calibrators.ensemble import EnsembleTemperatureScaling
from temperance.calibration.calibrators.histogram import HistogramBinning
from temperance.calibration.calibrators.irm import IRM
from temperance.calibration.calibrators.isotonic import IsotonicRegression
from temperance.calibration.calibrators.matrix import MatrixScaling
from temperance.calibration.calibrators.mixture import UniformMixture
from temperance.calibration.calibrators.platt import PlattScaling
from temperance.calibration.calibrators.predicted_class import PredictedClassTemperature
from temperance.calibration.calibrators.temperature import TemperatureArgs, TemperatureScaling
from temperance.calibration.calibrators.vector import VectorScaling
from temperance.config import Args, by_name, look_up, one_of, plugged_in

__all__ = [
    "CALIBRATORS",
    "IRM",
    "AdaptiveTemperatureScaling",
    "AutoCalibrator",
    "BetaCalibration",
    "Calibrator",
    "CalibratorArgs",
    "DirichletCalibration",
    "EnsembleTemperatureScaling",
    "HistogramBinning",
    "IsotonicRegression",
    "MatrixScaling",
    "PlattScaling",
    "PredictedClassTemperature",
    "TemperatureArgs",
    "TemperatureScaling",
    "UniformMixture",
    "VectorScaling",
    "get_calibrator",
    "list_calibrators",
]

_ALL: tuple[type[Calibrator], ...] = (
    TemperatureScaling,
    EnsembleTemperatureScaling,
    AdaptiveTemperatureScaling,
    PredictedClassTemperature,
    UniformMixture,
    IRM,
    VectorScaling,
    MatrixScaling,
    DirichletCalibration,
    PlattScaling,
    BetaCalibration,
    IsotonicRegression,
    HistogramBinning,
    AutoCalibrator,
    *plugged_in("calibrators", Calibrator),
)

CALIBRATORS: dict[str, type[Calibrator]] = by_name("calibrator", _ALL)

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
