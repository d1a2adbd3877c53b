"""Measure a teacher's calibration, calibrate it, distil a student, show whether it helped."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from temperance.calibration import TemperatureScaling as TemperatureScaling
    from temperance.calibration import calibration_report as calibration_report
    from temperance.calibration import get_calibrator as get_calibrator
    from temperance.calibration import list_calibrators as list_calibrators
    from temperance.calibration import load_calibrator as load_calibrator
    from temperance.data import list_datasets as list_datasets
    from temperance.data import load_dataset as load_dataset
    from temperance.errors import Interrupted as Interrupted
    from temperance.errors import UserError as UserError
    from temperance.models import list_models as list_models
    from temperance.models import load_model as load_model
    from temperance.objectives import attach as attach
    from temperance.objectives import get_objective as get_objective
    from temperance.objectives import list_objectives as list_objectives
    from temperance.rows import Rows as Rows
    from temperance.rows import Signal as Signal
    from temperance.verbs._advise import advise as advise
    from temperance.verbs._calibrate import calibrate as calibrate
    from temperance.verbs._config import default_config as default_config
    from temperance.verbs._demo import demo as demo
    from temperance.verbs._distill import distill as distill
    from temperance.verbs._measure import measure as measure
    from temperance.verbs._report import report as report
    from temperance.verbs._study import study as study
    from temperance.verbs._study import study_retry as study_retry
    from temperance.verbs._study import study_status as study_status
    from temperance.verbs._train import train as train

__version__ = "0.1.0"

# Imported when first used: `import temperance` and `temperance --help` load neither torch nor
# pydantic.
_HOME = {
    "TemperatureScaling": "calibration",
    "calibration_report": "calibration",
    "get_calibrator": "calibration",
    "list_calibrators": "calibration",
    "load_calibrator": "calibration",
    "list_datasets": "data",
    "load_dataset": "data",
    "Interrupted": "errors",
    "UserError": "errors",
    "list_models": "models",
    "load_model": "models",
    "attach": "objectives",
    "get_objective": "objectives",
    "list_objectives": "objectives",
    "Rows": "rows",
    "Signal": "rows",
    "advise": "verbs._advise",
    "calibrate": "verbs._calibrate",
    "default_config": "verbs._config",
    "demo": "verbs._demo",
    "distill": "verbs._distill",
    "measure": "verbs._measure",
    "report": "verbs._report",
    "study": "verbs._study",
    "study_retry": "verbs._study",
    "study_status": "verbs._study",
    "train": "verbs._train",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'temperance' has no attribute '{name}'")
    return getattr(import_module(f"temperance.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
