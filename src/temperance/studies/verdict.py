"""What a study's contrasts support: a ladder of verdicts, and sentences made from numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from temperance.reporting.format import interval, signed
from temperance.studies.arms import ARMS, EQUAL_LABELS, LADDER
from temperance.studies.contrasts import Contrast, Way

Status = Literal["better", "worse", "equivalent", "undecided"]
FIRST = 3  # contrasts of one kind that a sentence lists; tables have them all


@dataclass(frozen=True)
class Step:
    """One rung of the ladder, in one way of teaching."""

    way: Way
    shown: str
    conclusion: str
    """What holds if the rung is reached."""
    against: tuple[str, ...]
    """What `calibrated` has to beat."""
    found: dict[str, str]
    """Against each: better, worse, equivalent, undecided, or not run."""
    reached: bool
    """Whether it beats all of these, and the rungs below were reached."""

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self) | {"way": list(self.way)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Step:
        """The step that `to_dict` wrote."""
        return cls(**record | {"way": Way(*record["way"]), "against": tuple(record["against"])})


def ladder(contrasts: Sequence[Contrast], margin: float) -> list[Step]:
    """How far each way of teaching climbs; a rung whose arms were not all run is not reached."""
    by_way: dict[Way, dict[str, Contrast]] = {}
    for contrast in contrasts:
        if contrast.arm == "calibrated" and contrast.endpoint == "accuracy":
            by_way.setdefault(contrast.way, {}).setdefault(contrast.against, contrast)
    steps = []
    for way, found in by_way.items():
        reached = True
        for rung in LADDER:
            states: dict[str, str] = {
                against: status(found[against], margin) if against in found else "not run"
                for against in rung.against
            }
            reached = reached and all(state == "better" for state in states.values())
            shown = next(iter(found.values())).shown
            steps.append(Step(way, shown, rung.conclusion, rung.against, states, reached))
    return steps


def sentences(
    contrasts: Sequence[Contrast], steps: Sequence[Step], *, margin: float, units: int, alone: bool
) -> tuple[str, ...]:
    """What the table supports, what it does not, and how far the ladder was climbed.

    They are made from the numbers alone. A difference that lies within the margin is a finding
    too; one that is neither established nor excluded is undecided.

    Args:
        units: teachers, or replicates where `alone`.
        alone: whether there is no teacher.
    """
    claims = [
        ("a teacher helps at equal labels", _against_labels(contrasts)),
        ("calibrating helps", _pairs(contrasts, "calibrated", "raw")),
        ("the fitted T beats one constant T", _pairs(contrasts, "calibrated", "constant-T")),
        (
            "an under-confident teacher helps more",
            _pairs(contrasts, "under-confident", "calibrated"),
        ),
    ]
    findings = [
        _finding(state, [c for c in of_claim if status(c, margin) == state], margin)
        for _, of_claim in claims
        for state in ("better", "worse", "equivalent")
        if any(status(c, margin) == state for c in of_claim)
    ]
    unsupported = [
        _not_supported(claim, of_claim, margin)
        for claim, of_claim in claims
        if of_claim and not any(status(c, margin) == "better" for c in of_claim)
    ]
    head = f"Over {_counted(units, 'replicates' if alone else 'teachers')} this table"
    first = f"{head} supports: {'; '.join(findings)}." if findings else f"{head} decides nothing."
    second = (
        f"It does not support that {'; nor that '.join(unsupported)}."
        if unsupported
        else "It says nothing about other data, models, or test images."
    )
    return first, second, *_climbed(steps)


def status(contrast: Contrast, margin: float) -> Status:
    """Whether the first arm is better, worse, equivalent (within the margin) or undecided."""
    difference = contrast.difference
    if difference.within(margin):
        return "equivalent"
    direction = difference.direction
    if contrast.endpoint != "accuracy":
        direction = -direction  # losses
    return {1: "better", -1: "worse", 0: "undecided"}[direction]  # type: ignore[return-value]


def _climbed(steps: Sequence[Step]) -> list[str]:
    """One sentence on the ladder, if more than its first rung was tried."""
    tried = [s for s in steps if "not run" not in s.found.values()]
    if len({s.conclusion for s in tried}) < 2:
        return []
    said = []
    for rung in LADDER:
        of_rung = [s for s in tried if s.conclusion == rung.conclusion]
        reached = [s for s in of_rung if s.reached]
        if of_rung:
            said.append(f"'{rung.conclusion}' in {len(reached)} of {len(of_rung)}")
    ways = "way of teaching" if len({s.way for s in tried}) == 1 else "ways of teaching"
    return [
        f"The ladder of verdicts, each rung on top of the one before: {', '.join(said)} {ways}."
    ]


def _against_labels(contrasts: Sequence[Contrast]) -> list[Contrast]:
    primary = [c for c in contrasts if c.primary and c.against == EQUAL_LABELS]
    return primary or [
        c for c in contrasts if c.against == EQUAL_LABELS and c.arm in ("raw", "calibrated")
    ]


def _pairs(contrasts: Sequence[Contrast], arm: str, against: str) -> list[Contrast]:
    wanted = [c for c in contrasts if (c.arm, c.against) == (arm, against)]
    return [c for c in wanted if c.endpoint == "accuracy"]


def _finding(state: str, alike: Sequence[Contrast], margin: float) -> str:
    """One clause about contrasts that came out alike."""
    contrast = alike[0]
    verb = {
        "better": "beats",
        "worse": "falls behind",
        "equivalent": f"equals, within ±{margin:g} points,",
    }[state]
    best = contrast.primary and contrast.against == EQUAL_LABELS
    arm = f"the best arm with a teacher, {contrast.arm}," if best else contrast.arm
    against = contrast.against
    if against == EQUAL_LABELS:
        against = "labels only at equal labels"
    return f"{arm} {verb} {against} ({_listed(alike)})"


def _not_supported(claim: str, of_claim: Sequence[Contrast], margin: float) -> str:
    """The claim, and for what is undecided the numbers that leave it so."""
    undecided = [c for c in of_claim if status(c, margin) == "undecided"]
    return f"{claim} (undecided: {_listed(undecided)})" if undecided else claim


def _listed(contrasts: Sequence[Contrast]) -> str:
    more = len(contrasts) - FIRST
    tail = f"; and {more} more" if more > 0 else ""
    return "; ".join(_numbers(c) for c in contrasts[:FIRST]) + tail


def _numbers(contrast: Contrast) -> str:
    difference = contrast.difference
    how = f"{contrast.shown}: " if contrast.shown else ""
    text = f"{how}{signed(difference.mean, 2)} points"
    if difference.low is None or difference.high is None:
        return f"{text}, no interval from {_counted(difference.clusters, _units(contrast))}"
    return f"{text} {interval(difference.low, difference.high, 2)}"


def _units(contrast: Contrast) -> str:
    if contrast.units == "replicates":
        return "replicates"
    return "teachers" if contrast.difference.clusters == contrast.difference.n else "families"


def _counted(count: int, units: str) -> str:
    """A number of them, and one in the singular."""
    one = {"families": "family"}.get(units, units.removesuffix("s"))
    return f"{count} {one if count == 1 else units}"


__all__ = ["ARMS", "Step", "ladder", "sentences", "status"]
