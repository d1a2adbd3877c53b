"""What the methods that compare inner activations have in common: their taps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from temperance.errors import UserError
from temperance.models.features import ModelProbe
from temperance.objectives.base import MethodArgs, Objective, Pair
from temperance.rows import Rows, Signal


class FeatureArgs(MethodArgs):
    """Settings of every objective that compares inner activations."""

    student_taps: tuple[str, ...] | None = None
    """Modules of the student whose outputs are compared (`NAME:in`: whose inputs), as many as the
    teacher's; null: found by a look at the model."""
    teacher_taps: tuple[str, ...] | None = None
    """Likewise of the teacher."""


class FeatureObjective(Objective):
    """An objective that compares activations pair by pair; the teacher's logits play no part."""

    level: ClassVar[Literal["embedding", "middle", "last", "all"]]
    """Which activations are compared unless the settings name them: what the head gets, or the
    last of the middle, the last, or all spatial sizes, paired from the end."""
    args: FeatureArgs
    teacher_logits = "none"
    calibration = "not at all: the teacher's logits are not used"

    # What a subclass defines.

    def make_adapters(
        self, student: Sequence[torch.Size], teacher: Sequence[torch.Size], pair: Pair
    ) -> None:
        """Make what learns or remembers, given the shapes at the taps (rows first)."""

    def compare(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The weighted losses of the activations at the taps; the teacher's are detached."""
        raise NotImplementedError

    # What they share.

    def adapt(self, pair: Pair) -> None:
        """Choose the taps and make the adapters."""
        where = f"objective '{self.name}'"
        if pair.teacher is None:
            raise UserError("needs a teacher", where=where, mend="Use 'labels' without one")
        student = self.args.student_taps or self._found(pair.student)
        teacher = self.args.teacher_taps or self._found(pair.teacher)
        if self.args.student_taps is None and self.args.teacher_taps is None:
            n = min(len(student), len(teacher))
            student, teacher = student[-n:], teacher[-n:]
        if len(student) != len(teacher):
            raise UserError(
                f"compares taps in pairs, got {len(student)} of the student {list(student)} and"
                f" {len(teacher)} of the teacher {list(teacher)}",
                where=where,
                mend="Set student_taps and teacher_taps of the same number",
            )
        shapes = [
            [probe.shape(tap) for tap in taps]
            for probe, taps in ((pair.student, student), (pair.teacher, teacher))
        ]
        for taps, of_taps in zip((student, teacher), shapes, strict=True):
            for tap, shape in zip(taps, of_taps, strict=True):
                self._check_kind(tap, shape)
        self.student_taps, self.teacher_taps = tuple(student), tuple(teacher)
        self.make_adapters(shapes[0], shapes[1], pair)

    def terms(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """`compare` of the tapped activations."""
        if not self.student_taps:
            raise UserError(
                "does not know yet which activations to compare",
                where=f"objective '{self.name}'",
                mend="Call its build (or temperance.attach) with the student and the teacher first",
            )
        return self.compare(
            [student.features[tap] for tap in self.student_taps],
            [teacher.features[tap] for tap in self.teacher_taps],
            rows,
            progress,
        )

    def _found(self, probe: ModelProbe) -> tuple[str, ...]:
        if self.level == "embedding":
            if probe.embedding is None:
                raise UserError(
                    "finds no linear layer that gives the logits",
                    where=f"objective '{self.name}'",
                    mend="Set student_taps and teacher_taps",
                )
            return (probe.embedding,)
        stages = probe.stages
        if not stages:
            raise UserError(
                "finds no activations before the head",
                where=f"objective '{self.name}'",
                mend="Set student_taps and teacher_taps",
            )
        if self.level == "all":
            return stages
        return (stages[len(stages) // 2],) if self.level == "middle" else stages[-1:]

    def _check_kind(self, tap: str, shape: torch.Size) -> None:
        kind = self.needs.features
        fits = {"maps": len(shape) == 4, "embeddings": len(shape) == 2}.get(kind, len(shape) >= 2)
        if not fits:
            wanted = {
                "maps": "feature maps (rows, channels, height, width)",
                "embeddings": "vectors (rows, units)",
            }.get(kind, "activations (rows, …)")
            raise UserError(
                f"compares {wanted}, and the activation at '{tap}' is {tuple(shape)}",
                where=f"objective '{self.name}'",
                mend="Set student_taps and teacher_taps, or use another objective",
            )
