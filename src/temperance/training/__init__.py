"""Training: the engine, the loop, one run from images to a measured model, and calibrators."""

from temperance.training.calibrating import (
    CalibrationArgs,
    caution,
    fit_held_out,
    out_of_fold_logits,
    usable,
    without_fold,
)
from temperance.training.engine import Engine, EngineArgs
from temperance.training.loop import TrainingArgs, train_student
from temperance.training.optimisation import AdamWArgs, CosineArgs, SGDArgs, StepArgs
from temperance.training.student import Recipe, fresh_student, produce_student

__all__ = [
    "AdamWArgs",
    "CalibrationArgs",
    "CosineArgs",
    "Engine",
    "EngineArgs",
    "Recipe",
    "SGDArgs",
    "StepArgs",
    "TrainingArgs",
    "caution",
    "fit_held_out",
    "fresh_student",
    "out_of_fold_logits",
    "produce_student",
    "train_student",
    "usable",
    "without_fold",
]
