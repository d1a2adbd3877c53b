import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from reference import calibration_oracles as oracle
from reference.calibration_problems import modest, problems
from temperance.calibration.metrics import (
    adaptive_calibration_error,
    brier_decomposition,
    brier_score,
    chunks,
    thresholded_adaptive_calibration_error,
)
from temperance.errors import UserError

range_counts = st.sampled_from([1, 2, 3, 5, 15, 30])
tight = {"rel": 1e-12, "abs": 1e-12}


@modest
@given(problems(), range_counts)
def test_ace_equals_the_oracle(problem, n_ranges):
    logits, targets, _ = problem
    expected = oracle.adaptive_calibration_error(logits, targets, n_ranges=n_ranges)
    value = adaptive_calibration_error(logits, targets, n_ranges=n_ranges)
    assert value == pytest.approx(expected, **tight)
    assert 0 <= value <= 1


@modest
@given(problems(), range_counts, st.sampled_from([1e-60, 0.01, 0.1, 0.3, 0.9]))
def test_tace_equals_the_oracle(problem, n_ranges, threshold):
    logits, targets, _ = problem
    options = {"n_ranges": n_ranges, "threshold": threshold}
    expected = oracle.thresholded_adaptive_calibration_error(logits, targets, **options)
    value = thresholded_adaptive_calibration_error(logits, targets, **options)
    assert value == pytest.approx(expected, **tight)


@modest
@given(problems())
def test_brier_decomposition_equals_the_oracle_and_adds_up(problem):
    logits, targets, _ = problem
    parts = brier_decomposition(logits, targets)
    expected = oracle.brier_decomposition(logits, targets)
    for part, by_class in zip(parts, expected, strict=True):
        np.testing.assert_allclose(part, by_class, rtol=1e-12, atol=1e-12)
        assert part.min() >= -1e-12
    per_class = parts.miscalibration - parts.discrimination + parts.uncertainty
    one_hot = oracle.distributions(targets, logits.shape[1])
    score = ((oracle.softmax(logits) - one_hot) ** 2).mean(0)
    np.testing.assert_allclose(per_class, score, rtol=1e-12, atol=1e-12)
    assert per_class.sum() == pytest.approx(brier_score(logits, targets), **tight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_many_rows_equal_the_oracles(sampled, dtype):
    logits, targets = sampled(rows=5000, classes=20, temperature=1.3, dtype=dtype)
    wide = logits.double()
    for metric in (adaptive_calibration_error, thresholded_adaptive_calibration_error):
        expected = getattr(oracle, metric.__name__)(wide, targets)
        assert metric(logits, targets) == pytest.approx(expected, **tight)
    parts = brier_decomposition(logits, targets)
    expected = oracle.brier_decomposition(wide, targets)
    np.testing.assert_allclose(np.array(parts), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_ranks_in_float32_equal_the_oracles_as_far_as_it_goes(monkeypatch, sampled, dtype):
    monkeypatch.setattr(chunks, "MANY", 0)  # as if there were millions of logits
    logits, targets = sampled(rows=5000, classes=20, temperature=1.3, dtype=dtype)
    wide = logits.double()
    for metric in (adaptive_calibration_error, thresholded_adaptive_calibration_error):
        expected = getattr(oracle, metric.__name__)(wide, targets)
        assert metric(logits, targets) == pytest.approx(expected, rel=1e-5)
    parts = brier_decomposition(logits, targets)
    expected = oracle.brier_decomposition(wide, targets)
    np.testing.assert_allclose(np.array(parts), expected, rtol=1e-4, atol=1e-8)


@modest
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(1, 4)), min_size=1))
def test_the_oracle_pools_as_scikit_learn_does(drawn):
    values, weights = np.array(drawn).T
    pooled = oracle.pool_adjacent_violators(values, weights)
    model = IsotonicRegression().fit(np.arange(len(values)), values, sample_weight=weights)
    np.testing.assert_allclose(pooled, model.predict(np.arange(len(values))), atol=1e-12)


def test_ace_of_equal_logits_is_the_distance_from_balanced_labels():
    logits = torch.zeros(12, 4)
    assert adaptive_calibration_error(logits, torch.arange(12) % 4) == pytest.approx(0, abs=1e-15)
    # one class absent from the labels: |0.25 − share| averaged over all four classes
    value = adaptive_calibration_error(logits, torch.arange(12) % 3)
    assert value == pytest.approx((3 * (1 / 3 - 1 / 4) + 1 / 4) / 4)


def test_ace_of_ties_whatever_the_order_of_the_labels():
    # every confidence 0.9, accuracy 0.8: both classes are 0.1 off, in every range
    logits = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log().expand(100, 2)
    sorted_labels = torch.tensor([0] * 80 + [1] * 20)
    shuffled = sorted_labels[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    for labels in (sorted_labels, sorted_labels.flip(0), shuffled):
        for n_ranges in (1, 7, 15, 100, 1000):
            value = adaptive_calibration_error(logits, labels, n_ranges=n_ranges)
            assert value == pytest.approx(0.1, abs=1e-14)


def test_ranges_are_cut_as_array_split_cuts():
    # seven rows in three ranges: 3, 2, 2
    p = np.array([0.05, 0.1, 0.2, 0.3, 0.6, 0.7, 0.8])
    labels = np.array([0, 1, 0, 0, 1, 0, 1])
    blocks = np.split(p - labels, [3, 5])
    logits = torch.from_numpy(np.log(np.stack([1 - p, p], 1)))
    value = adaptive_calibration_error(logits, torch.from_numpy(labels), n_ranges=3)
    # of the other class the ranges are those of 1 − p: 2 of it from the top are 3 from the bottom
    others = np.split((p - labels)[::-1], [3, 5])
    expected = np.mean([abs(block.mean()) for block in blocks + others])
    assert value == pytest.approx(expected, rel=1e-12)


def test_more_ranges_than_rows_are_one_row_each():
    logits, targets = torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    p = torch.tensor([2.0, 1.0]).double().sigmoid()
    expected = float((1 - p[0] + p[1]) / 2)
    assert adaptive_calibration_error(logits, targets) == pytest.approx(expected)


def test_a_masked_class_is_one_of_the_classes():
    logits = torch.tensor([[1.0, 0.0, -torch.inf], [0.0, 2.0, -torch.inf]])
    targets = torch.tensor([0, 0])
    two = adaptive_calibration_error(logits[:, :2], targets)
    assert adaptive_calibration_error(logits, targets) == pytest.approx(2 / 3 * two)
    parts = brier_decomposition(logits, targets)
    assert [part[2] for part in parts] == [0, 0, 0]


def test_five_classes_of_which_only_two_occur_are_five_classes(sampled):
    logits, _ = sampled(rows=300, classes=5)
    targets = torch.arange(300) % 2
    expected = oracle.adaptive_calibration_error(logits, targets)
    assert adaptive_calibration_error(logits, targets) == pytest.approx(expected, **tight)
    missing = brier_decomposition(logits, targets)
    assert missing.uncertainty[2:] == pytest.approx(0)
    mean_square = (oracle.softmax(logits)[:, 2:] ** 2).mean(0)
    assert missing.miscalibration[2:] == pytest.approx(mean_square)


def test_a_perfect_order_leaves_no_uncertainty():
    # class 1's probability is too low, but recalibrating by its order alone predicts every label
    logits = torch.tensor([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    parts = brier_decomposition(logits, torch.tensor([0, 1, 1]))
    for discrimination, uncertainty in zip(parts.discrimination, parts.uncertainty, strict=True):
        assert discrimination == pytest.approx(2 / 9)
        assert uncertainty == pytest.approx(2 / 9)
    # the other way round the order is worth nothing: all is pooled
    parts = brier_decomposition(logits, torch.tensor([1, 0, 0]))
    assert parts.discrimination == pytest.approx(0, abs=1e-15)


def test_a_class_without_a_probability_above_the_threshold_adds_nothing():
    logits = torch.tensor([[0.995, 0.005]], dtype=torch.float64).log().expand(4, 2)
    targets = torch.tensor([0, 1, 0, 0])
    value = thresholded_adaptive_calibration_error(logits, targets)
    assert value == pytest.approx(0.245 / 2)
    assert thresholded_adaptive_calibration_error(logits, targets, threshold=0.999) == 0


def test_a_probability_at_the_threshold_is_not_above_it():
    tace = thresholded_adaptive_calibration_error
    for classes in (2, 4, 8):  # whose logarithms are exact enough to be equal
        logits, targets = torch.zeros(classes, classes), torch.zeros(classes).long()
        assert tace(logits, targets, threshold=1 / classes) == 0
        assert tace(logits, targets, threshold=1 / classes - 1e-9) > 0


@modest
@given(problems(masked=False), range_counts)
def test_threshold_zero_is_ace(problem, n_ranges):
    logits, targets, _ = problem
    value = thresholded_adaptive_calibration_error(logits, targets, n_ranges=n_ranges, threshold=0)
    assert value == adaptive_calibration_error(logits, targets, n_ranges=n_ranges)


GOOD = torch.zeros(3, 4), torch.tensor([0, 1, 3])


@pytest.mark.parametrize("n_ranges", [0, -3])
def test_at_least_one_range(n_ranges):
    for metric in (adaptive_calibration_error, thresholded_adaptive_calibration_error):
        with pytest.raises(UserError, match=f"{n_ranges} ranges"):
            metric(*GOOD, n_ranges=n_ranges)


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(UserError, match="not in"):
        thresholded_adaptive_calibration_error(*GOOD, threshold=threshold)
