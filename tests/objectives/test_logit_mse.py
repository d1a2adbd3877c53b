import numpy as np
import pytest
import torch

from reference import divergence_oracles as oracles
from temperance.errors import UserError
from temperance.objectives.kd import softened_kl
from temperance.objectives.logit_mse import LogitMSE, squared_logit_error
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(3)
STUDENT, TEACHER = (RNG.normal(scale=3, size=(6, 5)) for _ in range(2))
ROWS = Rows(targets=torch.arange(6) % 5, ids=torch.arange(6))
VARIANTS = [(over, centred) for over in ("mean", "sum") for centred in (False, True)]


def of(student=STUDENT, teacher=TEACHER, **values):
    signals = [Signal(torch.as_tensor(z)) for z in (student, teacher)]
    return LogitMSE(**values)(*signals, ROWS, 0.0)["logit_mse"]


@pytest.mark.parametrize(("over_classes", "centred"), VARIANTS)
def test_it_is_the_equation(over_classes, centred):
    expected = [
        oracles.logit_mse(list(s), list(t), over_classes, centred)
        for s, t in zip(STUDENT, TEACHER, strict=True)
    ]
    np.testing.assert_allclose(of(over_classes=over_classes, centred=centred), expected)


def test_golden_values_by_hand():
    """The differences are (2, 1, 1): squares of mean 2; centred (2/3, −1/3, −1/3): mean 2/9."""
    student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[3.0, 1.0, 0.0]])
    rows = Rows(targets=torch.tensor([0]), ids=torch.tensor([0]))
    losses = LogitMSE()(Signal(student), Signal(teacher), rows, 0.0)
    assert losses["logit_mse"].item() == pytest.approx(2.0)
    assert losses["labels"].item() == 0.0
    assert squared_logit_error(student, teacher, over_classes="sum").item() == pytest.approx(6)
    assert squared_logit_error(student, teacher, centred=True).item() == pytest.approx(2 / 9)


@pytest.mark.parametrize(("over_classes", "centred"), VARIANTS)
def test_gradient_is_that_of_the_value(over_classes, centred):
    student = torch.tensor(STUDENT, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z: squared_logit_error(
            z, torch.tensor(TEACHER), over_classes=over_classes, centred=centred
        ),
        (student,),
    )


def test_nothing_to_learn_from_oneself():
    student = torch.tensor(TEACHER, requires_grad=True)
    found = of(student)
    found.sum().backward()
    assert (found == 0).all()
    assert (student.grad == 0).all()


def test_only_centred_it_ignores_a_shift():
    shift = np.arange(6)[:, None] * 3.0
    torch.testing.assert_close(of(STUDENT + shift, centred=True), of(centred=True))
    assert (of(STUDENT + shift) - of()).abs()[1:].min() > 0.1


def test_centred_it_is_kd_at_a_high_softening():
    """τ² KL → mean of the centred squares / 2 (Hinton et al. 2015, §2.1)."""
    signals = [Signal(torch.tensor(z)) for z in (STUDENT, TEACHER)]
    kd = softened_kl(*signals, softening=1e3, teacher_softening=1e3)
    torch.testing.assert_close(kd, of(centred=True) / 2, rtol=1e-2, atol=0)


def test_a_calibration_temperature_scales_the_target():
    torch.testing.assert_close(of(STUDENT / 3, TEACHER / 3), of() / 9)


def test_transforms_change_the_target():
    mixed = of(transforms=["uniform-mix"])
    target = torch.tensor([oracles.uniform_mix(list(t), 0.1) for t in TEACHER]).log()
    torch.testing.assert_close(mixed, of(teacher=target))


def test_weights_are_heeded():
    torch.testing.assert_close(of(weight=0.25), of() / 4)


def test_there_is_no_softening_to_set():
    with pytest.raises(UserError, match="softening"):
        LogitMSE(softening=4.0)
    with pytest.raises(UserError, match="over_classes"):
        LogitMSE(over_classes="median")
