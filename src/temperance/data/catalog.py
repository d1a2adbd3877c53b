"""The datasets by name, and which rows of them are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt, field_validator
from torch import Tensor

from temperance.config import Args, look_up
from temperance.data.images import Dataset, DatasetFacts, ImageSet
from temperance.data.known_truth import with_known_truth
from temperance.data.parquet import read_parquet
from temperance.data.parquet_facts import parquet_facts
from temperance.data.splits import check_subset, stratified_subset
from temperance.data.vision import read_cifar, read_fashion_mnist
from temperance.errors import UserError


class DataArgs(Args):
    """Which images."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"path", "download"})

    name: str = "digits"
    """digits, fashion-mnist, cifar10, cifar100, or parquet for images of your own."""
    path: Path | None = None
    """Folder or file where the data lie; where downloads go."""
    download: bool = True
    """Whether what is not there may be downloaded."""
    image_column: str = "image"
    """Of a Parquet file: encoded JPEG or PNG, as binary or as a struct with a field `bytes`."""
    label_column: str = "label"
    """Of a Parquet file: integer class indices."""
    subset: PositiveInt | None = None
    """Use this many training rows, stratified; null: all."""
    subset_seed: int = 0
    """Decides which rows `subset` and `test_subset` keep."""
    test_subset: PositiveInt | None = None
    """Use this many rows of the dataset's own test set, stratified; null: all."""
    truth: Path | None = None
    """A model, as a run's folder or its own: every label is drawn anew from what it says about the
    image, so that the probability of each class is known. null: the labels as they are."""
    truth_softening: PositiveFloat = 1.0
    """Divides that model's logits; above 1 the labels become noisier."""
    truth_seed: int = 0
    """Decides which labels are drawn."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        look_up("dataset", name, LOADERS)
        return name


def list_datasets() -> list[str]:
    """The names that `data.name` knows."""
    return sorted(LOADERS)


def load_dataset(
    args: DataArgs,
    *,
    truth: Callable[[ImageSet], Float[Tensor, "rows classes"]] | None = None,
) -> Dataset:
    """The dataset that `args` names, cut to the rows that they ask for.

    Args:
        truth: gives the logits of the model that `args.truth` names; needed if it names one.

    Raises:
        UserError: if it is not there and cannot be downloaded, a file or an image is damaged,
            images differ in size, a label is not one of the classes, or a subset asks for more
            rows than there are.
        ValueError: if `args.truth` names a model and `truth` is not given.

    Examples:
        >>> len(load_dataset(DataArgs(name="digits", subset=100)).train)
        100
    """
    if args.truth is not None and truth is None:
        raise ValueError(f"labels are to be drawn from {args.truth}: give its logits as `truth`")
    train, test = LOADERS[args.name](args)
    _check_subset_of_test(args, has_test=test is not None)
    if test is not None:
        if test.images.shape[1:] != train.images.shape[1:]:
            raise UserError(
                f"test images are {tuple(test.images.shape[1:])}, training images"
                f" {tuple(train.images.shape[1:])} (channels, height, width)",
                where=args.path or args.name,
                mend="Make them all of one size",
            )
        # Test ids follow those of train, so that an id names one image of the dataset.
        test = replace(test, ids=test.ids + len(train))
        if args.test_subset:
            test = stratified_subset(test, args.test_subset, args.subset_seed)
    if args.subset:
        train = stratified_subset(train, args.subset, args.subset_seed)
    dataset = Dataset(args.name, train, test)
    if truth is None or args.truth is None:
        return dataset
    return with_known_truth(dataset, truth, softening=args.truth_softening, seed=args.truth_seed)


def dataset_facts(args: DataArgs) -> DatasetFacts:
    """The facts, without the images: nothing is downloaded, and of a Parquet file one is decoded.

    Raises:
        UserError: if a Parquet file is missing or damaged, or a subset asks for more rows than
            there are.

    Examples:
        >>> dataset_facts(DataArgs(name="cifar100", subset=10_000))
        DatasetFacts(train=10000, test=10000, channels=3, height=32, width=32, classes=100)
    """
    whole = FACTS[args.name](args)
    _check_subset_of_test(args, has_test=whole.test is not None)
    check_subset(args.subset or 0, whole.train)
    check_subset(args.test_subset or 0, whole.test or 0)
    return replace(whole, train=args.subset or whole.train, test=args.test_subset or whole.test)


def _check_subset_of_test(args: DataArgs, *, has_test: bool) -> None:
    if args.test_subset and not has_test:
        raise UserError(
            f"'{args.name}' has no test set of its own",
            where="data.test_subset",
            mend="Leave it out; split.test says how much is held out",
        )


def _digits() -> ImageSet:
    """Scikit-learn's 1,797 handwritten digits, 8×8, one channel."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    targets = torch.from_numpy(digits.target).long()
    return ImageSet(images, targets, torch.arange(len(targets)), tuple("0123456789"))


LOADERS: dict[str, Callable[[DataArgs], tuple[ImageSet, ImageSet | None]]] = {
    "digits": lambda args: (_digits(), None),
    "fashion-mnist": lambda args: read_fashion_mnist(args.path, download=args.download),
    "cifar10": lambda args: read_cifar(10, args.path, download=args.download),
    "cifar100": lambda args: read_cifar(100, args.path, download=args.download),
    "parquet": lambda args: read_parquet(args.path, args.image_column, args.label_column),
}

FACTS: dict[str, Callable[[DataArgs], DatasetFacts]] = {
    "digits": lambda args: DatasetFacts(1_797, None, 1, 8, 8, 10),
    "fashion-mnist": lambda args: DatasetFacts(60_000, 10_000, 1, 28, 28, 10),
    "cifar10": lambda args: DatasetFacts(50_000, 10_000, 3, 32, 32, 10),
    "cifar100": lambda args: DatasetFacts(50_000, 10_000, 3, 32, 32, 100),
    "parquet": lambda args: parquet_facts(args.path, args.image_column, args.label_column),
}
