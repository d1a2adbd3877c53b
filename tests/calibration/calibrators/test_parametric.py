import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import calibrator_oracles as oracles
from temperance.calibration import TemperatureScaling, negative_log_likelihood
from temperance.calibration.calibrators import linear, newton, one_vs_rest
from temperance.calibration.calibrators.adaptive import AdaptiveTemperatureScaling
from temperance.calibration.calibrators.beta import BetaCalibration
from temperance.calibration.calibrators.dirichlet import DirichletCalibration
from temperance.calibration.calibrators.ensemble import EnsembleTemperatureScaling
from temperance.calibration.calibrators.matrix import MatrixScaling
from temperance.calibration.calibrators.platt import PlattScaling
from temperance.calibration.calibrators.predicted_class import PredictedClassTemperature
from temperance.calibration.calibrators.vector import VectorScaling
from temperance.calibration.metrics import chunks
from temperance.errors import UserError

METHODS = {
    VectorScaling: oracles.vector,
    MatrixScaling: oracles.matrix,
    DirichletCalibration: oracles.dirichlet,
    EnsembleTemperatureScaling: oracles.ensemble,
    AdaptiveTemperatureScaling: oracles.adaptive,
    PredictedClassTemperature: oracles.predicted_class,
    PlattScaling: oracles.platt,
    BetaCalibration: oracles.beta,
}
MIXING = (MatrixScaling, DirichletCalibration)
PROMISE_NLL = tuple(m for m in METHODS if m not in (PlattScaling, BetaCalibration))

every_method = pytest.mark.parametrize("method", METHODS, ids=lambda cls: cls.name)


def log_p(calibrator, logits):
    return calibrator(logits).log_softmax(1)


@pytest.fixture
def biased(sampled):
    """A model that is over-confident, more so in its first class, and likes its last too much."""

    def draw(rows=300, classes=4, seed=0):
        logits, targets = sampled(rows=rows, classes=classes, temperature=2.0, seed=seed)
        logits[:, 0] *= 1.5
        logits[:, -1] += 1
        return logits, targets

    return draw


@pytest.mark.parametrize("weighted", [False, True])
@every_method
def test_the_optimum_is_the_one_that_scipy_finds(method, weighted, biased):
    logits, targets = biased(rows=150)
    at, _ = biased(rows=60, seed=1)
    if method not in MIXING:
        for rows in (logits, at):
            rows[::3, 2] = -torch.inf
        targets = torch.where((targets == 2) & (logits[:, 2] == -torch.inf), 0, targets)
    weights = torch.rand(150, generator=torch.Generator().manual_seed(2)) if weighted else None
    share = np.ones(150) if weights is None else weights.double().numpy()
    calibrator = method().fit(logits, targets, weights)
    assert calibrator.fit_report.status == "converged"
    expected = METHODS[method](logits.numpy(), targets.numpy(), share, at.numpy())
    np.testing.assert_allclose(log_p(calibrator, at), expected, atol=2e-5)


@every_method
def test_chunks_do_not_change_the_fit(method, biased, monkeypatch):
    rows, (at, _) = biased(rows=100), biased(seed=1)
    whole = method().fit(*rows)(at)
    monkeypatch.setattr(chunks, "CHUNK", 100)
    monkeypatch.setattr(one_vs_rest, "CHUNK", 250)
    torch.testing.assert_close(method().fit(*rows)(at), whole, rtol=1e-6, atol=1e-6)


@every_method
def test_it_helps_where_a_temperature_is_not_enough(method, biased):
    rows, (at, targets) = biased(rows=2000), biased(rows=2000, seed=1)
    calibrated = method().fit(*rows)(at)
    temperature = TemperatureScaling().fit(*rows)(at)
    gain = negative_log_likelihood(temperature, targets) - negative_log_likelihood(
        calibrated, targets
    )
    keeps_order = method in (EnsembleTemperatureScaling, AdaptiveTemperatureScaling)
    assert gain > (-0.002 if keeps_order else 0.002)


@pytest.mark.parametrize("method", PROMISE_NLL, ids=lambda cls: cls.name)
@settings(max_examples=15, deadline=None)
@given(st.integers(4, 30), st.integers(2, 5), st.floats(-1.5, 1.5), st.integers(0, 2**31))
def test_nll_never_rises(method, rows, classes, log_scale, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 10**log_scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    targets = torch.randint(classes, (rows,), generator=generator)
    targets[:2] = torch.tensor([0, 1])
    report = method().fit(logits, targets).fit_report
    assert report.nll_after <= report.nll_before + 1e-12
    if report.usable:
        temperature = TemperatureScaling(lowest=1e-8, highest=1e8).fit(logits, targets)
        assert report.nll_after <= temperature.fit_report.nll_after + 1e-9


@every_method
def test_no_class_diverges_without_targets_or_without_mistakes(method, biased):
    logits, targets = biased(classes=5)
    targets[targets == 4] = 3  # class 4 has no target
    logits[:, 1] = torch.where(targets == 1, 30.0, -30.0).double()  # class 1 is always told apart
    calibrator = method().fit(logits, targets)
    assert calibrator.fit_report.status == "converged"
    assert all(tensor.abs().max() < 100 for tensor in calibrator.state_dict().values())
    p = calibrator(logits).softmax(1)
    assert (p[:, 4] > 0).all()
    if method not in (EnsembleTemperatureScaling, AdaptiveTemperatureScaling):
        assert p[:, 4].mean() < logits.softmax(1)[:, 4].mean()


@pytest.mark.parametrize(
    "method",
    [method for method in METHODS if method is not EnsembleTemperatureScaling],
    ids=lambda cls: cls.name,
)
def test_the_scale_of_the_logits_does_not_matter(method, biased):
    logits, targets = biased()
    expected = log_p(method().fit(logits, targets), logits)
    for scale in (1e-3, 1e3):
        calibrated = log_p(method().fit(scale * logits, targets), scale * logits)
        torch.testing.assert_close(calibrated, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "method", [m for m in METHODS if m not in (VectorScaling, MatrixScaling)], ids=lambda m: m.name
)
def test_a_shift_of_all_logits_of_a_row_does_not_matter(method, biased):
    logits, targets = biased()
    shifted = logits + 100 * torch.randn(len(logits), 1, dtype=torch.float64)
    expected = log_p(method().fit(logits, targets), logits)
    calibrated = log_p(method().fit(shifted, targets), shifted)
    torch.testing.assert_close(calibrated, expected, rtol=1e-5, atol=1e-5)


@every_method
def test_running_out_of_iterations_is_reported(method, biased, monkeypatch):
    monkeypatch.setattr(newton, "MAX_ITERATIONS", 1)
    monkeypatch.setattr(linear, "MAX_ITERATIONS", 1)
    report = method().fit(*biased()).fit_report
    assert (report.status, report.usable, report.iterations) == ("at_bound", True, 1)


@pytest.mark.parametrize("method", MIXING, ids=lambda cls: cls.name)
def test_masked_classes_are_not_mixed(method, biased):
    logits, targets = biased()
    calibrator = method().fit(logits, targets)
    logits[targets != 2, 2] = -torch.inf
    for use in (lambda: method().fit(logits, targets), lambda: calibrator(logits)):
        with pytest.raises(UserError, match=r"mixes all classes.* Use one that keeps them apart"):
            use()


@pytest.mark.parametrize("name", ["off_diagonal", "intercept", "diagonal"])
def test_penalties_draw_to_temperature_scaling(name, biased):
    logits, targets = biased()

    def off(penalty):
        calibrator = MatrixScaling(**{name: penalty}).fit(logits, targets)
        diagonal = calibrator.weight.diagonal()
        return {
            "off_diagonal": calibrator.weight - diagonal.diag(),
            "intercept": calibrator.bias,
            "diagonal": diagonal - 1,
        }[name].norm()

    assert off(0.01) > 2 * off(1.0) > 100 * off(1e4)


def test_a_free_vector_fit_finds_the_scales_and_biases(sampled):
    logits, targets = sampled(rows=20000, classes=4)
    scale, bias = torch.tensor([0.5, 1.0, 2.0, 1.0]), torch.tensor([1.0, 0.0, 0.0, -1.0])
    calibrator = VectorScaling(scale=1e-6, intercept=1e-6).fit((logits - bias) / scale, targets)
    found = calibrator.weight / calibrator.temperature
    torch.testing.assert_close(found, scale.double(), rtol=0.1, atol=0)
    # biases are only known up to a common shift
    found = calibrator.bias - calibrator.bias.mean()
    torch.testing.assert_close(found, (bias - bias.mean()).double(), rtol=0, atol=0.1)


# Ensemble temperature scaling.


def test_the_mixture_is_found_in_few_steps_where_its_answers_coincide(sampled):
    logits, targets = sampled(rows=3000)  # calibrated: T is near 1, and EM crawls
    calibrator = EnsembleTemperatureScaling().fit(logits, targets)
    assert calibrator.fit_report.iterations <= 30
    assert calibrator.fit_report.status == "converged"
    assert calibrator.mixture.sum() == pytest.approx(1, abs=1e-15)
    assert (calibrator.mixture >= 0).all()


def test_the_mixture_finds_uniform_noise_in_the_labels(sampled):
    logits, targets = sampled(rows=20000, classes=5)
    noisy = torch.rand(20000, generator=torch.Generator().manual_seed(1)) < 0.3
    targets = torch.where(noisy, torch.arange(20000) % 5, targets)
    calibrator = EnsembleTemperatureScaling().fit(logits, targets)
    p = 0.7 * logits.softmax(1) + 0.3 / 5
    assert (calibrator(logits).exp() - p).abs().mean() < 0.01


def test_a_row_with_a_hopeless_target_does_not_underflow(sampled):
    logits, targets = sampled(rows=20000)
    logits[0] = 5000.0 * torch.nn.functional.one_hot((targets[0] + 1) % 7, 7)
    calibrator = EnsembleTemperatureScaling().fit(logits, targets)
    assert calibrator.temperature < 5000 / 750  # exp(−750) is 0
    assert calibrator.fit_report.status == "converged"
    assert calibrator.mixture[2] > 0
    assert math.isfinite(calibrator.fit_report.nll_after)


# Adaptive temperature, and temperature by predicted class.


def row_temperatures(calibrator, logits):
    """What each row's spread was divided by."""
    return logits.std(1) / calibrator(logits).std(1)


def test_adaptive_finds_rows_that_are_too_sharp(sampled):
    logits, targets = sampled(rows=4000)
    sharp = torch.arange(4000) % 2 == 0
    logits[sharp] *= 3
    calibrator = AdaptiveTemperatureScaling().fit(logits, targets)
    found = row_temperatures(calibrator, logits)
    assert found[sharp].median() > 1.8 > 1.2 > found[~sharp].median()


def test_adaptive_temperatures_stay_in_the_range_of_the_rows_fitted(biased):
    logits, targets = biased()
    calibrator = AdaptiveTemperatureScaling().fit(logits, targets)
    seen = row_temperatures(calibrator, logits)
    # the features are two: each stays in its range, so their sum may leave that of the pairs seen
    slopes = calibrator.coefficients[1:]
    mean, deviation, lowest, highest = calibrator.range_seen
    ends = torch.stack([slopes * (end - mean) / deviation for end in (lowest, highest)])
    bounds = (
        calibrator.coefficients[0] + torch.stack([ends.amin(0).sum(), ends.amax(0).sum()])
    ).exp()
    for extreme in (1e-9, 1e9):
        found = row_temperatures(calibrator, extreme * logits)
        assert (found > bounds[0] * (1 - 1e-9)).all()
        assert (found < bounds[1] * (1 + 1e-9)).all()
    assert seen.min() < seen.max()


def test_features_that_do_not_vary_are_no_obstacle():
    logits = torch.tensor([[3.0, 0.0]]).expand(100, 2)
    targets = (torch.arange(100) % 4 == 0).long()
    calibrator = AdaptiveTemperatureScaling().fit(logits, targets)
    assert float(calibrator(logits)[0].softmax(0)[0]) == pytest.approx(0.75, abs=1e-6)


def test_a_class_that_is_never_predicted_has_the_common_temperature(biased):
    logits, targets = biased()
    logits[:, 1] -= 50
    targets[targets == 1] = 0
    calibrator = PredictedClassTemperature().fit(logits, targets)
    common = TemperatureScaling().fit(logits, targets).temperature
    found = calibrator.temperatures.tolist()
    assert found[1] == pytest.approx(common, rel=1e-9)
    assert abs(math.log(found[0] / common)) > 0.01


def test_without_shrinkage_every_predicted_class_is_fitted_by_itself(biased):
    logits, targets = biased(rows=2000)
    calibrator = PredictedClassTemperature(shrinkage=1e-12).fit(logits, targets)
    for k, found in enumerate(calibrator.temperatures.tolist()):
        rows = logits.argmax(1) == k
        alone = TemperatureScaling().fit(logits[rows], targets[rows]).temperature
        assert found == pytest.approx(alone, rel=1e-6)


# One class against the rest.


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=2, max_size=6))
def test_log_odds_are_those_of_the_softmax(values):
    logits = torch.tensor([values], dtype=torch.float64)
    expected = oracles.log_odds(logits.numpy())
    np.testing.assert_allclose(one_vs_rest.log_odds(logits), expected, rtol=1e-12, atol=1e-12)


def test_log_odds_do_not_cancel_and_know_masks():
    odds = one_vs_rest.log_odds(
        torch.tensor([[1e4, 0.0, 0.0, -torch.inf], [-torch.inf, 2.0, -torch.inf, -torch.inf]])
    )
    assert odds[0].tolist() == pytest.approx([1e4 - math.log(2), -1e4, -1e4, -math.inf])
    assert odds[1].tolist() == [-math.inf, math.inf, -math.inf, -math.inf]
    assert one_vs_rest.log_odds(torch.zeros(1, 2, dtype=torch.bfloat16)).dtype == torch.float32


def test_platt_of_two_classes_is_logistic_regression_on_the_margin(sampled):
    logits, targets = sampled(rows=2000, classes=2, temperature=2.0)
    logits[:, 1] += 1
    margin = (logits[:, 1] - logits[:, 0]).numpy()
    sign = np.where(targets == 1, 1, -1)

    def loss(theta):
        return np.logaddexp(0, -sign * (theta[0] * margin + theta[1])).mean()

    slope, intercept = oracles.lowest(loss, [1, 0])
    calibrator = PlattScaling(slope=1e-9, intercept=1e-9).fit(logits, targets)
    expected = 1 / (1 + np.exp(-slope * margin - intercept))
    np.testing.assert_allclose(calibrator(logits)[:, 1].exp(), expected, atol=1e-6)


@pytest.mark.parametrize("method", [PlattScaling, BetaCalibration])
def test_an_answer_never_falls_as_the_probability_rises(method):
    # the larger the logit of class 0, the rarer it is: an unbounded slope would be negative
    logits = torch.stack([torch.linspace(-1, 3, 200), torch.zeros(200), 5 * torch.ones(200)], 1)
    targets = torch.where(torch.arange(200) < 50, 0, 2)
    targets[::7] = 1
    calibrator = method(slope=1e-4, intercept=1e-4).fit(logits.double(), targets)
    assert (calibrator.slopes >= 0).all()
    assert (calibrator.slopes[:, 0] == 0).any()
    assert calibrator.fit_report.status == "converged"


def test_rows_where_a_class_is_alone_or_masked_do_not_move_its_fit(biased):
    logits, targets = biased()
    alone = torch.full((50, 4), -torch.inf, dtype=torch.float64)
    alone[:, 0] = 3
    padded = torch.cat([logits, alone]), torch.cat([targets, torch.zeros(50, dtype=torch.int64)])
    # as many rows that count, with the weight that they have beside the others
    weights = torch.cat([torch.ones(300), torch.full((50,), 1e-9)])
    for method in (PlattScaling, BetaCalibration):
        expected = method().fit(logits, targets)(logits)
        torch.testing.assert_close(
            method().fit(*padded, weights)(logits), expected, rtol=1e-5, atol=1e-5
        )
        calibrated = method().fit(*padded)(alone)
        assert (calibrated[:, 0] == 0).all()
        assert (calibrated[:, 1:] == -torch.inf).all()


# Newton's method.


def quadratic(matrix, centre):
    def derivatives(at):
        off = at - centre
        slope = torch.einsum("bij,bj->bi", matrix, off)
        return newton.Derivatives((off * slope).sum(1) / 2, slope, matrix)

    return derivatives


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_newton_finds_the_bounded_minimum_of_quadratics(seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(5, 3, 3, generator=generator, dtype=torch.float64)
    matrix = root @ root.mT + 0.1 * torch.eye(3)
    centre = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    lowest = torch.tensor([0.0, 0.0, -torch.inf], dtype=torch.float64)
    objective = quadratic(matrix, centre)
    found = newton.minimise(objective, torch.ones(5, 3, dtype=torch.float64), lowest=lowest)
    assert found.status == "converged"
    assert (found.parameters >= lowest).all()
    gradient = objective(found.parameters).gradient  # the conditions of Karush, Kuhn and Tucker
    assert (gradient > -1e-9).all()
    assert (gradient[found.parameters > lowest].abs() < 1e-9).all()


def test_newton_halves_steps_that_would_overshoot():
    def derivatives(at):  # sqrt(1 + x²): a full Newton step from x lands at −x³
        root = (1 + at.square()).sqrt()
        return newton.Derivatives(root[:, 0], at / root, (root**-3)[:, :, None])

    found = newton.minimise(derivatives, torch.tensor([[0.5], [3.0], [-20.0]], dtype=torch.float64))
    assert found.status == "converged"
    assert found.parameters.abs().max() < 1e-9


def test_newton_leaves_a_saddle_downwards():
    def derivatives(at):  # x⁴ − x²: concave at the start, least at ±1/√2
        return newton.Derivatives(
            (at**4 - at**2)[:, 0], 4 * at**3 - 2 * at, (12 * at**2 - 2)[:, :, None]
        )

    found = newton.minimise(derivatives, torch.tensor([[0.1], [-0.1]], dtype=torch.float64))
    assert found.parameters[:, 0].tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)], abs=1e-9)
