import numpy as np
import pytest
import torch
from hypothesis import given, settings

from reference import calibration_oracles as oracle
from reference.calibration_problems import modest, problems
from temperance.calibration.metrics import (
    expected_calibration_error,
    ks_calibration_error,
    smooth_calibration_error,
)
from temperance.errors import UserError

few = settings(max_examples=15, deadline=None)  # the oracle of the smooth error is slow


@few
@given(problems(soft=True, weighted=True))
def test_smooth_error_equals_the_oracle(problem):
    expected = oracle.smooth_calibration_error(*problem)
    assert smooth_calibration_error(*problem) == pytest.approx(expected, abs=2e-5)


@few
@given(problems(classes=2, soft=True, weighted=True))
def test_smooth_error_of_the_positive_class_equals_the_oracle(problem):
    expected = oracle.smooth_calibration_error(*problem, event="positive")
    value = smooth_calibration_error(*problem, event="positive")
    assert value == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("temperature", "dtype"), [(1, torch.float32), (3, torch.bfloat16)])
def test_smooth_error_of_more_rows_equals_the_oracle(sampled, temperature, dtype):
    logits, targets = sampled(rows=200, classes=10, temperature=temperature, dtype=dtype)
    expected = oracle.smooth_calibration_error(logits.double(), targets, mesh=1024)
    assert smooth_calibration_error(logits, targets) == pytest.approx(expected, abs=1e-5)


@modest
@given(problems(soft=True, weighted=True))
def test_ks_error_equals_the_oracle(problem):
    value = ks_calibration_error(*problem)
    assert value == pytest.approx(oracle.ks_calibration_error(*problem), abs=1e-12)


@modest
@given(problems(classes=2, soft=True, weighted=True))
def test_ks_error_of_the_positive_class_equals_the_oracle(problem):
    expected = oracle.ks_calibration_error(*problem, event="positive")
    value = ks_calibration_error(*problem, event="positive")
    assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_ks_error_of_many_rows_equals_the_oracle(sampled, dtype):
    logits, targets = sampled(rows=5000, classes=20, temperature=1.3, dtype=dtype)
    weights = torch.rand(5000, generator=torch.Generator().manual_seed(1))
    expected = oracle.ks_calibration_error(logits.double(), targets, weights)
    assert ks_calibration_error(logits, targets, weights) == pytest.approx(expected, abs=1e-12)


@modest
@given(problems(soft=True, weighted=True))
def test_ks_error_is_between_the_signed_gap_and_any_binned_error(problem):
    # a sum over all rows up to a confidence: over all rows, the signed gap; bins of one
    # confidence each would bound it from above
    value = ks_calibration_error(*problem)
    gap = expected_calibration_error(*problem).signed
    assert abs(gap) - 1e-12 <= value <= 1


def test_one_confidence_has_its_gap_as_its_error():
    # all mass in one place: what the kernel smears is still all there, reflected at the ends
    logits = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log().expand(100, 2)
    for right in (0, 40, 80):
        targets = (torch.arange(100) >= right).long()
        gap = abs(0.9 - right / 100)
        assert smooth_calibration_error(logits, targets) == pytest.approx(gap, abs=1e-6)
        assert ks_calibration_error(logits, targets) == pytest.approx(gap)


def test_confidences_of_exactly_zero_and_one_lose_nothing_at_the_ends():
    ends = torch.tensor([[0.0, 800.0], [800.0, 0.0]])
    wrong, right = torch.tensor([0, 1]), torch.tensor([1, 0])
    for metric in (smooth_calibration_error, ks_calibration_error):
        assert metric(ends[:1], wrong[:1], event="positive") == pytest.approx(1, abs=1e-6)
        assert metric(ends[1:], wrong[1:], event="positive") == pytest.approx(1, abs=1e-6)
        assert metric(ends, right, event="positive") == 0


def test_errors_of_opposite_sign_cancel_as_far_as_the_kernel_reaches():
    # +0.5 at 0.5 and −0.5 at 0.5 are no error; moved apart, they are one
    flat = torch.zeros(2, 2), torch.tensor([0, 1])
    assert smooth_calibration_error(*flat) == pytest.approx(0, abs=1e-4)
    near = torch.tensor([[0.1, 0.0], [0.0, 0.1]]), torch.tensor([0, 0])
    far = torch.tensor([[2.0, 0.0], [0.5, 0.0]]), torch.tensor([0, 1])
    assert smooth_calibration_error(*near) < 0.03 < smooth_calibration_error(*far)


def test_the_smooth_error_is_continuous():
    # a binned error jumps by 0.45 here
    values = []
    for shift in (-1e-6, 1e-6):
        logits = torch.tensor([[0.0, shift], [0.0, 0.2]], dtype=torch.float64)
        values.append(
            smooth_calibration_error(logits, torch.tensor([1, 0]), event="positive"),
        )
    assert values[0] == pytest.approx(values[1], abs=1e-5)


def test_ks_takes_tied_rows_at_once():
    logits = torch.zeros(4, 2)
    for targets in ([0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]):
        assert ks_calibration_error(logits, torch.tensor(targets)) == 0


def test_by_hand_ks_is_the_largest_partial_sum():
    p = torch.tensor([0.6, 0.7, 0.8], dtype=torch.float64)
    logits = torch.stack([p, 1 - p], 1).log()
    targets = torch.tensor([1, 1, 0])  # partial sums 0.6, 1.3, 1.1
    assert ks_calibration_error(logits, targets) == pytest.approx(1.3 / 3)
    weights = torch.tensor([1.0, 0.0, 2.0])  # 0.6, 0.6, 0.2
    assert ks_calibration_error(logits, targets, weights) == pytest.approx(0.6 / 3)


def test_a_calibrated_model_has_small_errors_and_a_hot_one_its_gap(sampled):
    logits, targets = sampled(rows=20_000)
    for metric in (smooth_calibration_error, ks_calibration_error):
        assert metric(logits, targets) < 0.02
    hot = expected_calibration_error(3 * logits, targets).signed
    for metric in (smooth_calibration_error, ks_calibration_error):
        assert metric(3 * logits, targets) == pytest.approx(hot, rel=0.02)
        assert np.isfinite(metric(3 * logits, targets))


@pytest.mark.parametrize("metric", [smooth_calibration_error, ks_calibration_error])
def test_the_event_has_to_exist(metric):
    problem = torch.zeros(3, 4), torch.tensor([0, 1, 3])
    with pytest.raises(UserError, match="positive"):
        metric(*problem, event="positiv")
    with pytest.raises(UserError, match="'positive' needs two classes, not 4"):
        metric(*problem, event="positive")
