"""Tasks turn batches into rows: classification; detection and language follow."""

from temperance.tasks.classification import ClassificationTask, predict

__all__ = ["ClassificationTask", "predict"]
