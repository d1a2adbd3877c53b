"""A dataset with the truth that its settings ask for: a model says it, and labels are drawn."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.data import DataArgs, Dataset, ImageSet, load_dataset
from temperance.models import load_model, weights_of
from temperance.tasks.classification import predict


def load_with_truth(args: DataArgs) -> Dataset:
    """The dataset that `args` names; its labels drawn from `args.truth` if that names a model.

    The model is asked on the CPU, so that the labels are the same wherever it is trained.

    Raises:
        UserError: as `load_dataset`; if the model is not there or has other classes.
    """
    path = args.truth
    if path is None:
        return load_dataset(args)

    def said(images: ImageSet) -> Float[Tensor, "rows classes"]:
        model = load_model(weights_of(path), classes=len(images.classes))
        return predict(model, images, device=torch.device("cpu"))[0]

    return load_dataset(args, truth=said)
