import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temperance.calibration import (
    CALIBRATORS,
    TemperatureScaling,
    accuracy,
    fit_temperature,
    get_calibrator,
    list_calibrators,
)
from temperance.errors import UserError


def test_fit_keeps_its_report_and_divides_by_the_temperature(sampled):
    logits, targets = sampled(temperature=2.0)
    calibrator = TemperatureScaling()
    assert calibrator.fit(logits, targets) is calibrator
    assert calibrator.fit_report == fit_temperature(logits, targets)
    assert calibrator.temperature == calibrator.fit_report.temperature
    torch.testing.assert_close(calibrator(logits), logits / calibrator.temperature)
    assert accuracy(calibrator(logits), targets) == accuracy(logits, targets)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_stays(dtype):
    logits = torch.tensor([[3.0, 1.0, -torch.inf]], dtype=dtype)
    scaled = TemperatureScaling.from_temperature(2.0)(logits)
    assert scaled.dtype == dtype
    assert scaled.tolist() == [[1.5, 0.5, -torch.inf]]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=8),
    st.floats(0.01, 100),
    st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]),
)
def test_the_predicted_class_stays_the_largest(values, temperature, dtype):
    logits = torch.tensor([values], dtype=dtype)
    scaled = TemperatureScaling.from_temperature(temperature)(logits)
    assert scaled[0, logits.argmax()] == scaled.max()


def test_gradient_flows_to_the_logits_only():
    calibrator = TemperatureScaling.from_temperature(4.0)
    logits = torch.ones(2, 3, requires_grad=True)
    calibrator(logits).sum().backward()
    assert torch.equal(logits.grad, torch.full((2, 3), 0.25))
    assert not list(calibrator.parameters())


def test_state_dict_carries_the_temperature():
    calibrator = TemperatureScaling()
    calibrator.load_state_dict(TemperatureScaling.from_temperature(1.7).state_dict())
    assert calibrator.temperature == 1.7


def test_unfitted_is_refused():
    calibrator = TemperatureScaling()
    for use in (lambda: calibrator(torch.zeros(1, 2)), lambda: calibrator.tempered(2.0)):
        with pytest.raises(UserError, match="not fitted"):
            use()


def test_tempered_is_a_copy_with_the_factor_on_record(sampled):
    fitted = TemperatureScaling().fit(*sampled(temperature=2.0))
    under = fitted.tempered(2.0)
    assert under.temperature == 2 * fitted.temperature
    assert under.fit_report == fitted.fit_report
    assert (under.factor, under.tempered(1.5).factor, fitted.factor) == (2.0, 3.0, 1.0)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_temperature_and_factor_must_be_positive(value):
    with pytest.raises(UserError, match=r"temperature: .* is not a positive number"):
        TemperatureScaling.from_temperature(value)
    with pytest.raises(UserError, match=r"factor: .* is not a positive number"):
        TemperatureScaling.from_temperature(1.0).tempered(value)


def test_a_split_of_one_class_or_no_rows_is_refused():
    with pytest.raises(UserError, match=r"calibration split holds only one class \(2\)"):
        TemperatureScaling().fit(torch.randn(5, 3), torch.full((5,), 2))
    with pytest.raises(UserError, match="no rows"):
        TemperatureScaling().fit(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))


def test_an_unusable_fit_changes_nothing():
    calibrator = TemperatureScaling().fit(2 * torch.eye(3), torch.arange(3))
    assert not calibrator.fit_report.usable
    assert torch.equal(calibrator(torch.eye(3)), torch.eye(3))


def test_calibrators_are_found_by_name():
    assert list_calibrators() == sorted(CALIBRATORS)
    assert isinstance(get_calibrator("temperature"), TemperatureScaling)
    with pytest.raises(UserError, match="Did you mean 'temperature'"):
        get_calibrator("temprature")
