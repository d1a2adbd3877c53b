"""Disjoint splits, as a function of seed, class and sample id alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from pydantic import Field, model_validator
from torch import Tensor

from temperance.config import Args
from temperance.data.hashing import Purpose, hash64, uniform
from temperance.data.images import Dataset, ImageSet
from temperance.errors import UserError


class SplitArgs(Args):
    """How the data are split, stratified by class."""

    seed: int = 0
    test: float = Field(default=1 / 3, ge=0, lt=1)
    """Share of the rows held out as test, only for datasets without a test set."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Share of train for the selection of models and settings."""
    calibration: float = Field(default=0.1, ge=0, lt=1)
    """Share of train for fitting calibrators; 0 if none is fitted on held-out rows."""
    calibration_source: Literal["train", "test"] = "train"
    """test: calibration is half of the test set, for a teacher that has seen all of train."""
    labelled: float = Field(default=1.0, gt=0, le=1)
    """Share of train that keeps its labels; the rest becomes the split `unlabelled`."""
    label_noise: float = Field(default=0.0, ge=0, lt=1)
    """Probability with which a label of train, validation or calibration is replaced by another
    class, all others being equally likely; test stays as it is."""

    @model_validator(mode="after")
    def _leave_train_something(self) -> Self:
        if self.validation + self.calibration >= 1:
            raise ValueError("validation and calibration together leave nothing to train on")
        return self


@dataclass(frozen=True, eq=False)
class Splits:
    """Disjoint sets of images; rows are in the order of their ids."""

    train: ImageSet
    validation: ImageSet
    calibration: ImageSet
    test: ImageSet
    unlabelled: ImageSet
    """Empty unless `split.labelled` is below 1. Its labels are never trained on."""

    def sizes(self) -> dict[str, int]:
        """Rows per split; of `unlabelled` only if there are any."""
        sizes = {name: len(getattr(self, name)) for name in self.__dataclass_fields__}
        if not sizes["unlabelled"]:
            del sizes["unlabelled"]
        return sizes


def make_splits(dataset: Dataset, args: SplitArgs) -> Splits:
    """Split the dataset; its own test set, where it has one, stays as it is.

    Within each class, ids are ordered by a hash of (seed, id) and cut: the order of the rows in
    the dataset changes nothing. A class gets into every split if it has enough rows; a warning
    says which classes have not. Labels become noisy after that, each by a hash of (seed, id).

    Raises:
        UserError: if train or test would be empty, or calibration, unless its share is 0, would
            be empty or hold a single class.

    Examples:
        >>> from temperance.data import DataArgs, load_dataset
        >>> make_splits(load_dataset(DataArgs(name="digits")), SplitArgs()).sizes()
        {'train': 958, 'validation': 120, 'calibration': 120, 'test': 599}
    """
    pool, test = dataset.train, dataset.test
    if test is None:
        pool, test = _divide(pool, (1 - args.test, args.test), args.seed)
    from_train = args.calibration if args.calibration_source == "train" else 0.0
    shares = (1 - args.validation - from_train, args.validation, from_train)
    train, validation, calibration = _divide(pool, shares, args.seed)
    if args.calibration_source == "test":
        calibration, test = _divide(test, (0.5, 0.5), args.seed)
    unlabelled = train.take(train.ids[:0])
    if args.labelled < 1:
        train, unlabelled = _divide(train, (args.labelled, 1 - args.labelled), args.seed)
    splits = Splits(
        train=with_noisy_labels(train, args.label_noise, args.seed),
        validation=with_noisy_labels(validation, args.label_noise, args.seed),
        calibration=with_noisy_labels(calibration, args.label_noise, args.seed),
        test=_in_order_of_ids(test),
        unlabelled=unlabelled,
    )
    _check(splits, args)
    return splits


def with_noisy_labels(image_set: ImageSet, share: float, seed: int) -> ImageSet:
    """Labels replaced by another class, all others equally likely, each by a hash of (seed, id).

    Args:
        share: probability that a label is replaced, in [0, 1).

    Examples:
        >>> images = torch.zeros(1000, 1, 8, 8, dtype=torch.uint8)
        >>> clean = ImageSet(images, torch.ones(1000).long(), torch.arange(1000), ("a", "b", "c"))
        >>> with_noisy_labels(clean, 0.2, seed=0).targets.bincount().tolist()
        [99, 813, 88]
    """
    if not share:
        return image_set
    ids, n_classes = image_set.ids.numpy(), len(image_set.classes)
    replaced = uniform(seed, Purpose.NOISE, 0, ids) < share
    others = hash64(seed, Purpose.NOISE, 1, ids) % np.uint64(max(n_classes - 1, 1))
    steps = torch.from_numpy(np.where(replaced, 1 + others.astype(np.int64), 0))
    return replace(image_set, targets=(image_set.targets + steps) % n_classes)


def folds(image_set: ImageSet, k: int, seed: int) -> Int[Tensor, " rows"]:
    """The fold, from 0 to k − 1, of each row: stratified, of sizes that differ by one at most.

    Examples:
        >>> images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
        >>> four = ImageSet(images, torch.tensor([0, 0, 1, 1]), torch.arange(4), ("no", "yes"))
        >>> sorted(folds(four, 2, seed=0)[:2].tolist())
        [0, 1]
    """
    order = _by_class(image_set, Purpose.FOLD, seed)
    fold_of = np.empty(len(image_set), dtype=np.int64)
    fold_of[order] = np.arange(len(order)) % k
    return torch.from_numpy(fold_of)


def stratified_subset(image_set: ImageSet, n: int, seed: int) -> ImageSet:
    """Exactly `n` rows with the shares of the classes kept as well as whole rows allow.

    Raises:
        UserError: if there are fewer than `n` rows.
    """
    check_subset(n, len(image_set))
    share = n / len(image_set)
    subset, _ = _divide(
        image_set, (share, 1 - share), seed, purpose=Purpose.SUBSET, in_every_part=False
    )
    return subset


def check_subset(n: int, rows: int) -> None:
    """Whether `n` of so many rows can be taken.

    Raises:
        UserError: if there are fewer than `n`.
    """
    if n > rows:
        raise UserError(
            f"a subset of {n:,} rows is asked for, but there are only {rows:,}",
            where="data.subset",
        )


def allocate(
    class_sizes: Sequence[int], shares: Sequence[float], *, in_every_part: bool = True
) -> Int[np.ndarray, "classes parts"]:
    """Rows of each class that each part gets, whole numbers near class size × share.

    What rounding leaves over goes to the parts that are furthest behind their due over all
    classes so far, so the sizes of the parts are right too, also for many small classes.

    Args:
        class_sizes: rows of each class.
        shares: of each part, sum 1.
        in_every_part: take a row from the largest part rather than leave a part of nonzero share
            without a class that has at least as many rows as there are such parts.

    Examples:
        >>> allocate([10, 10, 2], [0.85, 0.15]).tolist()
        [[9, 1], [8, 2], [1, 1]]
    """
    shares_ = np.asarray(shares, dtype=np.float64)
    wanted = shares_ > 0
    behind = np.zeros(len(shares))
    counts = np.zeros((len(class_sizes), len(shares)), dtype=np.int64)
    for row, size in zip(counts, class_sizes, strict=True):
        due = size * shares_
        row += np.floor(due + 1e-9).astype(np.int64)
        behind += due - row
        for part in np.argsort(-behind, kind="stable")[: size - row.sum()]:
            row[part] += 1
            behind[part] -= 1
        while in_every_part and size >= wanted.sum() and (row[wanted] == 0).any():
            largest, empty = row.argmax(), np.flatnonzero(wanted & (row == 0))[0]
            row[largest] -= 1
            row[empty] += 1
            behind[largest] += 1
            behind[empty] -= 1
    return counts


def _divide(
    image_set: ImageSet,
    shares: Sequence[float],
    seed: int,
    *,
    purpose: Purpose = Purpose.SPLIT,
    in_every_part: bool = True,
) -> list[ImageSet]:
    """Disjoint stratified parts, each in the order of its ids."""
    sizes = np.bincount(image_set.targets.numpy(), minlength=len(image_set.classes))
    if in_every_part:
        _warn_of_small_classes(sizes, sum(share > 0 for share in shares), image_set.classes)
    counts = allocate(sizes.tolist(), shares, in_every_part=in_every_part)
    # Rows class by class in hash order; `counts`, read row by row, says whose they are.
    part_of = np.repeat(np.tile(np.arange(len(shares)), len(sizes)), counts.ravel())
    order = _by_class(image_set, purpose, seed)
    return [
        _in_order_of_ids(image_set.take(torch.from_numpy(order[part_of == part])))
        for part in range(len(shares))
    ]


def _by_class(image_set: ImageSet, purpose: Purpose, seed: int) -> npt.NDArray[np.int64]:
    """Indices of the rows by class, within a class in hash order."""
    hashes = hash64(seed, purpose, image_set.ids.numpy())
    return np.lexsort((hashes, image_set.targets.numpy()))


def _in_order_of_ids(image_set: ImageSet) -> ImageSet:
    return image_set.take(image_set.ids.argsort())


def _warn_of_small_classes(
    sizes: npt.NDArray[np.int64], parts: int, classes: Sequence[str]
) -> None:
    small = np.flatnonzero((sizes > 0) & (sizes < parts))
    if len(small):
        names = ", ".join(repr(classes[index]) for index in small[:5])
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        warnings.warn(
            f"too few rows to be in all {parts} splits: class {names}{more}", stacklevel=4
        )


def _check(splits: Splits, args: SplitArgs) -> None:
    for name in ("train", "test"):
        if not len(getattr(splits, name)):
            raise UserError(
                f"the {name} split is empty",
                where=f"split.{name}" if name == "test" else "split",
                mend="Use more rows, or set split.test above 0" if name == "test" else None,
            )
    setting = "split.calibration"
    if args.calibration_source == "train" and args.calibration == 0:
        return
    present = len(np.unique(splits.calibration.targets.numpy()))
    if present < 2:
        what = "is empty" if present == 0 else "holds a single class"
        more = "Raise split.calibration" if args.calibration_source == "train" else "Use more rows"
        raise UserError(
            f"the calibration split {what}, so nothing can be fitted on it",
            where=setting if args.calibration_source == "train" else f"{setting}_source",
            mend=f"{more} (it has {len(splits.calibration)} rows) or data.subset",
        )
