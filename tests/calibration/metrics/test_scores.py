import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference import calibration_oracles as oracle
from reference.calibration_problems import modest, problems
from temperance.calibration.metrics import (
    accuracy,
    brier_score,
    chunks,
    negative_log_likelihood,
    scores,
    top_k_accuracy,
)
from temperance.errors import UserError

MEANS = [accuracy, brier_score, negative_log_likelihood]


@pytest.mark.parametrize("metric", MEANS)
@modest
@given(problem=problems(soft=True, weighted=True))
def test_means_over_rows_equal_the_oracles(metric, problem):
    expected = getattr(oracle, metric.__name__)(*problem)
    assert metric(*problem) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@modest
@given(problem=problems(weighted=True), k=st.integers(1, 6))
def test_top_k_accuracy_equals_the_oracle(problem, k):
    k = min(k, problem.logits.shape[1])
    value = top_k_accuracy(*problem, k=k)
    assert value == pytest.approx(oracle.top_k_accuracy(*problem, k=k), abs=1e-12)
    if k == 1:
        assert value == accuracy(*problem)
    if k == problem.logits.shape[1]:
        assert value == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_many_rows_equal_the_oracles(sampled, dtype):
    logits, targets = sampled(rows=5000, classes=20, dtype=dtype)
    weights = torch.rand(5000, generator=torch.Generator().manual_seed(1))
    problem = logits.double(), targets, weights
    for metric in MEANS:
        expected = getattr(oracle, metric.__name__)(*problem)
        assert metric(logits, targets, weights) == pytest.approx(expected, rel=1e-12)
    expected = oracle.top_k_accuracy(*problem, k=3)
    assert top_k_accuracy(logits, targets, weights, k=3) == pytest.approx(expected, rel=1e-12)


def test_chunks_do_not_change_the_scores_of_rows(monkeypatch, sampled):
    problem = sampled(rows=53, classes=5)
    whole = scores.score_rows(*problem)
    monkeypatch.setattr(chunks, "CHUNK", 60)  # 12 rows at a time
    torch.testing.assert_close(scores.score_rows(*problem), whole, rtol=0, atol=1e-14)


def test_of_tied_logits_the_first_is_predicted():
    logits = torch.zeros(12, 4)
    assert accuracy(logits, torch.arange(12) % 4) == 0.25
    assert accuracy(torch.tensor([[1.0, 2.0, 2.0]] * 3), torch.tensor([0, 1, 2])) == 1 / 3
    assert top_k_accuracy(logits, torch.arange(12) % 4, k=2) == 0.5
    assert top_k_accuracy(logits, torch.full((12,), 3), k=3) == 0


def test_equal_logits_cost_the_logarithm_of_the_number_of_classes():
    value = negative_log_likelihood(torch.zeros(12, 4), torch.arange(12) % 4)
    assert value == pytest.approx(math.log(4), rel=1e-15)


def test_nothing_is_clipped():
    wrong = torch.tensor([[0.0, 5000.0]]), torch.tensor([0])
    assert negative_log_likelihood(*wrong) == 5000
    assert brier_score(*wrong) == 2  # its upper end


def test_soft_targets_are_expectations_over_labels():
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 0.0, 3.0]])
    soft = torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])
    for metric in (accuracy, negative_log_likelihood):
        expected = sum(
            float(soft[row, label]) * metric(logits[row : row + 1], torch.tensor([label]))
            for row in range(2)
            for label in range(3)
        )
        assert metric(logits, soft) == pytest.approx(expected / 2, rel=1e-7)
    one_hot = torch.eye(3)[[1, 2]]
    for metric in MEANS:
        hard = metric(logits, torch.tensor([1, 2]))
        assert metric(logits, one_hot) == pytest.approx(hard, rel=1e-15)


def test_a_masked_class_has_probability_zero():
    logits = torch.tensor([[1.0, 0.0, -torch.inf], [0.0, 2.0, -torch.inf]])
    targets = torch.tensor([0, 0])
    for metric in MEANS:
        assert metric(logits, targets) == metric(logits[:, :2], targets)
    soft = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    for metric in MEANS:
        assert metric(logits, soft) == pytest.approx(metric(logits[:, :2], soft[:, :2]), rel=1e-15)


def test_one_row_one_number():
    row = torch.tensor([[0.7, 0.2, 0.1]]).log()
    assert brier_score(row, torch.tensor([1])) == pytest.approx(0.49 + 0.64 + 0.01, rel=1e-6)
    assert negative_log_likelihood(row, torch.tensor([2])) == pytest.approx(-np.log(0.1), rel=1e-6)


@pytest.mark.parametrize("k", [0, -1, 5])
def test_k_has_to_be_a_number_of_classes(k):
    with pytest.raises(UserError, match=r"not in 1..4, the number of classes"):
        top_k_accuracy(torch.zeros(3, 4), torch.tensor([0, 1, 3]), k=k)
