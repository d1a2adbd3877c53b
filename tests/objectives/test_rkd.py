import numpy as np
import pytest
import torch

from reference import feature_oracles as oracle
from temperance.objectives.rkd import RKD, rkd_angle_loss, rkd_distance_loss
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(0)
LOSSES = [(rkd_distance_loss, oracle.rkd_distance), (rkd_angle_loss, oracle.rkd_angle)]
LINE = torch.tensor([[0.0], [1], [2]])
CORNER = torch.tensor([[0.0, 0], [1, 0], [0, 1]])


def draw(*shape):
    return torch.tensor(RNG.normal(size=shape))


OTHER = draw(5, 4)


def losses_of(student, teacher, **settings):
    objective = RKD(**settings)
    objective.student_taps = objective.teacher_taps = ("x",)
    n = len(student)
    signals = [
        Signal(torch.zeros(n, 2, dtype=x.dtype), features={"x": x}) for x in (student, teacher)
    ]
    return objective(*signals, Rows(None, torch.arange(n)), 0.0)


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize(("loss", "reference"), LOSSES)
def test_losses_are_the_equations(loss, reference, variant):
    for shapes in (((6, 3), (6, 5)), ((3, 2), (3, 2)), ((5, 1), (5, 4))):
        # Heavy tails: both branches of the Huber loss.
        student, teacher = (draw(*shape).sinh().pow(3) for shape in shapes)
        expected = reference(student.numpy(), teacher.numpy(), variant=variant)
        assert float(loss(student, teacher, variant=variant)) == pytest.approx(expected, rel=1e-10)


def test_golden_values_at_the_defaults():
    """Three points on a line against a right angle, by hand.

    Distances 3/4, 3/2, 3/4 and 1, 1, √2 times 3 / (2 + √2); cosines 1, −1, 1 and 0, 1/√2, 1/√2.
    """
    unit, root = 3 / (2 + 2**0.5), 2**0.5
    distance = ((0.75 - unit) ** 2 + (1.5 - unit) ** 2 + (0.75 - root * unit) ** 2) / 2 / 3
    angle = (0.5 + (1 + 1 / root - 0.5) + (1 - 1 / root) ** 2 / 2) / 3
    losses = losses_of(LINE, CORNER)
    assert losses["rkd_distance"].item() == pytest.approx(25 * distance, rel=1e-5)
    assert losses["rkd_angle"].item() == pytest.approx(50 * angle, rel=1e-5)
    losses = losses_of(LINE, CORNER, variant="code", distance_weight=1, angle_weight=2)
    assert losses["rkd_distance"].item() == pytest.approx(distance * 6 / 9, rel=1e-5)
    assert losses["rkd_angle"].item() == pytest.approx(2 * angle * 6 / 27, rel=1e-5)


@pytest.mark.parametrize("loss", [rkd_distance_loss, rkd_angle_loss])
def test_gradient_is_that_of_the_value(loss):
    teacher = draw(5, 4)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), (draw(5, 3).requires_grad_(),))


@pytest.mark.parametrize("loss", [rkd_distance_loss, rkd_angle_loss])
def test_nothing_to_learn_from_oneself_moved_turned_or_scaled(loss):
    student = draw(6, 4).requires_grad_()
    rotation = torch.linalg.qr(draw(4, 4)).Q
    for teacher in (student, 5 * student @ rotation + 3):
        value = loss(student, teacher.detach())
        (gradient,) = torch.autograd.grad(value, student)
        assert value.item() < 1e-26
        assert gradient.abs().max() < 1e-13


@pytest.mark.parametrize("loss", [rkd_distance_loss, rkd_angle_loss])
@pytest.mark.parametrize("scale", [1e-15, 1e4, 1e15])
def test_scale_does_not_matter_in_single_precision(loss, scale):
    student, teacher = draw(5, 8).float(), draw(5, 6).float()
    expected = loss(student, teacher)
    scaled = (student * scale).requires_grad_()
    found = loss(scaled, teacher * scale)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    found.backward()
    assert scaled.grad.isfinite().all()


@pytest.mark.parametrize("loss", [rkd_distance_loss, rkd_angle_loss])
def test_rows_at_the_same_place_leave_the_gradient_finite(loss):
    student = draw(5, 3).float()
    student[2] = student[0]
    for vectors in (student, torch.ones(5, 3), torch.zeros(5, 3)):
        x = vectors.clone().requires_grad_()
        value = loss(x, draw(5, 4).float())
        value.backward()
        assert value.isfinite()
        assert x.grad.isfinite().all()
    for variant in ("paper", "code"):
        found = loss(student.double(), OTHER, variant=variant).item()
        expected = dict(LOSSES)[loss](student.double().numpy(), OTHER.numpy(), variant=variant)
        assert found == pytest.approx(expected, rel=1e-10)


def test_distances_of_close_rows_far_from_the_origin_do_not_cancel():
    far = 100 + 0.01 * draw(4, 3)
    expected = oracle.rkd_distance(far.float().double().numpy(), OTHER[:4].numpy())
    found = float(rkd_distance_loss(far.float(), OTHER[:4].float()))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("n", [1, 2])
def test_few_rows_say_nothing(n, variant):
    x = draw(n, 3).requires_grad_()
    losses = losses_of(x, draw(n, 4), variant=variant)
    sum(losses.values()).backward()
    assert all(loss.item() == pytest.approx(0, abs=1e-20) for loss in losses.values())
    assert x.grad.abs().max() < 1e-13


def test_embeddings_can_be_scaled_to_unit_length_first():
    student, teacher = draw(5, 3), draw(5, 4)
    found = losses_of(student, teacher, l2_normalize=True)
    ours, theirs = (
        torch.tensor(np.array([oracle.unit(row) for row in x.numpy()])) for x in (student, teacher)
    )
    for name, loss in losses_of(ours, theirs).items():
        torch.testing.assert_close(found[name], loss)
    assert found["rkd_distance"] != losses_of(student, teacher)["rkd_distance"]


def test_maps_are_flattened():
    student, teacher = draw(4, 2, 3, 3), draw(4, 5)
    found = losses_of(student, teacher)
    expected = losses_of(student.flatten(1), teacher)
    assert found == expected
