"""Image classification: one row per image."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from temperance.data import (
    Batch,
    ImageSet,
    ViewSpec,
    evaluation_batches,
    steps_per_epoch,
    training_batches,
)
from temperance.errors import UserError
from temperance.rows import Rows, Signal


class ClassificationTask:
    """Turns images into batches, batches into rows and a model's answers into signals.

    Args:
        train: the images that are trained on; they stay in memory on `device`.
        views: the augmentation of the training images.
        batch_size: images per step over all processes.
        seed: of the order of the images, and of their views unless `views.views` bounds them.
        device: where batches are made.
        rank: of this process among `world_size`; each gets its share of every batch.
        views_per_batch: how many views of each image stand below one another in a batch.
        labels: whether the labels of the images are known; without, rows have no targets.

    Raises:
        UserError: if a batch does not give every process a row.
    """

    def __init__(
        self,
        train: ImageSet,
        *,
        views: ViewSpec,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        views_per_batch: int = 1,
        labels: bool = True,
    ) -> None:
        rows = min(batch_size, len(train))
        if rows < world_size:
            raise UserError(
                f"a batch of {rows} rows cannot be shared by {world_size} devices",
                where="training.batch_size",
                mend="Use larger batches or fewer engine.devices",
            )
        self.train, self.views, self.batch_size, self.seed = train, views, batch_size, seed
        self.device, self.rank, self.world_size = device, rank, world_size
        self.views_per_batch, self.labels = views_per_batch, labels

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every training image is seen once (the last incomplete batch is left)."""
        return steps_per_epoch(len(self.train), self.batch_size)

    def batches(self, *, start: int, steps: int) -> Iterator[Batch]:
        """The training batches of the steps from `start` up to `steps`, a function of the seed."""
        return training_batches(
            self.train,
            batch_size=self.batch_size,
            seed=self.seed,
            spec=self.views,
            start_step=start,
            steps=steps,
            rank=self.rank,
            world_size=self.world_size,
            views_per_batch=self.views_per_batch,
            device=self.device,
        )

    def rows(self, batch: Batch) -> Rows:
        """What is known about the batch."""
        return Rows(
            targets=batch.targets if self.labels else None,
            ids=batch.ids,
            view=batch.view,
            views=self.views_per_batch,
        )

    def signal(self, model: nn.Module, batch: Batch) -> Signal:
        """What a tapped model says about the batch."""
        logits, features = model(batch.images)
        return Signal(logits, features=features)


@torch.no_grad()
def predict(
    model: nn.Module, images: ImageSet, *, device: torch.device, batch_size: int = 512
) -> tuple[Float[Tensor, "rows classes"], Int[Tensor, " rows"]]:
    """Logits (float32, on the CPU) and targets of every image, in order and without augmentation.

    The model is put into eval mode and given back in the mode in which it came.
    """
    was_training = model.training
    model.eval()
    batches = evaluation_batches(images, batch_size=batch_size, device=device)
    logits = torch.cat([model(batch.images).float().cpu() for batch in batches])
    model.train(was_training)
    return logits, images.targets.cpu()
