"""What was decided before the first student was trained, kept under a hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Literal

from temperance.config import Args, did_you_mean
from temperance.errors import UserError
from temperance.run import Run
from temperance.studies.arms import ArmName


class ContrastArgs(Args):
    """One arm minus another, in one cell, on one endpoint, in one direction."""

    arm: ArmName
    against: ArmName
    objective: str | None = None
    """null: the study's only one, or the first."""
    softening: float | None = None
    """τ of the student; null: the first."""
    student: str | None = None
    """null: the first."""
    transfer: Literal["in-sample", "out-of-fold", "unlabelled"] | None = None
    """null: the first."""
    factor: float | None = None
    """Of the arm under-confident; null: the first."""
    endpoint: Literal["accuracy", "nll", "brier"] = "accuracy"
    direction: Literal["greater", "less", "two-sided"] = "greater"
    """Of arm − against under the hypothesis."""

    def problems(
        self, arms: Collection[str], objectives: Sequence[str], students: Sequence[str]
    ) -> Iterator[str]:
        """What in the block does not exist in the study, each in a sentence."""
        for arm in (self.arm, self.against):
            if arm not in arms:
                yield f"primary, secondary: the study has no arm '{arm}'. {did_you_mean(arm, arms)}"
            if arm == "grid":
                yield (
                    "primary, secondary: 'grid' is no arm to compare, but a scale of them; it is"
                    " for primary.analysis=alignment"
                )
        if self.arm == self.against:
            yield f"primary, secondary: '{self.arm}' is compared with itself"
        for name, known in ((self.objective, objectives), (self.student, students)):
            if name is not None and name not in known:
                yield f"primary, secondary: the study has no '{name}'. {did_you_mean(name, known)}"

    def __str__(self) -> str:
        where = [self.objective, self.student, self.transfer]
        where += [None if self.softening is None else f"τ = {self.softening:g}"]
        where += [None if self.factor is None else f"{self.factor:g} × T"]
        known = ", ".join(str(part) for part in where if part is not None)
        sign = {"greater": "> 0", "less": "< 0", "two-sided": "≠ 0"}[self.direction]
        return (
            f"{self.arm} − {self.against}{f' ({known})' if known else ''}: {self.endpoint} {sign}"
        )


class PrimaryArgs(ContrastArgs):
    """The primary comparison; or the alignment test instead of two arms."""

    arm: ArmName = "calibrated"
    against: ArmName = "raw"
    analysis: Literal["contrast", "alignment"] = "contrast"
    """alignment: is the slope of log best softening on log fitted T above 0? Needs the arm grid."""

    def problems(
        self, arms: Collection[str], objectives: Sequence[str], students: Sequence[str]
    ) -> Iterator[str]:
        """As of any contrast, and the arm that the alignment test needs."""
        if self.analysis == "contrast":
            yield from super().problems(arms, objectives, students)
        elif "grid" not in arms:
            yield "primary: the alignment test needs the arm 'grid'"

    def __str__(self) -> str:
        if self.analysis == "alignment":
            return "slope of log best teacher softening on log fitted T > 0"
        return super().__str__()


def register(run: Run, primary: PrimaryArgs | None, secondary: Sequence[ContrastArgs]) -> str:
    """Keep the blocks in `primary.json` before the first student, or check that they are those.

    Returns:
        the sha256 of the blocks.

    Raises:
        UserError: if the study was registered with others.
    """
    blocks = {
        "primary": None if primary is None else primary.model_dump(mode="json"),
        "secondary": [block.model_dump(mode="json") for block in secondary],
    }
    digest = hashlib.sha256(json.dumps(blocks, sort_keys=True).encode()).hexdigest()
    kept = run.read_json("primary.json")
    if kept is None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        run.write_json("primary.json", {"sha256": digest, "registered": now, **blocks})
    elif kept["sha256"] != digest:
        raise UserError(
            "the comparisons were registered before the first student was trained"
            f" ({kept['registered']}), and those of these settings are others",
            where=run.folder / "primary.json",
            mend="Restore primary and secondary, or start a study in another folder",
        )
    return digest
