from __future__ import annotations

import math

import pytest

from temperance.calibration import Interval, TemperatureFit
from temperance.studies.advice import (
    Measurement,
    evidence_sentence,
    evidence_table,
    order_sentence,
    proposals,
)
from temperance.studies.arms import ARMS
from temperance.studies.evidence import ORDER, Evidence


def measured(
    temperature: float = 2.0,
    error: float | None = 0.05,
    gap: tuple[float, float] = (0.02, 0.06),
    **changes: object,
) -> Measurement:
    settings = {
        "temperature": temperature, "se_log_temperature": error, "status": "converged",
        "usable": True, "fragile": False, "iterations": 3, "n": 500, "wrong": 60,
        "nll_before": 1.0, "nll_after": 0.9, "ece_before": 0.1, "ece_after": 0.05,
    }  # fmt: skip
    return Measurement(Interval(*gap), TemperatureFit(**{**settings, **changes}))  # type: ignore[arg-type]


def runs(measurement: Measurement, constant: float | None = None) -> dict[str, str]:
    return {arm: run for arm, run, _ in proposals(measurement, constant)}


def why(measurement: Measurement, arm: str, constant: float | None = None) -> str:
    return next(p.why for p in proposals(measurement, constant) if p.arm == arm)


@pytest.mark.parametrize(
    ("gap", "sign"),
    [((0.01, 0.02), "over"), ((-0.02, -0.01), "under"), ((-0.01, 0.01), None), ((0, 0.1), None)],
)
def test_the_sign_is_claimed_if_the_interval_excludes_zero(
    gap: tuple[float, float], sign: str | None
) -> None:
    assert measured(gap=gap).sign == sign


def test_the_interval_of_the_temperature_is_symmetric_in_its_logarithm() -> None:
    ends = measured(2.0, 0.1).temperature
    assert ends is not None
    assert ends.low * ends.high == pytest.approx(4)
    assert math.log(ends.high / 2) == pytest.approx(0.196, abs=1e-4)
    assert measured(error=None).temperature is None


@pytest.mark.parametrize("constant", [None, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("temperature", [0.5, 0.99, 1.01, 2.0])
@pytest.mark.parametrize("usable", [True, False])
def test_labels_at_equal_labels_and_raw_are_always_run(
    temperature: float, usable: bool, constant: float | None
) -> None:
    found = proposals(measured(temperature, usable=usable), constant)
    assert [(p.arm, p.run) for p in found[:2]] == [("labels+calibration", "yes"), ("raw", "yes")]
    assert len({p.arm for p in found}) == len(found) <= 6
    assert all(p.arm in ARMS and p.why for p in found)


def test_a_temperature_that_may_be_1_makes_calibrated_pointless() -> None:
    undecided = measured(1.04, 0.05)
    assert runs(undecided) == {
        "labels+calibration": "yes", "raw": "yes", "calibrated": "no", "under-confident": "yes",
        "grid": "yes",
    }  # fmt: skip
    assert why(undecided, "calibrated") == (
        "T = 1.04 [0.94, 1.15] contains 1: it can hardly be told from raw"
    )
    assert runs(undecided, constant=2.0)["constant-T"] == "yes"
    assert "constant-T" not in runs(undecided, constant=1.1)


def test_a_temperature_that_is_not_1_is_worth_running_against_one_for_all() -> None:
    alone = runs(measured())
    assert (alone["calibrated"], alone["under-confident"]) == ("yes", "yes")
    assert (alone["constant-T"], alone["shuffled-entropy"]) == ("later", "later")
    assert runs(measured(), constant=3.0)["constant-T"] == "yes"
    alike = runs(measured(), constant=2.05)
    assert alike["constant-T"] == "no"
    assert "shuffled-entropy" not in alike  # a rung above one that cannot be climbed


def test_a_temperature_below_1_sharpens() -> None:
    assert "T sharpens; 2 × T = 1.20" in why(measured(0.6), "under-confident")


def test_a_fragile_fit_and_one_without_interval_say_so() -> None:
    assert "fragile, with 7 wrong rows" in why(measured(fragile=True, wrong=7), "calibrated")
    assert "lies at a bound" in why(measured(error=None), "calibrated")


def test_what_cannot_be_fitted_is_not_run() -> None:
    degenerate = measured(1.0, None, usable=False, status="separable")
    assert runs(degenerate) == {"labels+calibration": "yes", "raw": "yes", "calibrated": "no"}
    assert "separable" in why(degenerate, "calibrated")


def evidence(
    contrast: str, difference: float, half: float | None = 0.5, study: str = "a"
) -> Evidence:
    low, high = (None, None) if half is None else (difference - half, difference + half)
    return Evidence(
        study=study, data="d", classes=10, rows=100, transfer="in-sample", sign="over",
        contrast=contrast, objective="kd", softening=1.0, factor=None, student="cnn",
        difference=difference, low=low, high=high, next_low=None, next_high=None, n=5, families=5,
        source=f"results/{study}",
    )  # fmt: skip


KNOWN = [
    evidence("calibrated − raw", 1.0),
    evidence("calibrated − raw", -1.0),
    evidence("calibrated − raw", 0.1, study="b"),
    evidence("calibrated − raw", 3.0, None, study="b"),
    evidence("calibrated − constant-T", 0.0),
    evidence(ORDER, 1.0),
]


def test_evidence_is_counted_contrast_by_contrast() -> None:
    table = evidence_table(KNOWN)
    first = table.iloc[0]
    assert list(table["contrast"]) == ["calibrated − raw", "calibrated − constant-T"]
    assert list(first[["comparisons", "studies"]]) == [4, 2]
    assert list(first[["above 0", "below 0", "undecided"]]) == [1, 1, 2]
    assert list(first[["least (points)", "most (points)"]]) == ["−1.00", "+3.00"]
    assert evidence_table([]).empty


def test_the_sentence_names_the_regime_and_every_count() -> None:
    said = evidence_sentence(KNOWN, transfer="in-sample", sign="over", classes=10)
    assert said == (
        "Committed evidence for over-confident teachers, in-sample rows and 5 to 20 classes:"
        " calibrated − raw in 4 comparisons (a, b; n = 5 each): 1 above 0, 1 below, 2 undecided,"
        " from −1.00 to +3.00 points; unadjusted."
    )


def test_without_evidence_it_abstains() -> None:
    said = evidence_sentence([], transfer="unlabelled", sign="under", classes=7)
    assert said == (
        "No committed study is about under-confident teachers, unlabelled rows and 4 to 14 classes:"
        " nothing can be said of what will help."
    )
    said = evidence_sentence([], transfer="in-sample", sign=None, classes=10)
    assert "teachers of both signs together" in said


def test_an_order_is_a_guess_unless_evidence_supports_it() -> None:
    assert "no committed study of this regime tested it" in order_sentence(KNOWN[:5])
    assert "support such an order" in order_sentence(KNOWN)
    assert "do not settle it" in order_sentence([*KNOWN, evidence(ORDER, 0.1)])
