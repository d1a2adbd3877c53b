"""The arms of a study: what a student learns from, and which claims comparing them can decide."""

from __future__ import annotations

from typing import Literal, NamedTuple

ArmName = Literal[
    "labels",
    "labels+calibration",
    "raw",
    "raw+calibration",
    "calibrated",
    "under-confident",
    "constant-T",
    "permuted-T",
    "shuffled-entropy",
    "equal-entropy",
    "uniform-mix",
    "label-smoothing",
    "symmetric",
    "weight-matched",
    "A/A",
    "grid",
    "bayes",
]

ARMS: dict[ArmName, str] = {
    "labels": "no teacher; labels of train only",
    "labels+calibration": "no teacher; labels of train + calibration: equal labels",
    "raw": "teacher as it is",
    "raw+calibration": "teacher as it is; teacher and student on train + calibration",
    "calibrated": "teacher at its fitted temperature T",
    "under-confident": "teacher at T × an under-confidence factor",
    "constant-T": "teacher at one temperature for all: the geometric mean of the fitted T",
    "permuted-T": "teacher at the fitted temperature of another teacher",
    "shuffled-entropy": "calibrated; within a batch every row has the entropy of another row",
    "equal-entropy": "calibrated; every row has the mean entropy of the calibrated teacher",
    "uniform-mix": "raw teacher mixed with uniform, to the calibrated teacher's mean entropy",
    "label-smoothing": "no teacher's opinion: labels smoothed to the calibrated mean entropy",
    "symmetric": "raw teacher; student and teacher softened alike, by T × τ",
    "weight-matched": "raw teacher; its gradient made as large as the calibrated one's",
    "A/A": "the raw arm again with another seed: what chance alone does",
    "grid": "raw teacher at a grid of teacher softenings, the same for all teachers",
    "bayes": "the known truth as the teacher",
}

WITHOUT_TEACHER: tuple[ArmName, ...] = ("labels", "labels+calibration")
EQUAL_LABELS: ArmName = "labels+calibration"
ONE_TRAINED_ON_ALL: ArmName = "raw+calibration"
POOL_WIDE: tuple[ArmName, ...] = ("constant-T", "permuted-T")
"""Arms that need the temperatures of other teachers too."""
ENTROPY: tuple[ArmName, ...] = (
    "shuffled-entropy",
    "equal-entropy",
    "uniform-mix",
    "label-smoothing",
)
"""Arms that change a target row by row, so they need a method that compares logits."""
RAW: tuple[ArmName, ...] = ("raw", "raw+calibration", "A/A", "bayes")
"""Arms that make sense also for a method that calibration cannot touch."""

DEFAULT: tuple[ArmName, ...] = (
    "labels",
    "labels+calibration",
    "raw",
    "calibrated",
    "under-confident",
    "constant-T",
)


class Rung(NamedTuple):
    """A step of the ladder of verdicts: what is concluded if `calibrated` beats all of these."""

    against: tuple[ArmName, ...]
    conclusion: str


LADDER = (
    Rung(("raw",), "softening helps"),
    Rung(("constant-T", "permuted-T"), "the fitted T picks the softening"),
    Rung(("shuffled-entropy", "equal-entropy"), "calibrated confidence matters"),
)
"""Each rung counts only on top of the ones below it."""


def list_arms() -> list[str]:
    """The names that `arms` of a study knows."""
    return list(ARMS)
