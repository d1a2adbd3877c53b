"""Where `measure` and `calibrate` find logits: a file of them, or a model and its data."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from jaxtyping import Float, Int
from torch import Tensor

from temperance.calibration import accuracy, check_logits
from temperance.config import Args
from temperance.data import DataArgs, SplitArgs, Splits, load_logits, make_splits
from temperance.errors import UserError
from temperance.models import ImageClassifier, load_model, weights_of, weights_sha256
from temperance.run import file_sha256
from temperance.tasks import predict
from temperance.training import Engine, EngineArgs
from temperance.verbs._common import shared_dataset, training_of

logger = logging.getLogger("temperance")

SomeArgs = TypeVar("SomeArgs", DataArgs, SplitArgs)


class SourceArgs(Args):
    """A file of logits and targets, or a model and its data."""

    logits: Path | None = None
    """.npz or .safetensors with `logits` (rows, classes) and `targets` (rows), or .parquet."""
    model: Path | None = None
    """A run's folder, or a folder with model.safetensors and config.json."""
    data: DataArgs | None = None
    """null: what the model's run was trained on."""
    split: SplitArgs | None = None
    """null: as in the model's run."""
    rows: Literal["calibration", "validation", "train", "test"] = "calibration"
    """Which rows of the data to look at."""
    engine: EngineArgs = EngineArgs()


@dataclass(frozen=True)
class Source:
    """Logits and targets, and where they come from."""

    name: str
    logits: Float[Tensor, "rows classes"]
    targets: Int[Tensor, " rows"]
    facts: dict[str, Any]
    """What identifies them: digests."""
    model: ImageClassifier | None = None
    splits: Splits | None = None


def load_source(args: SourceArgs, engine: Engine) -> Source:
    """The logits and targets that the settings name.

    Raises:
        UserError: if neither or both of `logits` and `model` are given, or cannot be read.
    """
    if (args.logits is None) == (args.model is None):
        raise UserError(
            "give either a file of logits or a model",
            where="logits, model",
            mend="Set logits=FILE (npz, safetensors, Parquet) or model=RUN_FOLDER",
        )
    if args.logits is not None:
        logits, targets = load_logits(args.logits)
        try:
            check_logits(logits, targets)
        except UserError as error:
            mend = error.mend or "Correct the file"
            raise UserError(error.what, where=f"{args.logits}, {error.where}", mend=mend) from None
        return Source(args.logits.name, logits, targets, {"logits": file_sha256(args.logits)})

    assert args.model is not None
    data = taught_data(args.model, args.data, args.split, engine)
    images = getattr(data.splits, args.rows)
    if not len(images):
        raise UserError(
            f"the {args.rows} split is empty", where="rows", mend="Choose other rows or split.*"
        )
    model = load_model(weights_of(args.model), classes=len(images.classes)).to(engine.device)
    logits, targets = predict(model, images, device=engine.device)
    if args.rows == "calibration":
        warn_if_trained_on_calibration(model, data.splits, engine)
    facts = {
        "data": data.fingerprint,
        "weights": weights_sha256(model),
        "split": data.split_args.model_dump(),
    }
    return Source(args.rows, logits, targets, facts, model, data.splits)


@dataclass(frozen=True)
class TaughtData:
    """The data of a model, split; by default those that its run was trained on."""

    args: DataArgs
    split_args: SplitArgs
    splits: Splits
    fingerprint: str


def taught_data(
    model: Path, data: DataArgs | None, split: SplitArgs | None, engine: Engine
) -> TaughtData:
    """The data to look at: those of the model's run, with the keys that were set on top.

    Warns, with the number, if the model was trained on rows of the calibration or test split.

    Raises:
        UserError: if the model is no run's and no data are named, or the data cannot be used.
    """
    trained = training_of(model)
    if trained is None and data is None:
        raise UserError(
            "which data?", where="data", mend=f"{model} is no run's folder: set data.name=…"
        )
    if trained is None:
        data, split = data or DataArgs(), split or SplitArgs()
        dataset = shared_dataset(data, engine)
        return TaughtData(data, split, make_splits(dataset, split), dataset.fingerprint)
    trained_data = DataArgs.model_validate(trained["data"])
    trained_split = SplitArgs.model_validate(trained["split"])
    data, split = _on_top(trained_data, data), _on_top(trained_split, split)
    dataset = shared_dataset(data, engine)
    splits = make_splits(dataset, split)
    if split != trained_split and data == trained_data:
        seen = set(make_splits(dataset, trained_split).train.ids.tolist())
        for name in ("calibration", "test"):
            ids = getattr(splits, name).ids.tolist()
            shared = sum(id_ in seen for id_ in ids)
            if shared:
                logger.warning(
                    "the model was trained on %d of the %d rows of '%s': what is measured there"
                    " looks better calibrated than it is",
                    shared, len(ids), name,
                )  # fmt: skip
    return TaughtData(data, split, splits, dataset.fingerprint)


def _on_top(trained: SomeArgs, given: SomeArgs | None) -> SomeArgs:
    """The settings of the model's run, with those that were set explicitly."""
    if given is None:
        return trained
    explicit = {name: getattr(given, name) for name in given.model_fields_set}
    return trained.model_copy(update=explicit)


def warn_if_trained_on_calibration(model: ImageClassifier, splits: Splits, engine: Engine) -> None:
    """Warn if the calibration rows are predicted as only rows that were learnt by heart are."""
    n = len(splits.calibration)
    if not n or not len(splits.train):
        return
    seen, held_out = (
        accuracy(*predict(model, images, device=engine.device))
        for images in (splits.train, splits.calibration)
    )
    if seen >= 0.999 and held_out >= 1 - 0.5 / n:
        logger.warning(
            "accuracy is %.4f on train and %.4f on the %d calibration rows: if the model was"
            " trained on them too, its calibration there means nothing (for a model that has seen"
            " all of train, set split.calibration_source=test)",
            seen, held_out, n,
        )  # fmt: skip
