"""What an arm means for one student: which teacher, at which temperature, compared how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from temperance.config import Args
from temperance.errors import UserError
from temperance.objectives.weight_matched import WeightMatchedArgs
from temperance.studies.arms import ENTROPY, ArmName
from temperance.studies.plan import PlannedStudent, StudyArgs
from temperance.studies.pool import StudentArgs

SOFTENED: tuple[ArmName, ...] = (
    *("raw", "raw+calibration", "A/A", "calibrated", "under-confident"),
    *("constant-T", "permuted-T", "grid"),
)
"""Arms whose target is the teacher's prediction at one softening, T · τ."""

TrainedOn = Literal["train", "train+calibration", "unlabelled"]


@dataclass(frozen=True)
class TeacherRecord:
    """A teacher that is trained, measured and calibrated."""

    name: str
    folder: str
    """Of its measurement, in the study's `runs`."""
    sha256: str
    """Of its weights."""
    temperature: float
    """As fitted."""
    folds: tuple[str, ...] = ()
    """Folders of its fold teachers; empty if it was calibrated on held-out rows."""
    epoch: int | None = None
    """Of the snapshot that it is, and that its fold teachers are; None for the last state."""
    trained_on_all: str | None = None
    """Folder of the same teacher trained on train + calibration; None if it is so itself."""


@dataclass(frozen=True)
class Source:
    """Where a student's teacher is."""

    kind: Literal["measured", "trained", "folds", "truth"]
    folder: str
    """Of its measurement, or of its training, in the study's `runs`; of the known truth the
    path."""
    sha256: str
    """Of its weights; of a training the name of its folder, which says as much."""
    temperature: float
    """What its logits are divided by; 1 leaves them raw."""
    folds: tuple[str, ...] = ()
    epoch: int | None = None
    """Of its folds' snapshots; None for their last states."""


@dataclass(frozen=True)
class StudentTraining:
    """One student's training, with everything that can change it."""

    name: str
    recipe: StudentArgs
    replicate: int
    rows: TrainedOn
    objective: Args
    seed: int
    source: Source | None = None
    control: ArmName | None = None
    """One of the arms that set the target's entropy; its setting is found from the teacher's
    predictions of the rows."""
    temperature: float | None = None
    """The arm's calibration temperature; None if it has none."""
    control_softening: float = 1.0
    """Of the target that the control is to have the mean entropy of: T · τ of the teacher."""

    def facts(self, split: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
        """What identifies it beside the recipe."""
        facts: dict[str, Any] = {
            "split": split,
            "data": fingerprint,
            "seed": self.seed,
            "rows": self.rows,
            "objective": self.objective.model_dump(),
        }
        if self.source is not None:
            source = self.source
            facts |= {"teacher": source.sha256, "T": source.temperature, "kind": source.kind}
            facts |= {"folds": source.folds} if source.kind == "folds" else {}
            facts |= {} if source.epoch is None else {"epoch": source.epoch}
        if self.control is not None:
            facts |= {"control": self.control, "control_softening": self.control_softening}
        return facts


def student_training(
    args: StudyArgs,
    planned: PlannedStudent,
    teacher: TeacherRecord | None,
    constant: float | None = None,
    permuted: float | None = None,
    truth: Source | None = None,
) -> StudentTraining:
    """What a planned student amounts to, once its teacher is there.

    Args:
        constant: the pool's temperature, for the arm that has it.
        permuted: another teacher's, for the arm that has it.
        truth: the known truth, for the arm that has it.

    Raises:
        NotApplicableError: if the arm is impossible for this teacher.
    """
    recipe = args.student_recipes[planned.student]
    seed = args.student_seed + planned.replicate + 1_000 * planned.seed
    if planned.arm == "A/A":
        seed += 500_000
    if planned.cell is None or planned.teacher is None:
        rows: TrainedOn = "train" if planned.arm == "labels" else "train+calibration"
        labels = args.teacher.objective.model_copy(update={"label_smoothing": 0.0})
        name = _name(planned, 1.0, seed)
        return StudentTraining(name, recipe, planned.replicate, rows, labels, seed)
    assert teacher is not None

    settings = args.named_objectives[planned.cell.objective]
    if planned.cell.softening is not None:
        settings = settings.model_copy(update={"softening": planned.cell.softening})
    rows = "train+calibration" if args.calibration.fit == "cross-fit" else "train"
    if planned.cell.transfer == "unlabelled":
        rows = "unlabelled"
    source = Source("measured", teacher.folder, teacher.sha256, 1.0)
    if planned.cell.transfer == "out-of-fold":
        source = Source("folds", teacher.folder, teacher.sha256, 1.0, teacher.folds, teacher.epoch)

    temperature, control, control_softening = 1.0, None, 1.0
    match planned.arm:
        case "calibrated":
            temperature = teacher.temperature
        case "under-confident":
            assert planned.factor is not None
            temperature = teacher.temperature * planned.factor
        case "constant-T":
            assert constant is not None
            temperature = constant
        case "permuted-T":
            assert permuted is not None
            temperature = permuted
        case "grid":
            assert planned.teacher_softening is not None
            temperature = planned.teacher_softening / teacher_softening(settings)
        case "weight-matched":
            temperature = teacher.temperature
            settings = WeightMatchedArgs(objective=settings)
        case "symmetric":
            settings = settings.model_copy(
                update={
                    "softening": softening_of(settings) * teacher.temperature,
                    "teacher_softening": teacher_softening(settings) * teacher.temperature,
                }
            )
        case "shuffled-entropy" | "equal-entropy" | "uniform-mix" | "label-smoothing":
            assert planned.arm in ENTROPY
            control = planned.arm
            own = teacher_softening(settings)
            control_softening = own * teacher.temperature
            if control == "uniform-mix" and teacher.temperature <= 1:
                raise NotApplicableError(
                    f"T is {teacher.temperature:.3g}, and mixing with uniform only raises entropy",
                    where=teacher.name,
                )
            if control == "label-smoothing" and rows == "unlabelled":
                raise NotApplicableError("there are no labels to smooth", where=teacher.name)
            # Transforms act at softening 1, so the target is divided before, not after, them.
            temperature = control_softening if control != "uniform-mix" else own
            settings = settings.model_copy(update={"teacher_softening": 1.0})
        case "raw+calibration":
            rows = "train+calibration"
            if teacher.trained_on_all is not None:
                folder = teacher.trained_on_all
                source = Source("trained", folder, folder, 1.0)
        case "bayes":
            assert truth is not None
            source = truth
            temperature = truth.temperature
    return StudentTraining(
        _name(planned, temperature, seed),
        recipe,
        planned.replicate,
        rows,
        settings,
        seed,
        replace(source, temperature=temperature),
        control,
        # What the table says: that a control's target is divided in one go is how, not what.
        {
            "shuffled-entropy": teacher.temperature,
            "equal-entropy": teacher.temperature,
            "uniform-mix": 1.0,
            "label-smoothing": None,
            "symmetric": 1.0,
            "weight-matched": 1.0,
        }.get(planned.arm, temperature),
        control_softening,
    )


class NotApplicableError(UserError):
    """An arm that is impossible for a teacher; no failure."""


def _name(planned: PlannedStudent, temperature: float, seed: int) -> str:
    """What the training is, whichever arms it serves: raw at τ = 2 is the grid's 2."""
    who = planned.teacher.name if planned.teacher else f"r{planned.replicate}"
    how = f"T{temperature:.4g}" if planned.arm in SOFTENED else planned.arm
    parts = [who, planned.student, how]
    if planned.cell is not None:
        parts.append(planned.cell.objective)
        if planned.cell.softening is not None:
            parts.append(f"tau{planned.cell.softening:g}")
        if planned.cell.transfer != "in-sample":
            parts.append(planned.cell.transfer)
    return "-".join([*parts, f"seed{seed}"])


def softening_of(settings: Any) -> float:
    """τ of the student."""
    return float(settings.softening)


def teacher_softening(settings: Any) -> float:
    """τ of the teacher, before any calibration temperature."""
    return float(settings.teacher_softening or settings.softening)


def effective_softening(args: StudyArgs, planned: PlannedStudent, temperature: float) -> float:
    """T · τ, by which a teacher's logits are divided in all; NaN for a method without softening."""
    assert planned.cell is not None
    settings = args.named_objectives[planned.cell.objective]
    if "softening" not in type(settings).model_fields:
        return float("nan")
    if planned.cell.softening is not None:
        settings = settings.model_copy(update={"softening": planned.cell.softening})
    return temperature * teacher_softening(settings)
