import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from reference.uncertainty_oracles import miscalibrated, squared_error_interval
from temperance.calibration import (
    Interval,
    bootstrap_intervals,
    debiased_error_interval,
    fit_temperature,
)
from temperance.calibration.intervals import debiased_interval_of, intervals_of
from temperance.calibration.metrics.scores import score_rows
from temperance.errors import UserError

NAMES = ("accuracy", "nll", "brier", "gap")


def columns(scores):
    gap = scores.confidence - scores.correct
    return dict(zip(NAMES, (scores.correct, scores.nll, scores.brier, gap), strict=True))


def enough(covered, n):
    """Not below 85 %, and what 95 % gives by chance but once in 10,000."""
    return covered >= max(0.85 * n, binom.ppf(1e-4, n, 0.95))


# Means: the bootstrap.


def test_interval_of_a_mean_is_that_of_the_central_limit(sampled):
    logits, targets = sampled(rows=4000)
    found = bootstrap_intervals(logits, targets, seed=3)
    assert found.keys() == set(NAMES)
    for name, rows in columns(score_rows(logits, targets)).items():
        half = 1.96 * float(rows.std()) / len(rows) ** 0.5
        # 1000 replicates: a percentile end has a standard error of 0.043 half-widths
        assert found[name].low == pytest.approx(float(rows.mean()) - half, abs=0.13 * half)
        assert found[name].high == pytest.approx(float(rows.mean()) + half, abs=0.13 * half)


def test_interval_with_groups_is_that_of_the_group_sums():
    logits, targets, groups = miscalibrated(6000, 0.05, seed=1, size=10)
    found = bootstrap_intervals(logits, targets, groups=groups)
    alone = bootstrap_intervals(logits, targets)
    for name, rows in columns(score_rows(logits, targets)).items():
        sums = (rows - rows.mean()).view(-1, 10).sum(1)
        half = 1.96 * float(sums.square().sum()) ** 0.5 / len(rows)
        assert found[name].low == pytest.approx(float(rows.mean()) - half, abs=0.15 * half)
        assert found[name].high == pytest.approx(float(rows.mean()) + half, abs=0.15 * half)
    assert found["gap"].high - found["gap"].low > 1.5 * (alone["gap"].high - alone["gap"].low)


def test_seed_decides_the_interval(sampled):
    logits, targets = sampled()
    first = bootstrap_intervals(logits, targets, replicates=50, seed=1)
    assert first == bootstrap_intervals(logits, targets, replicates=50, seed=1)
    assert first != bootstrap_intervals(logits, targets, replicates=50, seed=2)


# The ℓ₂ error: the debiased estimate.


@pytest.mark.parametrize("error", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("size", [1, 4])
def test_debiased_interval_equals_the_oracle(error, size):
    logits, targets, groups = miscalibrated(120, error, seed=2, size=size)
    scores = score_rows(logits, targets)
    given_groups = None if size == 1 else groups
    low, high = debiased_error_interval(logits, targets, n_bins=6, groups=given_groups)
    expected = squared_error_interval(
        scores.confidence.numpy(), scores.correct.numpy(), 6, groups.numpy()
    )
    assert (low, high) == pytest.approx(np.sqrt(np.maximum(expected, 0)), abs=1e-9)


def test_groups_of_one_row_are_no_groups(sampled):
    logits, targets = sampled(rows=301)
    groups = torch.randperm(301)
    assert debiased_error_interval(logits, targets, groups=groups) == pytest.approx(
        debiased_error_interval(logits, targets)
    )
    found = bootstrap_intervals(logits, targets, groups=torch.arange(301))
    for name, interval in bootstrap_intervals(logits, targets).items():
        assert found[name] == pytest.approx(interval)


def test_copies_in_groups_tell_nothing_new(sampled):
    logits, targets = sampled(rows=300)
    copies = {"groups": torch.arange(300).repeat_interleave(3)}
    rows = [values.repeat_interleave(3, 0) for values in (logits, targets)]
    assert debiased_error_interval(*rows, **copies) == pytest.approx(
        debiased_error_interval(logits, targets)
    )
    found = bootstrap_intervals(*rows, **copies)
    for name, interval in bootstrap_intervals(logits, targets).items():
        assert found[name] == pytest.approx(interval)
    alone = debiased_error_interval(*rows)
    assert alone.high - alone.low < 0.9 * (debiased_error_interval(logits, targets).high)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), digits=st.sampled_from([1, 2, 9]), n_bins=st.integers(1, 20))
def test_debiased_interval_does_not_depend_on_the_order_of_rows(seed, digits, n_bins):
    logits, targets, groups = miscalibrated(90, 0.1, seed=seed, size=3)
    logits = (logits.exp() * 10**digits + 1).round().log()  # of few digits: tied confidences
    order = torch.randperm(90, generator=torch.Generator().manual_seed(seed))
    for member in (None, groups):
        shuffled = None if member is None else member[order]
        found = debiased_error_interval(logits, targets, n_bins=n_bins, groups=member)
        again = debiased_error_interval(
            logits[order], targets[order], n_bins=n_bins, groups=shuffled
        )
        assert again == pytest.approx(found, abs=1e-7)
        assert 0 <= found.low <= found.high <= 1


def test_equal_confidences_are_one_bin_whatever_the_order_of_labels():
    logits = torch.tensor([[0.7, 0.3]]).log().expand(300, 2)
    targets = (torch.arange(300) >= 210).long()  # accuracy 70 %, sorted
    low, high = debiased_error_interval(logits, targets)
    assert low == 0.0
    assert high < 0.11  # of one bin it is twice as wide as it need be


def test_what_too_few_rows_cannot_tell_is_in_the_interval(sampled):
    assert debiased_error_interval(*sampled(rows=1)) == (0, 1)
    assert debiased_error_interval(*sampled(rows=15)) == (0, 1)  # one row in every bin
    logits, targets = sampled(rows=20)
    assert debiased_error_interval(logits, targets).high > 0.7  # 10 of 20 rows alone in a bin
    right = torch.tensor([[0.0, -30.0]]).expand(20, 2)
    low, high = debiased_error_interval(right, torch.zeros(20, dtype=torch.int64))
    assert low == 0
    assert high > 0.05  # sure and right 20 times: may yet be wrong once in 20


def test_bad_input_is_refused(sampled):
    logits, targets = sampled(rows=30)
    with pytest.raises(UserError, match="0 bins"):
        debiased_error_interval(logits, targets, n_bins=0)
    for function in (debiased_error_interval, bootstrap_intervals):
        with pytest.raises(UserError, match="all the same"):
            function(logits, targets, groups=torch.zeros(30, dtype=torch.int64))
        with pytest.raises(UserError, match="NaN"):
            function(logits.fill_(torch.nan), targets)
        logits, targets = sampled(rows=30)


# Coverage, on models of known error; `benchmarks/coverage.py` does it at length.


@pytest.mark.parametrize("size", [1, 10])
@pytest.mark.parametrize("error", [0.0, 0.03, 0.1])
def test_intervals_cover(error, size):
    n = 150
    covered = dict.fromkeys(("gap", "accuracy", "l2", "log T"), 0)
    truths = {"gap": error, "accuracy": 0.675 - error, "l2": error, "log T": 0.0}
    for seed in range(n):
        logits, targets, groups = miscalibrated(300, error, seed=1000 + seed, size=size)
        member = None if size == 1 else groups
        scores = score_rows(logits, targets)
        found = intervals_of(scores, replicates=300, seed=0, groups=member)
        found["l2"] = debiased_interval_of(scores, n_bins=15, groups=member)
        if error == 0:  # T = 1 is best
            fit = fit_temperature(logits, targets, groups=member)
            centre, half = np.log(fit.temperature), 1.96 * fit.se_log_temperature
            found["log T"] = Interval(centre - half, centre + half)
        for name in covered:
            low, high = found.get(name, (0, 0))
            covered[name] += low <= truths[name] <= high
    for name, count in covered.items():
        assert enough(count, n) or (size == 10 and count >= 0.85 * n), (name, count)


def test_without_groups_correlated_rows_are_taken_for_more_than_they_are():
    covered = 0
    for seed in range(100):
        logits, targets, _ = miscalibrated(300, 0.0, seed=1000 + seed, size=10)
        low, high = intervals_of(score_rows(logits, targets), replicates=200, seed=0)["gap"]
        covered += low <= 0 <= high
    assert covered < 85
