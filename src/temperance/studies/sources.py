"""What a worker keeps in memory from run to run: splits, models, and what teachers say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.calibration import TemperatureScaling
from temperance.data import Dataset, ImageSet, Splits, ViewSpec, folds, make_splits
from temperance.models import ImageClassifier, load_model
from temperance.run import Run
from temperance.studies.plan import StudyArgs
from temperance.studies.store import Store
from temperance.studies.treatments import Source, StudentTraining
from temperance.tasks import predict
from temperance.teacher import (
    CachedTeacher,
    LiveTeacher,
    NoTeacher,
    OutOfFoldTeacher,
    Teacher,
    cacheable,
    fill,
    load_cache,
    save_cache,
)
from temperance.training.student import load_predictions


class Sources:
    """Splits, models and teachers of a study, each made once per process.

    Args:
        args: the study's settings.
        device: where models answer.
    """

    def __init__(
        self, args: StudyArgs, dataset: Dataset, store: Store, device: torch.device
    ) -> None:
        self.args, self.dataset, self.store, self.device = args, dataset, store, device
        self.splits = cache(self._splits)
        self.model = lru_cache(maxsize=16)(self._model)
        self.cached = lru_cache(maxsize=4)(self._cached)

    @property
    def taught(self) -> str:
        """What teachers are trained on; a cross-fit holds no label out."""
        return "train+calibration" if self.args.calibration.fit == "cross-fit" else "train"

    def teacher(self, training: StudentTraining, *, live: bool) -> Teacher:
        """A student's teacher at its temperature: cached where its answers can be kept.

        Args:
            live: whether its activations are needed too.
        """
        source = training.source
        if source is None:
            return NoTeacher()
        calibrator = None
        if source.temperature != 1:
            calibrator = TemperatureScaling.from_temperature(source.temperature)
            calibrator = calibrator.to(self.device)
        if source.kind == "folds":
            taught = self.splits(training.replicate, self.taught).train
            seed = self.args.teacher_seed + training.replicate
            fold_of = folds(taught, self.args.calibration.folds, seed)
            state = state_of(source.epoch)
            models = [self.model(str(self.store.runs / fold / state)) for fold in source.folds]
            folds_by_id = dict(zip(taught.ids.tolist(), fold_of.tolist(), strict=True))
            return OutOfFoldTeacher(models, folds_by_id, calibrator)
        spec = training.recipe.augment
        if live or not cacheable(spec):
            return LiveTeacher(self.model(self._weights_of(source)), calibrator)
        logits, ids = self.cached(self._weights_of(source), source.sha256, training.replicate,
                                  training.rows, spec)  # fmt: skip
        return CachedTeacher(logits.to(self.device), ids, calibrator)

    def says(self, source: Source, images: ImageSet) -> Float[Tensor, "rows classes"]:
        """What a teacher says of the rows, unaltered; their folds' teachers if it is those."""
        if source.kind == "folds":
            return self.out_of_fold(source.folds, source.epoch)[0]
        logits, _ = predict(self.model(self._weights_of(source)), images,
                            device=self.device)  # fmt: skip
        return logits

    def out_of_fold(
        self, folds: Sequence[str], epoch: int | None
    ) -> tuple[Float[Tensor, "rows classes"], Int[Tensor, " rows"]]:
        """What the folds' teachers said of the rows that each has not seen, fold by fold."""
        parts = [
            load_predictions(Run(self.store.runs / fold), held_out_of(epoch)) for fold in folds
        ]
        logits, targets = zip(*(part for part in parts if part is not None), strict=True)
        return torch.cat(logits), torch.cat(targets)

    def _splits(self, replicate: int, rows: str) -> Splits:
        split = self.args.split.model_copy(update={"seed": self.args.split.seed + replicate})
        splits = make_splits(self.dataset, split)
        if rows == "train+calibration":
            return replace(splits, train=splits.train.join(splits.calibration))
        if rows == "unlabelled":
            return replace(splits, train=splits.unlabelled)
        return splits

    def _model(self, weights: str) -> ImageClassifier:
        model = load_model(Path(weights), classes=len(self.dataset.train.classes))
        return model.to(self.device)

    def _cached(
        self, weights: str, sha256: str, replicate: int, rows: str, spec: ViewSpec
    ) -> tuple[Float[Tensor, "views rows classes"], Int[Tensor, " rows"]]:
        """What a teacher says of every view of the rows; asked once, and kept on disk."""
        images = self.splits(replicate, rows).train
        facts = {"teacher": sha256, "data": self.dataset.fingerprint, "replicate": replicate}
        name = self.store.name("logits", spec, split=self.args.split.model_dump(), rows=rows,
                               **facts)  # fmt: skip
        with self.store.locked(name):
            path = self.store.study.folder / "cache" / f"{name}.safetensors"
            if not path.is_file():
                logits = fill(self.model(weights), images, spec, self.device)
                save_cache(path, logits, images.ids)
            return load_cache(path)

    def _weights_of(self, source: Source) -> str:
        if source.kind == "truth":
            return source.folder
        if source.kind == "trained":
            return str(self.store.runs / source.folder / state_of(None))
        measured = self.store.result(source.folder)
        assert measured is not None
        return str(self.store.study.folder / measured["weights"])


def state_of(epoch: int | None) -> str:
    """The folder of a model in its run: of the last state, or of a snapshot."""
    return "student" if epoch is None else f"student@{epoch}"


def held_out_of(epoch: int | None) -> str:
    """What a fold's teacher says of the rows it has not seen, by name among its predictions."""
    return "held-out" if epoch is None else f"held-out@{epoch}"
