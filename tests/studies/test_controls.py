from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from temperance.objectives import get_objective
from temperance.objectives.kd import KDArgs
from temperance.objectives.transforms import transformed
from temperance.objectives.transforms.uniform_mix import UniformMixArgs
from temperance.rows import Rows, Signal
from temperance.studies.arms import ENTROPY, ArmName
from temperance.studies.controls import matched, smoothing_of, uniform_share


def entropies(probabilities: np.ndarray) -> np.ndarray:
    """In nats, by definition, 0 · log 0 being 0."""
    logs = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    return -(probabilities * logs).sum(1)


def taught(
    control: ArmName, logits: torch.Tensor, targets: torch.Tensor, temperature: float, tau: float
) -> np.ndarray:
    """Targets of the control's student, as `treatments` divides its teacher's logits."""
    own = KDArgs(softening=tau, teacher_softening=1.0)
    divisor = tau if control == "uniform-mix" else temperature * tau
    found = matched(control, own, logits, temperature * tau, divisor)
    rows = Rows(targets=targets, ids=torch.arange(len(logits)))
    changed = transformed(found.transforms, logits.double() / divisor, rows)
    return softmax(changed.numpy(), axis=1)


def drawn(seed: int, rows: int, classes: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    # Some rows are sure and some are not.
    scales = spread * rng.lognormal(0, 0.7, (rows, 1))
    logits = (scales * rng.normal(size=(rows, classes))).astype(np.float32)
    return torch.from_numpy(logits), torch.from_numpy(rng.integers(classes, size=rows))


@settings(max_examples=60, deadline=None)
@given(
    control=st.sampled_from(ENTROPY),
    seed=st.integers(0, 10_000),
    rows=st.integers(2, 60),
    classes=st.integers(2, 30),
    spread=st.floats(0.5, 8),
    temperature=st.floats(0.3, 5),
    tau=st.floats(0.5, 6),
)
def test_mean_entropy_is_that_of_the_calibrated_teacher(
    control: ArmName, seed: int, rows: int, classes: int, spread: float, temperature: float,
    tau: float,
) -> None:  # fmt: skip
    temperature = 1.05 + temperature if control == "uniform-mix" else temperature
    logits, targets = drawn(seed, rows, classes, spread)
    calibrated = entropies(softmax(logits.numpy().astype(np.float64) / (temperature * tau), axis=1))
    found = entropies(taught(control, logits, targets, temperature, tau))
    assert found.mean() == pytest.approx(calibrated.mean(), abs=1e-4)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_what_each_control_keeps_and_destroys(tau: float) -> None:
    temperature = 2.5
    logits, targets = drawn(1, 200, 10, 4.0)
    probabilities = softmax(logits.numpy().astype(np.float64) / (temperature * tau), axis=1)
    calibrated = entropies(probabilities)
    found = {arm: taught(arm, logits, targets, temperature, tau) for arm in ENTROPY}
    by_row = {arm: entropies(values) for arm, values in found.items()}
    np.testing.assert_allclose(by_row["equal-entropy"], calibrated.mean(), atol=1e-4)
    np.testing.assert_allclose(np.sort(by_row["shuffled-entropy"]), np.sort(calibrated), atol=1e-4)
    assert abs(np.corrcoef(by_row["shuffled-entropy"], calibrated)[0, 1]) < 0.25
    assert np.corrcoef(by_row["uniform-mix"], calibrated)[0, 1] > 0.8
    np.testing.assert_allclose(by_row["label-smoothing"], calibrated.mean(), atol=1e-4)
    for arm in ("shuffled-entropy", "equal-entropy", "uniform-mix"):
        np.testing.assert_array_equal(found[arm].argmax(1), probabilities.argmax(1))
    np.testing.assert_array_equal(found["label-smoothing"].argmax(1), targets.numpy())


def test_the_control_acts_in_the_objective() -> None:
    """The loss of the objective with the control is that of its target, by definition of KL."""
    temperature, tau = 2.0, 3.0
    logits, targets = drawn(2, 20, 5, 3.0)
    student = torch.randn(20, 5)
    settings = matched(
        "equal-entropy", KDArgs(softening=tau, teacher_softening=1.0), logits,
        temperature * tau, temperature * tau,
    )  # fmt: skip
    rows = Rows(targets=targets, ids=torch.arange(20))
    losses = get_objective(settings)(
        Signal(student), Signal(logits / (temperature * tau)), rows, 0.0
    )
    p = taught("equal-entropy", logits, targets, temperature, tau)
    q = softmax(student.numpy() / tau, axis=1)
    expected = 0.9 * tau**2 * (p * (np.log(p) - np.log(q))).sum(1)
    np.testing.assert_allclose(losses["kd"].numpy(), expected, rtol=2e-4)


def test_transforms_of_the_objective_stay_in_front() -> None:
    logits, _ = drawn(3, 10, 4, 2.0)
    own = KDArgs(transforms=(UniformMixArgs(share=0.2),))
    found = matched("shuffled-entropy", own, logits, 2.0, 2.0)
    assert found.transforms[0] == own.transforms[0]
    assert len(found.transforms) == 2


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_smoothing_is_found_again(classes: int, share: float) -> None:
    target = np.full((1, classes), share / classes)
    target[0, 0] += 1 - share
    found = smoothing_of(float(entropies(target)[0]), classes)
    assert found == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_share_is_found_again(share: float) -> None:
    logits, _ = drawn(4, 30, 6, 3.0)
    p = softmax(logits.numpy().astype(np.float64), axis=1)
    mean = entropies((1 - share) * p + share / 6).mean()
    assert uniform_share(logits.double(), float(mean)) == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize("entropy", [-0.1, 0.0, math.log(10) + 0.01])
def test_impossible_entropies_are_refused(entropy: float) -> None:
    with pytest.raises(ValueError, match="sign"):
        smoothing_of(entropy, 10)
    logits, _ = drawn(5, 10, 10, 1.0)
    with pytest.raises(ValueError, match="sign"):
        uniform_share(logits.double(), entropy)
