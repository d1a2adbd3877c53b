"""Sparse teachers: how they are made, divided, and compared with a student."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reference import divergence_oracles as oracles
from temperance.errors import UserError
from temperance.objectives.jensen_shannon import JensenShannon
from temperance.objectives.kd import KD
from temperance.objectives.reverse_kl import ReverseKL
from temperance.objectives.softened import log_probabilities
from temperance.objectives.ttm import TTM
from temperance.objectives.wttm import WTTM
from temperance.rows import Rows, Signal
from temperance.teacher.sparse import divided, top_k_signal

CLASSES = 6
RNG = np.random.default_rng(4)
STUDENT, TEACHER = (RNG.normal(scale=3, size=(5, CLASSES)) for _ in range(2))
METHODS = ["kd", "reverse_kl", "jensen_shannon", "ttm"]

logits = arrays(np.float64, (3, CLASSES), elements=st.floats(-40, 40))
softenings = st.floats(0.3, 20)


def objective(method, tau, tau_teacher):
    """One whose loss has weight 1; TTM has no student softening."""
    if method == "ttm":
        return TTM(exponent=1 / tau_teacher, weight=1.0)
    made = {"kd": KD, "reverse_kl": ReverseKL, "jensen_shannon": JensenShannon}[method]
    return made(softening=tau, teacher_softening=tau_teacher, weight=1.0)


def loss(method, student, teacher, tau, tau_teacher):
    rows = Rows(targets=None, ids=torch.arange(len(student)))
    student = Signal(torch.as_tensor(student))
    return objective(method, tau, tau_teacher)(student, teacher, rows, 0.0)[method]


def oracle(method, student, teacher, kept, tau, tau_teacher):
    """The divergence between buckets of probabilities that are summed, not exponentiated."""
    if method == "ttm":
        tau = 1.0
    p = oracles.buckets(oracles.softmax(teacher, tau_teacher), kept)
    q = oracles.buckets(oracles.softmax(student, tau), kept)
    if method in ("kd", "ttm"):
        return tau**2 * oracles.kl(p, q)
    if method == "reverse_kl":
        return tau**2 * oracles.kl(q, p)
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return tau**2 * (oracles.kl(p, m) + oracles.kl(q, m)) / 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [1, 2, CLASSES - 1, CLASSES])
@pytest.mark.parametrize(("tau", "tau_teacher"), [(1.0, 1.0), (4.0, 4.0), (2.0, 6.0)])
def test_it_is_the_divergence_of_the_buckets(method, k, tau, tau_teacher):
    teacher = top_k_signal(torch.tensor(TEACHER), k, softening=tau_teacher)
    expected = [
        oracle(method, s, t, list(np.argsort(-t)[:k]), tau, tau_teacher)
        for s, t in zip(STUDENT, TEACHER, strict=True)
    ]
    found = loss(method, STUDENT, teacher, tau, tau_teacher)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)


def test_by_hand():
    # p = (2/4, 1/4, 1/4), the first kept: (1/2, 1/2); q = (1/3, 1/3, 1/3): (1/3, 2/3).
    teacher = top_k_signal(torch.tensor([[math.log(2), 0.0, 0.0]]), 1)
    found = loss("kd", torch.zeros(1, 3), teacher, 1.0, 1.0)
    expected = 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
@given(logits, logits, st.integers(1, CLASSES - 1), softenings, softenings)
@settings(max_examples=40, deadline=None)
def test_between_zero_and_the_dense_one(method, student, teacher, k, tau, tau_teacher):
    sparse = top_k_signal(torch.tensor(teacher), k, softening=tau_teacher)
    found = loss(method, student, sparse, tau, tau_teacher)
    dense = loss(method, student, Signal(torch.tensor(teacher)), tau, tau_teacher)
    # A tail is known to float64's 1e-16 of the whole, and only the reverse KL feels its logarithm.
    others = torch.tensor(teacher).div(tau_teacher).log_softmax(1).sort(1).values[:, :-k]
    slack = 1e-9 + (4e-15 / others.exp().sum(1)).clamp(max=0.1)
    slack = tau**2 * slack if method == "reverse_kl" else 1e-9 * tau**2 + 1e-9 * dense
    assert (found > -1e-9 * tau**2).all()
    assert (found <= dense + slack).all()


@pytest.mark.parametrize("method", METHODS)
@given(logits, logits, softenings, softenings, softenings)
@settings(max_examples=25, deadline=None)
def test_with_all_classes_it_is_the_dense_one_at_any_softening(
    method, student, teacher, stored, tau, tau_teacher
):
    sparse = top_k_signal(torch.tensor(teacher), CLASSES, softening=stored)
    torch.testing.assert_close(
        loss(method, student, sparse, tau, tau_teacher),
        loss(method, student, Signal(torch.tensor(teacher)), tau, tau_teacher),
        rtol=1e-8,
        atol=1e-9,
    )


@pytest.mark.parametrize("method", METHODS)
def test_more_classes_say_more(method):
    losses = [
        loss(method, STUDENT, top_k_signal(torch.tensor(TEACHER), k, softening=2.0), 2.0, 2.0)
        for k in range(1, CLASSES + 1)
    ]
    assert (torch.stack(losses).diff(dim=0) >= -1e-12).all()


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_learn_from_oneself(method):
    student = torch.tensor(TEACHER, requires_grad=True)
    tau = 1.0 if method == "ttm" else 3.0
    sparse = top_k_signal(torch.tensor(TEACHER), 2, softening=tau)
    found = loss(method, student, sparse, tau, tau)
    found.sum().backward()
    assert found.abs().max() < 1e-12
    assert student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_gradient_is_that_of_the_value(method):
    sparse = top_k_signal(torch.tensor(TEACHER), 2, softening=2.0)
    student = torch.tensor(STUDENT, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: loss(method, z, sparse, 3.0, 2.0), (student,))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tau", [0.1, 1.0, 100.0])
def test_an_empty_tail_is_finite(method, tau):
    """Teacher and student certain, of the same class or of others, in float32."""
    teacher = torch.tensor([[1e4, 0.0, -1e4, -1e4]] * 3)
    student = torch.tensor(
        [[1e4, 0.0, -1e4, -1e4], [-1e4, -1e4, 0.0, 1e4], [0.0, 0.0, 0.0, 0.0]], requires_grad=True
    )
    found = loss(method, student, top_k_signal(teacher, 2, softening=tau), tau, tau)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(student.grad).all()


def test_a_nearly_empty_tail_does_not_exceed_the_dense_loss_in_float32():
    """What others hold is below float32's resolution: noise must not look like an impossible class.

    The reverse KL pays log(1 / tail) for what the student puts there.
    """
    gaps = torch.linspace(5, 40, 200)
    teacher = torch.stack([gaps + 30, gaps * 0 + 30, 30 - gaps * 0, 30 - gaps * 0], dim=1)
    student = torch.zeros(200, 4)
    dense = loss("reverse_kl", student, Signal(teacher), 1.0, 1.0)
    sparse = loss("reverse_kl", student, top_k_signal(teacher, 1), 1.0, 1.0)
    assert (sparse <= dense + 0.1).all()
    # Where it can be resolved, it is.
    resolved = gaps < 10
    exact = loss("reverse_kl", student.double(), top_k_signal(teacher.double(), 1), 1.0, 1.0)
    torch.testing.assert_close(sparse[resolved].double(), exact[resolved], rtol=1e-2, atol=0)


def test_logits_far_from_zero_keep_their_precision():
    teacher = torch.tensor(TEACHER, dtype=torch.float32)
    near, far = (top_k_signal(teacher + shift, 2) for shift in (0.0, 4096.0))
    torch.testing.assert_close(near.top_k.log_sum_exp, far.top_k.log_sum_exp, rtol=0, atol=1e-2)
    certain = torch.tensor([[4096.0, 0.0, 0.0]])
    target = log_probabilities(
        Signal(torch.zeros(1, 3)), top_k_signal(certain, 1), softening=1.0, teacher_softening=1.0
    )[1]
    assert target[0, 1] < math.log(1e-5)


def test_what_a_signal_holds():
    signal = top_k_signal(torch.tensor(TEACHER), 3, softening=2.0)
    assert signal.top_k.classes == CLASSES
    assert signal.top_k.softening == 2.0
    assert signal.raw_logits is None
    for row, (z, values, indices, lse) in enumerate(
        zip(TEACHER, signal.logits, signal.top_k.indices, signal.top_k.log_sum_exp, strict=True)
    ):
        np.testing.assert_array_equal(indices, np.argsort(-z)[:3], err_msg=str(row))
        np.testing.assert_allclose(values, np.sort(z)[::-1][:3] - z.max())
        assert lse.item() == pytest.approx(math.log(sum(math.exp((v - z.max()) / 2) for v in z)))


def test_half_precision_is_widened():
    signal = top_k_signal(torch.tensor(TEACHER, dtype=torch.bfloat16), 2)
    assert signal.logits.dtype == signal.top_k.log_sum_exp.dtype == torch.float32


@pytest.mark.parametrize("k", [1, 3, CLASSES])
@given(st.floats(0.2, 6), softenings)
@settings(max_examples=25, deadline=None)
def test_divided_by_a_temperature_it_is_the_calibrated_teacher(k, temperature, tau):
    """Stored at T·τ and divided by T: the top k of z / T at τ."""
    stored = top_k_signal(torch.tensor(TEACHER), k, softening=temperature * tau)
    calibrated = top_k_signal(torch.tensor(TEACHER / temperature), k, softening=tau)
    found = divided(stored, temperature)
    assert found.top_k.softening == pytest.approx(tau)
    torch.testing.assert_close(found.logits, calibrated.logits)
    torch.testing.assert_close(found.top_k.log_sum_exp, calibrated.top_k.log_sum_exp)
    torch.testing.assert_close(
        loss("kd", STUDENT, found, tau, tau), loss("kd", STUDENT, calibrated, tau, tau)
    )


def test_dividing_leaves_the_rest_alone():
    raw = torch.zeros(5, CLASSES)
    made = top_k_signal(torch.tensor(TEACHER), 2)
    signal = Signal(made.logits, raw_logits=raw, features={"tap": raw}, top_k=made.top_k)
    found = divided(signal, 2.0)
    assert found.raw_logits is raw
    assert found.features == {"tap": raw}
    assert signal.top_k.softening == 1.0


def test_another_softening_than_the_stored_one_is_refused():
    sparse = top_k_signal(torch.tensor(TEACHER), 2, softening=4.0)
    for method in METHODS:
        with pytest.raises(UserError, match="sparse teacher: its log-sum-exp is of softening 4,"):
            loss(method, STUDENT, sparse, 4.0, 2.0)
    with pytest.raises(UserError, match="softening of 4 is asked for"):
        loss("kd", STUDENT, divided(sparse, 2.0), 4.0, 4.0)


def test_methods_that_need_every_class_refuse():
    sparse = top_k_signal(torch.tensor(TEACHER), 2, softening=10.0)
    rows = Rows(targets=None, ids=torch.arange(5))
    for refusing in (WTTM(), TTM(transforms=["uniform-mix"])):
        with pytest.raises(UserError, match="all classes"):
            refusing(Signal(torch.tensor(STUDENT)), sparse, rows, 0.0)


@pytest.mark.parametrize("k", [0, -1, CLASSES + 1])
def test_k_is_a_number_of_classes(k):
    with pytest.raises(UserError, match=f"k: {k} is not between 1 and the 6 classes"):
        top_k_signal(torch.tensor(TEACHER), k)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_temperatures_and_softenings_are_positive(value):
    with pytest.raises(UserError, match="softening"):
        top_k_signal(torch.tensor(TEACHER), 2, softening=value)
    with pytest.raises(UserError, match="temperature"):
        divided(top_k_signal(torch.tensor(TEACHER), 2), value)


def test_a_dense_signal_is_not_divided():
    with pytest.raises(UserError, match="dense"):
        divided(Signal(torch.tensor(TEACHER)), 2.0)
