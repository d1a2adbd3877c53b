import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_softmax, softmax

from temperance.calibration import (
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)
from temperance.calibration.metrics import chunks as metrics
from temperance.calibration.rows import CalibrationRows
from temperance.errors import UserError

WIDE = (1e-5, 1e5)


def lowest_nll(logits, targets, lowest, highest):
    """log T and NLL where SciPy's bounded Brent finds the minimum."""
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(targets)

    def nll(log_t):
        return -log_softmax(z / np.exp(log_t), axis=1)[np.arange(len(y)), y].mean()

    bounds = np.log(lowest), np.log(highest)
    found = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-12})
    return found.x, found.fun


def root_of_slope(logits, targets, lowest, highest):
    """log T where the slope of the NLL is 0: sharper than the minimum, which is flat."""
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(targets)

    def slope(log_t):
        expected = (softmax(z / np.exp(log_t), axis=1) * z).sum(1)
        return (expected - z[np.arange(len(y)), y]).mean()

    return brentq(slope, np.log(lowest), np.log(highest), xtol=1e-13)


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 2.0, 20.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_temperature_is_the_minimum_that_scipy_finds(sampled, sharpness, dtype):
    logits, targets = sampled(rows=1000, temperature=sharpness, dtype=dtype)
    fit = fit_temperature(logits, targets, bounds=WIDE)
    assert (fit.status, fit.usable, fit.fragile) == ("converged", True, False)
    assert fit.iterations <= 15
    assert fit.temperature == pytest.approx(sharpness, rel=0.15)
    around = fit.temperature / 1.5, fit.temperature * 1.5
    log_t, nll = lowest_nll(logits, targets, *around)
    # a minimum is only located to the square root of the precision of its value
    assert math.log(fit.temperature) == pytest.approx(log_t, abs=1e-7)
    assert fit.nll_after == pytest.approx(nll, abs=1e-12)
    root = root_of_slope(logits, targets, *around)
    assert math.log(fit.temperature) == pytest.approx(root, abs=1e-10)


@pytest.mark.parametrize("sharpness", [0.2, 2.0, 20.0, 1000.0])
def test_temperature_scales_with_the_logits(sampled, sharpness):
    logits, targets = sampled()
    one = fit_temperature(logits, targets, bounds=WIDE).temperature
    many = fit_temperature(sharpness * logits, targets, bounds=WIDE).temperature
    assert many == pytest.approx(sharpness * one, rel=1e-8)
    shifted = logits + 1000 * torch.randn(len(logits), 1, dtype=torch.float64)
    assert fit_temperature(shifted, targets).temperature == pytest.approx(one, rel=1e-8)


def test_two_classes_have_a_closed_form():
    # logit difference 3 in every row, 75 % right: T = 3 / log(0.75 / 0.25)
    logits = torch.tensor([[3.0, 0.0]]).expand(400, 2)
    fit = fit_temperature(logits, (torch.arange(400) % 4 == 0).long())
    assert fit.temperature == pytest.approx(3 / math.log(3), rel=1e-12)
    assert fit.ece_after == pytest.approx(0, abs=1e-12)
    # score variance p(1 − p), information the same: se(log T) = 1 / (sqrt(n p (1 − p)) log 3)
    expected = 1 / (math.sqrt(400 * 0.75 * 0.25) * math.log(3))
    assert fit.se_log_temperature == pytest.approx(expected, rel=1e-9)


def test_temperature_at_a_bound(sampled):
    logits, targets = sampled(temperature=1000)
    fit = fit_temperature(logits, targets)
    assert (fit.status, fit.temperature, fit.usable) == ("at_bound", 100.0, True)
    assert fit.se_log_temperature is None
    assert fit.nll_after < fit.nll_before
    cold = fit_temperature(logits / 1e6, targets, bounds=(0.01, 1.0))
    assert (cold.status, cold.temperature) == ("at_bound", 0.01)


@pytest.mark.parametrize("bounds", [(0, 1), (2, 3), (0.1, 0.5), (0.1, math.inf), (3, 0.1)])
def test_bounds_must_surround_one(sampled, bounds):
    with pytest.raises(UserError, match="no range around 1"):
        fit_temperature(*sampled(), bounds=bounds)


MASKED = -torch.inf


@pytest.mark.parametrize(
    ("logits", "targets", "status"),
    [
        ([[1.0, 1, 1], [2, 2, 2]], [0, 1], "flat"),
        ([[1.0, 1, MASKED], [2, MASKED, 2]], [0, 2], "flat"),
        ([[2.0, 0], [2, 0]], [1, 1], "uninformative"),  # all wrong
        ([[2.0, 0], [2, 0]], [0, 1], "uninformative"),  # no better than uniform: g(0) = 0
        ([[5.0, 5], [1, 0]], [0, 1], "uninformative"),
        ([[2.0, 1, 0], [0, 0, 3]], [0, 2], "separable"),
        ([[2.0, 2, 0], [0, 0, 3]], [1, 2], "separable"),  # tied for the maximum
        ([[2.0, MASKED, 0], [0, 0, 3]], [0, 2], "separable"),
    ],
)
def test_where_no_temperature_is_optimal_it_is_one_and_not_usable(logits, targets, status):
    fit = fit_temperature(torch.tensor(logits), torch.tensor(targets))
    assert (fit.status, fit.temperature, fit.usable) == (status, 1.0, False)
    assert fit.nll_after == fit.nll_before
    assert not fit.fragile
    assert fit.se_log_temperature is None


def test_few_wrong_rows_make_a_fit_fragile():
    logits = torch.tensor([[2.0, 0.0]]).expand(200, 2)
    for wrong, fragile in ((19, True), (20, False)):
        fit = fit_temperature(logits, (torch.arange(200) < wrong).long())
        assert (fit.wrong, fit.fragile) == (wrong, fragile)


def test_a_masked_class_is_as_good_as_absent(sampled):
    logits, targets = sampled(classes=4)
    padded = torch.nn.functional.pad(logits, (0, 2), value=-torch.inf)
    assert fit_temperature(padded, targets).temperature == pytest.approx(
        fit_temperature(logits, targets).temperature, rel=1e-10
    )


def test_weights_are_repeated_rows_and_zero_drops_them(sampled):
    logits, targets = sampled(rows=200)
    times = torch.arange(200) % 3
    weighted = fit_temperature(logits, targets, times.double() / 7)
    repeated = fit_temperature(logits.repeat_interleave(times, 0), targets.repeat_interleave(times))
    assert weighted.temperature == pytest.approx(repeated.temperature, rel=1e-10)
    assert weighted.ece_after == pytest.approx(repeated.ece_after, rel=1e-9)
    assert weighted.n == int((times > 0).sum())
    # the only wrong row has no weight: what is left is separable
    logits, targets = torch.tensor([[2.0, 0], [0, 2], [2, 0]]), torch.tensor([0, 1, 1])
    assert fit_temperature(logits, targets, torch.tensor([1.0, 1, 0])).status == "separable"


def test_chunks_do_not_change_the_fit(monkeypatch, sampled):
    rows = sampled(rows=100)
    whole = fit_temperature(*rows, torch.arange(100.0))
    monkeypatch.setattr(metrics, "CHUNK", 50)
    parts = fit_temperature(*rows, torch.arange(100.0))
    assert parts.temperature == pytest.approx(whole.temperature, rel=1e-12)
    assert parts.se_log_temperature == pytest.approx(whole.se_log_temperature, rel=1e-10)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(2, 30),
    st.integers(2, 6),
    st.floats(-3, 3),
    st.integers(0, 2**31),
)
def test_temperature_is_positive_and_nll_never_rises(rows, classes, log_scale, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 10**log_scale * torch.randn(rows, classes, generator=generator)
    targets = torch.randint(classes, (rows,), generator=generator)
    fit = fit_temperature(logits, targets)
    assert 0.01 <= fit.temperature <= 100
    assert fit.nll_after <= fit.nll_before
    if fit.status == "converged":
        _, nll = lowest_nll(logits, targets, 0.01, 100)
        assert fit.nll_after <= nll + 1e-12


def test_sandwich_error_is_the_spread_over_samples_also_under_misfit():
    # a fifth of the rows is six times as sharp as the rest: no single T is right
    logs, errors = [], []
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(300, 5, generator=generator, dtype=torch.float64) * 2
        targets = torch.multinomial(z.softmax(1), 1, generator=generator)[:, 0]
        z[torch.rand(300, generator=generator) < 0.2] *= 6
        fit = fit_temperature(z, targets)
        logs.append(math.log(fit.temperature))
        errors.append(fit.se_log_temperature)
    # a standard deviation of 300 values is known to 1/sqrt(600) = 4 %: 4 of these; the inverse
    # curvature, which trusts the model, says about half
    assert np.median(errors) == pytest.approx(np.std(logs), rel=0.16)


def test_many_rows_are_fitted_to_a_millionth_whatever_their_order(sampled):
    # beyond 4 million logits a row's terms are computed in float32, from a start on drawn rows
    logits, targets = sampled(rows=20_000, classes=250, temperature=1.7, dtype=torch.float32)
    exact = math.exp(root_of_slope(logits, targets, 1.5, 1.9))
    for order in (torch.arange(20_000), targets.argsort(), logits.amax(1).argsort()):
        fit = fit_temperature(logits[order], targets[order])
        assert fit.temperature == pytest.approx(exact, rel=1e-6)
        assert fit.nll_after < fit.nll_before
    wide = fit_temperature(logits.double(), targets, cross_fit=5)
    fit = fit_temperature(logits, targets, cross_fit=5)
    for name in ("nll_before", "nll_after", "ece_before", "ece_after", "se_log_temperature"):
        assert getattr(fit, name) == pytest.approx(getattr(wide, name), rel=1e-5), name
    assert fit.cross_fit.nll == pytest.approx(wide.cross_fit.nll, rel=1e-7)


@pytest.mark.parametrize("rows", [60, 3000])
def test_cross_fitting_is_fitting_without_the_fold(sampled, rows):
    """Few rows are fitted again, many by the moments of all: the same numbers."""
    logits, targets = sampled(rows=rows, temperature=2.0)
    weights = 0.5 + torch.rand(rows, generator=torch.Generator().manual_seed(1)).double()
    found = fit_temperature(logits, targets, weights, cross_fit=4, seed=7).cross_fit
    fold_of = CalibrationRows(logits, targets).folds(4, seed=7)
    calibrated = torch.empty_like(logits)
    for fold in range(4):
        kept = fold_of != fold
        other = fit_temperature(logits[kept], targets[kept], weights[kept])
        calibrated[~kept] = logits[~kept] / other.temperature
    assert found.folds == 4
    assert found.nll == pytest.approx(
        negative_log_likelihood(calibrated, targets, weights), rel=1e-7
    )
    assert found.ece == pytest.approx(
        expected_calibration_error(calibrated, targets, weights).total, abs=1e-6
    )


def test_folds_keep_groups_together(sampled):
    logits, targets = sampled(rows=90)
    groups = torch.arange(90) // 3
    fold_of = CalibrationRows(logits, targets, None, groups).folds(5, seed=0)
    assert (fold_of.view(30, 3) == fold_of.view(30, 3)[:, :1]).all()
    assert fold_of.bincount().tolist() == [18] * 5
    with pytest.raises(UserError, match="31 folds of 30 groups"):
        fit_temperature(logits, targets, groups=groups, cross_fit=31)
    with pytest.raises(UserError, match="1 folds of 90 rows"):
        fit_temperature(logits, targets, cross_fit=1)


def test_groups_make_the_standard_error_cluster_robust(sampled):
    logits, targets = sampled(rows=300, temperature=2.0)
    repeated = logits.repeat(5, 1), targets.repeat(5)
    groups = torch.arange(300).repeat(5)
    once = fit_temperature(logits, targets)
    clustered = fit_temperature(*repeated, groups=groups)
    assert clustered.se_log_temperature == pytest.approx(once.se_log_temperature, rel=1e-9)
    naive = fit_temperature(*repeated)
    assert naive.se_log_temperature == pytest.approx(once.se_log_temperature / 5**0.5, rel=1e-9)
