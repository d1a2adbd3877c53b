import numpy as np
import pytest
import torch
from torch import nn

from reference import feature_oracles as oracle
from temperance.errors import UserError
from temperance.objectives import attach
from temperance.objectives.fitnet import FitNet, hint_loss
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(0)


def net(channels, *, stride=1, classes=3):
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, stride=stride, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )


def built(student, teacher, *, size=8, **settings):
    """The objective for two models and its losses of one batch."""
    images = torch.randn(4, 1, size, size)
    fitnet = FitNet(label_weight=0, **settings)
    ours, theirs = attach(fitnet, student, teacher, images, seed=1)
    rows = Rows(targets=None, ids=torch.arange(4))
    signals = [
        Signal(logits, features=features) for logits, features in (ours(images), theirs(images))
    ]
    return fitnet, signals, fitnet(*signals, rows, 0.0)


def test_error_is_the_equation():
    x, y = RNG.normal(size=(2, 5, 3, 4, 2))
    found = hint_loss(torch.tensor(x), torch.tensor(y))
    np.testing.assert_allclose(found, oracle.hint(x, y), rtol=1e-12)
    np.testing.assert_allclose(found, [np.mean((a - b) ** 2) for a, b in zip(x, y, strict=True)])


def test_gradient_is_that_of_the_value_and_zero_at_the_hint():
    x, y = torch.tensor(RNG.normal(size=(2, 3, 2, 4)), requires_grad=True).unbind(0)
    assert torch.autograd.gradcheck(hint_loss, (x.detach().requires_grad_(), y.detach()))
    at = y.detach().clone().requires_grad_()
    loss = hint_loss(at, y.detach())
    loss.sum().backward()
    assert (loss == 0).all()
    assert (at.grad == 0).all()


def test_weight_is_the_published_one():
    fitnet, (student, teacher), losses = built(
        net(2), net(5), student_taps=["1"], teacher_taps=["1"]
    )
    predicted = fitnet.regressors[0](student.features["1"])
    expected = 100 * hint_loss(predicted, teacher.features["1"])
    torch.testing.assert_close(losses["fitnet"], expected)
    assert losses["fitnet"].shape == (4,)
    assert list(losses) == ["fitnet"]


def test_the_linear_regressor_is_one_matrix_and_a_bias_per_pixel():
    fitnet, (student, teacher), losses = built(net(2), net(5))
    (regressor,) = fitnet.regressors
    assert sum(p.numel() for p in regressor.parameters()) == 5 * 2 + 5
    maps = student.features[fitnet.student_taps[0]].detach().numpy()
    weight = regressor.weight.detach().numpy()[:, :, 0, 0]
    predicted = np.einsum("oc,rchw->rohw", weight, maps)
    predicted += regressor.bias.detach().numpy()[None, :, None, None]
    expected = 100 * oracle.hint(
        predicted, teacher.features[fitnet.teacher_taps[0]].detach().numpy()
    )
    np.testing.assert_allclose(losses["fitnet"].detach(), expected, rtol=1e-5)


@pytest.mark.parametrize(("strides", "size"), [((1, 2), 8), ((2, 1), 8), ((1, 2), 7), ((1, 3), 7)])
def test_the_larger_map_is_pooled_to_the_smaller(strides, size):
    student, teacher = net(2, stride=strides[0]), net(5, stride=strides[1])
    fitnet, signals, losses = built(student, teacher, size=size)
    maps = [
        signal.features[taps[0]].detach().numpy()
        for signal, taps in zip(signals, (fitnet.student_taps, fitnet.teacher_taps), strict=True)
    ]
    ours, theirs = oracle.at_smaller_size(*maps)
    predicted = fitnet.regressors[0](torch.tensor(ours, dtype=torch.float32)).detach().numpy()
    expected = 100 * oracle.hint(predicted, theirs)
    np.testing.assert_allclose(losses["fitnet"].detach(), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("strides", "kind", "kernel"),
    [
        ((1, 1), nn.Conv2d, (1, 1)),
        ((1, 2), nn.Conv2d, (3, 3)),
        ((2, 1), nn.ConvTranspose2d, (4, 4)),
        ((1, 3), nn.Conv2d, (6, 6)),
    ],
)
def test_convreg_is_the_published_regressor(strides, kind, kernel):
    student, teacher = net(2, stride=strides[0]), net(5, stride=strides[1])
    fitnet, _, losses = built(student, teacher, regressor="convreg")
    convolution, norm, relu = fitnet.regressors[0]
    assert type(convolution) is kind
    assert convolution.kernel_size == kernel
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(relu, nn.ReLU)
    losses["fitnet"].sum().backward()
    assert convolution.weight.grad.abs().sum() > 0


def test_vectors_and_tokens_get_a_linear_layer():
    def tokens(width):
        return nn.Sequential(
            nn.Unflatten(3, (2, 4)),
            nn.Flatten(1, 3),
            nn.Linear(4, width),
            nn.Flatten(),
            nn.Linear(16 * width, 3),
        )

    fitnet, _, losses = built(tokens(2), tokens(5), student_taps=["2"], teacher_taps=["2"])
    assert (fitnet.regressors[0].in_features, fitnet.regressors[0].out_features) == (2, 5)
    assert losses["fitnet"].shape == (4,)
    fitnet, _, losses = built(net(2), net(5), student_taps=["4:in"], teacher_taps=["4:in"])
    assert (fitnet.regressors[0].in_features, fitnet.regressors[0].out_features) == (2, 5)
    assert losses["fitnet"].shape == (4,)


def test_pairs_add_up():
    taps = {"student_taps": ["0", "1"], "teacher_taps": ["0", "1"]}
    fitnet, (student, teacher), losses = built(net(2), net(5), **taps)
    expected = sum(
        100 * hint_loss(regressor(student.features[tap]), teacher.features[tap])
        for regressor, tap in zip(fitnet.regressors, ("0", "1"), strict=True)
    )
    torch.testing.assert_close(losses["fitnet"], expected)


def test_regressors_learn_and_are_a_function_of_the_seed():
    torch.manual_seed(0)
    first, _, losses = built(net(2), net(5))
    torch.manual_seed(7)
    second, _, _ = built(net(2), net(5))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    losses["fitnet"].sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in first.parameters())


@pytest.mark.parametrize(
    ("settings", "strides", "message"),
    [
        ({"student_taps": ["1"], "teacher_taps": ["4:in"]}, (1, 1), "both at maps or both"),
        (
            {"regressor": "convreg", "student_taps": ["4:in"], "teacher_taps": ["1"]},
            (1, 1),
            "both at maps or both",
        ),
        (
            {"regressor": "convreg", "student_taps": ["4:in"], "teacher_taps": ["4:in"]},
            (1, 1),
            "Set regressor to linear",
        ),
        ({"regressor": "convreg"}, (3, 1), r"from \(4, 2, 3, 3\) to \(4, 5, 8, 8\)"),
    ],
)
def test_what_has_no_regressor_is_refused(settings, strides, message):
    with pytest.raises(UserError, match=message):
        built(net(2, stride=strides[0]), net(5, stride=strides[1]), **settings)
