"""Labelled images in memory, as uint8 tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int, UInt8
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

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Int[Tensor, " some"]) -> ImageSet:
        """The rows at `indices`, in that order."""
        return ImageSet(
            self.images[indices], self.targets[indices], self.ids[indices], self.classes
        )

    def join(self, other: ImageSet) -> ImageSet:
        """These rows followed by those of `other`, which has the same classes."""
        return ImageSet(
            torch.cat([self.images, other.images]),
            torch.cat([self.targets, other.targets]),
            torch.cat([self.ids, other.ids]),
            self.classes,
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
        """sha256 over images, targets, ids and class names: what can change a result."""
        digest = hashlib.sha256(repr(self.train.classes).encode())
        for part in (self.train, self.test):
            if part is not None:
                digest.update(repr(tuple(part.images.shape)).encode())
                for tensor in (part.images, part.targets, part.ids):
                    digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()
