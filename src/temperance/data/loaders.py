"""Batches as a pure function of seed and step: an interrupted run continues with what is due."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from temperance.data.hashing import Purpose, hash64
from temperance.data.images import ImageSet
from temperance.data.mixing import mix_images, mix_targets, partners
from temperance.data.views import (
    ViewParameters,
    ViewSpec,
    apply_views,
    draw,
    seed_of_views,
    view_of_epoch,
)


@dataclass(frozen=True, eq=False)
class Batch:
    """Images as a model gets them, and what is known about them."""

    images: UInt8[Tensor, "rows channels height width"]
    """After their views, before any normalisation."""
    targets: Int[Tensor, " rows"] | Float[Tensor, "rows classes"]
    """Class indices; where images are mixed, the classes' shares."""
    ids: Int[Tensor, " rows"]
    view: int = 0
    """The first of its views."""
    views: int = 1
    """How many views of each sample stand below one another."""

    def split(self, n: int) -> Iterator[Batch]:
        """The samples in at most `n` parts, all views of a sample in the same one.

        Examples:
            >>> ids = torch.tensor([7, 8, 9, 7, 8, 9])
            >>> batch = Batch(torch.zeros(6, 1, 2, 2), ids, ids, views=2)
            >>> [part.ids.tolist() for part in batch.split(2)]
            [[7, 8, 7, 8], [9, 9]]
        """
        if n == 1:
            yield self
            return
        rows = torch.arange(len(self.ids), device=self.ids.device).reshape(self.views, -1)
        for part in rows.tensor_split(min(n, rows.shape[1]), dim=1):
            chosen = part.flatten()
            yield Batch(
                self.images[chosen], self.targets[chosen], self.ids[chosen], self.view, self.views
            )


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Full batches in `n` rows; one if there is none, of all rows.

    Examples:
        >>> steps_per_epoch(1000, 128), steps_per_epoch(100, 128)
        (7, 1)
    """
    return max(1, n // batch_size)


def epoch_order(ids: Int[Tensor, " rows"], seed: int, epoch: int) -> Int[Tensor, " rows"]:
    """Indices of the rows in the order of an epoch; which ids come when, their rows do not alter.

    Examples:
        >>> ids = torch.tensor([5, 6, 7, 8])
        >>> order, turned = epoch_order(ids, 0, epoch=1), epoch_order(ids.flip(0), 0, epoch=1)
        >>> torch.equal(ids[order], ids.flip(0)[turned])
        True
    """
    return torch.from_numpy(hash64(seed, Purpose.ORDER, epoch, ids.cpu().numpy()).argsort())


class AugmentedImages:
    """Images in the memory of the device where their views are made.

    Args:
        image_set: all images that are trained on: the partners of those that are mixed.
        seed: of the training.
    """

    def __init__(
        self, image_set: ImageSet, spec: ViewSpec, *, seed: int, device: torch.device
    ) -> None:
        self.spec, self.seed, self.device = spec, seed_of_views(spec, seed), device
        self.images, self.targets = image_set.images.to(device), image_set.targets.to(device)
        self.ids, self.n_classes = image_set.ids.cpu(), len(image_set.classes)
        self.order = self.ids.argsort()
        """Of the rows by id: a partner does not depend on how they lie."""
        self.place = self.order.argsort()

    def view(
        self, rows: Int[Tensor, " rows"], view: int
    ) -> tuple[
        UInt8[Tensor, "rows channels height width"],
        Int[Tensor, " rows"] | Float[Tensor, "rows classes"],
    ]:
        """One view of some rows, and their targets; soft if they are mixed.

        Args:
            rows: indices, on the CPU.
        """
        spec, targets = self.spec, self.targets[rows.to(self.device)]
        if not (spec.crop_padding or spec.flip or spec.mixup):
            return self.images[rows.to(self.device)], targets
        drawn = draw(spec, self.seed, self.ids[rows], view)
        if drawn.mixing is None:
            return self._cropped(rows, drawn), targets
        others = self.order[partners(drawn.mixing, self.place[rows], len(self.order))]
        crops = drawn.followed_by(draw(spec, self.seed, self.ids[others], view))
        own, theirs = self._cropped(torch.cat([rows, others]), crops).chunk(2)
        other_targets = self.targets[others.to(self.device)]
        return (
            mix_images(own, theirs, drawn.mixing),
            mix_targets(targets, other_targets, drawn.mixing, self.n_classes),
        )

    def _cropped(
        self, rows: Int[Tensor, " rows"], parameters: ViewParameters
    ) -> UInt8[Tensor, "rows channels height width"]:
        images = self.images[rows.to(self.device)]
        if not (self.spec.crop_padding or self.spec.flip):
            return images
        return apply_views(images, parameters, self.spec.crop_padding)


def training_batches(
    image_set: ImageSet,
    *,
    batch_size: int,
    seed: int,
    spec: ViewSpec,
    start_step: int,
    steps: int,
    rank: int = 0,
    world_size: int = 1,
    views_per_batch: int = 1,
    device: torch.device,
) -> Iterator[Batch]:
    """The batches of the steps from `start_step` up to, not including, `steps`.

    Every epoch is a new order of all rows; the last incomplete batch of an epoch is left out. The
    batch of a step over all processes does not depend on their number: each gets every
    `world_size`-th row of it.

    Args:
        batch_size: rows per step over all processes.
        rank: of this process among `world_size`.
        views_per_batch: views of each sample, below one another; with 2, epoch e has the views 2e
            and 2e + 1.
        device: where images lie and views are made.
    """
    per_epoch = steps_per_epoch(len(image_set), batch_size)
    augmented = AugmentedImages(image_set, spec, seed=seed, device=device)
    ids = image_set.ids.cpu()
    order, ordered_epoch = ids, -1
    for step in range(start_step, steps):
        epoch, place = divmod(step, per_epoch)
        if epoch != ordered_epoch:
            order, ordered_epoch = epoch_order(ids, seed, epoch), epoch
        chosen = order[place * batch_size : (place + 1) * batch_size][rank::world_size]
        first = epoch * views_per_batch
        views = [view_of_epoch(spec, first + more) for more in range(views_per_batch)]
        made = [augmented.view(chosen, view) for view in views]
        images, targets = zip(*made, strict=True)
        yield Batch(
            torch.cat(images),
            torch.cat(targets),
            ids[chosen].repeat(views_per_batch).to(device),
            views[0],
            views_per_batch,
        )


def evaluation_batches(
    image_set: ImageSet, batch_size: int, device: torch.device
) -> Iterator[Batch]:
    """All rows in order, unaltered; the last batch may be smaller."""
    for start in range(0, len(image_set), batch_size):
        rows = slice(start, start + batch_size)
        yield Batch(
            image_set.images[rows].to(device),
            image_set.targets[rows].to(device),
            image_set.ids[rows].to(device),
        )
