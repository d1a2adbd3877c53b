"""Tasks turn batches into rows: classification; detection and language follow."""

from temperance.tasks.classification import ClassificationTask, predict
from temperance.tasks.known_truth import load_with_truth

__all__ = ["ClassificationTask", "load_with_truth", "predict"]
