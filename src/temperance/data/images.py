"""Labelled images in memory, as uint8 tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one size.

    Examples:
        >>> images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
        >>> some = ImageSet(images, torch.tensor([0, 1, 1]), torch.arange(3), ("no", "yes"))
        >>> some.take(torch.tensor([2, 0])).ids.tolist()
        [2, 0]
    """

    images: UInt8[Tensor, "rows channels height width"]
    targets: Int[Tensor, " rows"]
    """Class indices (int64), from 0 to `len(classes) − 1`."""
    ids: Int[Tensor, " rows"]
    """Identity of each image in its dataset (int64), whatever the order of the rows."""
    classes: tuple[str, ...]
    truth: Float[Tensor, "rows classes"] | None = None
    """p*(class | image) that the targets were drawn from (float64), where it is known."""

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Int[Tensor, " some"]) -> ImageSet:
        """The rows at `indices`, in that order."""
        return replace(
            self,
            images=self.images[indices],
            targets=self.targets[indices],
            ids=self.ids[indices],
            truth=None if self.truth is None else self.truth[indices],
        )

    def join(self, other: ImageSet) -> ImageSet:
        """These rows followed by those of `other`, which is of the same dataset."""
        truth = None
        if self.truth is not None and other.truth is not None:
            truth = torch.cat([self.truth, other.truth])
        return replace(
            self,
            images=torch.cat([self.images, other.images]),
            targets=torch.cat([self.targets, other.targets]),
            ids=torch.cat([self.ids, other.ids]),
            truth=truth,
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training images and, where the dataset brings them, test images.

    Ids are unique over both.
    """

    name: str
    train: ImageSet
    test: ImageSet | None

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over images, targets, ids, class names and truth: what can change a result."""
        digest = hashlib.sha256(repr(self.train.classes).encode())
        for part in (self.train, self.test):
            if part is not None:
                digest.update(repr(tuple(part.images.shape)).encode())
                for tensor in (part.images, part.targets, part.ids, part.truth):
                    if tensor is not None:
                        digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class DatasetFacts:
    """What a plan has to know about a dataset before anybody loads it."""

    train: int
    """Training images."""
    test: int | None
    """Test images; None where the dataset brings none."""
    channels: int
    height: int
    width: int
    classes: int
    """How many there are."""
