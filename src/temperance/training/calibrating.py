"""Fitting a teacher's calibrator: on held-out rows, or by cross-fitting at no cost in labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from temperance.calibration import Calibrator, CalibratorArgs, TemperatureArgs, get_calibrator
from temperance.config import Args
from temperance.data import Splits, folds
from temperance.errors import UserError
from temperance.objectives import Objective
from temperance.run import Run
from temperance.tasks import predict
from temperance.teacher import NoTeacher
from temperance.training.engine import Engine
from temperance.training.student import (
    Recipe,
    load_predictions,
    produce_student,
    save_predictions,
    without,
)


class CalibrationArgs(Args):
    """The teacher's calibrator, and the rows that it is fitted on."""

    # A run that `force` lets pass would otherwise not exist: it changes no result.
    without_effect: ClassVar[frozenset[str]] = frozenset({"force"})

    calibrator: CalibratorArgs = TemperatureArgs()
    """A name (see `temperance list calibrators`), or a mapping with the name and its settings."""
    fit: Literal["held-out", "cross-fit", "none"] = "held-out"
    """held-out: on the calibration split. cross-fit: on the out-of-fold logits of K teachers of
    the same recipe, so that no label is held out; assumes that the teacher behaves as they do.
    none: the raw teacher."""
    folds: int = Field(default=5, ge=2)
    """K of the cross-fit."""
    underconfidence: PositiveFloat = 1.0
    """Divides the calibrated logits; above 1 the teacher becomes under-confident."""
    force: bool = False
    """Distil even if the fit says that it is not usable."""


def out_of_fold_logits(
    recipe: Recipe,
    objective: Objective,
    splits: Splits,
    *,
    k: int,
    seed: int,
    engine: Engine,
    run: Run,
    open_run: Callable[[int], Run],
    label: str,
) -> tuple[Float[Tensor, "rows classes"], Int[Tensor, " rows"]]:
    """Logits for every row of `splits.train` from a model that has not seen it.

    Trains K models of one recipe, each on K − 1 stratified folds (cross-fitting; Dao et al.,
    ICLR 2021). The result is kept in `run` as predictions `out-of-fold`.

    Args:
        open_run: the folder of one fold's training.
    """
    kept = load_predictions(run, "out-of-fold")
    if kept is not None:
        return kept
    fold_of = folds(splits.train, k, seed)
    logits = torch.empty(len(splits.train), len(splits.train.classes))
    for fold in range(k):
        seen, held_out = without_fold(splits, fold_of, fold, recipe)
        model, _ = produce_student(
            recipe,
            seen,
            NoTeacher(),
            objective,
            seed=seed,
            engine=engine,
            run=open_run(fold),
            label=f"{label}, fold {fold + 1}/{k}",
            test=False,
        )
        logits[held_out], _ = predict(model, splits.train.take(held_out), device=engine.device)
    targets = splits.train.targets.cpu()
    save_predictions(run, "out-of-fold", logits, targets, splits.train.ids)
    return logits, targets


def without_fold(
    splits: Splits, fold_of: Int[Tensor, " rows"], fold: int, recipe: Recipe
) -> tuple[Splits, Int[Tensor, " some"]]:
    """What a fold's teacher is trained on, and the indices of the rows of train it does not see.

    It has validation rows only if its recipe stops early by them; else the last epoch counts.
    """
    held_out = (fold_of == fold).nonzero()[:, 0]
    kept = splits.train.take((fold_of != fold).nonzero()[:, 0])
    validation = splits.validation if recipe.training.patience else without(splits.validation)
    return replace(splits, train=kept, validation=validation), held_out


def fit_held_out(
    model: nn.Module, splits: Splits, args: CalibrationArgs, engine: Engine
) -> Calibrator:
    """A calibrator fitted on the calibration split.

    Raises:
        UserError: if the split is empty or holds one class only.
    """
    if not len(splits.calibration):
        raise UserError(
            "the calibration split is empty",
            where="split.calibration",
            mend="Set it above 0, or calibration.fit=cross-fit",
        )
    rows = predict(model, splits.calibration, device=engine.device)
    return get_calibrator(args.calibrator).fit(*rows)


def caution(objective: Objective, calibrator: Calibrator | None) -> str | None:
    """What someone should know who distils with this objective from this teacher; None if nothing.

    Args:
        calibrator: None for the raw teacher.
    """
    if calibrator is None:
        return None
    name = objective.args.name
    if objective.teacher_logits == "none":
        return (
            f"calibrating the teacher changes nothing for objective '{name}', which does not use"
            f" its calibrated logits; '{name}+kd' does"
        )
    if objective.teacher_logits == "scale_invariant" and calibrator.scales_rows:
        return (
            f"'{calibrator.name}' only scales each row's logits, and objective '{name}' is"
            " invariant to that: calibrating the teacher changes nothing"
        )
    return objective.caution or None


def usable(calibrator: Calibrator, args: CalibrationArgs) -> Calibrator:
    """The calibrator that a teacher gets: `underconfidence` applied, refused if the fit failed.

    Raises:
        UserError: if the fit is degenerate and `args.force` is not set.
    """
    fit = calibrator.fit_report
    if fit is not None and not fit.usable and not args.force:
        raise UserError(
            f"'{calibrator.name}' cannot be fitted to this teacher's {fit.n} calibration rows"
            f" (status '{fit.status}')",
            where="calibration",
            mend="Use more calibration rows, calibration.fit=none, or --force"
            " (calibration.force=true) to distil from the raw logits",
        )
    return calibrator.tempered(args.underconfidence)
