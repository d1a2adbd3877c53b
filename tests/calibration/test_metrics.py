import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.calibration import calibration_curve

from reference import calibration_oracles as oracle
from temperance.calibration import (
    accuracy,
    adaptive_calibration_error,
    brier_score,
    check_logits,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_bins,
)
from temperance.calibration.metrics import scores as core
from temperance.errors import UserError

modest = settings(max_examples=60, deadline=None)


@st.composite
def problems(draw):
    """Logits on a coarse grid, so that ties, flat rows and saturation occur, and labels."""
    rows, classes = draw(st.integers(1, 25)), draw(st.integers(2, 6))
    grid = st.sampled_from([-200.0, -2.0, -1.0, 0.0, 0.5, 1.0, 3.0, 90.0])
    logits = draw(hnp.arrays(np.float32, (rows, classes), elements=grid))
    targets = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    return torch.from_numpy(logits), torch.from_numpy(targets)


def probabilities_of(logits):
    """As the package computes them: the oracle must see the same ties."""
    z = logits.double()
    return (z - z.logsumexp(1, keepdim=True)).exp().numpy()


@modest
@given(problems())
def test_row_metrics_equal_the_oracles(problem):
    logits, targets = problem
    z, y = logits.numpy(), targets.numpy()
    assert accuracy(logits, targets) == pytest.approx(oracle.accuracy(z, y))
    assert brier_score(logits, targets) == pytest.approx(oracle.brier(z, y), abs=1e-12)
    if (z.max(1) - z[np.arange(len(y)), y]).max() < 100:  # beyond, the oracle's log underflows
        assert negative_log_likelihood(logits, targets) == pytest.approx(
            oracle.nll(z, y), abs=1e-12
        )


@modest
@given(problems(), st.integers(1, 20))
def test_ece_equals_the_oracle_and_its_identities(problem, n_bins):
    logits, targets = problem
    scores = core.score_rows(logits, targets)
    error = expected_calibration_error(logits, targets, n_bins=n_bins)
    over, under = oracle.ece(scores.confidence.numpy(), scores.correct.numpy(), n_bins)
    assert error.over == pytest.approx(over, abs=1e-12)
    assert error.under == pytest.approx(under, abs=1e-12)
    assert error.total == pytest.approx(error.over + error.under)
    gap = float(scores.confidence.mean()) - accuracy(logits, targets)
    assert error.signed == pytest.approx(gap, abs=1e-12)
    assert reliability_bins(logits, targets, n_bins).error == pytest.approx(error, abs=1e-12)


@modest
@given(problems(), st.integers(1, 30))
def test_ace_equals_the_oracle(problem, n_ranges):
    logits, targets = problem
    expected = oracle.ace(probabilities_of(logits), targets.numpy(), n_ranges)
    value = adaptive_calibration_error(logits, targets, n_ranges=n_ranges)
    assert value == pytest.approx(expected, abs=1e-12)


@modest
@given(problems(), st.randoms(use_true_random=False))
def test_metrics_do_not_depend_on_the_order_of_rows(problem, random):
    logits, targets = problem
    order = list(range(len(targets)))
    random.shuffle(order)
    for metric in (
        accuracy,
        brier_score,
        negative_log_likelihood,
        adaptive_calibration_error,
        lambda z, y: expected_calibration_error(z, y).over,
    ):
        assert metric(logits[order], targets[order]) == pytest.approx(
            metric(logits, targets), abs=1e-12
        )


@modest
@given(problems(), st.data())
def test_integer_weights_are_repeated_rows(problem, data):
    logits, targets = problem
    times = data.draw(st.lists(st.integers(0, 3), min_size=len(targets), max_size=len(targets)))
    times[0] += 1
    times = torch.tensor(times)
    repeated = logits.repeat_interleave(times, 0), targets.repeat_interleave(times)
    weights = 0.5 * times.float()
    for metric in (accuracy, brier_score, negative_log_likelihood):
        assert metric(logits, targets, weights) == pytest.approx(metric(*repeated), abs=1e-12)
    assert expected_calibration_error(logits, targets, weights) == pytest.approx(
        expected_calibration_error(*repeated), abs=1e-12
    )


def test_chunks_do_not_change_the_values(monkeypatch, sampled):
    logits, targets = sampled(rows=53, classes=5)
    whole = core.score_rows(logits, targets), adaptive_calibration_error(logits, targets)
    monkeypatch.setattr(chunks, "CHUNK", 60)  # 12 rows, and 1 class, at a time
    parts = core.score_rows(logits, targets), adaptive_calibration_error(logits, targets)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize("n_bins", [1, 2, 10, 15, 25, 100])
def test_every_edge_belongs_to_the_bin_below_it(n_bins):
    edges = torch.arange(n_bins + 1, dtype=torch.float64) / n_bins
    assert core.bin_index(edges, n_bins).tolist() == [0, *range(n_bins)]
    above = torch.nextafter(edges[:-1], torch.tensor(2.0, dtype=torch.float64))
    assert core.bin_index(above, n_bins).tolist() == list(range(n_bins))


def test_golden_edges_of_ece():
    def ece(confidence, correct, n_bins=10):
        return core.binned_error(
            torch.tensor(confidence, dtype=torch.float64),
            torch.tensor(correct, dtype=torch.float64),
            n_bins=n_bins,
        ).total

    assert ece([1.0, 0.95], [0, 1]) == pytest.approx(0.475)  # no bin of its own for 1.0
    assert ece([0.0, 0.35], [1, 0]) == pytest.approx(0.675)  # 0.0 is not dropped
    assert ece([0.5, 0.5, 0.45, 0.45, 0.55, 0.55], [1, 1, 0, 0, 0, 0]) == pytest.approx(0.2)


def test_float32_saturation_counts_in_the_last_bin():
    bins = reliability_bins(torch.tensor([[200.0, 0.0], [90.0, 0.0]]), torch.tensor([0, 1]))
    assert bins.count.tolist() == [0] * 14 + [2]
    assert bins.confidence[-1] == 1
    assert bins.accuracy[-1] == 0.5
    assert np.isnan(bins.accuracy[:-1]).all()


def test_equal_logits_are_calibrated_for_balanced_labels_only():
    logits = torch.zeros(12, 4)
    assert adaptive_calibration_error(logits, torch.arange(12) % 4) == pytest.approx(0)
    # one class absent from the labels: |0.25 − share| averaged over all four classes
    value = adaptive_calibration_error(logits, torch.arange(12) % 3)
    assert value == pytest.approx((3 * (1 / 3 - 1 / 4) + 1 / 4) / 4)
    assert negative_log_likelihood(logits, torch.arange(12) % 4) == pytest.approx(np.log(4))
    assert accuracy(logits, torch.arange(12) % 4) == 0.25  # of tied classes the first is predicted


def test_a_masked_class_has_probability_zero():
    logits = torch.tensor([[1.0, 0.0, -torch.inf], [0.0, 2.0, -torch.inf]])
    targets = torch.tensor([0, 0])
    for metric in (negative_log_likelihood, brier_score):
        assert metric(logits, targets) == pytest.approx(metric(logits[:, :2], targets))
    two = adaptive_calibration_error(logits[:, :2], targets)
    assert adaptive_calibration_error(logits, targets) == pytest.approx(2 / 3 * two)


@pytest.mark.parametrize("n_bins", [5, 15])
def test_reliability_bins_equal_scikit_learn(sampled, n_bins):
    logits, targets = sampled(rows=3000)
    scores = core.score_rows(logits, targets)
    bins = reliability_bins(logits, targets, n_bins)
    true, predicted = calibration_curve(scores.correct, scores.confidence, n_bins=n_bins)
    full = bins.count > 0
    np.testing.assert_allclose(bins.accuracy[full], true, rtol=1e-12)
    np.testing.assert_allclose(bins.confidence[full], predicted, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_widened_before_anything_else(sampled, dtype):
    logits, targets = sampled(dtype=dtype)
    assert brier_score(logits, targets) == brier_score(logits.double(), targets)
    assert expected_calibration_error(logits, targets) == expected_calibration_error(
        logits.double(), targets
    )


GOOD = torch.zeros(3, 4)
LABELS = torch.tensor([0, 1, 3])


def spoilt(row, column, value):
    logits = GOOD.clone()
    logits[row, column] = value
    return logits


@pytest.mark.parametrize(
    ("logits", "targets", "weights", "message"),
    [
        (spoilt(1, 2, torch.nan), LABELS, None, "row 1 holds NaN"),
        (spoilt(2, 2, torch.inf), LABELS, None, "row 2 holds NaN or"),
        (spoilt(2, 3, -torch.inf), LABELS, None, "row 2 holds -inf for its true class 3"),
        (GOOD, torch.tensor([0, 12, 1]), None, "target 12 of row 1 is outside the 4 classes"),
        (GOOD, torch.tensor([0, 1, -1]), None, "target -1 of row 2"),
        (GOOD, torch.zeros(3), None, "must be class indices"),
        (GOOD, torch.tensor([True, False, True]), None, "must be class indices"),
        (GOOD, torch.tensor([0, 1]), None, r"of shape \(3,\), not int64 of shape \(2,\)"),
        (GOOD.long(), LABELS, None, "must be floating point"),
        (torch.zeros(3), LABELS, None, r"must be floating point of shape \(rows, classes\)"),
        (torch.zeros(0, 4), LABELS[:0], None, "hold no rows"),
        (torch.zeros(3, 1), LABELS, None, "hold 1 class"),
        (GOOD, LABELS, torch.tensor([1.0, -1, 0]), "row 1 has weight -1"),
        (GOOD, LABELS, torch.tensor([torch.nan, 1, 0]), "row 0 has weight nan"),
        (GOOD, LABELS, torch.zeros(3), "all zero"),
        (GOOD, LABELS, torch.ones(2), r"must be of shape \(3,\)"),
    ],
)
def test_bad_input_is_refused_and_named(logits, targets, weights, message):
    with pytest.raises(UserError, match=message):
        check_logits(logits, targets, weights)


def test_good_input_passes():
    check_logits(spoilt(1, 0, -torch.inf), LABELS, torch.tensor([1.0, 0.0, 2.0]))
    check_logits(GOOD.half(), LABELS.to(torch.uint8))


@pytest.mark.parametrize("n", [0, -3])
def test_at_least_one_bin(n):
    with pytest.raises(UserError, match="bins"):
        expected_calibration_error(GOOD, LABELS, n_bins=n)
    with pytest.raises(UserError, match="ranges"):
        adaptive_calibration_error(GOOD, LABELS, n_ranges=n)
