import itertools

import pytest
import torch
from hypothesis import given

from reference import calibration_oracles as oracle
from reference.calibration_problems import modest, problems
from temperance.calibration.metrics import accuracy, area_under_risk_coverage


@modest
@given(problems(soft=True))
def test_aurc_equals_the_oracle(problem):
    logits, targets, _ = problem
    value = area_under_risk_coverage(logits, targets)
    assert value == pytest.approx(oracle.area_under_risk_coverage(logits, targets), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_many_rows_equal_the_oracle(sampled, dtype):
    logits, targets = sampled(rows=5000, classes=20, dtype=dtype)
    expected = oracle.area_under_risk_coverage(logits.double(), targets)
    assert area_under_risk_coverage(logits, targets) == pytest.approx(expected, abs=1e-12)


def test_ties_are_the_expectation_over_their_orders():
    # risks are linear in the hits, so sharing a tie's errors is the mean over its orders
    def aurc_in_order(wrong):
        return sum(sum(wrong[:n]) / n for n in range(1, len(wrong) + 1)) / len(wrong)

    logits = torch.tensor([[3.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    targets = torch.tensor([1, 0, 0, 1])
    orders = itertools.permutations([0, 0, 1])
    expected = [aurc_in_order([1, *tied]) for tied in orders]
    value = area_under_risk_coverage(logits, targets)
    assert value == pytest.approx(sum(expected) / len(expected))


def test_without_order_aurc_is_the_error_rate():
    logits, targets = torch.zeros(12, 4), torch.arange(12) % 4
    assert area_under_risk_coverage(logits, targets) == pytest.approx(1 - accuracy(logits, targets))


def test_one_row():
    logits = torch.tensor([[2.0, 0.0]])
    assert area_under_risk_coverage(logits, torch.tensor([0])) == 0
    assert area_under_risk_coverage(logits, torch.tensor([1])) == 1
