"""`list`: the names that configs know."""

from __future__ import annotations

from temperance.calibration import list_calibrators
from temperance.data import list_datasets
from temperance.models import list_models
from temperance.objectives import list_objectives
from temperance.objectives.transforms import list_transforms
from temperance.studies.arms import list_arms

KINDS = {
    "datasets": list_datasets,
    "models": list_models,
    "calibrators": list_calibrators,
    "objectives": list_objectives,
    "transforms": list_transforms,
    "arms": list_arms,
}
