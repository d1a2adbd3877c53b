import dataclasses
import json

import pytest
import torch

from temperance.calibration import (
    CalibrationReport,
    Floor,
    Interval,
    accuracy,
    adaptive_calibration_error,
    brier_score,
    calibration_report,
    describe,
    expected_calibration_error,
    negative_log_likelihood,
)
from temperance.calibration import report as module


def test_report_agrees_with_the_single_metrics(sampled):
    logits, targets = sampled(temperature=1.7)
    report = calibration_report(logits, targets, n_bins=10)
    error = expected_calibration_error(logits, targets, n_bins=10)
    assert (report.n, report.classes) == tuple(logits.shape)
    assert report.accuracy == accuracy(logits, targets)
    assert report.nll == negative_log_likelihood(logits, targets)
    assert report.brier == brier_score(logits, targets)
    assert (report.ece, report.ece_over, report.ece_under) == (error.total, *error)
    assert report.gap == pytest.approx(report.confidence - report.accuracy, abs=1e-12)
    assert report.ace == adaptive_calibration_error(logits, targets, n_ranges=10)
    assert report.bins.count.sum() == report.n


def test_report_survives_json(sampled):
    report = calibration_report(*sampled(rows=60))
    text = json.dumps(report.to_dict(), allow_nan=False)
    again = CalibrationReport.from_dict(json.loads(text))
    assert again.to_dict() == report.to_dict()
    assert again.intervals == report.intervals
    assert again.floors["ace"].p_value == report.floors["ace"].p_value
    assert again.bins.error == report.bins.error


def test_intervals_are_left_out_on_request_and_for_many_logits(sampled, monkeypatch):
    rows = sampled(rows=20)
    assert calibration_report(*rows).intervals.keys() == {"accuracy", "nll", "brier", "gap"}
    assert calibration_report(*rows).floors.keys() == {"ece", "ace"}
    assert not calibration_report(*rows, intervals=False).floors
    monkeypatch.setattr(module, "INTERVALS_UP_TO", 100)
    assert not calibration_report(*rows).intervals
    assert calibration_report(*rows, intervals=True).intervals


def test_words_follow_the_interval_of_the_gap(sampled):
    over = describe(calibration_report(*sampled(rows=2000, temperature=3.0)), 3.02)
    assert over.startswith("Over-confident by ")
    assert "n = 2,000" in over
    assert over.endswith("Dividing the logits by T = 3.02 minimises the NLL.")
    under = describe(calibration_report(*sampled(rows=2000, temperature=0.3)))
    assert under.startswith("Under-confident by ")
    assert under.endswith(").")
    neither = describe(calibration_report(*sampled(rows=300)))
    assert neither.startswith("Neither over- nor under-confident on average that 300 rows could")


def test_without_an_interval_the_sign_decides_and_the_words_say_so():
    logits = torch.tensor([[0.75, 0.25]]).log().expand(4, 2)
    report = calibration_report(logits, torch.tensor([0, 0, 1, 1]), intervals=False)
    assert describe(report) == (
        "Over-confident by 25.0 percentage points (mean confidence 75.0 %, accuracy 50.0 %, n = 4,"
        " no interval computed)."
    )
    zero = dataclasses.replace(report, gap=0.0)
    assert describe(zero).startswith("Mean confidence equals accuracy")


def test_errors_that_cancel_are_mentioned(sampled):
    report = dataclasses.replace(
        calibration_report(*sampled(rows=50)),
        intervals={"gap": Interval(-0.01, 0.02)},
        floors={"ece": Floor(0.01, 0.02, 0.005)},
    )
    assert "is more than chance explains (p = 0.005)" in describe(report)
    calm = dataclasses.replace(report, floors={"ece": Floor(0.01, 0.02, 0.4)})
    assert "chance" not in describe(calm)
