"""Images, their splits, their views and their batches; files of logits."""

from temperance.data.catalog import DataArgs, dataset_facts, list_datasets, load_dataset
from temperance.data.hashing import hash64, uniform
from temperance.data.images import Dataset, DatasetFacts, ImageSet
from temperance.data.known_truth import with_known_truth
from temperance.data.loaders import (
    Batch,
    epoch_order,
    evaluation_batches,
    steps_per_epoch,
    training_batches,
)
from temperance.data.logits import load_logits
from temperance.data.splits import SplitArgs, Splits, folds, make_splits, stratified_subset
from temperance.data.views import ViewParameters, ViewSpec, apply_views, draw, view_of_epoch

__all__ = [
    "Batch",
    "DataArgs",
    "Dataset",
    "DatasetFacts",
    "ImageSet",
    "SplitArgs",
    "Splits",
    "ViewParameters",
    "ViewSpec",
    "apply_views",
    "dataset_facts",
    "draw",
    "epoch_order",
    "evaluation_batches",
    "folds",
    "hash64",
    "list_datasets",
    "load_dataset",
    "load_logits",
    "make_splits",
    "steps_per_epoch",
    "stratified_subset",
    "training_batches",
    "uniform",
    "view_of_epoch",
    "with_known_truth",
]
