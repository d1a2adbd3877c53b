import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference import calibration_oracles as oracle
from reference.calibration_problems import modest, problems
from temperance.calibration.metrics import (
    classwise_calibration_error,
    expected_calibration_error,
)
from temperance.errors import UserError

tight = {"rel": 1e-12, "abs": 1e-12}


@modest
@given(problems(soft=True, weighted=True), st.sampled_from([1, 2, 3, 4, 7, 10, 15, 25]))
def test_classwise_error_equals_the_oracle(problem, n_bins):
    expected = oracle.classwise_calibration_error(*problem, n_bins=n_bins)
    value = classwise_calibration_error(*problem, n_bins=n_bins)
    assert value == pytest.approx(expected, **tight)
    assert 0 <= value <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_many_rows_equal_the_oracle(sampled, dtype):
    logits, targets = sampled(rows=5000, classes=20, temperature=1.3, dtype=dtype)
    weights = torch.rand(5000, generator=torch.Generator().manual_seed(1))
    expected = oracle.classwise_calibration_error(logits.double(), targets, weights)
    assert classwise_calibration_error(logits, targets, weights) == pytest.approx(expected, **tight)


@modest
@given(problems(classes=2, soft=True, weighted=True))
def test_of_two_classes_one_bin_is_the_signed_gap_of_either(problem):
    error = expected_calibration_error(*problem, n_bins=1, event="positive")
    value = classwise_calibration_error(*problem, n_bins=1)
    assert value == pytest.approx(abs(error.signed), abs=1e-12)


def test_probabilities_on_an_edge_belong_to_the_bin_below_it():
    # flat rows: 1/M is the edge of the first of M bins, in which the row (0.75, rest) has its rest
    for classes in (2, 3, 4, 5, 7, 10):
        rest = 0.25 / (classes - 1)
        logits = torch.zeros(2, classes, dtype=torch.float64)
        logits[1] = torch.tensor([0.75, *[rest] * (classes - 1)], dtype=torch.float64).log()
        targets = torch.tensor([1, 1])
        errors = [1 / classes / 2 + 0.75 / 2]  # of class 0: in two bins, unless
        if classes == 2:  # 0.25 and 0.5 share the first bin, and then class 1
            errors.append(abs(1 / 2 + rest - 2) / 2)
        else:
            errors.append(abs(1 / classes + rest - 2) / 2)
            errors += [(1 / classes + rest) / 2] * (classes - 2)
        value = classwise_calibration_error(logits, targets, n_bins=classes)
        assert value == pytest.approx(sum(errors) / classes, abs=1e-14)


def test_missing_and_masked_classes_are_classes():
    logits = torch.zeros(12, 4)
    value = classwise_calibration_error(logits, torch.arange(12) % 3)
    assert value == pytest.approx((3 * (1 / 3 - 1 / 4) + 1 / 4) / 4)
    masked = torch.tensor([[1.0, 0.0, -torch.inf], [0.0, 2.0, -torch.inf]])
    targets = torch.tensor([0, 0])
    two = classwise_calibration_error(masked[:, :2], targets)
    assert classwise_calibration_error(masked, targets) == pytest.approx(2 / 3 * two)


@pytest.mark.parametrize("n_bins", [0, -3])
def test_at_least_one_bin(n_bins):
    with pytest.raises(UserError, match=f"{n_bins} bins"):
        classwise_calibration_error(torch.zeros(1, 2), torch.tensor([0]), n_bins=n_bins)
