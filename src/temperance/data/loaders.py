"""Batches as a pure function of seed and step: an interrupted run continues with what is due."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from temperance.data.hashing import Purpose, hash64
from temperance.data.images import ImageSet
from temperance.data.views import ViewSpec, apply_views, draw, view_of_epoch


@dataclass(frozen=True, eq=False)
class Batch:
    """Images as a model gets them, and what is known about them."""

    images: UInt8[Tensor, "rows channels height width"]
    """After their views, before any normalisation."""
    targets: Int[Tensor, " rows"]
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
    images, targets = image_set.images.to(device), image_set.targets.to(device)
    ids = image_set.ids.cpu()
    order, ordered_epoch = ids, -1
    for step in range(start_step, steps):
        epoch, place = divmod(step, per_epoch)
        if epoch != ordered_epoch:
            order, ordered_epoch = epoch_order(ids, seed, epoch), epoch
        chosen = order[place * batch_size : (place + 1) * batch_size][rank::world_size]
        first = epoch * views_per_batch
        views = [view_of_epoch(spec, first + more) for more in range(views_per_batch)]
        on_device = chosen.to(device)
        batch = images[on_device]
        if spec.crop_padding or spec.flip:
            drawn = [draw(spec, seed, ids[chosen], view) for view in views]
            made = [apply_views(batch, parameters, spec.crop_padding) for parameters in drawn]
            batch = torch.cat(made) if len(made) > 1 else made[0]
        elif views_per_batch > 1:
            batch = batch.repeat(views_per_batch, 1, 1, 1)
        yield Batch(
            batch,
            targets[on_device].repeat(views_per_batch),
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
