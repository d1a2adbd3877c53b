import itertools
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
    debiased_calibration_error,
    expected_calibration_error,
    maximum_calibration_error,
    reliability_bins,
    root_mean_square_calibration_error,
    top_k_calibration_error,
)
from temperance.calibration.metrics.bins import bin_index, equal_mass, equal_width
from temperance.errors import UserError

events = st.sampled_from(["top_label", "positive"])
bin_counts = st.sampled_from([1, 2, 3, 4, 7, 10, 15, 25, 40])
tight = {"rel": 1e-12, "abs": 1e-12}


@st.composite
def problems_with_event(draw, **options):
    event = draw(events)
    classes = 2 if event == "positive" else None
    return draw(problems(classes=classes, **options)), event


@modest
@given(problems_with_event(soft=True, weighted=True), bin_counts)
def test_equal_width_equals_the_oracles(drawn, n_bins):
    problem, event = drawn
    for metric in (
        expected_calibration_error,
        maximum_calibration_error,
        root_mean_square_calibration_error,
    ):
        expected = getattr(oracle, metric.__name__)(*problem, n_bins=n_bins, event=event)
        assert metric(*problem, n_bins=n_bins, event=event) == pytest.approx(expected, **tight)


@modest
@given(problems_with_event(soft=True), bin_counts)
def test_equal_mass_equals_the_oracle(drawn, n_bins):
    (logits, targets, _), event = drawn
    options = {"n_bins": n_bins, "binning": "equal_mass", "event": event}
    expected = oracle.expected_calibration_error(logits, targets, **options)
    value = expected_calibration_error(logits, targets, **options)
    assert value == pytest.approx(expected, **tight)


@modest
@given(problems_with_event(), bin_counts)
def test_debiased_error_equals_the_oracle(drawn, n_bins):
    (logits, targets, _), event = drawn
    expected = oracle.debiased_calibration_error(logits, targets, n_bins=n_bins, event=event)
    error = debiased_calibration_error(logits, targets, n_bins=n_bins, event=event)
    assert error.squared == pytest.approx(expected, **tight)
    assert error.root == pytest.approx(math.sqrt(max(error.squared, 0)))


@modest
@given(problems(weighted=True), bin_counts, st.integers(1, 6))
def test_top_k_error_equals_the_oracle(problem, n_bins, k):
    k = min(k, problem.logits.shape[1])
    expected = oracle.top_k_calibration_error(*problem, k=k, n_bins=n_bins)
    value = top_k_calibration_error(*problem, k=k, n_bins=n_bins)
    assert value == pytest.approx(expected, **tight)
    if k == 1:
        assert value == pytest.approx(expected_calibration_error(*problem, n_bins=n_bins), **tight)
    if k == problem.logits.shape[1]:
        assert value == pytest.approx((0, 0), **tight)


@modest
@given(problems(), bin_counts)
def test_reliability_bins_equal_the_oracle(problem, n_bins):
    logits, targets, _ = problem
    bins = reliability_bins(logits, targets, n_bins)
    count, confidence, share = oracle.reliability_bins(logits, targets, n_bins)
    np.testing.assert_array_equal(bins.count, count)
    np.testing.assert_allclose(bins.confidence, confidence, rtol=1e-12)
    np.testing.assert_allclose(bins.accuracy, share, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(bins.lower, [k / n_bins for k in range(n_bins)])
    error = expected_calibration_error(logits, targets, n_bins=n_bins)
    assert bins.error == pytest.approx(error, **tight)


@modest
@given(problems(soft=True, weighted=True), bin_counts)
def test_over_and_under_add_up_to_the_error_and_differ_by_the_signed_gap(problem, n_bins):
    logits, targets, weights = problem
    confidence, _ = oracle.top_label(logits, targets)
    for binning in ("equal_width", "equal_mass"):
        used = weights if binning == "equal_width" else None
        error = expected_calibration_error(logits, targets, used, n_bins=n_bins, binning=binning)
        gap = oracle.average(confidence, used) - accuracy(logits, targets, used)
        assert error.total == error.over + error.under
        assert error.signed == pytest.approx(gap, abs=1e-12)
        assert min(error) >= 0
        if n_bins == 1:
            assert error.total == pytest.approx(abs(gap), abs=1e-12)


@modest
@given(problems(weighted=True), bin_counts)
def test_the_norms_are_in_order(problem, n_bins):
    mean = expected_calibration_error(*problem, n_bins=n_bins).total
    square = root_mean_square_calibration_error(*problem, n_bins=n_bins)
    largest = maximum_calibration_error(*problem, n_bins=n_bins, min_count=0)
    assert mean <= square + 1e-12
    assert square <= largest + 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_many_rows_equal_the_oracles(sampled, dtype):
    logits, targets = sampled(rows=5000, classes=20, temperature=1.3, dtype=dtype)
    wide = logits.double()
    weights = torch.rand(5000, generator=torch.Generator().manual_seed(1))
    for metric in (
        expected_calibration_error,
        maximum_calibration_error,
        root_mean_square_calibration_error,
        top_k_calibration_error,
    ):
        expected = getattr(oracle, metric.__name__)(wide, targets, weights)
        assert metric(logits, targets, weights) == pytest.approx(expected, abs=1e-12)
    expected = oracle.expected_calibration_error(wide, targets, binning="equal_mass")
    value = expected_calibration_error(logits, targets, binning="equal_mass")
    assert value == pytest.approx(expected, abs=1e-12)
    expected = oracle.debiased_calibration_error(wide, targets)
    assert debiased_calibration_error(logits, targets).squared == pytest.approx(expected, abs=1e-12)


# Golden edge cases.

EDGES = [1, 2, 7, 10, 15, 20, 25, 30, 100]


def ece_of(confidence, hit, n_bins=10, sums=equal_width):
    """ECE of exactly these confidences: a softmax does not hit every number."""
    columns = (torch.tensor(column, dtype=torch.float64) for column in (confidence, hit))
    return sums(*columns, n_bins=n_bins).error.total


@pytest.mark.parametrize("n_bins", EDGES)
def test_every_edge_belongs_to_the_bin_below_it(n_bins):
    edges = torch.arange(n_bins + 1, dtype=torch.float64) / n_bins
    assert bin_index(edges, n_bins).tolist() == [0, *range(n_bins)]
    above = torch.nextafter(edges[:-1], torch.tensor(2.0, dtype=torch.float64))
    assert bin_index(above, n_bins).tolist() == list(range(n_bins))


@pytest.mark.parametrize("n_bins", EDGES)
def test_ece_of_confidences_on_every_edge(n_bins):
    # in each bin a hit at its upper edge and a miss in its middle: their errors cancel in part,
    # unless the edge's row is counted in another bin
    edges = [k / n_bins for k in range(1, n_bins + 1)]
    middles = [(k - 0.5) / n_bins for k in range(1, n_bins + 1)]
    value = ece_of(edges + middles, [1] * n_bins + [0] * n_bins, n_bins)
    expected = np.mean([abs(e - 1 + m) / 2 for e, m in zip(edges, middles, strict=True)])
    assert value == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("classes", EDGES[1:])
def test_logits_whose_confidence_is_on_an_edge(classes):
    # the k largest of M equal probabilities make k/M; a row in the bin above has the other sign
    for k in range(1, classes):
        more = math.log((k + 0.5) / (classes - k - 0.5) * (classes - k) / k)
        logits = torch.zeros(2, classes, dtype=torch.float64)
        logits[1, :k] = more
        targets = torch.tensor([0, classes - 1])
        error = top_k_calibration_error(logits, targets, k=k, n_bins=classes)
        expected = (k + 0.5) / classes / 2, (1 - k / classes) / 2
        assert error == pytest.approx(expected, abs=1e-13)


def test_golden_edges_of_ece():
    assert ece_of([1.0, 0.95], [0, 1]) == pytest.approx(0.475)  # no bin of its own for 1.0
    assert ece_of([0.0, 0.35], [1, 0]) == pytest.approx(0.675)  # 0.0 is not dropped
    both = [0.5, 0.5, 0.45, 0.45, 0.55, 0.55]
    assert ece_of(both, [1, 1, 0, 0, 0, 0]) == pytest.approx(0.2)  # 0.5 is in the bin of 0.45
    tenths = [k / 10 for k in range(1, 10)]
    assert ece_of(tenths * 2, [1] * 9 + [0] * 9) == pytest.approx(2 / 9)  # a bin each


def test_golden_edges_of_ece_from_logits():
    def ece(pairs, targets):
        logits = torch.tensor(pairs, dtype=torch.float64)
        targets = torch.tensor(targets)
        return expected_calibration_error(logits, targets, n_bins=10, event="positive").total

    assert ece([[0, 800], [0, math.log(19)]], [0, 1]) == pytest.approx(0.475)
    assert ece([[800, 0], [0, math.log(7 / 13)]], [1, 0]) == pytest.approx(0.675)
    below, above = [0, math.log(9 / 11)], [0, math.log(11 / 9)]
    rows = [[0, 0], [0, 0], below, below, above, above]
    assert ece(rows, [1, 1, 0, 0, 0, 0]) == pytest.approx(0.2)


def test_seven_twenty_fifths_times_twenty_five_is_more_than_seven():
    assert 7 / 25 * 25 > 7
    assert ece_of([7 / 25, 6.5 / 25], [1, 0], 25) == pytest.approx(abs(13.5 / 25 - 1) / 2)
    for k in (7, 14, 28, 55, 56):
        edge, middle = k / 100, (k - 0.5) / 100
        assert ece_of([edge, middle], [1, 0], 100) == pytest.approx(abs(edge + middle - 1) / 2)


def test_a_mean_over_k_of_n_flat_classes_is_on_an_edge():
    # the k largest of M equal probabilities: k/M, and the target is one of them k times in M
    for classes in (2, 7, 10, 15, 25):
        logits, targets = torch.zeros(classes, classes), torch.arange(classes)
        for k in range(1, classes + 1):
            error = top_k_calibration_error(logits, targets, k=k, n_bins=classes)
            assert error.total == pytest.approx(0, abs=1e-14)


def test_float32_saturation_counts_in_the_last_bin():
    bins = reliability_bins(torch.tensor([[200.0, 0.0], [90.0, 0.0]]), torch.tensor([0, 1]))
    assert bins.count.tolist() == [0] * 14 + [2]
    assert bins.confidence[-1] == 1
    assert bins.accuracy[-1] == 0.5
    assert np.isnan(bins.accuracy[:-1]).all()


def test_saturated_rows_do_not_overflow():
    logits = torch.tensor([[3e38, -3e38], [-3e38, 3e38]])
    assert expected_calibration_error(logits, torch.tensor([0, 1])) == (0, 0)
    assert expected_calibration_error(logits, torch.tensor([1, 0])) == (1, 0)


@pytest.mark.parametrize("binning", ["equal_width", "equal_mass"])
def test_ties_of_confidence_whatever_the_order_of_the_labels(binning):
    # every confidence 0.9, accuracy 0.8: sorting and cutting the rows gives 0.1 to 0.22
    logits = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log().expand(100, 2)
    sorted_labels = torch.tensor([0] * 80 + [1] * 20)
    generator = torch.Generator().manual_seed(0)
    for labels in (
        sorted_labels,
        sorted_labels.flip(0),
        sorted_labels[torch.randperm(100, generator=generator)],
    ):
        error = expected_calibration_error(logits, labels, binning=binning)
        assert error == pytest.approx((0.1, 0), abs=1e-14)


def test_more_bins_than_rows():
    confidence, hit = [0.6, 0.7, 0.95], [1, 0, 1]
    expected = (0.4 + 0.7 + 0.05) / 3  # every row by itself
    for sums in (equal_width, equal_mass):
        assert ece_of(confidence, hit, 100, sums) == pytest.approx(expected)
        assert ece_of(confidence[:1], hit[:1], 100, sums) == pytest.approx(0.4)


def test_five_classes_of_which_only_two_occur_are_five_classes(sampled):
    logits, _ = sampled(rows=300, classes=5)
    targets = torch.arange(300) % 2
    error = expected_calibration_error(logits, targets)
    assert error == pytest.approx(oracle.expected_calibration_error(logits, targets), abs=1e-14)
    swapped = logits[:, [3, 4, 2, 0, 1]], targets + 3
    assert expected_calibration_error(*swapped) == pytest.approx(error, abs=1e-14)


def test_ten_million_rows_in_one_bin():
    # float32 sums say 0.9934 for the mean of so many 0.95, and stop counting at 2^24
    confidence = torch.full((10_000_000,), 0.95, dtype=torch.float64)
    hit = torch.zeros_like(confidence)
    hit[::2] = 1
    assert equal_width(confidence, hit, n_bins=15).error == pytest.approx((0.45, 0), abs=1e-9)


def test_both_events_of_two_classes():
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)
    problem = probabilities.log(), torch.tensor([0, 1, 1])
    top = expected_calibration_error(*problem, n_bins=1)  # 0.8 sure, two thirds right
    assert top == pytest.approx((0.8 - 2 / 3, 0))
    positive = expected_calibration_error(*problem, n_bins=1, event="positive")
    assert positive == pytest.approx((0, 2 / 3 - 1 / 3))
    swapped = probabilities.log().flip(1), 1 - problem[1]
    assert expected_calibration_error(*swapped, n_bins=1, event="positive").over == pytest.approx(
        positive.under
    )


def test_bins_that_weigh_too_little_do_not_count_in_the_maximum():
    logits = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4]], dtype=torch.float64).log()
    targets = torch.tensor([1, 0, 0])
    assert maximum_calibration_error(logits, targets) == pytest.approx(0.9)
    assert maximum_calibration_error(logits, targets, min_count=2) == pytest.approx(0.4)
    assert maximum_calibration_error(logits, targets, min_count=3) == 0
    weights = torch.tensor([0.5, 1.0, 0.0])
    assert maximum_calibration_error(logits, targets, weights) == pytest.approx(0.4)
    zero = torch.tensor([0.0, 1.0, 1.0])  # a bin without weight never counts
    assert maximum_calibration_error(logits, targets, zero, min_count=0) == pytest.approx(0.4)


def test_the_debiased_square_has_no_bias():
    # all labellings of four rows of confidence 0.75, each as likely as the confidence says
    logits = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log().expand(4, 2)
    mean = sum(
        0.25 ** sum(labels)
        * 0.75 ** (4 - sum(labels))
        * debiased_calibration_error(logits, torch.tensor(labels), n_bins=1).squared
        for labels in itertools.product([0, 1], repeat=4)
    )
    assert mean == pytest.approx(0, abs=1e-14)


def test_bins_of_one_row_add_nothing_to_the_debiased_error():
    logits = torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log()
    assert debiased_calibration_error(logits, torch.tensor([1, 1])).squared == 0


GOOD = torch.zeros(3, 4), torch.tensor([0, 1, 3])


@pytest.mark.parametrize("n_bins", [0, -3])
def test_at_least_one_bin(n_bins):
    for metric in (
        expected_calibration_error,
        maximum_calibration_error,
        root_mean_square_calibration_error,
        debiased_calibration_error,
        top_k_calibration_error,
    ):
        options = {"k": 2} if metric is top_k_calibration_error else {}
        with pytest.raises(UserError, match=f"{n_bins} bins"):
            metric(*GOOD, n_bins=n_bins, **options)
    with pytest.raises(UserError, match=f"{n_bins} bins"):
        expected_calibration_error(*GOOD, n_bins=n_bins, binning="equal_mass")
    with pytest.raises(UserError, match=f"{n_bins} bins"):
        reliability_bins(*GOOD, n_bins)


def test_options_that_do_not_exist_are_named():
    with pytest.raises(UserError, match="equal_mass"):
        expected_calibration_error(*GOOD, binning="equal_mas")
    with pytest.raises(UserError, match="positive"):
        expected_calibration_error(*GOOD, event="positiv")
    with pytest.raises(UserError, match="'positive' needs two classes, not 4"):
        expected_calibration_error(*GOOD, event="positive")
    with pytest.raises(UserError, match="takes no weights"):
        expected_calibration_error(*GOOD, torch.ones(3), binning="equal_mass")
    with pytest.raises(UserError, match=r"not in 1..4, the number of classes"):
        top_k_calibration_error(*GOOD)
