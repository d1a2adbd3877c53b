import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression as Reference

from reference import nonparametric_oracles as oracles
from temperance.calibration.calibrators.frequencies import keep_argmax
from temperance.calibration.calibrators.histogram import HistogramBinning
from temperance.calibration.calibrators.irm import IRM
from temperance.calibration.calibrators.isotonic import IsotonicRegression
from temperance.calibration.calibrators.mixture import UniformMixture
from temperance.calibration.calibrators.monotone import fit_isotonic, interpolate
from temperance.errors import UserError

METHODS = {
    "histogram": lambda: HistogramBinning(bins=5),
    "equal width": lambda: HistogramBinning(bins=5, binning="equal_width"),
    "isotonic": IsotonicRegression,
    "irm": IRM,
    "mixture": UniformMixture,
    "fitted mixture": lambda: UniformMixture(weight="fitted"),
}
COUNTING = [name for name in METHODS if "mixture" not in name]  # those without T and n

every_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
every_counting_method = pytest.mark.parametrize(
    "make", [METHODS[name] for name in COUNTING], ids=COUNTING
)


def expected_by_oracle(name, *data):
    if name == "isotonic":
        return oracles.isotonic(*data, slope=0.01)
    if name == "irm":
        return oracles.irm(*data, slope=1e-9)
    binning = "equal_width" if name == "equal width" else "equal_mass"
    return oracles.histogram(*data, slope=0.01, bins=5, binning=binning)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", COUNTING)
def test_agrees_with_the_oracle_on_other_rows(name, weighted, sampled):
    logits, targets = sampled(rows=150, classes=4, temperature=2.0)
    at, _ = sampled(rows=60, classes=4, temperature=3.0, seed=1)
    for rows in (logits, at):
        rows[::3, 2] = -torch.inf
    targets = torch.where((targets == 2) & (logits[:, 2] == -torch.inf), 0, targets)
    weights = torch.rand(150, generator=torch.Generator().manual_seed(2)) if weighted else None
    calibrated = METHODS[name]().fit(logits, targets, weights)(at)
    share = np.ones(150) if weights is None else weights.double().numpy()
    expected = expected_by_oracle(name, logits.numpy(), targets.numpy(), share, at.numpy())
    np.testing.assert_allclose(calibrated.exp().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_irm_pools_over_many_chunks(sampled):
    logits, targets = sampled(rows=3000, classes=100, temperature=2.0)
    p = logits.softmax(1).numpy()
    hit = np.eye(100)[targets.numpy()]
    pooled = Reference(out_of_bounds="clip").fit(p.ravel(), hit.ravel()).predict(p.ravel())
    expected = oracles.normalised(pooled.reshape(p.shape) + 1e-9 * p)
    np.testing.assert_allclose(IRM().fit(logits, targets)(logits).exp(), expected, rtol=1e-9)


# small integers: many ties, between rows and within them
tied = st.integers(2, 4).flatmap(
    lambda classes: st.lists(
        st.tuples(
            st.lists(st.integers(-3, 3), min_size=classes, max_size=classes),
            st.integers(0, classes - 1),
            st.integers(1, 3),
        ),
        min_size=2,
        max_size=25,
    )
)


def tensors(rows):
    logits, targets, weights = zip(*rows, strict=True)
    return torch.tensor(logits).double(), torch.tensor(targets), torch.tensor(weights)


def solved(make, *rows):
    """Fitted whatever the base class thinks of the rows."""
    calibrator = make()
    calibrator.solve(*rows)
    return calibrator.calibrate(rows[0])


@every_counting_method
@settings(max_examples=25, deadline=None)
@given(tied, st.randoms(use_true_random=False))
def test_ties_order_and_weights(make, rows, random):
    logits, targets, weights = tensors(rows)
    calibrated = solved(make, logits, targets, weights)
    order = torch.tensor(random.sample(range(len(rows)), len(rows)))
    shuffled = solved(make, logits[order], targets[order], weights[order])
    torch.testing.assert_close(shuffled, calibrated[order])
    scaled = solved(make, logits, targets, weights * 0.1)
    torch.testing.assert_close(scaled, calibrated)
    repeated = [x.repeat_interleave(weights, 0) for x in (logits, targets)]
    expected = calibrated.repeat_interleave(weights, 0)
    torch.testing.assert_close(solved(make, *repeated, None), expected)


@every_method
@settings(max_examples=25, deadline=None)
@given(tied, st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]))
def test_log_probabilities_that_keep_what_they_promise(make, rows, dtype):
    logits, targets, _ = tensors(rows)
    logits = logits.to(dtype)
    calibrator = make()
    calibrator.solve(logits, targets, None)
    calibrated = calibrator.calibrate(logits)
    assert calibrated.dtype == dtype
    assert calibrated.isfinite().all()
    total = calibrated.double().logsumexp(1)
    torch.testing.assert_close(
        total, torch.zeros_like(total), atol=2 * torch.finfo(dtype).eps, rtol=0
    )
    if calibrator.keeps_argmax:
        assert torch.equal(calibrated.argmax(1), logits.argmax(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("make", [IRM, UniformMixture])
def test_neighbouring_logits_keep_their_argmax(make, dtype, sampled):
    calibrator = make().fit(*sampled(temperature=2.0))
    logits = torch.tensor([[1.0, 0.0, 1.0, 0.5, 0.0, 0.2, 0.1]], dtype=dtype).repeat(2, 1)
    logits[0, 2] += torch.finfo(dtype).eps
    assert calibrator(logits).argmax(1).tolist() == [2, 0]


@every_method
def test_masked_classes_and_extreme_logits(make, sampled):
    calibrator = make().fit(*sampled(rows=200, classes=3, temperature=2.0))
    calibrated = calibrator(torch.tensor([[1e4, -1e4, 0.0], [1e4, -torch.inf, 0.0]]))
    assert torch.equal(calibrated.isneginf(), torch.tensor([[0, 0, 0], [0, 1, 0]]).bool())
    assert not calibrated.isnan().any()
    torch.testing.assert_close(calibrated.exp().sum(1), torch.ones(2))


@every_method
def test_fits_on_extreme_and_masked_logits(make, sampled):
    logits, targets = sampled(rows=200, classes=3)
    logits = (logits * 5e3).float()
    logits[targets != 1, 1] = -torch.inf
    calibrated = make().fit(logits, targets)(logits)
    assert torch.equal(calibrated.isneginf(), logits.isneginf())
    assert calibrated[~logits.isneginf()].isfinite().all()


@every_method
def test_classes_without_a_target(make, sampled):
    logits, targets = sampled(rows=200, classes=4, temperature=2.0)
    kept = targets < 2
    calibrated = make().fit(logits[kept], targets[kept])(logits)
    assert calibrated.isfinite().all()


@every_method
def test_another_number_of_classes_is_refused(make, sampled):
    calibrator = make().fit(*sampled(classes=4))
    with pytest.raises(UserError, match="3 classes, but the calibrator was fitted on 4"):
        calibrator(torch.zeros(2, 3))


@every_method
def test_any_leading_axes_and_any_split_into_batches(make, sampled):
    logits, targets = sampled(rows=120, classes=4)
    calibrator = make().fit(logits, targets)
    whole = calibrator(logits)
    torch.testing.assert_close(calibrator(logits.view(4, 30, 4)).view(120, 4), whole)
    parts = torch.cat([calibrator(part) for part in logits.split(7)])
    torch.testing.assert_close(parts, whole)
    assert calibrator(logits[:0]).shape == (0, 4)


# histogram binning


def test_a_probability_on_a_border_counts_in_the_lower_bin():
    p = torch.tensor([[0.5, 0.5]] * 3 + [[0.2, 0.8]] * 4).double()
    calibrator = HistogramBinning(bins=2, binning="equal_width", slope=1e-12)
    calibrator.fit(p.log(), torch.tensor([0, 0, 1, 1, 1, 1, 0]))
    # of class 0 all rows lie in the first bin, of class 1 the first three
    expected = torch.tensor([[3 / 7, 3 / 4], [1 / 3, 3 / 4]]).double()
    torch.testing.assert_close(calibrator.frequency, expected)
    found = calibrator(torch.zeros(1, 2).double()).exp()
    torch.testing.assert_close(found, torch.tensor([[9 / 16, 7 / 16]]).double())


def test_an_empty_bin_keeps_its_middle():
    logits = torch.tensor([[0.55, 0.45], [0.45, 0.55]]).log().repeat(3, 1)
    calibrator = HistogramBinning(bins=4, binning="equal_width")
    calibrator.solve(logits, torch.tensor([0, 1, 0, 0, 0, 1]), None)
    assert calibrator.frequency[0].tolist() == [1 / 8, 1 / 3, 1, 7 / 8]


def test_equal_mass_bins_hold_as_many_rows_as_ties_allow(sampled):
    logits, targets = sampled(rows=103, classes=3)
    calibrator = HistogramBinning(bins=10).fit(logits, targets)
    index = torch.searchsorted(calibrator.border, logits.softmax(1).T.contiguous())
    assert torch.bincount(index[0]).tolist() == [11, 10, 10, 11, 10, 10, 11, 10, 10, 10]
    logits[:50] = logits[0]
    calibrator.fit(logits, targets)
    index = torch.searchsorted(calibrator.border, logits.softmax(1).T.contiguous())
    assert (index[:, :50] == index[:, :1]).all()


def test_more_bins_than_rows_and_one_bin():
    logits = torch.tensor([[0.3, 0.7], [0.4, 0.6], [0.6, 0.4]]).double().log()
    targets = torch.tensor([1, 0, 0])
    many = HistogramBinning(bins=9, slope=1e-12).fit(logits, targets)
    torch.testing.assert_close(
        many(logits).exp(), torch.tensor([[0, 1], [1, 0], [1, 0]]).double(), atol=1e-9, rtol=0
    )
    one = HistogramBinning(bins=1, slope=1e-12).fit(logits, targets)
    torch.testing.assert_close(one(logits).exp(), torch.tensor([[2 / 3, 1 / 3]] * 3).double())


# isotonic regression


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.booleans(), st.integers(1, 4)), min_size=1, max_size=30
    )
)
def test_pooled_as_by_scikit_learn(pairs):
    at, hit, weight = (torch.tensor(column).double() for column in zip(*pairs, strict=True))
    at, hit = at / 8, hit.bool()
    knots = fit_isotonic(at[hit], weight[hit], [(at[~hit], weight[~hit])])
    points = torch.linspace(-0.1, 1.1, 50).double()
    found = interpolate(knots.position[None], knots.frequency[None], points[None])[0]
    reference = Reference(out_of_bounds="clip").fit(at, hit, sample_weight=weight)
    np.testing.assert_allclose(found, reference.predict(points), atol=1e-12)


def test_without_any_observation_it_is_the_identity():
    empty = torch.zeros(0).double()
    knots = fit_isotonic(empty, empty, [(torch.tensor([0.3]).double(), torch.zeros(1).double())])
    points = torch.tensor([[0.0, 0.4, 1.0]]).double()
    found = interpolate(knots.position[None], knots.frequency[None], points)
    torch.testing.assert_close(found, points)


def test_irm_is_strictly_increasing(sampled):
    logits, targets = sampled(rows=300, classes=6, temperature=2.0)
    calibrated = IRM().fit(logits, targets)(logits)
    assert torch.equal(calibrated.argsort(1), logits.argsort(1))


def test_raising_a_class_leaves_the_others():
    logits = torch.tensor([[0.0, 1.0, 0.0], [2.0, 2.0, 0.0], [0.0, 1.0, 0.0]])
    calibrated = torch.tensor([[-1.0, -1.0, -3.0], [-0.7, -0.7, -9.0], [-9.0, -0.1, -9.0]])
    raised = keep_argmax(calibrated, logits)
    assert raised.argmax(1).tolist() == [1, 0, 1]
    assert (raised != calibrated).sum() == 1
    assert raised[0, 1] - calibrated[0, 1] <= 2**-23


# the mixture


def test_laplace_makes_a_separable_split_usable():
    logits = 50 * torch.eye(4).double().repeat(3, 1)
    targets = torch.arange(4).repeat(3)
    for weight in ("laplace", "fitted"):
        calibrator = UniformMixture(weight=weight).fit(logits, targets)
        report = calibrator.fit_report
        assert (report.status, report.usable) == ("separable", True)
        assert report.notes == {"temperature": 1.0, "weight": 1 / 13}
        torch.testing.assert_close(calibrator(logits).exp()[0, 1].item(), 1 / 13 / 4)


def test_the_mixture_adds_a_share_of_the_uniform_to_the_temperature(sampled):
    logits, targets = sampled(temperature=2.0)
    calibrator = UniformMixture(weight=0.1).fit(logits, targets)
    temperature = calibrator.fit_report.notes["temperature"]
    assert temperature == pytest.approx(2, rel=0.2)
    expected = 0.9 * (logits / temperature).softmax(1) + 0.1 / 7
    torch.testing.assert_close(calibrator(logits).exp(), expected)
    masked = logits.clone()
    masked[:, 3:] = -torch.inf
    expected = 0.9 * (masked[:, :3] / temperature).softmax(1) + 0.1 / 3
    torch.testing.assert_close(calibrator(masked).exp()[:, :3], expected)


def test_the_fitted_weight_is_the_likeliest(sampled):
    logits, targets = sampled(rows=400, classes=5, temperature=0.5)
    targets[::5] = torch.arange(80) % 5  # labels at random: T alone cannot say so
    weights = torch.rand(400, generator=torch.Generator().manual_seed(3)).double()
    notes = UniformMixture(weight="fitted").fit(logits, targets, weights).fit_report.notes
    temperature, weight = oracles.mixture(logits.numpy(), targets.numpy(), weights.numpy())
    assert notes["temperature"] == pytest.approx(temperature, rel=1e-6)
    assert notes["weight"] == pytest.approx(weight, rel=1e-5)
    assert notes["weight"] > 2 / 401


def test_weight_zero_is_the_temperature(sampled):
    logits, targets = sampled(temperature=2.0)
    calibrator = UniformMixture(weight=0).fit(logits, targets)
    expected = (logits / calibrator.fit_report.notes["temperature"]).log_softmax(1)
    torch.testing.assert_close(calibrator(logits), expected)


@pytest.mark.parametrize("weight", [1.0, -0.1, "some"])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(UserError, match="weight"):
        UniformMixture(weight=weight)
