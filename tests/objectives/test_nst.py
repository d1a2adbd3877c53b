import numpy as np
import pytest
import torch

from reference import feature_oracles as oracle
from temperance.objectives.activations import pooled_to_smaller, unit_length
from temperance.objectives.nst import NST, selectivity_loss
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(0)
KERNELS = pytest.mark.parametrize("kernel", ["polynomial", "linear", "gaussian"])
SIZES = [((3, 4, 3, 3), (3, 2, 3, 3)), ((2, 3, 6, 4), (2, 5, 3, 4)), ((2, 2, 3, 2), (2, 2, 5, 3))]


def draw(*shape):
    return torch.tensor(RNG.normal(size=shape))


@KERNELS
@pytest.mark.parametrize("shapes", SIZES)
def test_loss_is_the_equation(shapes, kernel):
    student, teacher = (draw(*shape) for shape in shapes)
    found = selectivity_loss(student, teacher, kernel=kernel)
    expected = oracle.selectivity(student.numpy(), teacher.numpy(), kernel=kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)
    assert found.shape == (len(student),)
    assert (found > 0).all()


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [("polynomial", 0.5), ("linear", 0.5), ("gaussian", (1 - np.exp(-1)) / 2)],
)
def test_golden_value_at_the_default(kernel, expected):
    """Two channels that respond to one pixel each, against one that responds to the first."""
    objective = NST(kernel=kernel)
    objective.student_taps = objective.teacher_taps = ("x",)
    student = torch.tensor([[[[4.0, 0]], [[0, 1]]]])
    teacher = torch.tensor([[[[2.0, 0]]]])
    signals = [Signal(torch.zeros(1, 2), features={"x": x}) for x in (student, teacher)]
    losses = objective(*signals, Rows(None, torch.arange(1)), 0.0)
    assert losses["nst"].tolist() == pytest.approx([50 * expected], rel=1e-6)


@KERNELS
def test_gradient_is_that_of_the_value(kernel):
    teacher = draw(*SIZES[1][1])
    student = draw(*SIZES[1][0]).requires_grad_()
    if kernel == "gaussian":
        # σ² has no gradient, so gradcheck would not agree: differences at a fixed one.
        loss = selectivity_loss(student, teacher, kernel=kernel).sum()
        (found,) = torch.autograd.grad(loss, student)
        expected = gaussian_gradient(student.detach(), teacher)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
        return
    assert torch.autograd.gradcheck(
        lambda x: selectivity_loss(x, teacher, kernel=kernel), (student,)
    )


def gaussian_gradient(student, teacher, step=1e-6):
    """Central differences with the σ² of the middle."""

    def units(maps, other):
        return unit_length(pooled_to_smaller(maps, other)[0].flatten(2), 2)

    theirs = units(teacher, student)
    variance = torch.cdist(units(student, teacher), theirs).square().mean((1, 2), keepdim=True)

    def value(maps):
        ours = units(maps, teacher)
        terms = [
            (-torch.cdist(a, b).square() / (2 * variance)).exp().mean((1, 2))
            for a, b in ((ours, ours), (ours, theirs))
        ]
        return (terms[0] - 2 * terms[1]).sum()

    gradient = torch.zeros_like(student)
    for i in range(student.numel()):
        moved = torch.zeros(student.numel(), dtype=student.dtype)
        moved[i] = step
        moved = moved.reshape(student.shape)
        gradient.view(-1)[i] = (value(student + moved) - value(student - moved)) / (2 * step)
    return gradient


@KERNELS
def test_nothing_to_learn_from_oneself_reordered_or_repeated(kernel):
    student = draw(3, 4, 3, 3).requires_grad_()
    for teacher in (student, student.flip(1), torch.cat([student, 7 * student], 1)):
        loss = selectivity_loss(student, teacher.detach(), kernel=kernel)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert loss.abs().max() < 1e-14
        assert gradient.abs().max() < 1e-14


@KERNELS
@pytest.mark.parametrize("scale", [1e-30, 1e4, 1e30])
def test_the_scale_of_a_channel_does_not_matter(kernel, scale):
    student, teacher = (draw(*shape).float() for shape in SIZES[0])
    expected = selectivity_loss(student, teacher, kernel=kernel)
    factors = torch.tensor([1, scale, 3, scale])[:, None, None]
    scaled = (student * factors).requires_grad_()
    found = selectivity_loss(scaled, teacher * scale, kernel=kernel)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    found.sum().backward()
    assert scaled.grad.isfinite().all()


@KERNELS
def test_dead_and_equal_channels_stay_finite(kernel):
    dead = draw(2, 4, 3, 3).float()
    dead[:, 1] = 0
    for student in (dead, torch.zeros(2, 4, 3, 3), torch.ones(2, 4, 3, 3)):
        for teacher in (dead, torch.zeros(2, 3, 3, 3), torch.ones(2, 3, 3, 3)):
            x = student.clone().requires_grad_()
            loss = selectivity_loss(x, teacher, kernel=kernel)
            loss.sum().backward()
            assert loss.isfinite().all()
            assert x.grad.isfinite().all()
    expected = oracle.selectivity(
        dead.double().numpy(), dead[:, :2].double().numpy(), kernel=kernel
    )
    found = selectivity_loss(dead.double(), dead[:, :2].double(), kernel=kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


def test_rows_do_not_look_at_each_other():
    student, teacher = (draw(*shape) for shape in SIZES[0])
    for kernel in ("polynomial", "linear", "gaussian"):
        whole = selectivity_loss(student, teacher, kernel=kernel)
        torch.testing.assert_close(
            whole[1:2], selectivity_loss(student[1:2], teacher[1:2], kernel=kernel)
        )
