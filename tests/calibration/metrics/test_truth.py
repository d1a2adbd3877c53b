from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brute
from scipy.special import rel_entr, softmax

from temperance.calibration.metrics import brier_score, negative_log_likelihood
from temperance.calibration.metrics.truth import TruthDistance, distance_to_truth
from temperance.errors import UserError


def problem(seed: int, rows: int = 40, classes: int = 4, sharpness: float = 2.0):
    rng = np.random.default_rng(seed)
    truth = softmax(rng.normal(size=(rows, classes)) * 1.5, axis=1)
    logits = sharpness * np.log(truth) + rng.normal(size=(rows, classes))
    return torch.from_numpy(logits), torch.from_numpy(truth)


def test_golden() -> None:
    """One row, by hand: p = (1/2, 1/2), p* = (3/4, 1/4); no temperature changes p."""
    logits, truth = torch.zeros(1, 2), torch.tensor([[0.75, 0.25]])
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    expected = TruthDistance(0.125, 0, 0.125, kl, 0, kl)
    assert distance_to_truth(logits, truth) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.05, 0.4, 1.0, 3.0, 40.0])
def test_a_truth_at_some_temperature_is_all_calibration(temperature: float) -> None:
    _, truth = problem(0)
    found = distance_to_truth(temperature * truth.log(), truth)
    assert found.mse_refinement == pytest.approx(0, abs=1e-9)
    assert found.kl_refinement == pytest.approx(0, abs=1e-9)
    assert (found.mse > 1e-3) == (found.kl > 1e-3) == (temperature != 1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 50), sharpness=st.floats(0.1, 10))
def test_parts_are_those_of_a_slow_search(seed: int, sharpness: float) -> None:
    logits, truth = problem(seed, sharpness=sharpness)
    z, p_star = logits.numpy(), truth.numpy()

    def squared(log_temperature: np.ndarray) -> float:
        p = softmax(z / np.exp(log_temperature), axis=1)
        return float(((p - p_star) ** 2).sum(1).mean())

    def divergence(log_temperature: np.ndarray) -> float:
        return float(rel_entr(p_star, softmax(z / np.exp(log_temperature), axis=1)).sum(1).mean())

    found = distance_to_truth(logits, truth)
    for name, distance in (("mse", squared), ("kl", divergence)):
        total, calibration, refinement = (
            getattr(found, f"{name}{part}") for part in ("", "_calibration", "_refinement")
        )
        assert total == pytest.approx(distance(np.zeros(1)), rel=1e-9)
        grid = (slice(math.log(0.01), math.log(100), 0.02),)
        assert refinement <= brute(distance, grid, full_output=True, finish=None)[1] + 1e-12
        assert refinement >= 0
        assert calibration >= 0
        assert calibration + refinement == pytest.approx(total, rel=1e-12)


def test_it_is_what_expected_scores_lose_against_the_truth() -> None:
    """Σ over labels of p* · score: Brier and NLL of p, less those of p* itself."""
    logits, truth = problem(1)
    found = distance_to_truth(logits, truth)
    rows, classes = truth.shape
    labels = torch.arange(classes).repeat_interleave(rows)
    weights = truth.T.flatten()

    def surplus(score) -> float:
        said, best = (z.repeat(classes, 1) for z in (logits, truth.log()))
        return score(said, labels, weights) - score(best, labels, weights)

    assert found.mse == pytest.approx(surplus(brier_score))
    assert found.kl == pytest.approx(surplus(negative_log_likelihood))


def test_a_shift_of_each_row_changes_nothing() -> None:
    logits, truth = problem(2)
    shifted = logits + torch.arange(len(logits))[:, None]
    assert distance_to_truth(shifted, truth) == pytest.approx(distance_to_truth(logits, truth))


def test_impossible_classes() -> None:
    """Where the truth is 0 a logit may be −inf; where it is not, the distance would be infinite."""
    truth = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.1, 0.9]])
    found = distance_to_truth(truth.log(), truth)
    assert found == pytest.approx((0,) * 6, abs=1e-9)
    logits = torch.tensor([[0.0, 0.0, 0.0], [0.0, -torch.inf, 0.0]])
    with pytest.raises(UserError, match="row 1 holds -inf"):
        distance_to_truth(logits, truth)


@pytest.mark.parametrize("truth", [torch.ones(40, 4), torch.rand(40, 3), -torch.rand(40, 4)])
def test_what_is_no_distribution_is_refused(truth: torch.Tensor) -> None:
    with pytest.raises(UserError, match="targets"):
        distance_to_truth(problem(0)[0], truth)


def test_float32_will_do() -> None:
    logits, truth = problem(3)
    found, exact = (
        distance_to_truth(logits.float(), truth.float()),
        distance_to_truth(logits, truth),
    )
    assert found == pytest.approx(exact, rel=1e-4, abs=1e-6)
