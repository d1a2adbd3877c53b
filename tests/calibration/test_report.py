import dataclasses
import json

import pytest
import torch

from temperance.calibration import (
    CalibrationReport,
    Floor,
    Interval,
    calibration_report,
    describe,
    metrics,
)
from temperance.calibration import report as module
from temperance.errors import UserError


def test_report_agrees_with_the_single_metrics(sampled):
    logits, targets = sampled(temperature=1.7)
    report = calibration_report(logits, targets, n_bins=10)
    error = metrics.expected_calibration_error(logits, targets, n_bins=10)
    mass = metrics.expected_calibration_error(logits, targets, n_bins=10, binning="equal_mass")
    debiased = metrics.debiased_calibration_error(logits, targets, n_bins=10)
    parts = metrics.brier_decomposition(logits, targets)
    singles = {
        "accuracy": metrics.accuracy(logits, targets),
        "top_k_accuracy": metrics.top_k_accuracy(logits, targets, k=5),
        "nll": metrics.negative_log_likelihood(logits, targets),
        "brier": metrics.brier_score(logits, targets),
        "brier_miscalibration": parts.miscalibration.sum(),
        "brier_discrimination": parts.discrimination.sum(),
        "brier_uncertainty": parts.uncertainty.sum(),
        "ece": error.total,
        "ece_over": error.over,
        "ece_under": error.under,
        "gap": error.signed,
        "ece_equal_mass": mass.total,
        "mce": metrics.maximum_calibration_error(logits, targets, n_bins=10),
        "rmsce": metrics.root_mean_square_calibration_error(logits, targets, n_bins=10),
        "rmsce_debiased": debiased.root,
        "rmsce_debiased_squared": debiased.squared,
        "top_k_ece": metrics.top_k_calibration_error(logits, targets, k=5, n_bins=10).total,
        "classwise_ece": metrics.classwise_calibration_error(logits, targets, n_bins=10),
        "ace": metrics.adaptive_calibration_error(logits, targets, n_ranges=10),
        "tace": metrics.thresholded_adaptive_calibration_error(logits, targets, n_ranges=10),
        "smooth_ece": metrics.smooth_calibration_error(logits, targets),
        "ks": metrics.ks_calibration_error(logits, targets),
        "aurc": metrics.area_under_risk_coverage(logits, targets),
    }
    assert (report.n, report.classes, report.k) == (*logits.shape, 5)
    for name, value in singles.items():
        assert getattr(report, name) == pytest.approx(value, rel=1e-12, abs=1e-15), name
    assert report.gap == pytest.approx(report.confidence - report.accuracy, abs=1e-12)
    assert report.bins.count.sum() == report.n


def test_the_parts_of_the_brier_score_add_up(sampled):
    report = calibration_report(*sampled(temperature=1.7), intervals=False)
    parts = report.brier_miscalibration - report.brier_discrimination + report.brier_uncertainty
    assert parts == pytest.approx(report.brier, abs=1e-12)


def test_the_event_of_two_classes_is_explicit(sampled):
    logits, targets = sampled(classes=2, temperature=2.0)
    top = calibration_report(logits, targets, intervals=False)
    positive = calibration_report(logits, targets, event="positive")
    assert positive.gap == pytest.approx(
        float(logits.softmax(1)[:, 1].mean() - targets.double().mean()), abs=1e-12
    )
    assert positive.ece == pytest.approx(
        metrics.expected_calibration_error(logits, targets, event="positive").total
    )
    assert positive.gap != pytest.approx(top.gap, abs=1e-3)
    assert positive.accuracy == top.accuracy
    assert positive.intervals["gap"].low < positive.gap < positive.intervals["gap"].high
    with pytest.raises(UserError, match="two classes"):
        calibration_report(*sampled(classes=3), event="positive")


def test_report_survives_json(sampled):
    report = calibration_report(*sampled(rows=60))
    text = json.dumps(report.to_dict(), allow_nan=False)
    again = CalibrationReport.from_dict(json.loads(text))
    assert again.to_dict() == report.to_dict()
    assert again.intervals == report.intervals
    assert again.floors["ace"].p_value == report.floors["ace"].p_value
    assert again.fit == report.fit
    assert again.ace_power == report.ace_power
    assert again.bins.error == report.bins.error
    without = calibration_report(*sampled(rows=60), intervals=False)
    again = CalibrationReport.from_dict(json.loads(json.dumps(without.to_dict())))
    assert again.fit is None
    assert again.ace_power is None


def test_intervals_are_left_out_on_request_and_for_many_logits(sampled, monkeypatch):
    rows = sampled(rows=20)
    found = calibration_report(*rows)
    assert found.intervals.keys() == {"accuracy", "nll", "brier", "gap", "rmsce_debiased"}
    assert found.floors.keys() >= {"ece", "mce", "smooth_ece", "ks", "ace"}
    assert found.floors_at_temperature.keys() == found.floors.keys()
    assert not calibration_report(*rows, intervals=False).floors
    monkeypatch.setattr(module, "INTERVALS_UP_TO", 100)
    assert not calibration_report(*rows).intervals
    assert calibration_report(*rows, intervals=True).intervals


def test_floors_at_the_temperature_forgive_what_it_mends(sampled):
    report = calibration_report(*sampled(rows=2000, temperature=3.0))
    assert report.fit.temperature == pytest.approx(3, rel=0.1)
    assert report.floors["ece"].p_value == 1 / 201
    assert report.floors_at_temperature["ece"].p_value > 0.05


def test_where_no_temperature_can_be_fitted_there_is_no_floor_at_it():
    logits = torch.tensor([[2.0, 1.5], [0.0, 3.0]]).repeat(20, 1)
    report = calibration_report(logits, torch.tensor([0, 1]).repeat(20))
    assert report.fit.status == "separable"
    assert not report.floors_at_temperature
    assert report.ace_power is None


def test_groups_widen_the_intervals_of_repeated_rows(sampled):
    logits, targets = sampled(rows=200)
    times = 4
    repeated = logits.repeat(times, 1), targets.repeat(times)
    groups = torch.arange(200).repeat(times)
    naive, clustered = (calibration_report(*repeated, groups=given) for given in (None, groups))
    for name in ("accuracy", "nll", "brier", "gap"):
        width, wide = (r.intervals[name].high - r.intervals[name].low for r in (naive, clustered))
        assert wide == pytest.approx(2 * width, rel=0.2), name
    assert clustered.fit.se_log_temperature == pytest.approx(
        2 * naive.fit.se_log_temperature, rel=1e-6
    )


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
