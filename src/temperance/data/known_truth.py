"""Real images with labels from a known p*(class | image), so that errors of it are exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.data.hashing import Purpose, uniform
from temperance.data.images import Dataset, ImageSet


def with_known_truth(
    dataset: Dataset,
    logits: Callable[[ImageSet], Float[Tensor, "rows classes"]],
    *,
    softening: float = 1.0,
    seed: int = 0,
) -> Dataset:
    """The dataset with p* = softmax(logits / softening) as truth, and every label drawn from it.

    A label is p*'s quantile at a hash of (seed, id): it does not depend on which other images
    there are, and moves to a neighbouring class at most if p* moves a little.

    Args:
        logits: of the images by whatever knows the truth.
        softening: divides the logits, > 0; above 1 the labels become noisier.
        seed: decides which labels are drawn.

    Raises:
        ValueError: if the logits are not finite, or not one per image and class.

    Examples:
        >>> images = torch.zeros(1000, 1, 8, 8, dtype=torch.uint8)
        >>> train = ImageSet(images, torch.zeros(1000).long(), torch.arange(1000), ("no", "yes"))
        >>> coins = with_known_truth(Dataset("", train, None), lambda images: torch.zeros(1000, 2))
        >>> coins.train.targets.bincount().tolist()
        [487, 513]
    """

    def drawn(images: ImageSet) -> ImageSet:
        said = logits(images)
        if said.shape != (len(images), len(images.classes)) or not bool(said.isfinite().all()):
            raise ValueError(
                f"logits must be finite and of shape {(len(images), len(images.classes))},"
                f" these are of {tuple(said.shape)}"
            )
        truth = torch.softmax(said.detach().cpu().double() / softening, dim=1)
        quantile = torch.from_numpy(uniform(seed, Purpose.TRUTH, images.ids.numpy()))
        below = truth.cumsum(1)[:, :-1] <= quantile[:, None]  # the last class takes what is left
        return replace(images, targets=below.sum(1), truth=truth)

    test = None if dataset.test is None else drawn(dataset.test)
    return Dataset(dataset.name, drawn(dataset.train), test)
