import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reference import divergence_oracles as oracles
from temperance.errors import UserError
from temperance.objectives.kd import KD
from temperance.objectives.transforms import TRANSFORMS, transformed
from temperance.objectives.transforms.asymmetric import AsymmetricArgs
from temperance.objectives.transforms.label_smoothing import LabelSmoothingArgs
from temperance.objectives.transforms.row_entropy import (
    RowEntropyArgs,
    entropy_of,
    with_entropy,
)
from temperance.objectives.transforms.uniform_mix import UniformMixArgs
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(scale=3, size=(7, 5))
TARGETS = RNG.integers(0, 5, 7)
ROWS = Rows(targets=torch.tensor(TARGETS), ids=torch.tensor([40, 7, 99, 3, 12, 65, 0]))


def target(*args, logits=LOGITS, rows=ROWS):
    """The transformed target at softening 1."""
    return transformed(args, torch.as_tensor(logits), rows).softmax(1)


def entropies(p):
    return [oracles.entropy(row.tolist()) for row in p]


# Asymmetric, uniform mix, label smoothing: the equations.


@pytest.mark.parametrize(("tau_label", "tau_other"), [(4.0, 2.0), (1.0, 3.0), (2.0, 2.0)])
def test_asymmetric(tau_label, tau_other):
    args = AsymmetricArgs(target_softening=tau_label, other_softening=tau_other)
    expected = [
        oracles.asymmetric(list(z), y, tau_label, tau_other)
        for z, y in zip(LOGITS, TARGETS, strict=True)
    ]
    np.testing.assert_allclose(target(args), expected)


def test_asymmetric_of_equal_temperatures_is_softening():
    args = AsymmetricArgs(target_softening=3.0, other_softening=3.0)
    np.testing.assert_allclose(target(args), torch.tensor(LOGITS / 3).softmax(1))


@pytest.mark.parametrize("share", [1e-6, 0.1, 0.9])
def test_uniform_mix(share):
    expected = [oracles.uniform_mix(list(z), share) for z in LOGITS]
    np.testing.assert_allclose(target(UniformMixArgs(share=share)), expected)


@pytest.mark.parametrize("smoothing", [1e-6, 0.1, 0.9])
def test_label_smoothing(smoothing):
    expected = [oracles.label_smoothing(y, 5, smoothing) for y in TARGETS]
    found = target(LabelSmoothingArgs(smoothing=smoothing))
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(
        target(LabelSmoothingArgs(smoothing=smoothing), logits=-LOGITS), found
    )


def test_label_smoothing_as_a_target_of_kd_is_label_smoothing_of_the_labels():
    """The gradient of KL at softening 1 is that of cross-entropy with smoothed labels."""
    student = torch.tensor(RNG.normal(size=(7, 5)), requires_grad=True)
    kd = KD(softening=1.0, weight=1.0, label_weight=0.0, transforms=["label-smoothing"])
    kd(Signal(student), Signal(torch.tensor(LOGITS)), ROWS, 0.0)["kd"].sum().backward()
    found, student.grad = student.grad, None
    torch.nn.functional.cross_entropy(
        student, ROWS.targets, reduction="sum", label_smoothing=0.1
    ).backward()
    torch.testing.assert_close(found, student.grad)


# Row entropy.


@pytest.mark.parametrize("wanted", [0.05, 0.5, 1.2, 1.6])
def test_equal_entropy_is_a_temperature_per_row(wanted):
    expected = [oracles.of_entropy(list(z), wanted) for z in LOGITS]
    found = target(RowEntropyArgs(entropy=wanted))
    np.testing.assert_allclose(found, expected, atol=1e-7)
    np.testing.assert_allclose(entropies(found), wanted, atol=1e-8)


def test_equal_entropy_is_the_mean_of_the_batch_unless_given():
    mean = np.mean(entropies(torch.tensor(LOGITS).softmax(1)))
    np.testing.assert_allclose(entropies(target(RowEntropyArgs())), mean, atol=1e-8)


def test_shuffled_entropies_are_those_of_other_rows():
    own = entropies(torch.tensor(LOGITS).softmax(1))
    found = entropies(target(RowEntropyArgs(mode="shuffled")))
    np.testing.assert_allclose(sorted(found), sorted(own), atol=1e-8)
    assert min(abs(a - b) for a, b in zip(own, found, strict=True)) > 1e-4


def test_a_shuffle_does_not_depend_on_the_order_of_the_rows():
    order = torch.tensor([3, 1, 6, 0, 5, 2, 4])
    shuffled = Rows(targets=None, ids=ROWS.ids[order])
    args = RowEntropyArgs(mode="shuffled")
    torch.testing.assert_close(
        target(args, logits=torch.tensor(LOGITS)[order], rows=shuffled), target(args)[order]
    )


def test_another_batch_is_another_shuffle():
    args = RowEntropyArgs(mode="shuffled")
    others = [
        target(args, rows=Rows(targets=None, ids=torch.arange(7) + 100 * step)) for step in range(4)
    ]
    assert len({tuple(np.round(entropies(p), 6)) for p in others}) > 1


def test_views_of_a_sample_get_the_entropies_of_another_sample():
    """Two views of three samples below one another: never the sample's own other view."""
    logits = torch.tensor(RNG.normal(size=(6, 5)) * [[1.0]] * 3)
    rows = Rows(targets=None, ids=torch.tensor([5, 6, 7, 5, 6, 7]), views=2)
    own = entropies(logits.softmax(1))
    found = entropies(target(RowEntropyArgs(mode="shuffled"), logits=logits, rows=rows))
    for row, value in enumerate(found):
        (source,) = [i for i, other in enumerate(own) if abs(other - value) < 1e-6]
        assert source % 3 != row % 3
        assert source // 3 == row // 3


def test_one_row_keeps_its_entropy():
    rows = Rows(targets=None, ids=torch.tensor([3]))
    for mode in ("equal", "shuffled"):
        args = RowEntropyArgs(mode=mode)
        found = target(args, logits=LOGITS[:1], rows=rows)
        torch.testing.assert_close(found, torch.tensor(LOGITS[:1]).softmax(1), rtol=1e-6, atol=1e-7)


@given(
    # Gaps from 1e-6 to 1e4, and ties.
    arrays(np.float64, (4, 6), elements=st.floats(-1e4, 1e4).map(lambda z: round(z, 6))),
    st.lists(st.floats(0.001, 0.999), min_size=4, max_size=4),
    st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=100, deadline=None)
def test_any_entropy_within_reach_is_reached(logits, shares, dtype):
    z = torch.tensor(logits, dtype=dtype)
    wanted = torch.tensor(shares, dtype=dtype) * math.log(6)
    found = with_entropy(z, wanted)
    assert found.dtype == dtype
    assert torch.isfinite(found).all()
    ties = (z == z.amax(1, keepdim=True)).sum(1)
    flat = ties == 6
    nearest = torch.where(flat, math.log(6), torch.maximum(wanted, ties.to(dtype).log()))
    torch.testing.assert_close(entropy_of(found.double()), nearest.double(), rtol=0, atol=1e-6)


@given(arrays(np.float64, (3, 6), elements=st.floats(-100, 100)), st.floats(0.01, 1.7))
@example(np.array([[0.0] + [2.3e-308] * 5] * 3), 1.0)  # a scale that would overflow
@settings(max_examples=50, deadline=None)
def test_the_ranking_of_classes_is_kept(logits, wanted):
    z = torch.tensor(logits)
    found = with_entropy(z, torch.full((3,), wanted).double())
    order = z.argsort(dim=1, stable=True)
    assert (found.gather(1, order).diff(dim=1) >= 0).all()
    assert (found.amax(1) == 0).all()


def test_out_of_reach_the_nearest_is_given():
    z = torch.tensor([[2.0, 2.0, 0.0], [1.0, 1.0, 1.0], [3.0, 1.0, 0.0], [3.0, 1.0, 0.0]])
    found = with_entropy(z, torch.tensor([0.1, 0.1, 0.0, 5.0]))
    expected = [math.log(2), math.log(3), 0.0, math.log(3)]
    np.testing.assert_allclose(entropies(found.softmax(1)), expected, atol=1e-6)
    assert torch.isfinite(found).all()
    assert (found[1] == found[1, 0]).all()


def test_stretching_a_near_tie_does_not_send_the_other_classes_to_infinity():
    """A gap of 1e-20 is stretched to 4 or so; in proportion, the third class would go to −1e24."""
    found = with_entropy(torch.tensor([[0.0, -1e-20, -1e4]]), torch.tensor([0.1]))
    assert entropy_of(found).item() == pytest.approx(0.1, abs=1e-6)
    assert found.min() >= -1e6


# What they share.


def test_a_transform_may_be_given_by_its_name_and_they_act_in_order():
    kd = KD(softening=1.0, transforms=["uniform-mix", {"name": "row-entropy", "entropy": 1.0}])
    assert kd.args.transforms == (UniformMixArgs(), RowEntropyArgs(entropy=1.0))
    np.testing.assert_allclose(entropies(target(*kd.args.transforms)), 1.0, atol=1e-8)
    assert max(entropies(target(*reversed(kd.args.transforms)))) > 1.01


def test_the_softening_of_the_method_acts_on_top():
    kd = KD(softening=2.0, teacher_softening=3.0, weight=1.0, transforms=["uniform-mix"])
    student = RNG.normal(size=(7, 5))
    found = kd(Signal(torch.tensor(student)), Signal(torch.tensor(LOGITS)), ROWS, 0.0)["kd"]
    expected = []
    for s, t in zip(student, LOGITS, strict=True):
        mixed = [math.log(p) for p in oracles.uniform_mix(list(t), 0.1)]
        expected.append(oracles.kd(list(s), mixed, 2.0, 3.0))
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_each_leaves_its_input_alone_and_stays_finite_at_extreme_logits(name):
    args = TRANSFORMS[name][0](name=name)
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0], [-1e4, 1e4, 1e4]])
    before = logits.clone()
    rows = Rows(targets=torch.tensor([1, 0, 2]), ids=torch.arange(3))
    found = transformed([args], logits, rows)
    torch.testing.assert_close(logits, before, rtol=0, atol=0)
    assert found.shape == logits.shape
    assert found.dtype == logits.dtype
    assert torch.isfinite(found.log_softmax(1)).all()


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_each_declares_whether_it_needs_labels(name):
    unlabelled = Rows(targets=None, ids=ROWS.ids)
    kd = KD(transforms=[name])
    signals = Signal(torch.tensor(LOGITS)), Signal(torch.tensor(LOGITS))
    if name in ("asymmetric", "label-smoothing"):
        with pytest.raises(UserError, match="needs labels"):
            kd(*signals, unlabelled, 0.0)
    else:
        assert torch.isfinite(kd(*signals, unlabelled, 0.0)["kd"]).all()


@pytest.mark.parametrize(
    "transform",
    [
        {"name": "uniform-mix", "share": 0.0},
        {"name": "uniform-mix", "share": 1.0},
        {"name": "label-smoothing", "smoothing": 0.0},
        {"name": "label-smoothing", "smoothing": 1.0},
        {"name": "row-entropy", "entropy": 0.0},
        {"name": "row-entropy", "mode": "sorted"},
        {"name": "row-entropy", "mode": "shuffled", "entropy": 1.0},
        {"name": "asymmetric", "other_softening": 0.0},
        "symmetric",
    ],
)
def test_what_is_no_transform_is_refused(transform):
    with pytest.raises(UserError, match=r"^transforms\.0"):
        KD(transforms=[transform])


def test_an_entropy_that_no_prediction_has_is_refused():
    with pytest.raises(UserError, match="no prediction of 5 classes has an entropy of 2 nats"):
        target(RowEntropyArgs(entropy=2.0))


def test_a_shuffle_needs_an_id_for_every_row():
    rows = Rows(targets=None, ids=torch.arange(3))
    with pytest.raises(UserError, match="3 ids for 7 rows"):
        target(RowEntropyArgs(mode="shuffled"), rows=rows)
