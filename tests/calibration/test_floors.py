import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, poisson

from reference.uncertainty_oracles import miscalibrated, shared_luck
from temperance.calibration import (
    ace_floor,
    ace_floor_mean,
    ace_power,
    adaptive_calibration_error,
    classwise_calibration_error,
    ece_floor,
    expected_calibration_error,
    ks_calibration_error,
    maximum_calibration_error,
    root_mean_square_calibration_error,
    smooth_calibration_error,
)
from temperance.calibration import redraws as module
from temperance.calibration.floors import _mean_deviation, label_floors, top_label_floors
from temperance.calibration.metrics.scores import score_rows
from temperance.calibration.redraws import LabelErrors, TopLabelErrors, uniforms
from temperance.errors import UserError

TOP_LABEL = {
    "ece": lambda *rows, n_bins: expected_calibration_error(*rows, n_bins=n_bins).total,
    "ece_equal_mass": lambda *rows, n_bins: (
        expected_calibration_error(*rows, n_bins=n_bins, binning="equal_mass").total
    ),
    "rmsce": root_mean_square_calibration_error,
    "mce": maximum_calibration_error,
    "smooth_ece": lambda *rows, n_bins: smooth_calibration_error(*rows),
    "ks": lambda *rows, n_bins: ks_calibration_error(*rows),
}
LABELS = {
    "ace": lambda *rows, n_bins: adaptive_calibration_error(*rows, n_ranges=n_bins),
    "classwise_ece": classwise_calibration_error,
}
ALL = TOP_LABEL | LABELS


def floors_of(logits, targets, **options):
    options = {"n_bins": 15, "redraws": 200, "seed": 0, "groups": None} | options
    top = top_label_floors(score_rows(logits, targets), **options)
    return top | label_floors(logits, targets, **options)


def at_most(count, n, rate):
    """What a rate of at most this gives by chance but once in 10,000."""
    return count <= binom.ppf(1 - 1e-4, n, rate)


# One function per metric of fixed probabilities and any labels.


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 60),
    classes=st.integers(2, 5),
    n_bins=st.sampled_from([1, 3, 10, 15]),
    digits=st.sampled_from([1, 2, 7]),
)
def test_errors_of_redrawn_labels_are_the_metrics(seed, rows, classes, n_bins, digits):
    generator = torch.Generator().manual_seed(seed)
    # few digits: ties, and probabilities on the edges of bins
    shares = torch.rand((rows, classes), generator=generator, dtype=torch.float64)
    logits = (shares * 10**digits).ceil().log()
    targets = torch.randint(classes, (rows,), generator=generator)
    scores = score_rows(logits, targets)
    confidence, order = scores.confidence.sort()
    hits = torch.stack([scores.correct[order], 1 - scores.correct[order]])
    found = {name: x[0] for name, x in TopLabelErrors(confidence, n_bins)(hits).items()}
    found |= LabelErrors(logits, n_bins)(targets)
    assert found.keys() == ALL.keys()
    for name, value in found.items():
        tolerance = 2e-4 if name == "smooth_ece" else 1e-12
        expected = ALL[name](logits, targets, n_bins=n_bins)
        assert value == pytest.approx(expected, rel=tolerance, abs=1e-12), name


def test_smooth_error_is_right_on_every_grid():
    rng = np.random.default_rng(0)
    for rows, surplus in ((100, 0.1), (10_000, 0.0), (10_000, 0.3), (10**6, 0.0)):
        confidence = torch.tensor(np.sort(rng.uniform(0.9, 1, rows)))
        grid = module.on_grid(confidence, confidence - (1 - surplus) * confidence.round(decimals=2))
        grids = np.stack([grid, -grid]) / rows
        found = module.smooth_errors(grids)
        expected = module.smooth_error_of_grid(grids[0]).error
        assert found == pytest.approx([expected, expected], rel=1e-4)


# The floors themselves.


def test_floors_equal_the_metrics_of_redrawn_labels(sampled):
    logits, targets = sampled(rows=400, classes=4)
    floors = floors_of(logits, targets)
    redrawn = {name: [] for name in floors}
    generator = torch.Generator().manual_seed(1000)
    for _ in range(50):
        labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        for name, metric in ALL.items():
            redrawn[name].append(metric(logits, labels, n_bins=15))
    for name, values in redrawn.items():
        spread = np.std(values)
        # means of 200 and of 50 redraws: 5 standard errors of their difference
        error = spread * (1 / 200 + 1 / 50) ** 0.5
        assert floors[name].mean == pytest.approx(np.mean(values), abs=5 * error)
        # a 95 % quantile has about twice the standard error of the mean
        quantile = np.quantile(values, 0.95)
        assert floors[name].quantile95 == pytest.approx(quantile, abs=12 * error)
    assert ece_floor(logits, targets) == floors["ece"]
    assert ace_floor(logits, targets) == floors["ace"]


def test_p_value_counts_the_redraws_that_reach_the_observed(sampled):
    logits, targets = sampled(rows=50)
    scores = score_rows(logits, targets)
    observed = expected_calibration_error(logits, targets).total
    confidence = scores.confidence.sort().values
    (numbers,) = uniforms(50, 30, seed=4)
    values = TopLabelErrors(confidence, 15)((numbers < confidence).double())["ece"]
    floor = ece_floor(logits, targets, redraws=30, seed=4)
    assert floor.p_value == (1 + int((values >= observed - 1e-12).sum())) / 31
    assert floor.mean == pytest.approx(values.mean())
    assert floor.quantile95 == pytest.approx(np.quantile(values, 0.95))
    assert floor != ece_floor(logits, targets, redraws=30, seed=5)


def test_floor_never_draws_a_masked_class():
    logits = torch.tensor([[0.0, -torch.inf, 0.0]]).expand(50, 3)
    targets = torch.arange(50) % 2 * 2
    errors = LabelErrors(logits, 1)
    numbers = torch.cat([torch.linspace(0, 1, 49), torch.tensor([1 - 2**-53])]).double()
    assert set(errors.labels(numbers).tolist()) == {0, 2}
    floor = ace_floor(logits, targets, n_ranges=1, redraws=50)
    # with one range and class 1 at 0, the error is that of classes 0 and 2 alone, and equal
    assert 0 < floor.quantile95 < 0.25
    assert floor.p_value == 1.0


def test_a_sure_model_has_no_floor():
    logits = torch.tensor([[0.0, -torch.inf]]).expand(20, 2)
    right = floors_of(logits, torch.zeros(20, dtype=torch.int64))
    assert all((floor.mean, floor.p_value) == (0, 1) for floor in right.values())


# Tests of calibration: how often they reject.


@pytest.mark.parametrize("size", [1, 10])
def test_a_calibrated_model_is_rejected_as_often_as_stated(size):
    n = 60
    rejected = dict.fromkeys(ALL, 0)
    for seed in range(n):
        logits, targets, groups = miscalibrated(300, 0.0, seed=seed, size=size)
        member = None if size == 1 else groups
        floors = floors_of(logits, targets, redraws=39, seed=seed, groups=member)
        for name, floor in floors.items():
            rejected[name] += floor.p_value <= 0.05
    for name, count in rejected.items():
        # 30 groups estimate how much they share, and tests err a little more often for it
        assert at_most(count, n, 0.05 if size == 1 else 0.08), (name, count)


def test_without_groups_correlated_rows_are_rejected_too_often():
    rejected = 0
    for seed in range(40):
        logits, targets, _ = miscalibrated(300, 0.0, seed=seed, size=10, correlation=0.9)
        scores = score_rows(logits, targets)
        floor = top_label_floors(scores, n_bins=15, redraws=39, seed=seed)["ks"]
        rejected += floor.p_value <= 0.05
    assert not at_most(rejected, 40, 0.05)


@pytest.mark.parametrize("size", [1, 10])
def test_miscalibration_is_seen(size):
    logits, targets, groups = miscalibrated(3000, 0.1, seed=0, size=size)
    for name, floor in floors_of(logits, targets, groups=groups).items():
        assert floor.p_value == 1 / 201, name


# Groups.


@pytest.mark.parametrize("seed", range(8))
def test_groups_of_one_row_are_no_groups(sampled, seed):
    # in some orders rounding errors once passed for shared luck
    logits, targets = sampled(rows=200)
    groups = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
    alone = floors_of(logits, targets, redraws=20)
    assert floors_of(logits, targets, groups=groups, redraws=20) == alone


def test_copies_in_groups_tell_nothing_new(sampled):
    logits, targets = sampled(rows=600)
    alone = floors_of(logits, targets)
    rows = [values.repeat_interleave(5, 0) for values in (logits, targets)]
    grouped = floors_of(*rows, groups=torch.arange(600).repeat_interleave(5), seed=1)
    taken_for_more = floors_of(*rows, seed=1)
    for name, floor in grouped.items():
        assert floor.mean == pytest.approx(alone[name].mean, rel=0.12), name
        assert floor.p_value == pytest.approx(alone[name].p_value, abs=0.2), name
        assert taken_for_more[name].mean < 0.7 * floor.mean, name


@pytest.mark.parametrize("size", [2, 5, 60])
@pytest.mark.parametrize("error", [0.0, 0.2])
def test_shared_luck_equals_the_oracle(size, error):
    logits, targets, groups = miscalibrated(120, error, seed=3, size=size)
    scores = score_rows(logits, targets)
    order = torch.randperm(120)
    found = module.shared_luck(scores.confidence[order], scores.correct[order], groups[order], 5)
    expected = shared_luck(scores.confidence.numpy(), scores.correct.numpy(), groups.numpy(), 5)
    assert found == pytest.approx(expected)


def test_rows_share_their_luck_as_often_as_asked_for():
    groups = torch.arange(300).repeat_interleave(10)
    draws = torch.cat(list(uniforms(3000, 100, seed=0, groups=groups, shared=0.3)))
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.01)
    same = (draws[:, 0::10] == draws[:, 1::10]).double()
    assert float(same.mean()) == pytest.approx(0.3, abs=0.02)
    assert not bool((draws[:, 9:-1:10] == draws[:, 10::10]).any())
    hits = (draws < 0.7).double() - 0.7
    products = (hits[:, 0::10] * hits[:, 1::10]).mean() / (0.7 * 0.3)
    assert float(products) == pytest.approx(0.3, abs=0.02)


# ACE: its floor in closed form, its power.


@pytest.mark.parametrize(("rows", "classes"), [(1000, 10), (4000, 100), (3000, 1000)])
@pytest.mark.parametrize("sharpness", [1.0, 4.0])
def test_ace_floor_in_closed_form(rows, classes, sharpness):
    generator = torch.Generator().manual_seed(0)
    logits = sharpness * torch.randn(rows, classes, generator=generator)
    redraws = 2 * 10**7 // logits.numel() + 20
    targets = torch.zeros(rows, dtype=torch.int64)
    floor = ace_floor(logits, targets, redraws=min(redraws, 100))
    assert ace_floor_mean(logits) == pytest.approx(floor.mean, rel=0.03)


def test_mean_deviation_of_a_poisson():
    for variance in (1e-3, 0.5, 1.0, 2.7, 40.0):
        counts = np.arange(200)
        expected = float(poisson.pmf(counts, variance) @ np.abs(counts - variance))
        assert _mean_deviation(np.array([variance, 0.0])) == pytest.approx([expected, 0.0])


def test_ace_power_sees_with_few_classes_and_is_blind_to_overconfidence_with_many():
    generator = torch.Generator().manual_seed(0)

    def power(rows, classes):
        logits = torch.randn(rows, classes, generator=generator)
        best = torch.randint(classes, (rows,), generator=generator)
        logits[torch.arange(rows), best] += 4 + math.log(classes)
        targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        return logits, targets, ace_power(2 * logits, targets, temperature=2.0)

    logits, targets, few = power(4000, 3)
    assert few.sees
    assert few.fitted == pytest.approx(adaptive_calibration_error(logits, targets))
    assert few.perturbed == pytest.approx(adaptive_calibration_error(logits / 1.3, targets))
    assert few.sharpened == pytest.approx(adaptive_calibration_error(logits * 1.3, targets))
    assert few.floor_mean == pytest.approx(ace_floor(logits, targets).mean, rel=0.1)
    assert few.change == pytest.approx((few.perturbed - few.fitted) / few.floor_sd)
    *_, many = power(3080, 77)
    assert many.change > 3 > many.change_sharpened
    assert not many.sees


def test_bad_input_is_refused(sampled):
    logits, targets = sampled(rows=30)
    with pytest.raises(UserError, match="0 bins"):
        ece_floor(logits, targets, n_bins=0)
    with pytest.raises(UserError, match="0 ranges"):
        ace_floor(logits, targets, n_ranges=0)
    with pytest.raises(UserError, match="all the same"):
        ace_floor(logits, targets, groups=torch.ones(30, dtype=torch.int64))
    with pytest.raises(UserError, match="must be floating point"):
        ace_floor_mean(logits[0])
    logits[3, 2] = torch.nan
    with pytest.raises(UserError, match="row 3 holds NaN"):
        ace_floor_mean(logits)
    with pytest.raises(UserError, match="row 3 holds NaN"):
        ace_power(logits, targets, temperature=1.0)
