import numpy as np
import pytest
import torch

from reference import feature_oracles as oracle
from temperance.objectives.pkt import PKT, pkt_loss
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(0)
VARIANTS = pytest.mark.parametrize("variant", ["paper", "code"])
SQUARE = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
BENT = torch.tensor([[1.0, 0], [0, 1], [0, 1]])


def draw(*shape):
    return torch.tensor(RNG.normal(size=shape))


@VARIANTS
def test_loss_is_the_equation(variant):
    for shapes in (((6, 3), (6, 5)), ((2, 4), (2, 2)), ((5, 2), (5, 2))):
        student, teacher = (draw(*shape) for shape in shapes)
        expected = oracle.pkt(student.numpy(), teacher.numpy(), variant=variant)
        found = float(pkt_loss(student, teacher, variant=variant))
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)
        assert expected > 1e-6 or len(student) == 2


@pytest.mark.parametrize(
    ("variant", "by_hand"),
    [
        # Neighbours (1, 0), (1/2, 1/2), (0, 1) against (1/2, 1/2), (1/3, 2/3), (1/3, 2/3).
        ("paper", np.log(2) + np.log(9 / 8) / 2 + np.log(3 / 2)),
        # With themselves: (2, 1, 0)/3, (1, 2, 1)/4, (0, 1, 2)/3 and (2, 1, 1)/4, (1, 2, 2)/5 twice.
        (
            "code",
            np.log(4 / 3)
            + (np.log(5 / 4) * 3 + np.log(5 / 8)) / 4
            + (np.log(5 / 6) + 2 * np.log(5 / 3)) / 3,
        ),
    ],
)
def test_golden_value_at_the_default(variant, by_hand):
    objective = PKT(variant=variant)
    objective.student_taps = objective.teacher_taps = ("x",)
    signals = [Signal(torch.zeros(3, 2), features={"x": x}) for x in (BENT, SQUARE)]
    losses = objective(*signals, Rows(None, torch.arange(3)), 0.0)
    assert losses["pkt"].item() == pytest.approx(30000 * by_hand / 9, rel=1e-5)
    assert losses["pkt"].shape == ()


@VARIANTS
def test_gradient_is_that_of_the_value(variant):
    teacher = draw(5, 4)
    assert torch.autograd.gradcheck(
        lambda x: pkt_loss(x, teacher, variant=variant), (draw(5, 3).requires_grad_(),)
    )


@VARIANTS
def test_nothing_to_learn_from_oneself_turned_or_scaled_row_by_row(variant):
    student = draw(6, 4).requires_grad_()
    rotation = torch.linalg.qr(draw(4, 4)).Q
    for teacher in (student, student @ rotation, student * draw(6, 1).abs()):
        loss = pkt_loss(student, teacher.detach(), variant=variant)
        (gradient,) = torch.autograd.grad(loss, student)
        assert abs(loss.item()) < 1e-15
        # The ε of the code keeps its gradient from being exactly zero.
        assert gradient.abs().max() < (1e-14 if variant == "paper" else 1e-7)


@VARIANTS
@pytest.mark.parametrize("scale", [1e-30, 1e4, 1e30])
def test_scale_does_not_matter_in_single_precision(variant, scale):
    student, teacher = draw(5, 8).float(), draw(5, 6).float()
    expected = pkt_loss(student, teacher, variant=variant)
    scaled = (student * scale).requires_grad_()
    found = pkt_loss(scaled, teacher * scale, variant=variant)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    found.backward()
    assert scaled.grad.isfinite().all()


@VARIANTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opposite_rows_and_rows_of_zeros_stay_finite(variant, dtype):
    opposite = torch.tensor([[1.0, 2], [-1, -2], [0, 0], [3, 1]], dtype=dtype)
    for student in (opposite, 1e4 * opposite, torch.zeros(4, 2, dtype=dtype)):
        for teacher in (draw(4, 3).to(dtype), opposite, opposite.flip(0)):
            x = student.clone().requires_grad_()
            loss = pkt_loss(x, teacher, variant=variant)
            loss.backward()
            assert loss.isfinite()
            assert x.grad.isfinite().all()


def test_a_cosine_that_rounds_to_less_than_minus_one_is_minus_one():
    """Without that the code variant's logarithm is −inf once in some hundred pairs."""
    for seed in range(400):
        row = torch.randn(1, 7, generator=torch.Generator().manual_seed(seed))
        opposite = torch.cat([row, -0.3 * row])
        for student, teacher in ((opposite, SQUARE[:2]), (SQUARE[:2], opposite)):
            assert pkt_loss(student, teacher, variant="code").isfinite(), seed


def test_a_row_of_zeros_is_at_a_right_angle_to_all():
    student, teacher = BENT.clone().double(), SQUARE.double()
    student[1] = 0
    for variant in ("paper", "code"):
        expected = oracle.pkt(student.numpy(), teacher.numpy(), variant=variant)
        assert float(pkt_loss(student, teacher, variant=variant)) == pytest.approx(
            expected, abs=1e-6
        )


@VARIANTS
def test_one_row_says_nothing(variant):
    x = draw(1, 3).requires_grad_()
    loss = pkt_loss(x, draw(1, 4), variant=variant)
    loss.backward()
    assert loss.item() == 0
    assert x.grad.abs().max() < 1e-12
