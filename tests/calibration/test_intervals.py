import numpy as np
import pytest
import torch

from temperance.calibration import (
    ace_floor,
    adaptive_calibration_error,
    bootstrap_intervals,
    ece_floor,
    expected_calibration_error,
)
from temperance.calibration.metrics import scores as core


def test_interval_of_a_mean_is_that_of_the_central_limit(sampled):
    logits, targets = sampled(rows=4000)
    found = bootstrap_intervals(logits, targets, seed=3)
    scores = core.score_rows(logits, targets)
    values = {
        "accuracy": scores.correct,
        "nll": scores.nll,
        "brier": scores.brier,
        "gap": scores.confidence - scores.correct,
    }
    assert found.keys() == values.keys()
    for name, rows in values.items():
        half = 1.96 * float(rows.std()) / len(rows) ** 0.5
        # 1000 replicates: a percentile end has a standard error of 0.043 half-widths
        assert found[name].low == pytest.approx(float(rows.mean()) - half, abs=0.13 * half)
        assert found[name].high == pytest.approx(float(rows.mean()) + half, abs=0.13 * half)


def test_seed_decides_the_interval(sampled):
    logits, targets = sampled()
    first = bootstrap_intervals(logits, targets, replicates=50, seed=1)
    assert first == bootstrap_intervals(logits, targets, replicates=50, seed=1)
    assert first != bootstrap_intervals(logits, targets, replicates=50, seed=2)


def test_interval_of_the_gap_covers_zero_for_a_calibrated_model(sampled):
    hits = 0
    for seed in range(200):
        low, high = bootstrap_intervals(*sampled(rows=300, seed=seed), replicates=200)["gap"]
        hits += low <= 0 <= high
    assert 176 <= hits <= 199  # binomial(200, 0.95) ± 4 sd, some less for 200 replicates


def test_floors_equal_the_metrics_of_redrawn_labels(sampled):
    logits, targets = sampled(rows=400, classes=4)
    ece, ace = ece_floor(logits, targets), ace_floor(logits, targets)
    redrawn = []
    for seed in range(200):
        generator = torch.Generator().manual_seed(1000 + seed)
        labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        redrawn.append(
            (
                expected_calibration_error(logits, labels).total,
                adaptive_calibration_error(logits, labels),
            )
        )
    mean, sd = np.mean(redrawn, 0), np.std(redrawn, 0)
    for floor, expected, spread in zip((ece, ace), mean, sd, strict=True):
        # the means of 200 redraws each: 5 standard errors of their difference
        assert floor.mean == pytest.approx(expected, abs=5 * spread * (2 / 200) ** 0.5)
        assert floor.mean < floor.quantile95 < floor.mean + 4 * spread


def test_p_value_is_small_for_miscalibration_only(sampled):
    over = sampled(rows=2000, temperature=2.0)
    assert ece_floor(*over).p_value == ace_floor(*over).p_value == 1 / 201
    small = [ece_floor(*sampled(rows=300, seed=s), redraws=39).p_value <= 0.05 for s in range(100)]
    small += [
        ace_floor(*sampled(rows=300, seed=s), redraws=39).p_value <= 0.05 for s in range(100, 200)
    ]
    assert sum(small) <= 25  # expected 10 of 200, sd 3


def test_floor_never_draws_a_masked_class():
    logits = torch.tensor([[0.0, -torch.inf, 0.0]]).expand(50, 3)
    targets = torch.arange(50) % 2 * 2
    floor = ace_floor(logits, targets, n_ranges=1, redraws=50)
    # with one range and class 1 at 0, the error is that of classes 0 and 2 alone, and equal
    assert 0 < floor.quantile95 < 0.25
    assert floor.p_value == 1.0
