import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reference import divergence_oracles as oracles
from temperance.errors import UserError
from temperance.objectives import get_objective
from temperance.objectives.kd import KD, softened_kl
from temperance.objectives.labels import Labels
from temperance.rows import Rows, Signal
from temperance.teacher.sparse import top_k_signal

RNG = np.random.default_rng(0)
STUDENT, TEACHER = (RNG.normal(scale=4, size=(7, 5)) for _ in range(2))
TARGETS = RNG.integers(0, 5, 7)
SOFT_TARGETS = RNG.dirichlet(np.ones(5), 7)

logits = arrays(np.float64, (4, 3), elements=st.floats(-30, 30))
softenings = st.floats(0.5, 20)


def expected_kd(student, teacher, tau, tau_teacher):
    return [
        oracles.kd(list(s), list(t), tau, tau_teacher)
        for s, t in zip(student, teacher, strict=True)
    ]


def signal(z):
    return Signal(torch.as_tensor(z))


def rows(targets=TARGETS):
    given = None if targets is None else torch.tensor(targets)
    return Rows(targets=given, ids=torch.arange(len(STUDENT)))


@given(logits, logits, softenings, softenings)
@settings(max_examples=60, deadline=None)
def test_kl_is_the_equation(student, teacher, tau, tau_teacher):
    found = softened_kl(
        signal(student), signal(teacher), softening=tau, teacher_softening=tau_teacher
    )
    expected = expected_kd(student, teacher, tau, tau_teacher)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)
    assert (found > -1e-9).all()


def test_golden_values_at_the_defaults():
    student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[3.0, 1.0, 0.0]])
    batch = Rows(targets=torch.tensor([0]), ids=torch.tensor([0]))
    losses = KD()(Signal(student.double()), Signal(teacher.double()), batch, 0.0)
    assert losses["kd"].item() == pytest.approx(0.11169480131453649, rel=1e-9)
    assert losses["labels"].item() == pytest.approx(0.1 * 0.40760596444438, rel=1e-9)


def test_gradient_is_that_of_the_value():
    student = torch.tensor(STUDENT, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z: softened_kl(Signal(z), signal(TEACHER), softening=3.0, teacher_softening=2.0),
        (student,),
    )


def test_gradient_keeps_its_size():
    """τ² undoes the 1/τ² of the gradients: for high τ they no longer depend on it."""

    def gradient(tau):
        student = torch.tensor(STUDENT, requires_grad=True)
        softened_kl(
            Signal(student), signal(TEACHER), softening=tau, teacher_softening=tau
        ).sum().backward()
        return student.grad

    # Hinton 2015, eq. 4: (z − v) / N for centred logits.
    centred = [z - z.mean(axis=1, keepdims=True) for z in (STUDENT, TEACHER)]
    expected = (centred[0] - centred[1]) / STUDENT.shape[1]
    np.testing.assert_allclose(gradient(1e4), expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_nothing_to_learn_from_oneself(tau):
    student = torch.tensor(TEACHER, requires_grad=True)
    loss = softened_kl(Signal(student), signal(TEACHER), softening=tau, teacher_softening=tau)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.zeros(7, dtype=torch.float64))
    assert student.grad.abs().max() < 1e-12


@given(st.floats(0.1, 10), st.floats(0.5, 8))
@settings(max_examples=30, deadline=None)
def test_a_calibration_temperature_is_a_softening_of_the_teacher(t, tau):
    """KD(z / T; τ) is KD with teacher softening T·τ: what the study's controls hang on."""
    calibrated = KD(softening=tau)
    softened = KD(softening=tau, teacher_softening=t * tau)
    one = calibrated(signal(STUDENT), signal(TEACHER / t), rows(), 0.0)
    other = softened(signal(STUDENT), signal(TEACHER), rows(), 0.0)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-12)


def test_one_softening_serves_both_unless_two_are_given():
    def loss(**values):
        return KD(weight=1.0, **values)(signal(STUDENT), signal(TEACHER), rows(), 0.0)["kd"]

    for values, tau, tau_teacher in (
        ({"softening": 3.0}, 3.0, 3.0),
        ({"softening": 3.0, "teacher_softening": 6.0}, 3.0, 6.0),
        ({"teacher_softening": 1.0}, 4.0, 1.0),
    ):
        np.testing.assert_allclose(loss(**values), expected_kd(STUDENT, TEACHER, tau, tau_teacher))


def test_shifted_logits_say_the_same():
    shift = np.arange(7)[:, None] * 3.0
    one = KD()(signal(STUDENT), signal(TEACHER), rows(), 0.0)
    other = KD()(signal(STUDENT + shift), signal(TEACHER - shift), rows(), 0.0)
    torch.testing.assert_close(one, other)


def test_the_teacher_gets_no_gradient():
    student = torch.tensor(STUDENT, requires_grad=True)
    teacher = torch.tensor(TEACHER, requires_grad=True)
    losses = KD()(Signal(student), Signal(teacher), rows(), 0.0)
    sum(losses.values()).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_at_extreme_logits(dtype):
    student = torch.tensor([[100.0, 0, -100], [-100, 100, 0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[100.0, 0, -100], [100, -100, 0]], dtype=dtype)
    batch = Rows(targets=torch.tensor([0, 0]), ids=torch.arange(2))
    with torch.autocast("cpu", dtype):  # as the training loop does
        losses = KD(softening=4.0)(Signal(student), Signal(teacher), batch, 0.0)
        total = sum(loss.sum() for loss in losses.values())
    total.backward()
    for name, loss in losses.items():
        assert torch.isfinite(loss).all(), name
    assert torch.isfinite(student.grad).all()


def test_a_sparse_teacher_will_do():
    sparse = top_k_signal(torch.tensor(TEACHER), 2, softening=4.0)
    losses = KD()(signal(STUDENT), sparse, rows(), 0.0)
    dense = KD()(signal(STUDENT), signal(TEACHER), rows(), 0.0)
    assert losses["kd"].shape == (7,)
    assert (losses["kd"] <= dense["kd"]).all()
    torch.testing.assert_close(losses["labels"], dense["labels"])


# The labels' share of it.


def test_weights_scale_the_two_terms():
    objective = KD(weight=0.3, label_weight=2.0, softening=5.0)
    losses = objective(signal(STUDENT), signal(TEACHER), rows(), 0.0)
    expected = np.array(expected_kd(STUDENT, TEACHER, 5.0, 5.0))
    np.testing.assert_allclose(losses["kd"], 0.3 * expected)
    labels = [
        oracles.cross_entropy(oracles.onehot(y, 5), list(z))
        for y, z in zip(TARGETS, STUDENT, strict=True)
    ]
    np.testing.assert_allclose(losses["labels"], 2.0 * np.array(labels))
    assert losses["kd"].shape == losses["labels"].shape == (7,)


def test_weights_follow_the_training():
    ramp = {"value": 1.0, "warmup": 0.5, "end": 0.0}
    objective = KD(weight=ramp, label_weight={"value": 0.0, "end": 2.0})
    full = KD(weight=1.0, label_weight=1.0)(signal(STUDENT), signal(TEACHER), rows(), 0.0)
    # At 1/4, halfway up the warm-up of a weight that has come down to 3/4.
    for progress, kd, labels in ((0.0, 0.0, 0.0), (0.25, 0.375, 0.5), (1.0, 0.0, 2.0)):
        losses = objective(signal(STUDENT), signal(TEACHER), rows(), progress)
        torch.testing.assert_close(losses["kd"], kd * full["kd"])
        torch.testing.assert_close(losses["labels"], labels * full["labels"])


def test_rows_without_labels_are_taught_by_the_teacher_alone():
    assert KD().needs.targets == "optional"
    assert set(KD()(signal(STUDENT), signal(TEACHER), rows(None), 0.0)) == {"kd"}


def test_soft_targets_are_labels():
    losses = KD(label_weight=1.0)(signal(STUDENT), signal(TEACHER), rows(SOFT_TARGETS), 0.0)
    expected = [
        oracles.cross_entropy(list(p), list(z)) for p, z in zip(SOFT_TARGETS, STUDENT, strict=True)
    ]
    np.testing.assert_allclose(losses["labels"], expected)


def test_certain_soft_targets_are_class_indices():
    one = KD()(signal(STUDENT), signal(TEACHER), rows(), 0.0)
    other = KD()(signal(STUDENT), signal(TEACHER), rows(np.eye(5)[TARGETS]), 0.0)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_labels_are_cross_entropy_with_smoothed_targets(smoothing):
    losses = Labels(label_smoothing=smoothing)(signal(STUDENT), None, rows(), 0.0)
    assert set(losses) == {"labels"}
    expected = [
        oracles.cross_entropy(oracles.label_smoothing(y, 5, smoothing), list(z))
        for y, z in zip(TARGETS, STUDENT, strict=True)
    ]
    np.testing.assert_allclose(losses["labels"], expected)


def test_soft_labels_are_smoothed_too():
    losses = Labels(label_smoothing=0.2)(signal(STUDENT), None, rows(SOFT_TARGETS), 0.0)
    expected = [
        oracles.cross_entropy([0.8 * a + 0.2 / 5 for a in p], list(z))
        for p, z in zip(SOFT_TARGETS, STUDENT, strict=True)
    ]
    np.testing.assert_allclose(losses["labels"], expected)


# How it is made, and what it refuses.


def test_it_is_made_by_name_from_settings_or_from_both():
    for objective in (
        get_objective("kd", softening=2.0),
        get_objective(KD(softening=2.0).args),
        KD(softening=2.0),
    ):
        assert isinstance(objective, KD)
        assert objective.args.softening == 2.0
        assert objective.args.weight.at(0.5) == 0.9


@pytest.mark.parametrize("softening", [0, -1, float("nan")])
def test_the_softenings_have_to_be_positive(softening):
    for name in ("softening", "teacher_softening"):
        with pytest.raises(UserError, match=name):
            KD(**{name: softening})


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'softening'"):
        KD(softning=2.0)


def test_soft_targets_of_another_shape_are_refused():
    with pytest.raises(UserError, match="soft targets are"):
        KD()(signal(STUDENT), signal(TEACHER), rows(SOFT_TARGETS[:, :4]), 0.0)
