"""One training run from images to a measured model on disk; done runs are loaded, not repeated."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from typing import Any

from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from temperance.calibration import accuracy, calibration_report, negative_log_likelihood
from temperance.config import Args
from temperance.data import ImageSet, Splits, ViewSpec
from temperance.errors import UserError
from temperance.models import (
    CNNArgs,
    ImageClassifier,
    ModelArgs,
    channel_statistics,
    create_model,
    load_model,
    save_model,
)
from temperance.models.features import probe
from temperance.objectives import Objective, Pair
from temperance.run import Run, atomic
from temperance.tasks import ClassificationTask, predict
from temperance.teacher import Teacher
from temperance.training.engine import Engine
from temperance.training.loop import TrainingArgs, train_student


class Recipe(Args):
    """What a model is and how it learns."""

    model: ModelArgs = CNNArgs()
    """A name such as resnet20 or wrn-16-2, or a mapping with the name and its settings."""
    augment: ViewSpec = ViewSpec()
    training: TrainingArgs = TrainingArgs()


def fresh_student(
    recipe: Recipe,
    splits: Splits,
    teacher: Teacher,
    objective: Objective,
    *,
    seed: int,
    engine: Engine,
    labels: bool = True,
) -> ImageClassifier:
    """A model that has learned nothing yet, on the CPU, and the objective built for it.

    Raises:
        UserError: if the model does not fit the images, the objective the two models, or the
            recipe the objective or the splits.
    """
    check_recipe(recipe, splits, objective, labels=labels)
    images = splits.train.images
    mean, std = channel_statistics(images)
    model = create_model(
        recipe.model,
        channels=images.shape[1],
        input_size=(images.shape[2], images.shape[3]),
        classes=splits.train.classes,
        mean=mean,
        std=std,
        seed=seed,
    )
    first = images[:2]
    pair = Pair(
        probe(model, first.cpu()),
        teacher.probe(first.to(engine.device)),
        ids=splits.train.ids.cpu(),
        targets=splits.train.targets.cpu() if labels else None,
    )
    objective.build(pair, seed=seed)
    return model


def check_recipe(
    recipe: Recipe, splits: Splits, objective: Objective, *, labels: bool = True
) -> None:
    """Whether the objective can be trained by the recipe on these rows.

    Raises:
        UserError: if not.
    """
    if recipe.training.patience and not len(splits.validation):
        raise UserError(
            "early stopping needs validation rows, and there are none",
            where="training.patience",
            mend="Set split.validation above 0, or leave training.patience out",
        )
    if not labels and objective.needs.targets == "required":
        raise UserError(
            "needs labels, and the rows have none",
            where=f"objective '{objective.name}'",
            mend="Use 'kd'",
        )
    if labels and recipe.augment.mixup and not objective.needs.soft_targets:
        raise UserError(
            f"mixup makes the labels probabilities, and objective '{objective.name}' needs classes",
            where="augment.mixup",
            mend="Set it to 0, or use 'kd'",
        )


def produce_student(
    recipe: Recipe,
    splits: Splits,
    teacher: Teacher,
    objective: Objective,
    *,
    seed: int,
    engine: Engine,
    run: Run,
    label: str,
    labels: bool = True,
    test: bool = True,
    intervals: bool | None = None,
) -> tuple[ImageClassifier, dict[str, Any]]:
    """Train a model on `splits.train`, save it as `student/`, measure it, write `result.json`.

    The headline is the last epoch; the best epoch on validation is named beside it and selects
    nothing. Only with `training.patience` the model is that of the epoch of the lowest validation
    NLL, and the result says which (`kept_epoch`) and how long it was trained (`stopped_epoch`). The
    test split is looked at once, at the end, and not at all without `test`.

    Args:
        seed: of the initial weights, the order of the images and their views.
        label: what the progress line calls it.
        labels: whether those of `splits.train` may be used.
        intervals: as in `calibration_report`; a study has better ones, over replicates.

    Returns:
        the model, and the content of result.json.

    Raises:
        Interrupted, UserError: as `train_student`.
    """
    done = run.read_json("result.json")
    if done is not None:
        model = load_model(run.folder / "student")
        return model.to(engine.device), done

    started = time.perf_counter()
    model = fresh_student(
        recipe, splits, teacher, objective, seed=seed, engine=engine, labels=labels
    )
    teacher.tap(objective.teacher_taps)
    task = ClassificationTask(
        splits.train,
        views=recipe.augment,
        batch_size=recipe.training.batch_size,
        seed=seed,
        device=engine.device,
        rank=engine.rank,
        world_size=engine.world_size,
        views_per_batch=objective.needs.views,
        labels=labels,
    )

    def validate(student: nn.Module) -> dict[str, float]:
        if not len(splits.validation):
            return {}
        logits, targets = predict(student, splits.validation, device=engine.device)
        return {
            "validation_accuracy": accuracy(logits, targets),
            "validation_nll": negative_log_likelihood(logits, targets),
        }

    def snapshot(epoch: int) -> None:
        if run.writes:
            save_model(model, run.path(f"student@{epoch}"))

    engine.seed(seed)
    train_student(
        task, model, teacher, objective, recipe.training, engine, run, validate, label, snapshot
    )
    result: dict[str, Any] = {
        "rows": splits.sizes(),
        "parameters": _size(model.parameters()),
        # Learned or remembered beside the student, and left behind with the training:
        "objective_parameters": _size(objective.parameters()),
        "objective_memory": _size(objective.buffers()),
        "validation": _last_and_best(run),
        **(_stopped_and_kept(run) if recipe.training.patience else {}),
        "seconds": round(time.perf_counter() - started, 3),
    }
    if test:
        logits, targets = predict(model, splits.test, device=engine.device)
        save_predictions(run, "test", logits, targets, splits.test.ids)
        result["test"] = calibration_report(logits, targets, intervals=intervals).to_dict()
    if run.writes:
        save_model(model, run.path("student"))
    run.write_json("result.json", result)
    if run.writes:
        # A finished run is not continued: its student is the result.
        shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
    engine.barrier()
    return model, result


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _last_and_best(run: Run) -> dict[str, float]:
    epochs = [line for line in run.metrics() if "validation_accuracy" in line]
    if not epochs:
        return {}
    best = max(epochs, key=lambda line: line["validation_accuracy"])
    return {
        "accuracy": epochs[-1]["validation_accuracy"],
        "nll": epochs[-1]["validation_nll"],
        "best_accuracy": best["validation_accuracy"],
        "best_epoch": best["epoch"],
    }


def _stopped_and_kept(run: Run) -> dict[str, int]:
    epochs = [line for line in run.metrics() if "validation_nll" in line]
    best = min(epochs, key=lambda line: line["validation_nll"])
    return {"stopped_epoch": epochs[-1]["epoch"], "kept_epoch": best["epoch"]}


def save_predictions(
    run: Run,
    name: str,
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    ids: Int[Tensor, " rows"],
) -> None:
    """Keep what a model said, as `predictions/NAME.safetensors`: logits, targets, ids."""
    if run.writes:
        content = save({"logits": logits.contiguous(), "targets": targets, "ids": ids.cpu()})
        with atomic(run.path("predictions", f"{name}.safetensors")) as temporary:
            temporary.write_bytes(content)


def load_predictions(
    run: Run, name: str
) -> tuple[Float[Tensor, "rows classes"], Int[Tensor, " rows"]] | None:
    """What `save_predictions` kept, None where it has not yet.

    Raises:
        UserError: if the file is damaged.
    """
    path = run.folder / "predictions" / f"{name}.safetensors"
    if not path.is_file():
        return None
    try:
        content = load_file(path)
    except SafetensorError as error:
        raise UserError(
            f"is damaged ({error})", where=path, mend="Delete it and run again with --resume"
        ) from None
    return content["logits"], content["targets"]


def without(images: ImageSet) -> ImageSet:
    """An empty set of the same kind, for the split that a run does without."""
    return images.take(images.ids[:0])
