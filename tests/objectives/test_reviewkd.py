from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reference import adapter_oracles as oracles
from temperance.errors import UserError
from temperance.objectives import attach
from temperance.objectives.reviewkd import ReviewKD, hierarchical_context_loss
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(8)
IMAGES = torch.tensor(RNG.normal(size=(3, 2, 8, 8)))
ROWS = Rows(targets=None, ids=torch.arange(3))


def network(widths: tuple[int, ...], *, first_stride: int = 1) -> nn.Module:
    """Convolutions of stride 2, each followed by tanh, then the mean over the map."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(zip((2, *widths), widths, strict=False)):
        stride = 2 if i else first_stride
        layers += [nn.Conv2d(before, after, 3, stride, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 3))


def built(
    student: nn.Module, teacher: nn.Module, images: Tensor = IMAGES, **settings: Any
) -> tuple[ReviewKD, Signal, Signal]:
    review = ReviewKD(None, **{"weight": 5.0, **settings})
    tapped = attach(review, student.double(), teacher.double(), images)
    review.double()
    signals = []
    for model in tapped:
        assert model is not None
        logits, features = model(images)
        signals.append(Signal(logits.detach(), features=features))
    # Scales and shifts that a test can tell from 1 and 0.
    for module in review.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return review, signals[0], signals[1]


def maps(signal: Signal, taps: tuple[str, ...], *, pooled: bool) -> list[np.ndarray]:
    found = [signal.features[tap].detach().numpy() for tap in taps]
    return [*found, found[-1].mean((2, 3), keepdims=True)] if pooled else found


def layers(review: ReviewKD) -> list[dict[str, np.ndarray]]:
    """The oracle's names for the weights of each level."""
    found = []
    for fusion in review.fusions:
        state = {name: value.numpy() for name, value in fusion.state_dict().items()}
        names = {
            "inner": "inner.0.weight",
            "inner_scale": "inner.1.weight",
            "inner_shift": "inner.1.bias",
            "outer": "outer.0.weight",
            "outer_scale": "outer.1.weight",
            "outer_shift": "outer.1.bias",
            "attention": "attention.weight",
            "attention_bias": "attention.bias",
        }
        found.append({own: state[name] for own, name in names.items() if name in state})
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8])
def test_maps_are_compared_on_every_grid(size: int) -> None:
    student, teacher = RNG.normal(size=(2, 3, 2, size, size))
    found = hierarchical_context_loss(torch.tensor(student), torch.tensor(teacher))
    expected = oracles.hierarchical_context_loss(student, teacher)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_golden() -> None:
    """By hand: an 8 × 8 map of ones in one quarter, against zeros.

    Whole map and both grids that see the quarter alone: 1/4. Mean over the map: 1/16.
    (¼ + ½ · ¼ + ¼ · ¼ + ⅛ · 1/16) / (1 + ½ + ¼ + ⅛)
    """
    student = torch.zeros(1, 1, 8, 8)
    student[..., :4, :4] = 1
    found = hierarchical_context_loss(student, torch.zeros(1, 1, 8, 8))
    assert float(found) == pytest.approx((0.25 * 1.75 + 0.0625 / 8) / 1.875, rel=1e-6)
    assert float(found) == pytest.approx(0.2375, rel=1e-6)


def test_gradient_is_that_of_the_value() -> None:
    student = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: hierarchical_context_loss(x, teacher), (student,))


def test_nothing_to_learn_from_oneself() -> None:
    student = torch.randn(2, 2, 8, 8, requires_grad=True)
    loss = hierarchical_context_loss(student, student.detach())
    loss.sum().backward()
    assert loss.tolist() == [0, 0]
    assert student.grad is not None
    assert student.grad.abs().max() == 0


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize(("own", "others"), [(1, 1), (2, 1), (1, 2)])
def test_levels_are_fused_from_the_deepest_on(pooled: bool, own: int, others: int) -> None:
    torch.manual_seed(2)
    review, student, teacher = built(
        network((3, 4), first_stride=own), network((5, 6), first_stride=others), pooled=pooled
    )
    found = review(student, teacher, ROWS, 0.0)["reviewkd"]
    expected = oracles.review(
        maps(student, review.student_taps, pooled=pooled),
        maps(teacher, review.teacher_taps, pooled=pooled),
        layers(review),
    )
    assert len(review.fusions) == (3 if pooled else 2)
    np.testing.assert_allclose(found.detach(), 5 * expected, rtol=1e-9)


def test_gradient_reaches_every_level_of_the_student() -> None:
    review, student, teacher = built(network((3, 4)), network((5, 6)))
    review.eval()
    features = {
        tap: map_[:2, :, :4, :4].detach().requires_grad_() for tap, map_ in student.features.items()
    }
    others = {tap: map_[:2].detach() for tap, map_ in teacher.features.items()}
    taps = review.student_taps

    def loss(*given: Tensor) -> Tensor:
        own = Signal(student.logits[:2], features=dict(zip(taps, given, strict=True)))
        other = Signal(teacher.logits[:2], features=others)
        return review(own, other, Rows(None, torch.arange(2)), 0.0)["reviewkd"]

    leaves = tuple(features[tap] for tap in taps)
    assert torch.autograd.gradcheck(loss, leaves)
    assert all((g.abs() > 0).any() for g in torch.autograd.grad(loss(*leaves).sum(), leaves))


@pytest.mark.parametrize(("width", "expected"), [(4, 4), (3, 3), (512, 6)])
def test_levels_are_fused_in_the_channels_of_the_last(width: int, expected: int) -> None:
    review, *_ = built(network((3, 6)), network((5, 4)), max_channels=width)
    assert [fusion.inner[0].out_channels for fusion in review.fusions] == [expected] * 3
    assert [fusion.outer[0].out_channels for fusion in review.fusions] == [5, 4, 4]
    assert [fusion.attention is None for fusion in review.fusions] == [False, False, True]


def test_the_weight_rises_over_the_first_20_of_240_epochs() -> None:
    weight = ReviewKD().args.weight
    assert [weight.at(epoch / 240) for epoch in (0, 10, 20, 240)] == [0, 2.5, 5, 5]


def test_one_row_trains_with_the_running_statistics() -> None:
    review, student, teacher = built(network((3, 4)), network((5, 6)))
    one = [
        Signal(s.logits[:1], features={tap: map_[:1] for tap, map_ in s.features.items()})
        for s in (student, teacher)
    ]
    loss = review(*one, Rows(None, torch.arange(1)), 0.0)["reviewkd"]
    loss.sum().backward()
    assert loss.shape == (1,)
    assert torch.isfinite(loss).all()
    mean = review.fusions[-1].inner[1].running_mean
    assert mean.abs().max() == 0
    assert review.fusions[0].inner[1].running_mean.abs().max() > 0


def test_vectors_have_no_levels() -> None:
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(128, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(UserError, match=r"compares feature maps .* is \(3, 4\)"):
        built(mlp, network((3, 4)))
