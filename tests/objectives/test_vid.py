from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from reference import adapter_oracles as oracles
from temperance.errors import UserError
from temperance.objectives import attach
from temperance.objectives.vid import VID, gaussian_nll
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(5)
IMAGES = torch.tensor(RNG.normal(size=(5, 2, 8, 8)))
ROWS = Rows(targets=None, ids=torch.arange(5))


def network(widths: tuple[int, ...], *, first_stride: int = 1) -> nn.Module:
    """Convolutions of stride 2, each followed by ReLU, then the mean over the map."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(zip((2, *widths), widths, strict=False)):
        stride = 2 if i else first_stride
        layers += [nn.Conv2d(before, after, 3, stride, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 3))


def built(vid: VID, student: nn.Module, teacher: nn.Module) -> tuple[Signal, Signal]:
    tapped = attach(vid, student.double(), teacher.double(), IMAGES)
    vid.double()
    signals = []
    for model in tapped:
        assert model is not None
        logits, features = model(IMAGES)
        signals.append(Signal(logits, features=features))
    return signals[0], signals[1]


def weights(vid: VID, level: int) -> list[np.ndarray]:
    found = []
    for name, parameter in vid.regressors[level].named_parameters():
        if name.endswith("weight"):
            found.append(parameter.detach().numpy())
    return found


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2, 3), (1, 1), (1, 2, 1, 1)])
def test_it_is_the_density_of_a_gaussian(shape: tuple[int, ...]) -> None:
    mean, teacher = RNG.normal(scale=3, size=(2, *shape))
    variance = RNG.uniform(0.01, 9, shape[1])
    found = gaussian_nll(*(torch.tensor(x) for x in (mean, teacher, variance)))
    np.testing.assert_allclose(found, oracles.gaussian_nll(mean, teacher, variance), rtol=1e-12)


def test_golden() -> None:
    """By hand: ½ (4 / 5 + log 5) and ½ (log 5), and their mean."""
    found = gaussian_nll(torch.tensor([[3.0, 1.0]]), torch.ones(1, 2), torch.full((2,), 5.0))
    assert float(found) == pytest.approx((0.8 + 2 * math.log(5)) / 4, rel=1e-6)
    assert float(found) == pytest.approx(1.0047190, abs=1e-6)


def test_gradient_is_that_of_the_value() -> None:
    mean = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    variance = torch.rand(3, dtype=torch.float64).add(0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, v: gaussian_nll(m, teacher, v), (mean, variance))


def test_the_levels_are_summed_through_their_regressors() -> None:
    vid = VID(weight=0.5)
    student, teacher = built(vid, network((3, 4)), network((5, 6)))
    assert vid.student_taps == ("1", "3")
    expected = np.zeros(5)
    for level, tap in enumerate(vid.student_taps):
        mean = oracles.vid_regressor(student.features[tap].detach().numpy(), weights(vid, level))
        others = teacher.features[vid.teacher_taps[level]].detach().numpy()
        expected += oracles.gaussian_nll(mean, others, np.full(others.shape[1], 5.0))
    found = vid(student, teacher, ROWS, 0.3)["vid"]
    # The variance starts from a float32 parameter.
    np.testing.assert_allclose(found.detach(), 0.5 * expected, rtol=1e-6)


@pytest.mark.parametrize(("own", "others"), [(1, 2), (2, 1)])
def test_the_larger_map_is_averaged_to_the_smaller(own: int, others: int) -> None:
    vid = VID()
    student, teacher = built(
        vid, network((3,), first_stride=own), network((4,), first_stride=others)
    )
    (tap,) = vid.student_taps
    maps = [oracles.pool(s.features[tap].detach().numpy(), 4) for s in (student, teacher)]
    mean = oracles.vid_regressor(maps[0], weights(vid, 0))
    expected = oracles.gaussian_nll(mean, maps[1], np.full(4, 5.0))
    np.testing.assert_allclose(vid(student, teacher, ROWS, 0.0)["vid"].detach(), expected, 1e-6)


def test_vectors_pass_linear_layers() -> None:
    vid = VID()

    def network_of(units: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(128, units), nn.ReLU(), nn.Linear(units, 3))

    student, teacher = built(vid, network_of(4), network_of(6))
    own, others = student.features["2"], teacher.features["2"]
    mean = oracles.vid_regressor(
        own.detach().numpy()[:, :, None, None], [w[:, :, None, None] for w in weights(vid, 0)]
    )
    expected = oracles.gaussian_nll(mean[:, :, 0, 0], others.detach().numpy(), np.full(6, 5.0))
    np.testing.assert_allclose(vid(student, teacher, ROWS, 0.0)["vid"].detach(), expected, 1e-6)


@pytest.mark.parametrize(("initial", "floor"), [(5.0, 1e-5), (1e-4, 1e-5), (900.0, 2.0)])
def test_variances_start_where_they_are_told(initial: float, floor: float) -> None:
    vid = VID(initial_variance=initial, variance_floor=floor)
    built(vid, network((3,)), network((4,)))
    variance = vid.regressors[0].variance
    np.testing.assert_allclose(variance.detach(), initial, rtol=1e-5)
    with torch.no_grad():
        vid.regressors[0].raw_variance.fill_(-1e4)
    np.testing.assert_allclose(vid.regressors[0].variance.detach(), floor, rtol=1e-12)


def test_variances_are_learned_towards_the_error() -> None:
    """At a fixed mean the best σ² is the mean squared error: what was forgotten elsewhere."""
    vid = VID()
    student, teacher = built(vid, network((3,)), network((4,)))
    assert "regressors.0.raw_variance" in dict(vid.named_parameters())
    regressor = vid.regressors[0]
    with torch.no_grad():
        regressor.mean[4].weight.zero_()
    best = teacher.features["1"].pow(2).mean((0, 2, 3)).detach()
    for factor in (0.5, 1.0, 2.0):
        with torch.no_grad():
            regressor.raw_variance.copy_((factor * best - 1e-5).expm1().log())
        torch.testing.assert_close(regressor.variance.detach(), factor * best)
        loss = vid(student, teacher, ROWS, 0.0)["vid"].mean()
        (gradient,) = torch.autograd.grad(loss, regressor.raw_variance)
        sign = gradient.sign() * (gradient.abs() > 1e-12)
        assert (sign == np.sign(factor - 1)).all()


def test_a_map_is_not_compared_with_a_vector() -> None:
    vid = VID(student_taps=["3"], teacher_taps=["1"])
    with pytest.raises(UserError, match=r"maps with maps .*\(5, 3\) where .*\(5, 4, 8, 8\)"):
        built(vid, network((3,)), network((4,)))


def test_the_variance_is_above_its_floor() -> None:
    with pytest.raises(UserError, match="initial_variance has to be above variance_floor"):
        VID(initial_variance=1.0, variance_floor=1.0)
