"""What every calibrator owes its users; a new one is tested as soon as it is in the list."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temperance.calibration import load_calibrator, negative_log_likelihood, save_calibrator
from temperance.calibration.calibrators import CALIBRATORS, get_calibrator, list_calibrators
from temperance.errors import UserError

LOWERS_NLL = {  # on the rows fitted, by construction
    "temperature",
    "vector",
    "matrix",
    "dirichlet",
    "ensemble",
    "adaptive",
    "predicted-class",
}
MIXES_CLASSES = {"matrix", "dirichlet"}  # and so refuses masked ones
COUNTS_ROWS = {"mixture", "auto"}  # a prior of one row, folds of rows: weights do not count
DRAWS_FOLDS = {"auto"}  # by the order of the rows
TAKES_ANY_CLASSES = {"temperature", "auto"}  # which chooses it here
FEWER_FOLDS = {"auto": {"folds": 2}}  # it fits every other calibrator on each
STEPS = {"histogram", "isotonic", "irm"}  # of one probability: no temperature is among these maps

names = list_calibrators()
every_method = pytest.mark.parametrize("name", names)
AT = torch.tensor([[3.0, 1.0, -2.0, 0.5], [-1.0, 0.0, 6.0, 2.0]], dtype=torch.float64)


def make(name):
    return get_calibrator(name, **FEWER_FOLDS.get(name, {}))


@pytest.fixture(scope="module")
def rows():
    """Logits twice as sharp as those that the targets were drawn from."""

    def draw(rows, seed=0):
        generator = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)
        targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        return 2 * logits, targets

    return draw


@pytest.fixture(scope="module")
def fitted(rows):
    """Every calibrator, fitted once."""
    return {name: make(name).fit(*rows(300)) for name in names}


def assert_same(calibrated, expected, tolerance=1e-6):
    torch.testing.assert_close(
        calibrated.log_softmax(-1), expected.log_softmax(-1), rtol=tolerance, atol=tolerance
    )


@every_method
def test_fit_returns_the_calibrator_with_its_report(name, rows):
    calibrator = make(name)
    logits, targets = rows(300)
    assert calibrator.fit(logits, targets) is calibrator
    report = calibrator.fit_report
    assert calibrator.name == name
    assert (report.status, report.usable, report.fragile) == ("converged", True, False)
    assert (report.n, report.wrong) == (300, int((logits.argmax(1) != targets).sum()))
    assert report.nll_before == pytest.approx(negative_log_likelihood(logits, targets))
    after = negative_log_likelihood(calibrator(logits), targets)
    assert report.nll_after == pytest.approx(after, rel=1e-9)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False)) == report.to_dict()


@every_method
def test_unfitted_is_neither_used_nor_saved(name, tmp_path):
    calibrator = make(name)
    for use in (
        lambda: calibrator(AT),
        lambda: calibrator.tempered(2.0),
        lambda: save_calibrator(calibrator, tmp_path),
    ):
        with pytest.raises(UserError, match="not fitted"):
            use()
    assert not list(tmp_path.iterdir())


@every_method
def test_what_is_loaded_gives_the_same_bits(name, fitted, rows, tmp_path):
    calibrator = fitted[name].tempered(1.5)
    save_calibrator(calibrator, tmp_path)
    again = load_calibrator(tmp_path)
    at, _ = rows(50, seed=1)
    assert type(again) is type(calibrator)
    assert torch.equal(again(at), calibrator(at))
    assert torch.equal(again(at.float()), calibrator(at.float()))
    assert again.fit_report == calibrator.fit_report
    assert again.factor == 1.5


@every_method
def test_state_and_record_make_a_fresh_instance_the_same(name, fitted):
    calibrator, again = fitted[name], make(name)
    again.restore(json.loads(json.dumps(calibrator.record())))
    again.load_state_dict(calibrator.state_dict())
    assert torch.equal(again(AT), calibrator(AT))
    assert again.record() == calibrator.record()


@pytest.mark.parametrize("name", sorted(set(names) - COUNTS_ROWS))
def test_weights_are_repeated_rows(name, rows):
    logits, targets = rows(200)
    times = torch.arange(200) % 3
    weighted = make(name).fit(logits, targets, times.double() / 7)
    repeated = make(name).fit(logits.repeat_interleave(times, 0), targets.repeat_interleave(times))
    assert_same(weighted(AT), repeated(AT))


@every_method
def test_weights_are_relative(name, rows):
    logits, targets = rows(200)
    weights = torch.arange(200.0) % 3 + 0.5
    light = make(name).fit(logits, targets, weights / 1000)
    assert_same(light(AT), make(name).fit(logits, targets, weights)(AT))


@pytest.mark.parametrize("name", sorted(set(names) - DRAWS_FOLDS))
def test_the_order_of_the_rows_does_not_matter(name, fitted, rows):
    logits, targets = rows(300)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    assert_same(make(name).fit(logits[order], targets[order])(AT), fitted[name](AT))


@pytest.mark.parametrize("name", sorted(LOWERS_NLL & set(names)))
@pytest.mark.parametrize("sharpness", [0.05, 0.5, 1.0, 20.0])
def test_nll_does_not_rise_where_promised(name, sharpness, rows):
    logits, targets = rows(150)
    report = make(name).fit(sharpness * logits, targets).fit_report
    assert report.nll_after <= report.nll_before


@every_method
def test_the_temperature_of_the_truth_is_recovered(name, rows):
    calibrator = make(name).fit(*rows(2000))
    logits, targets = rows(4000, seed=1)
    truth = negative_log_likelihood(logits / 2, targets)
    raw = negative_log_likelihood(logits, targets)
    calibrated = negative_log_likelihood(calibrator(logits), targets)
    assert calibrated - truth < (0.3 if name in STEPS else 0.1) * (raw - truth)


@pytest.mark.parametrize("name", [name for name in names if CALIBRATORS[name].keeps_argmax])
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4),
    st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]),
)
def test_the_predicted_class_stays_the_largest(name, fitted, values, dtype):
    logits = torch.tensor([values], dtype=dtype)
    calibrated = fitted[name](logits)
    assert calibrated[0, logits.argmax()] == calibrated.max()


@every_method
@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4), (0, 4)])
def test_leading_axes_stay(name, fitted, shape):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    calibrated = fitted[name](logits)
    assert calibrated.shape == shape
    flat = fitted[name](logits.reshape(-1, 4))
    assert torch.equal(calibrated.reshape(-1, 4), flat)


@every_method
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float16, 1e-2), (torch.bfloat16, 0.1), (torch.float32, 1e-5), (torch.float64, 0)],
)
def test_dtype_stays(name, fitted, dtype, tolerance):
    logits = AT.to(dtype)
    calibrated = fitted[name](logits)
    assert calibrated.dtype == dtype
    expected = fitted[name](AT).softmax(1)
    torch.testing.assert_close(calibrated.double().softmax(1), expected, rtol=0, atol=tolerance)


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_of_any_dtype_are_fitted_in_float64(name, rows, dtype):
    logits, targets = rows(300)
    logits = logits.to(dtype)
    narrow, wide = make(name).fit(logits, targets), make(name).fit(logits.double(), targets)
    assert_same(narrow(AT), wide(AT), 1e-5 if dtype == torch.float32 else 1e-4)


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e4, 6e4])
def test_extreme_logits_give_no_nan(name, fitted, dtype, size):
    signs = torch.tensor([[1, -1, -1, -1], [1, 1, -1, 1], [1, 1, 1, 1], [-1, 0, 0, 0]])
    for logits in ((size * signs).to(dtype), AT.to(dtype) + size, AT.to(dtype) - size):
        calibrated = fitted[name](logits)
        assert calibrated.isfinite().all()
        assert calibrated.softmax(1).isfinite().all()


@pytest.mark.parametrize("name", sorted(set(names) - MIXES_CLASSES))
def test_masked_classes_stay_masked(name, rows):
    logits, targets = rows(300)
    logits[torch.arange(300)[targets != 1], 1] = -torch.inf
    calibrator = make(name).fit(logits, targets)
    assert math.isfinite(calibrator.fit_report.nll_after)
    at, _ = rows(50, seed=1)
    at[::2, 2], at[::3, 0] = -torch.inf, -torch.inf
    assert torch.equal(calibrator(at) == -torch.inf, at == -torch.inf)
    alone = torch.tensor([[-torch.inf, 1.0, -torch.inf, -torch.inf]])
    assert calibrator(alone).softmax(1).tolist() == [[0, 1, 0, 0]]


@every_method
def test_a_class_without_targets_is_no_obstacle(name, rows):
    logits, targets = rows(300)
    targets[targets == 3] = 0
    calibrator = make(name).fit(logits, targets)
    assert calibrator.fit_report.usable
    assert calibrator(logits).isfinite().all()


@pytest.mark.parametrize("name", sorted(set(names) - TAKES_ANY_CLASSES))
def test_another_number_of_classes_is_refused(name, fitted):
    with pytest.raises(UserError, match=r"logits: have 3 classes, but .* fitted on 4"):
        fitted[name](torch.zeros(2, 3))


@every_method
@pytest.mark.parametrize(
    ("logits", "targets", "status"),
    [
        ([[1.0, 1, 1], [2, 2, 2]], [0, 1], "flat"),
        ([[2.0, 0, 0], [0, 2, 0]], [1, 0], "uninformative"),
        ([[2.0, 1, 0], [0, 0, 3]], [0, 2], "separable"),
    ],
)
def test_degenerate_rows_change_nothing(name, logits, targets, status):
    logits, targets = torch.tensor(logits), torch.tensor(targets)
    calibrator = make(name).fit(logits, targets)
    report = calibrator.fit_report
    usable = status in calibrator.handles
    assert (report.status, report.usable, report.fragile) == (status, usable, usable)
    assert torch.equal(calibrator(logits), logits) != usable
    assert torch.equal(calibrator.tempered(2.0)(logits), calibrator(logits) / 2)
    assert report.nll_after == report.nll_before or usable


@every_method
def test_cross_fitting_is_reported(name, rows):
    logits, targets = rows(200)
    report = make(name).fit(logits, targets, cross_fit=2).fit_report
    assert report.cross_fit.folds == 2
    assert report.cross_fit.nll > 0
    assert 0 <= report.cross_fit.ece <= 1
    assert report.nll_after == make(name).fit(logits, targets).fit_report.nll_after


@every_method
def test_tempered_divides_what_was_calibrated(name, fitted):
    tempered = fitted[name].tempered(2.0)
    torch.testing.assert_close(tempered(AT), fitted[name](AT) / 2, rtol=1e-14, atol=0)
    assert (tempered.factor, fitted[name].factor) == (2.0, 1.0)


@every_method
def test_batches_are_rows(name, fitted, rows):
    batches = zip(*(column.split(70) for column in rows(300)), strict=True)
    again = make(name).fit_batches(batches)
    assert torch.equal(again(AT), fitted[name](AT))
    assert again.fit_report == fitted[name].fit_report


@every_method
def test_nothing_is_trained_with_the_student(name, fitted):
    assert not list(fitted[name].parameters())
    assert all(not tensor.requires_grad for tensor in fitted[name].state_dict().values())
    with torch.no_grad():
        assert torch.equal(fitted[name](AT), fitted[name](AT.clone()))
