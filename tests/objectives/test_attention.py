import numpy as np
import pytest
import torch
from torch import nn

from reference import feature_oracles as oracle
from temperance.objectives import attach
from temperance.objectives.attention import AttentionTransfer, attention_loss
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(0)
SIZES = [
    ((4, 3, 5, 5), (4, 6, 5, 5)),
    ((4, 3, 8, 6), (4, 2, 4, 6)),
    ((2, 3, 3, 4), (2, 3, 7, 4)),
    ((2, 1, 4, 2), (2, 2, 3, 5)),
]


def maps(*shapes):
    return [RNG.normal(size=shape) for shape in shapes]


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
@pytest.mark.parametrize("shapes", SIZES)
def test_loss_is_the_equation(shapes, variant, power):
    student, teacher = maps(*shapes)
    found = attention_loss(
        torch.tensor(student), torch.tensor(teacher), variant=variant, power=power
    )
    expected = oracle.attention(student, teacher, variant=variant, power=power)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert found.shape == (len(student),)


@pytest.mark.parametrize(("variant", "expected"), [("paper", 125.0), ("code", 250.0)])
def test_golden_value_at_the_defaults(variant, expected):
    """Two maps that share one of their two pixels are at distance 1; of 4 elements, times 10³."""
    objective = AttentionTransfer(variant=variant)
    objective.student_taps = objective.teacher_taps = ("x",)
    student = torch.tensor([[[[3.0, 0], [3, 0]]]])
    teacher = torch.eye(2).reshape(1, 1, 2, 2)
    signals = [Signal(torch.zeros(1, 2), features={"x": x}) for x in (student, teacher)]
    losses = objective(*signals, Rows(None, torch.arange(1)), 0.0)
    assert losses["at"].tolist() == pytest.approx([expected], rel=1e-6)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_gradient_is_that_of_the_value(variant):
    student, teacher = (torch.tensor(x) for x in maps(*SIZES[1]))
    assert torch.autograd.gradcheck(
        lambda x: attention_loss(x, teacher, variant=variant), (student.requires_grad_(),)
    )


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_to_learn_from_oneself(variant, dtype):
    (x,) = maps((3, 4, 5, 5))
    student = torch.tensor(x, dtype=dtype, requires_grad=True)
    loss = attention_loss(student, student.detach().clone(), variant=variant)
    loss.sum().backward()
    assert (loss == 0).all()
    assert (student.grad == 0).all()


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("scale", [1e-30, 1e4, 1e30])
def test_scale_sign_and_order_of_channels_do_not_matter(variant, scale):
    student, teacher = (torch.tensor(x, dtype=torch.float32) for x in maps(*SIZES[0]))
    expected = attention_loss(student, teacher, variant=variant)
    scaled = (student * -scale).requires_grad_()
    found = attention_loss(scaled, teacher.flip(1) * scale, variant=variant)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert scaled.grad.isfinite().all()


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_a_map_without_activation_has_a_loss_and_no_gradient(variant):
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    teacher = torch.ones(2, 3, 4, 4)
    teacher[1] = 0
    loss = attention_loss(student, teacher, variant=variant)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([1 / 32 if variant == "paper" else 1 / 16, 0])
    assert (student.grad == 0).all()


def test_rows_do_not_look_at_each_other():
    student, teacher = (torch.tensor(x) for x in maps(*SIZES[0]))
    whole = attention_loss(student, teacher)
    torch.testing.assert_close(whole[1:2], attention_loss(student[1:2], teacher[1:2]))


def test_every_stage_counts_and_settings_arrive():
    def net(channels):
        return nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels, 2, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32, 3),
        )

    images = torch.randn(4, 1, 8, 8)
    objective = AttentionTransfer(label_weight=0, variant="code", power=3, weight=7)
    student, teacher = attach(objective, net(2), net(5), images)
    assert objective.student_taps == ("1", "4")
    signals = [
        Signal(logits, features=features) for logits, features in (student(images), teacher(images))
    ]
    losses = objective(*signals, Rows(None, torch.arange(4)), 0.0)
    expected = 7 * sum(
        attention_loss(signals[0].features[tap], signals[1].features[tap], variant="code", power=3)
        for tap in ("1", "4")
    )
    torch.testing.assert_close(losses["at"], expected)


def test_a_power_below_one_is_refused():
    with pytest.raises(ValueError, match="power"):
        AttentionTransfer(power=0.5)
