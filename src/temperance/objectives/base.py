"""What every objective has in common: its declarations, the checks of its input, the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Int
from pydantic import PositiveFloat, model_validator
from torch import Tensor, nn

from temperance.config import Args, load_config
from temperance.errors import UserError
from temperance.models.features import ModelProbe
from temperance.objectives.transforms import TransformArgs, transformed
from temperance.objectives.transforms.settings import TransformSettings
from temperance.objectives.weights import Weight, constant, weights_onto_defaults
from temperance.rows import Needs, Rows, Signal


class MethodArgs(Args):
    """Settings of every objective."""

    name: str
    label_weight: Weight = constant(1.0)
    """Weight of the cross-entropy with the labels; a number, or value, warmup, end, shape."""

    @model_validator(mode="before")
    @classmethod
    def _parts_of_weights_change_the_default(cls, given: Any) -> Any:
        return weights_onto_defaults(cls, given)


@dataclass(frozen=True)
class Pair:
    """A student and its teacher, as they answered a few rows: what adapters are built from."""

    student: ModelProbe
    teacher: ModelProbe | None
    """None where there is no teacher."""
    ids: Int[Tensor, " samples"]
    """Of all samples that are trained on."""
    targets: Int[Tensor, " samples"] | None = None
    """Their labels, in the same order."""


class Objective(nn.Module):
    """A distillation loss, and the declaration of what it needs.

    A module because some learn: their parameters (adapters, temperatures) are optimised and their
    buffers (memory banks) checkpointed with the student's. A subclass declares its settings and
    what stands below, and defines `terms`.

    Args:
        args: the settings; or their values as keyword arguments.

    Raises:
        UserError: if a setting does not fit.
    """

    name: ClassVar[str]
    args_class: ClassVar[type[Args]]
    args: Any
    needs: Needs
    row_wise: bool
    """Whether losses are `(rows,)`; otherwise they are scalars over the local batch."""
    teacher_logits: Literal["none", "used", "scale_invariant"]
    """Whether calibrating the teacher can matter: its logits are not used; used; or used in a way
    that no positive factor per row can change."""
    calibration: str
    """How the teacher's calibration enters, in a few words."""
    caution: str = ""
    """What a user should know who combines it with a calibrator, where there is something."""
    student_taps: tuple[str, ...] = ()
    """Names of the student's activations that it compares; known once it is built."""
    teacher_taps: tuple[str, ...] = ()

    def __init__(self, args: Args | None = None, **values: Any) -> None:
        super().__init__()
        self.args = args if args is not None else load_config(self.args_class, values=values)

    # What a subclass defines.

    def adapt(self, pair: Pair) -> None:
        """Set the taps, make adapters and memory; what is drawn comes from PyTorch's generator."""

    def terms(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The weighted losses other than the labels'; the signals are checked, 32 bits or more,
        and the teacher's detached."""
        raise NotImplementedError

    # What they share.

    def build(self, pair: Pair, *, seed: int = 0) -> None:
        """Make taps, adapters and memory for this pair; before the optimiser gets the parameters.

        Args:
            seed: of initial weights; PyTorch's own generator stays as it is.

        Raises:
            UserError: if the models have not what the objective needs.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.adapt(pair)

    def forward(
        self, student: Signal, teacher: Signal | None, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """Named, weighted losses of a batch; `labels` among them where there are targets.

        Computed in float32 or wider, outside autocast: half precision overflows in sums over
        classes and cancels in differences of probabilities.

        Args:
            progress: from 0 to 1 over the training.

        Raises:
            UserError: if signals and rows are not what the objective needs.
        """
        check_batch(self, student, teacher, rows)
        with torch.autocast(student.logits.device.type, enabled=False):
            student = _mapped(student, _widened)
            # Without a teacher, `terms` of an objective that needs none does not look.
            heard = student if teacher is None else _mapped(teacher, _widened_and_detached)
            losses = self.terms(student, heard, rows, progress)
            if rows.targets is not None:
                loss = self._label_loss(student.logits, rows.targets)
                losses["labels"] = self.args.label_weight.at(progress) * loss
        return losses

    def _label_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="none")


class SofteningArgs(MethodArgs):
    """Settings of every objective that takes softmaxes of logits."""

    softening: PositiveFloat = 4.0
    """τ of the student, and of the teacher unless set below."""
    teacher_softening: PositiveFloat | None = None
    """τ of the teacher, if it is to differ from the student's."""
    transforms: tuple[TransformArgs, ...] = ()
    """What is done to the teacher's logits before they are compared, in this order."""


class LogitObjective(Objective):
    """An objective that compares logits, after the target transforms of its settings."""

    def compare(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """What a subclass defines in place of `terms`; the teacher's logits are transformed."""
        raise NotImplementedError

    def __init__(self, args: Args | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        transforms: Sequence[TransformSettings] = self.args.transforms
        if transforms:
            self.needs = replace(self.needs, logits="dense")
        if any(transform.needs_targets for transform in transforms):
            self.needs = replace(self.needs, targets="required", soft_targets=False)
        if any(transform.compares_rows for transform in transforms):
            self.row_wise = False
        if any(transform.replaces_teacher for transform in transforms):
            self.teacher_logits = "none"
            self.calibration = "not at all: a transform puts something else in the teacher's place"

    def terms(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """`compare` after the transforms."""
        if self.args.transforms:
            logits = transformed(self.args.transforms, teacher.logits, rows)
            teacher = replace(teacher, logits=logits)
        return self.compare(student, teacher, rows, progress)

    @property
    def softenings(self) -> tuple[float, float]:
        """τ of the student and τ of the teacher."""
        own = self.args.softening
        return own, self.args.teacher_softening or own


def check_batch(objective: Objective, student: Signal, teacher: Signal | None, rows: Rows) -> None:
    """Whether signals and rows are what the objective needs.

    Raises:
        UserError: if not; it says what is missing or does not match.
    """
    needs, name = objective.needs, f"objective '{objective.name}'"
    n = len(student.logits)
    if student.top_k is not None or student.logits.ndim != 2:
        raise UserError(
            f"the student's logits are (rows, classes), not {tuple(student.logits.shape)}",
            where=name,
        )
    if n == 0:
        raise UserError("the batch is empty", where=name, mend="Give at least one row")
    _check_targets(name, needs, student, rows)
    if needs.views > 1 and (rows.views != needs.views or n % needs.views):
        raise UserError(
            f"needs {needs.views} views of each sample below one another, got {rows.views}",
            where=name,
            mend=f"Stack them and set Rows.views to {needs.views}",
        )
    if needs.ids and len(rows.ids) != n:
        raise UserError(f"{len(rows.ids)} ids for {n} rows", where=name)
    if teacher is None:
        if needs.logits != "none" or needs.features != "none":
            raise UserError("needs a teacher", where=name, mend="Use 'labels' without one")
        return
    _check_teacher(name, needs, student, teacher)
    for who, signal, taps in (
        ("student", student, objective.student_taps),
        ("teacher", teacher, objective.teacher_taps),
    ):
        missing = [tap for tap in taps if tap not in signal.features]
        if missing:
            raise UserError(
                f"the {who}'s signal has no feature '{missing[0]}', only"
                f" {sorted(signal.features) or 'logits'}",
                where=name,
                mend=f"Tap the {who} at {list(taps)}",
            )


def _check_targets(name: str, needs: Needs, student: Signal, rows: Rows) -> None:
    targets, n = rows.targets, len(student.logits)
    if targets is None:
        if needs.targets == "required":
            raise UserError("needs labels, these rows have none", where=name)
        return
    if len(targets) != n:
        raise UserError(f"{len(targets)} targets for {n} rows", where=name)
    if targets.is_floating_point() and (
        targets.ndim != 2 or targets.shape[1] != student.logits.shape[1]
    ):
        raise UserError(
            f"soft targets are (rows, classes) = {tuple(student.logits.shape)},"
            f" not {tuple(targets.shape)}",
            where=name,
        )
    if targets.is_floating_point() and not needs.soft_targets:
        raise UserError(
            "needs class indices as targets, these are probabilities",
            where=name,
            mend="Give targets.argmax(1), or use 'kd'",
        )


def _check_teacher(name: str, needs: Needs, student: Signal, teacher: Signal) -> None:
    top_k = teacher.top_k
    if needs.logits == "none":
        return
    if top_k is not None and needs.logits == "dense":
        raise UserError(
            "needs the teacher's logits of all classes, this signal holds the"
            f" {teacher.logits.shape[1]} highest of {top_k.classes}",
            where=name,
            mend="Give dense logits, or use 'kd' without transforms",
        )
    said = (len(teacher.logits), teacher.logits.shape[-1] if top_k is None else top_k.classes)
    if teacher.logits.ndim != 2 or said != tuple(student.logits.shape):
        raise UserError(
            f"the teacher's logits are of {said} (rows, classes), the student's of"
            f" {tuple(student.logits.shape)}",
            where=name,
            mend="Let both answer the same rows and the same classes",
        )


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _widened_and_detached(tensor: Tensor) -> Tensor:
    return _widened(tensor.detach())


def _mapped(signal: Signal, function: Any) -> Signal:
    """The signal with a function on every tensor that a loss is computed from."""
    raw, top_k = signal.raw_logits, signal.top_k
    features: Mapping[str, Tensor] = {
        name: function(feature) for name, feature in signal.features.items()
    }
    return replace(
        signal,
        logits=function(signal.logits),
        raw_logits=None if raw is None else function(raw),
        features=features,
        top_k=top_k and replace(top_k, log_sum_exp=function(top_k.log_sum_exp)),
    )
