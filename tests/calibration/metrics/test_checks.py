import inspect
import warnings

import pytest
import torch

from reference.calibration_problems import METRICS, WEIGHTED
from temperance.calibration import metrics
from temperance.calibration.metrics import check_groups, check_logits
from temperance.errors import UserError

GOOD = torch.zeros(3, 4)
LABELS = torch.tensor([0, 1, 3])


def spoilt(row, column, value, dtype=torch.float32):
    logits = GOOD.to(dtype, copy=True)
    logits[row, column] = value
    return logits


BAD = {
    "NaN": (spoilt(1, 2, torch.nan), LABELS, "row 1 holds NaN or"),
    "NaN in half precision": (spoilt(1, 2, torch.nan, torch.float16), LABELS, "row 1 holds NaN or"),
    "+inf": (spoilt(2, 2, torch.inf), LABELS, r"row 2 holds NaN or \+inf"),
    "all -inf": (torch.full((3, 4), -torch.inf), LABELS, "row 0 holds -inf for its true class 0"),
    "-inf on the true class": (
        spoilt(2, 3, -torch.inf),
        LABELS,
        "row 2 holds -inf for its true class 3",
    ),
    "target too large": (
        GOOD,
        torch.tensor([0, 12, 1]),
        r"target 12 of row 1 is outside the 4 classes \(0..3\)",
    ),
    "target negative": (GOOD, torch.tensor([0, 1, -1]), "target -1 of row 2"),
    "targets of floats": (GOOD, torch.zeros(3), "must be class indices"),
    "targets of truth values": (GOOD, torch.tensor([True, False, True]), "must be class indices"),
    "too few targets": (
        GOOD,
        torch.tensor([0, 1]),
        r"\(integers\) of shape \(3,\), not int64 of shape \(2,\)",
    ),
    "targets in a column": (GOOD, LABELS[:, None], r"not int64 of shape \(3, 1\)"),
    "one-hot targets of integers": (GOOD, torch.eye(4).long()[LABELS], "must be class indices"),
    "logits of integers": (GOOD.long(), LABELS, "must be floating point"),
    "complex logits": (GOOD.to(torch.complex64), LABELS, "must be floating point"),
    "logits of one axis": (
        torch.zeros(3),
        LABELS,
        r"must be floating point of shape \(rows, classes\), not float32 of shape \(3,\)",
    ),
    "logits of three axes": (GOOD[None], LABELS, r"not float32 of shape \(1, 3, 4\)"),
    "no rows": (torch.zeros(0, 4), LABELS[:0], "hold no rows"),
    "one class": (torch.zeros(3, 1), torch.zeros(3).long(), "hold 1 class"),
}

BAD_WEIGHTS = {
    "negative": (torch.tensor([1.0, -1, 0]), "row 1 has weight -1"),
    "NaN": (torch.tensor([torch.nan, 1, 0]), "row 0 has weight nan"),
    "infinite": (torch.tensor([1, torch.inf, 0]), "row 1 has weight inf"),
    "all zero": (torch.zeros(3), "all zero"),
    "too few": (torch.ones(2), r"must be of shape \(3,\), not float32 of shape \(2,\)"),
    "in a column": (torch.ones(3, 1), r"must be of shape \(3,\)"),
}

BAD_SOFT = {
    "other shape": (torch.full((3, 3), 1 / 3), r"must be of shape \(3, 4\) if soft"),
    "negative": (torch.tensor([[1.5, -0.5, 0, 0]] * 3), "row 0 is no distribution"),
    "sum": (torch.tensor([[1.0, 0, 0, 0], [0.5, 0.4, 0, 0], [1, 0, 0, 0]]), "row 1 is no distrib"),
    "NaN": (torch.tensor([[1.0, 0, 0, 0]] * 2 + [[torch.nan, 0, 0, 0]]), "row 2 is no distrib"),
}

every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


def test_every_public_metric_is_tried():
    public = {name for name in metrics.__all__ if inspect.isfunction(getattr(metrics, name))} - {
        "check_groups",
        "check_logits",
        "distance_to_truth",  # of no labels: its own test has its bad input
    }
    assert public == {name.split(",")[0] for name in METRICS}


@every_metric
@pytest.mark.parametrize(("logits", "targets", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_and_named(metric, logits, targets, message):
    with pytest.raises(UserError, match=message):
        metric.function(logits, targets)


@pytest.mark.parametrize("metric", WEIGHTED.values(), ids=WEIGHTED)
@pytest.mark.parametrize(("weights", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights_are_refused_and_named(metric, weights, message):
    with pytest.raises(UserError, match=message):
        metric.function(GOOD, LABELS, weights)


@every_metric
@pytest.mark.parametrize(("targets", "message"), BAD_SOFT.values(), ids=BAD_SOFT)
def test_bad_soft_targets_are_refused_and_named(metric, targets, message):
    with pytest.raises(UserError, match=message if metric.soft else "must be class indices"):
        metric.function(GOOD, targets)


@every_metric
def test_a_masked_class_of_positive_soft_target_is_refused(metric):
    targets = torch.full((3, 4), 0.25)
    message = "row 1 holds -inf for a class of positive target"
    with pytest.raises(UserError, match=message if metric.soft else "must be class indices"):
        metric.function(spoilt(1, 0, -torch.inf), targets)


@every_metric
def test_a_masked_class_is_allowed(metric):
    numbers = metric.numbers(spoilt(1, 0, -torch.inf), LABELS)
    assert all(abs(numbers) < 10)


@every_metric
def test_probabilities_passed_as_logits_get_a_warning_that_names_the_mend(metric, sampled):
    logits, targets = sampled(rows=200)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        probabilities = logits.softmax(1).to(dtype)
        message = "look like probabilities.* pass their logarithm"
        with pytest.warns(UserWarning, match=message) as caught:
            metric.function(probabilities, targets)
        assert [warning.filename for warning in caught] == [__file__]
        metric.function(probabilities.log(), targets)  # warnings are errors here


@every_metric
def test_logits_that_only_lie_in_the_unit_interval_get_no_warning(metric):
    metric.function(torch.tensor([[0.1, 0.2, 0.3, 0.5], [0.25, 0.25, 0.25, 0.25]]), LABELS[:2])
    metric.function(torch.tensor([[0.5, 0.7, -0.2, 0.0]]), LABELS[:1])


def test_good_input_passes():
    check_logits(spoilt(1, 0, -torch.inf), LABELS, torch.tensor([1.0, 0.0, 2.0]))
    for targets in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        for logits in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            check_logits(GOOD.to(logits), LABELS.to(targets))
    check_logits(GOOD, LABELS, torch.tensor([1, 0, 2]))
    check_logits(GOOD, torch.full((3, 4), 0.25, dtype=torch.float16), soft=True)
    check_logits(GOOD.t().contiguous().t(), LABELS.flip(0))
    check_logits(
        GOOD,
        torch.tensor([[0.1] * 10 + [0.0] * 4] * 3)[:, [0, 1, 2, 3]].bfloat16() * 2.5,
        soft=True,
    )


@every_metric
def test_labels_of_few_bits_and_strided_logits_give_the_same_numbers(metric, sampled):
    logits, targets = sampled(rows=100)
    expected = metric.numbers(logits, targets)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        assert metric.numbers(logits, targets.to(dtype)).tolist() == expected.tolist()
    columns = logits.t().contiguous().t()
    assert metric.numbers(columns, targets) == pytest.approx(expected, abs=1e-12)


def test_groups_name_a_group_for_each_row():
    check_groups(None, 3)
    check_groups(torch.tensor([5, 5, -1]), 3)
    for groups, message in (
        (torch.tensor([0, 1]), r"must be integers of shape \(3,\), not int64 of shape \(2,\)"),
        (torch.tensor([0.0, 1, 1]), "must be integers"),
        (torch.tensor([2, 2, 2]), "are all the same"),
    ):
        with pytest.raises(UserError, match=message):
            check_groups(groups, 3)


def test_no_warning_is_left_on_for_good_logits():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_logits(GOOD, LABELS)
    assert caught == []
