"""The datasets by name, and which rows of them are used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import PositiveInt, field_validator

from temperance.config import Args, look_up
from temperance.data.images import Dataset, ImageSet
from temperance.data.parquet import read_parquet
from temperance.data.splits import stratified_subset
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

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        look_up("dataset", name, LOADERS)
        return name


def list_datasets() -> list[str]:
    """The names that `data.name` knows."""
    return sorted(LOADERS)


def load_dataset(args: DataArgs) -> Dataset:
    """The dataset that `args` names, cut to the rows that they ask for.

    Raises:
        UserError: if it is not there and cannot be downloaded, a file or an image is damaged,
            images differ in size, a label is not one of the classes, or a subset asks for more
            rows than there are.

    Examples:
        >>> len(load_dataset(DataArgs(name="digits", subset=100)).train)
        100
    """
    train, test = LOADERS[args.name](args)
    if test is not None:
        if test.images.shape[1:] != train.images.shape[1:]:
            raise UserError(
                f"test images are {tuple(test.images.shape[1:])}, training images"
                f" {tuple(train.images.shape[1:])} (channels, height, width)",
                where=args.path or args.name,
                mend="Make them all of one size",
            )
        # Test ids follow those of train, so that an id names one image of the dataset.
        test = ImageSet(test.images, test.targets, test.ids + len(train), test.classes)
        if args.test_subset:
            test = stratified_subset(test, args.test_subset, args.subset_seed)
    elif args.test_subset:
        raise UserError(
            f"'{args.name}' has no test set of its own",
            where="data.test_subset",
            mend="Leave it out; split.test says how much is held out",
        )
    if args.subset:
        train = stratified_subset(train, args.subset, args.subset_seed)
    return Dataset(args.name, train, test)


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
