"""Asymmetric temperature scaling (Li et al., NeurIPS 2022, arXiv 2210.04427)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import PositiveFloat
from torch import Tensor

from temperance.objectives.base import LogitObjective, MethodArgs
from temperance.objectives.kd import softened_kl
from temperance.objectives.transforms import TransformArgs
from temperance.objectives.transforms.asymmetric import AsymmetricArgs, asymmetrically_softened
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows, Signal


class ATSArgs(MethodArgs):
    """Asymmetric temperatures; the defaults are those of the authors' MindSpore example.

    The paper searches them per pair of models, from 1 to 6 for the label and 1 to 5 for the others
    in the authors' code, and finds a label's temperature above the others' to help.
    """

    name: Literal["ats"] = "ats"
    softening: PositiveFloat = 1.0
    """τ of the student; the teacher has the two below in its place."""
    target_softening: PositiveFloat = 4.0
    """τ of the teacher's logit of the label (the paper's τ₁)."""
    other_softening: PositiveFloat = 2.0
    """τ of the teacher's other logits (τ₂)."""
    transforms: tuple[TransformArgs, ...] = ()
    """What is done to the teacher's logits before they are divided, in this order."""
    weight: Weight = constant(0.5)
    """λ, the weight of the distillation term."""
    label_weight: Weight = constant(0.5)
    """1 − λ, the weight of the cross-entropy with the labels."""


class ATS(LogitObjective):
    """label_weight · cross-entropy + weight · τ² · KL(teacher ‖ student), row by row.

    The teacher's prediction is the softmax of z_y / τ₁ and z_k / τ₂, k ≠ y. With equal
    temperatures this is `kd` of that teacher's softening: a teacher calibrated by a temperature T,
    at softening τ, is τ₁ = τ₂ = T·τ.

    As in `kd`, the divergence stands for the cross-entropy with the softened teacher that the
    authors' code has: less by τ² times the teacher's entropy, and of the same gradient.
    """

    name = "ats"
    args_class = ATSArgs
    args: ATSArgs
    needs = Needs(logits="dense", targets="required", soft_targets=False)
    row_wise = True
    teacher_logits = "used"
    calibration = "once, in the target: T multiplies both of the teacher's temperatures"
    caution = (
        "two temperatures feel a shift of a row's logits, which no softmax does: a calibrator that"
        " gives log-probabilities teaches something else than one that gives logits"
    )

    def compare(
        self, student: Signal, teacher: Signal, rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `ats`."""
        temperatures = AsymmetricArgs(
            target_softening=self.args.target_softening, other_softening=self.args.other_softening
        )
        divided = replace(
            teacher, logits=asymmetrically_softened(teacher.logits, rows, temperatures)
        )
        loss = softened_kl(student, divided, softening=self.args.softening, teacher_softening=1.0)
        return {"ats": self.args.weight.at(progress) * loss}
