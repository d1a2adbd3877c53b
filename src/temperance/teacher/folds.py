"""A teacher that has not seen what it teaches: of K models, each answers for its own fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor, nn

from temperance.data import Batch
from temperance.errors import UserError
from temperance.models.features import ModelProbe
from temperance.rows import Signal
from temperance.teacher.calibrated import GivesSignals, LiveTeacher, apply_calibrator
from temperance.teacher.sample_ids import Places


class OutOfFoldTeacher:
    """K models, each trained on all folds but one; a row is answered by the one that left it out.

    A batch costs about one forward pass. Images that are mixed (`augment.mixup`) are answered by
    the fold of their first sample; the model may have seen the second.

    Args:
        models: one per fold, in their order; put into eval mode and frozen.
        fold_of: for every id that can be asked for, the fold that it is in, from 0 to K − 1.
        calibrator: from logits to logits; None for the raw teacher.

    Raises:
        ValueError: if there are folds without a model.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        fold_of: Mapping[int, int],
        calibrator: nn.Module | None = None,
    ) -> None:
        if max(fold_of.values()) >= len(models):
            raise ValueError(f"{len(models)} models for {max(fold_of.values()) + 1} folds")
        self.teachers = [LiveTeacher(model) for model in models]
        self.places = Places(torch.tensor(list(fold_of)))
        self.folds = torch.tensor(list(fold_of.values()))
        self.calibrator = calibrator

    def probe(self, inputs: Tensor) -> ModelProbe:
        """What the models look like from inside: that of the first fold."""
        return self.teachers[0].probe(inputs)

    def tap(self, taps: Sequence[str]) -> None:
        """Nothing to tap: activations of different models cannot be compared.

        Raises:
            UserError: if the objective compares activations all the same.
        """
        if taps:
            raise UserError(
                f"the objective compares activations ({', '.join(taps)}), and the models of"
                " different folds share none",
                where="out-of-fold teacher",
                mend="Use an objective of logits, such as 'kd', or one teacher for all rows",
            )

    @torch.no_grad()
    def signal(self, task: GivesSignals, batch: Batch) -> Signal:
        """The logits for the batch, calibrated if it has a calibrator.

        Raises:
            ValueError: if a sample belongs to no fold.
        """
        folds = self.folds[self.places(batch.ids.cpu())]
        by_fold = folds.argsort(stable=True).to(batch.ids.device)
        sizes = folds.bincount(minlength=len(self.teachers)).tolist()
        answers = [
            teacher.signal(task, _taken(batch, rows)).logits
            for teacher, rows in zip(self.teachers, torch.split(by_fold, sizes), strict=True)
            if len(rows)
        ]
        logits = torch.cat(answers)[by_fold.argsort()]
        return apply_calibrator(Signal(logits), self.calibrator)


def _taken(batch: Batch, rows: Int[Tensor, " some"]) -> Batch:
    return replace(
        batch, images=batch.images[rows], targets=batch.targets[rows], ids=batch.ids[rows]
    )
