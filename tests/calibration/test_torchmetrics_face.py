import importlib.util
import sys

import pytest
import torch

from temperance.calibration import metrics
from temperance.calibration.streaming import CalibrationSums, TopLabelSums
from temperance.errors import UserError

torchmetrics = pytest.importorskip("torchmetrics")

from temperance.calibration.torchmetrics_face import CalibrationMetric  # noqa: E402


def batches(rows, size=120):
    return zip(*(column.split(size) for column in rows), strict=True)


def test_all_numbers_are_those_of_the_sums(sampled):
    rows = sampled()
    metric, sums = CalibrationMetric(CalibrationSums(7)), CalibrationSums(7)
    for batch in batches(rows):
        metric.update(*batch)
        sums.update(*batch)
    expected = sums.compute().to_dict()
    del expected["bins"]
    found = metric.compute()
    assert {name: float(value) for name, value in found.items()} == expected
    assert all(value.shape == () for value in found.values())


def test_one_number_is_that_of_the_one_shot_metric(sampled):
    rows = sampled(dtype=torch.float32)
    for key, one_shot in {
        "ece": lambda *rows: metrics.expected_calibration_error(*rows).total,
        "classwise_ece": metrics.classwise_calibration_error,
        "nll": metrics.negative_log_likelihood,
    }.items():
        metric = CalibrationMetric(CalibrationSums(7), key=key)
        for batch in batches(rows):
            metric.update(*batch)
        assert float(metric.compute()) == pytest.approx(one_shot(*rows), abs=1e-13)


def test_forward_gives_the_batch_and_adds_it(sampled):
    rows = sampled()
    metric = CalibrationMetric(CalibrationSums(7), key="brier")
    for batch in batches(rows):
        assert float(metric(*batch)) == pytest.approx(metrics.brier_score(*batch), abs=1e-13)
    assert float(metric.compute()) == pytest.approx(metrics.brier_score(*rows), abs=1e-13)
    metric.reset()
    metric.update(*batch)
    assert float(metric.compute()) == pytest.approx(metrics.brier_score(*batch), abs=1e-13)


def test_a_collection_holds_the_states_of_equal_sums_once(sampled):
    rows = sampled()
    collection = torchmetrics.MetricCollection(
        {
            "ece": CalibrationMetric(TopLabelSums(), key="ece"),
            "mce": CalibrationMetric(TopLabelSums(), key="mce"),
            "coarse": CalibrationMetric(TopLabelSums(n_bins=5), key="ece"),
        },
        prefix="test/",
    )
    for batch in batches(rows):
        collection.update(*batch)
    assert [sorted(group) for group in collection.compute_groups.values()] == [
        ["coarse"],
        ["ece", "mce"],
    ]
    found = {name: float(value) for name, value in collection.compute().items()}
    assert found == pytest.approx(
        {
            "test/ece": metrics.expected_calibration_error(*rows).total,
            "test/mce": metrics.maximum_calibration_error(*rows),
            "test/coarse": metrics.expected_calibration_error(*rows, n_bins=5).total,
        },
        abs=1e-12,
    )


def test_copies_are_their_own_and_merge_by_sums(sampled):
    rows = sampled()
    first, second = list(batches(rows, 250))
    metric = CalibrationMetric(TopLabelSums(), key="nll")
    metric.update(*first)
    other = metric.clone()
    other.reset()
    other.update(*second)
    metric.merge_state(other)
    for one, expected in ((metric, rows), (other, second)):
        nll = metrics.negative_log_likelihood(*expected)
        assert float(one.compute()) == pytest.approx(nll, abs=1e-13)


def test_checkpoints_hold_the_states_if_they_are_asked_to(sampled):
    rows = sampled()
    metric = CalibrationMetric(TopLabelSums(), key="ece")
    assert not metric.state_dict()
    metric.persistent(True)
    metric.update(*rows)
    loaded = CalibrationMetric(TopLabelSums(), key="ece")
    loaded.persistent(True)
    loaded.load_state_dict(metric.state_dict())
    loaded.update(*rows)  # twice the same rows have the same ECE
    assert float(loaded.compute()) == pytest.approx(float(metric.compute()), abs=1e-13)


@pytest.mark.parametrize("cast", [lambda m: m.half(), lambda m: m.to(torch.bfloat16)])
def test_casting_the_model_around_it_casts_no_state(sampled, cast):
    metric = CalibrationMetric(TopLabelSums(), key="ece")
    cast(torch.nn.Sequential(torch.nn.Linear(2, 2), metric))
    rows = sampled()
    metric.update(*rows)
    assert float(metric.compute()) == pytest.approx(
        metrics.expected_calibration_error(*rows).total, abs=1e-13
    )


def test_rows_of_the_given_sums_do_not_count(sampled):
    rows = sampled()
    sums = TopLabelSums()
    sums.update(*rows)
    metric = CalibrationMetric(sums, key="n")
    metric.update(*rows)
    assert int(metric.compute()) == len(rows[0]) == sums.compute().n


def test_weighted_rows_have_no_ace(sampled):
    logits, targets = sampled()
    metric = CalibrationMetric(CalibrationSums(7))
    metric.update(logits, targets, torch.ones(len(logits)))
    found = metric.compute()
    assert found["ace"].isnan()
    assert found["ece"] > 0


def test_an_unknown_number_is_refused_at_once():
    with pytest.raises(UserError, match="Did you mean 'ece'"):
        CalibrationMetric(TopLabelSums(), key="ecce")
    with pytest.raises(UserError, match="no number 'ace'"):
        CalibrationMetric(TopLabelSums(), key="ace")


def test_without_torchmetrics_one_line_says_what_to_install(monkeypatch):
    spec = importlib.util.find_spec(CalibrationMetric.__module__)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(UserError, match=r"Run: pip install 'temperance\[torchmetrics\]'\.$"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
