"""Agreement with other packages where conventions agree, and the numbers where they do not.

The numbers are those of docs/calibration-peers.md.
"""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from reference.peers import peer
from temperance.calibration.metrics import (
    accuracy,
    adaptive_calibration_error,
    area_under_risk_coverage,
    brier_score,
    classwise_calibration_error,
    debiased_calibration_error,
    expected_calibration_error,
    maximum_calibration_error,
    negative_log_likelihood,
    reliability_bins,
    root_mean_square_calibration_error,
    smooth_calibration_error,
    top_k_accuracy,
)
from temperance.errors import UserError

float32 = {"rel": 1e-5}  # the sums of torchmetrics and torch-uncertainty

torchmetrics = peer("torchmetrics.functional.classification")
netcal = peer("netcal.metrics")
uncertainty = peer("torch_uncertainty.metrics.classification")
adaptive = peer(
    "torch_uncertainty.metrics.classification.calibration.adaptive_calibration_error"
)  # its debiased error is private
relplot = peer("relplot")


@pytest.fixture
def problem(sampled):
    """3,000 rows of ten classes, a little over-confident."""
    return sampled(rows=3000, classes=10, temperature=1.05)


def computed(metric, probabilities, targets):
    """What a torchmetrics-like metric says about them."""
    metric.update(probabilities, targets)
    return float(metric.compute())


def two_columns(positive):
    """Logits of two classes from the probability of class 1."""
    positive = torch.as_tensor(positive, dtype=torch.float64)
    return torch.stack([1 - positive, positive], 1).log()


# Where conventions agree.


def test_scikit_learn_scores(problem):
    logits, targets = problem
    p = logits.softmax(1).numpy()
    assert accuracy(logits, targets) == sklearn_metrics.accuracy_score(targets, p.argmax(1))
    for k in (1, 3, 5):
        expected = sklearn_metrics.top_k_accuracy_score(targets, p, k=k)
        assert top_k_accuracy(logits, targets, k=k) == expected
    expected = sklearn_metrics.log_loss(targets, p)
    assert negative_log_likelihood(logits, targets) == pytest.approx(expected, rel=1e-12)
    expected = sklearn_metrics.brier_score_loss(targets, p)
    assert brier_score(logits, targets) == pytest.approx(expected, rel=1e-12)


def test_scikit_learn_scores_with_weights(problem):
    logits, targets = problem
    p = logits.softmax(1).numpy()
    weights = torch.rand(3000, generator=torch.Generator().manual_seed(1)).double()
    expected = sklearn_metrics.log_loss(targets, p, sample_weight=weights)
    value = negative_log_likelihood(logits, targets, weights)
    assert value == pytest.approx(expected, rel=1e-12)
    expected = sklearn_metrics.brier_score_loss(targets, p, sample_weight=weights)
    assert brier_score(logits, targets, weights) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n_bins", [5, 15])
def test_scikit_learn_calibration_curve(problem, n_bins):
    logits, targets = problem
    confidence, predicted = logits.softmax(1).max(1)
    bins = reliability_bins(logits, targets, n_bins)
    curve = calibration_curve(predicted == targets, confidence, n_bins=n_bins)
    full = bins.count > 0
    np.testing.assert_allclose(bins.accuracy[full], curve[0], rtol=1e-12)
    np.testing.assert_allclose(bins.confidence[full], curve[1], rtol=1e-12)


@pytest.mark.parametrize("n_bins", [1, 10, 15, 100])
def test_torchmetrics_calibration_errors(torchmetrics, problem, n_bins):
    logits, targets = problem
    for norm, ours in (
        ("l1", expected_calibration_error(logits, targets, n_bins=n_bins).total),
        ("l2", root_mean_square_calibration_error(logits, targets, n_bins=n_bins)),
        ("max", maximum_calibration_error(logits, targets, n_bins=n_bins)),
    ):
        theirs = torchmetrics.multiclass_calibration_error(
            logits.softmax(1), targets, 10, n_bins=n_bins, norm=norm
        )
        assert ours == pytest.approx(float(theirs), **float32)


def test_torchmetrics_scores(torchmetrics, problem):
    logits, targets = problem
    for k in (1, 3):
        theirs = torchmetrics.multiclass_accuracy(logits, targets, 10, average="micro", top_k=k)
        assert top_k_accuracy(logits, targets, k=k) == pytest.approx(float(theirs), **float32)


@pytest.mark.parametrize("n_bins", [1, 10, 15, 100])
def test_netcal_calibration_errors(netcal, problem, n_bins):
    logits, targets = problem
    p, y = logits.softmax(1).numpy(), targets.numpy()
    ours = expected_calibration_error(logits, targets, n_bins=n_bins).total
    assert ours == pytest.approx(netcal.ECE(n_bins).measure(p, y), rel=1e-12)
    ours = maximum_calibration_error(logits, targets, n_bins=n_bins)
    assert ours == pytest.approx(netcal.MCE(n_bins).measure(p, y), rel=1e-12)


def test_torch_uncertainty_class_wise_error(uncertainty, problem):
    logits, targets = problem
    metric = uncertainty.ClasswiseCalibrationError(10, num_bins=15)
    theirs = computed(metric, logits.softmax(1), targets)
    assert classwise_calibration_error(logits, targets) == pytest.approx(theirs, **float32)


def test_torch_uncertainty_scores(uncertainty, problem):
    logits, targets = problem
    p = logits.softmax(1)
    theirs = computed(uncertainty.BrierScore(10), p, targets)
    assert brier_score(logits, targets) == pytest.approx(theirs, **float32)
    theirs = computed(uncertainty.CategoricalNLL(), p, targets)
    assert negative_log_likelihood(logits, targets) == pytest.approx(theirs, **float32)


@pytest.mark.parametrize("n_bins", [1, 15, 100])
def test_torch_uncertainty_errors_over_equal_masses(adaptive, problem, n_bins):
    logits, targets = problem
    confidence, predicted = logits.softmax(1).max(1)
    correct = (predicted == targets).double()
    ours = debiased_calibration_error(logits, targets, n_bins=n_bins).root
    theirs = adaptive._ace_compute(confidence, correct, n_bins, norm="l2", debias=True)
    assert ours == pytest.approx(float(theirs), rel=1e-9)


def test_relplot_errors(relplot, problem):
    logits, targets = problem
    pairs = relplot.multiclass_logits_to_confidences(logits.numpy(), targets.numpy())
    ours = expected_calibration_error(logits, targets).total
    assert ours == pytest.approx(relplot.metrics.binnedECE(*pairs, nbins=15), rel=1e-12)


@pytest.mark.parametrize("sharper", [0.3, 0.8, 1, 1.5])
def test_relplot_smooth_error(relplot, problem, sharper):
    logits, targets = sharper * problem[0], problem[1]
    pairs = relplot.multiclass_logits_to_confidences(logits.numpy(), targets.numpy())
    ours = smooth_calibration_error(logits, targets)
    assert ours == pytest.approx(relplot.smECE(*pairs), abs=1e-3)  # where its search stops


# Where they do not: each is a line of the table.


def test_a_confidence_of_one(torchmetrics, netcal, relplot):
    confidence, hit = torch.tensor([1.0, 0.95]), torch.tensor([0, 1])
    logits = torch.tensor([[0, 800], [0, math.log(19)]])
    ours = expected_calibration_error(logits, hit, n_bins=10, event="positive").total
    assert ours == pytest.approx(0.475)
    # a bin of its own for exactly 1
    theirs = torchmetrics.binary_calibration_error(confidence, hit, n_bins=10)
    assert float(theirs) == pytest.approx(0.525)
    theirs = relplot.metrics.binnedECE(confidence.numpy(), hit.numpy(), nbins=10)
    assert theirs == pytest.approx(0.525)
    theirs = netcal.ECE(10).measure(confidence.numpy(), hit.numpy())
    assert theirs == pytest.approx(0.475, abs=1e-6)


def test_a_confidence_on_an_edge(torchmetrics, netcal):
    confidence = torch.tensor([0.5, 0.5, 0.45, 0.45, 0.55, 0.55])
    hit = torch.tensor([1, 1, 0, 0, 0, 0])
    ours = expected_calibration_error(
        two_columns(confidence), hit, n_bins=10, event="positive"
    ).total
    assert ours == pytest.approx(0.2)  # 0.5 counts below
    theirs = torchmetrics.binary_calibration_error(confidence, hit, n_bins=10)
    assert float(theirs) == pytest.approx(1 / 6)  # above
    theirs = netcal.ECE(10).measure(confidence.numpy(), hit.numpy())
    assert theirs == pytest.approx(1 / 6)


def test_confidences_on_every_tenth(torchmetrics, netcal):
    # each tenth once right and once wrong, in a bin of its own
    confidence = torch.tensor([k / 10 for k in range(1, 10)] * 2)
    hit = torch.tensor([1] * 9 + [0] * 9)
    theirs = torchmetrics.binary_calibration_error(confidence, hit, n_bins=10)
    assert float(theirs) == pytest.approx(2 / 9)  # test_binned has ours
    theirs = netcal.ECE(10).measure(confidence.numpy(), hit.numpy())
    assert theirs == pytest.approx(0.2)


def test_edges_of_linspace():
    # k / M and np.linspace(0, 1, M + 1)[k] differ for k = 3, 6, 7 of 10
    edges = np.linspace(0, 1, 11)
    assert [k for k in range(11) if edges[k] != k / 10] == [3, 6, 7]


def test_ten_million_rows(torchmetrics):
    confidence, hit = torch.full((10_000_000,), 0.95), torch.zeros(10_000_000).int()
    hit[::2] = 1
    theirs = torchmetrics.binary_calibration_error(confidence, hit, n_bins=15)
    assert float(theirs) == pytest.approx(0.4934, abs=1e-4)  # 0.45; test_binned has ours


def test_nan(torchmetrics, problem):
    logits, targets = problem[0].clone(), problem[1]
    logits[:300] = torch.nan
    theirs = torchmetrics.multiclass_calibration_error(logits.softmax(1), targets, 10, n_bins=15)
    assert float(theirs) == pytest.approx(0.3445, abs=1e-4)
    theirs = torchmetrics.multiclass_calibration_error(
        logits[300:].softmax(1), targets[300:], 10, n_bins=15
    )
    assert float(theirs) == pytest.approx(0.0325, abs=1e-4)
    with pytest.raises(UserError, match="row 0 holds NaN"):
        expected_calibration_error(logits, targets)


def test_logits_between_zero_and_one(torchmetrics):
    logits = torch.rand(200, 10, generator=torch.Generator().manual_seed(0))
    targets = logits.argmax(1)
    theirs = torchmetrics.multiclass_calibration_error(logits, targets, 10, n_bins=15)
    assert float(theirs) == pytest.approx(0.0863, abs=1e-4)
    ours = expected_calibration_error(logits, targets).under
    assert ours == pytest.approx(0.8538, abs=1e-4)


def test_two_classes(torchmetrics, netcal, sampled):
    logits, targets = sampled(rows=3000, classes=2)
    logits = logits + torch.tensor([0, 0.5])  # class 1 is said to be likelier than it is
    p = logits.softmax(1)
    top = expected_calibration_error(logits, targets).total
    positive = expected_calibration_error(logits, targets, event="positive").total
    assert (top, positive) == pytest.approx((0.0089, 0.0640), abs=1e-4)
    theirs = torchmetrics.multiclass_calibration_error(p, targets, 2, n_bins=15)
    assert float(theirs) == pytest.approx(top, abs=1e-6)
    theirs = torchmetrics.binary_calibration_error(p[:, 1].contiguous(), targets, n_bins=15)
    assert float(theirs) == pytest.approx(positive, abs=1e-6)
    theirs = netcal.ECE(15).measure(p.numpy(), targets.numpy())  # of two columns the second
    assert theirs == pytest.approx(positive, rel=1e-9)


def test_five_classes_of_which_two_occur(netcal, sampled):
    logits, _ = sampled(rows=200, classes=5)
    targets = torch.arange(200) % 2
    assert expected_calibration_error(logits, targets).total > 0
    with pytest.raises(RuntimeError, match="Asserted binary classification"):
        netcal.ECE(15).measure(logits.softmax(1).numpy(), targets.numpy())


def test_three_errors_are_called_ace(netcal, uncertainty, problem):
    logits, targets = problem
    p = logits.softmax(1)
    nixon = adaptive_calibration_error(logits, targets)
    assert nixon == pytest.approx(0.0112, abs=1e-4)
    average = netcal.ACE(15).measure(p.numpy(), targets.numpy())
    bins = reliability_bins(logits, targets)
    gaps = np.abs(bins.confidence - bins.accuracy)
    assert average == pytest.approx(float(np.nanmean(gaps)), rel=1e-9)
    assert average == pytest.approx(0.0292, abs=1e-4)
    metric = uncertainty.AdaptiveCalibrationError("multiclass", num_classes=10, num_bins=15)
    theirs = computed(metric, p, targets)
    equal_mass = expected_calibration_error(logits, targets, binning="equal_mass").total
    assert theirs == pytest.approx(equal_mass, **float32)
    assert theirs == pytest.approx(0.0269, abs=1e-4)


def test_ties(uncertainty, netcal):
    probabilities = torch.tensor([[0.9, 0.1]]).expand(100, 2)
    labels = torch.tensor([0] * 80 + [1] * 20)
    metric = uncertainty.AdaptiveCalibrationError("multiclass", num_classes=2, num_bins=15)
    assert computed(metric, probabilities, labels) > 0.2  # the true gap is 0.1
    error = expected_calibration_error(probabilities.log(), labels, binning="equal_mass")
    assert error.total == pytest.approx(0.1)
    with pytest.raises(ValueError, match="smallest edge difference"):
        netcal.ECE(15, equal_intervals=False).measure(np.full(100, 0.9), labels.numpy())


def test_fewer_rows_than_bins(uncertainty, problem):
    logits, targets = problem[0][:3], problem[1][:3]
    metric = uncertainty.AdaptiveCalibrationError("multiclass", num_classes=10, num_bins=15)
    assert math.isnan(computed(metric, logits.softmax(1), targets))
    confidence, predicted = logits.softmax(1).max(1)
    gaps = (confidence - (predicted == targets).double()).abs()
    error = expected_calibration_error(logits, targets, binning="equal_mass")
    assert error.total == pytest.approx(float(gaps.mean()))


def test_kernels_of_the_smooth_error(uncertainty, relplot, problem):
    logits, targets = problem
    p = logits.softmax(1).float()
    assert smooth_calibration_error(logits, targets) == pytest.approx(0.0246, abs=1e-4)
    logit = computed(uncertainty.SmoothCalibrationError(), p, targets)
    reflected = computed(uncertainty.SmoothCalibrationError("reflected"), p, targets)
    assert logit == pytest.approx(0.0262, abs=1e-4)
    assert reflected == pytest.approx(0.0244, abs=1e-4)


def test_smooth_error_of_sure_rows(uncertainty, relplot):
    # half of the rows sure and right, half 0.5 and wrong: 0.25, however smooth
    confidence, hit = np.repeat([1.0, 0.5], 100), np.repeat([1, 0], 100)
    logits = two_columns(confidence)
    logits[:100, 0] = -800
    targets = torch.from_numpy(hit)
    ours = smooth_calibration_error(logits, targets, event="positive")
    assert ours == pytest.approx(0.25, abs=1e-6)
    # the mirrors stand on the outermost points of the grid, which count once instead of twice
    assert relplot.smECE(confidence, hit) == pytest.approx(1 / 3, abs=1e-4)
    metric = uncertainty.SmoothCalibrationError("reflected")
    theirs = computed(metric, logits.softmax(1).float(), targets)
    assert theirs == pytest.approx(1 / 3, abs=1e-4)


def test_area_under_risk_coverage(uncertainty, problem):
    logits, targets = problem
    confidence, predicted = logits.softmax(1).max(1)
    wrong = (predicted != targets).double()[confidence.argsort(descending=True)]
    # by trapezoids from one row to all, and divided by that width
    first, last = float(wrong[0]), float(wrong.mean())
    ours = area_under_risk_coverage(logits, targets)
    trapezoids = (3000 * ours - (first + last) / 2) / 2999
    theirs = computed(uncertainty.AURC(), logits.softmax(1), targets)
    assert theirs == pytest.approx(trapezoids, **float32)
    few = logits[:20], targets[:20]
    ours = area_under_risk_coverage(*few)
    theirs = computed(uncertainty.AURC(), few[0].softmax(1), few[1])
    assert (ours, theirs) == pytest.approx((0.3306, 0.3388), abs=1e-4)


def test_ties_of_the_area_under_risk_coverage(uncertainty):
    probabilities = torch.tensor([[0.9, 0.1]]).expand(100, 2)
    for labels in (torch.arange(100) >= 80, torch.arange(100) < 20):
        ours = area_under_risk_coverage(probabilities.log(), labels.long())
        assert ours == pytest.approx(0.2)
        theirs = computed(uncertainty.AURC(), probabilities, labels.long())
        assert abs(theirs - 0.2) > 0.01


def test_brier_score_of_two_classes(sampled):
    logits, targets = sampled(rows=3000, classes=2)
    halved = sklearn_metrics.brier_score_loss(targets, logits.softmax(1)[:, 1].numpy())
    assert brier_score(logits, targets) == pytest.approx(2 * halved)


def test_a_probability_of_zero(uncertainty):
    logits, targets = torch.tensor([[0.0, 5000.0]]), torch.tensor([0])
    assert negative_log_likelihood(logits, targets) == 5000
    p = logits.softmax(1)
    assert computed(uncertainty.CategoricalNLL(), p, targets) == math.inf
    clipped = sklearn_metrics.log_loss([0], p.numpy(), labels=[0, 1])
    assert clipped == pytest.approx(15.94, abs=0.01)
    clipped = sklearn_metrics.log_loss([0], p.double().numpy(), labels=[0, 1])
    assert clipped == pytest.approx(36.04, abs=0.01)


def test_ties_of_the_top_k():
    flat = np.zeros((1, 4))
    hits = [sklearn_metrics.top_k_accuracy_score([y], flat, k=2, labels=range(4)) for y in range(4)]
    assert hits == [0, 0, 1, 1]  # the last classes first
    ours = [top_k_accuracy(torch.zeros(1, 4), torch.tensor([y]), k=2) for y in range(4)]
    assert ours == [1, 1, 0, 0]


def test_bins_of_one_row_in_the_debiased_error(adaptive):
    confidence = torch.tensor([0.9, 0.6], dtype=torch.float64)
    theirs = adaptive._ace_compute(confidence, torch.zeros(2).double(), 2, norm="l2", debias=True)
    assert float(theirs) == pytest.approx(math.sqrt((0.81 + 0.36) / 2))
    logits = two_columns(confidence).flip(1)
    assert debiased_calibration_error(logits, torch.tensor([1, 1]), n_bins=2).squared == 0
