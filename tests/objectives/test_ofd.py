from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reference import adapter_oracles as oracles
from temperance.objectives import attach
from temperance.objectives.ofd import OFD, expected_negative, partial_l2
from temperance.rows import Rows, Signal

RNG = np.random.default_rng(9)
IMAGES = torch.tensor(RNG.normal(size=(4, 2, 8, 8)))
ROWS = Rows(targets=None, ids=torch.arange(4))
BEFORE_RELU = {"student_taps": ["1", "4"], "teacher_taps": ["1", "4"]}


def network(widths: tuple[int, int], *, first_stride: int = 1, affine: bool = True) -> nn.Module:
    """Two times convolution, batch normalisation and ReLU, the second with stride 2."""
    layers: list[nn.Module] = []
    for before, after, stride in ((2, widths[0], first_stride), (*widths, 2)):
        norm = nn.BatchNorm2d(after, affine=affine)
        if affine:
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
        layers += [nn.Conv2d(before, after, 3, stride, padding=1), norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 3))


def built(student: nn.Module, teacher: nn.Module, **settings: Any) -> tuple[OFD, Signal, Signal]:
    ofd = OFD(None, **settings)
    tapped = attach(ofd, student.double(), teacher.double().eval(), IMAGES)
    ofd.double()
    signals = []
    for model in tapped:
        assert model is not None
        logits, features = model(IMAGES)
        signals.append(Signal(logits.detach(), features=features))
    return ofd, signals[0], signals[1]


def feature(signal: Signal, tap: str) -> np.ndarray:
    return signal.features[tap].detach().numpy()


def connected(ofd: OFD, level: int, x: np.ndarray) -> np.ndarray:
    convolution, norm = ofd.connectors[level]
    y = oracles.convolve(x, convolution.weight.detach().numpy())
    return oracles.batch_norm(y, norm.weight.detach().numpy(), norm.bias.detach().numpy())


def test_distance_is_partial() -> None:
    student, teacher = RNG.normal(scale=2, size=(2, 5, 3, 4, 2))
    margin = -RNG.uniform(0, 2, 3)
    found = partial_l2(*(torch.tensor(x) for x in (student, teacher, margin)))
    np.testing.assert_allclose(found, oracles.partial_l2(student, teacher, margin), rtol=1e-12)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (-5.0, -9.0, 0.0),  # below the margin, both
        (-2.0, -9.0, 0.0),  # at the margin
        (-1.0, -9.0, 1.0),  # above the margin, where the teacher is below
        (-5.0, -1.0, 0.0),  # lower than a negative teacher
        (-0.5, -1.0, 0.25),  # higher than a negative teacher
        (-1.0, 0.0, 0.0),  # lower than a teacher at 0
        (1.0, 0.0, 1.0),
        (-1.0, 1.0, 4.0),  # a positive teacher is followed from below
        (3.0, 1.0, 4.0),  # and from above
        (1.0, 1.0, 0.0),
    ],
)
def test_golden(student: float, teacher: float, expected: float) -> None:
    """Margin −2, by hand."""
    given = (torch.tensor(x).view(1, 1, 1, 1) for x in (student, teacher))
    assert partial_l2(*given, torch.tensor([-2.0])).tolist() == [expected]


def test_gradient_is_that_of_the_value() -> None:
    student = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    margin = torch.tensor([-1.0, -0.5, 0.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: partial_l2(x, teacher, margin), (student,))


def test_nothing_to_learn_from_oneself() -> None:
    """Even where the teacher is below its margin."""
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = partial_l2(student, student.detach(), torch.full((3,), -0.5))
    loss.sum().backward()
    assert loss.tolist() == [0, 0]
    assert student.grad is not None
    assert student.grad.abs().max() == 0


@pytest.mark.parametrize("deviation", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("mean", [-5.0, -0.3, 0.0, 0.4, 2.0])
def test_margin_of_a_normalisation(mean: float, deviation: float) -> None:
    if mean / deviation > 8:
        pytest.skip("SciPy's mean cancels there; the next test goes on from there")
    expected = oracles.expected_negative(mean, deviation)
    for sign in (1, -1):
        found = expected_negative(
            torch.tensor([mean], dtype=torch.float64),
            torch.tensor([sign * deviation], dtype=torch.float64),
        )
        np.testing.assert_allclose(found, [expected], rtol=1e-6)


def test_margin_of_a_channel_that_is_hardly_ever_negative() -> None:
    """Mills' ratio: −σ² / μ · (1 − 2 σ² / μ²) far out; and nothing where nothing varies."""
    mean = torch.tensor([20.0, 1e4, 1.0, 0.0, -2.0], dtype=torch.float64)
    deviation = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    expected = [-(1 - 2 / 400) / 20, -1e-4, 0, 0, -2]
    np.testing.assert_allclose(expected_negative(mean, deviation), expected, rtol=1e-4, atol=1e-25)


def test_margins_are_the_normalisations_where_these_are_tapped() -> None:
    ofd, student, teacher = built(network((3, 4)), network((5, 6)), weight=0.01, **BEFORE_RELU)
    expected = np.zeros(4)
    for level, tap in enumerate(("1", "4")):
        margin = ofd.margins[level].mean.numpy()
        distance = oracles.partial_l2(
            connected(ofd, level, feature(student, tap)), feature(teacher, tap), margin
        )
        expected += distance / (2, 1)[level]
    found = ofd(student, teacher, ROWS, 0.0)["ofd"]
    np.testing.assert_allclose(found.detach(), 0.01 * expected, rtol=1e-9)


@pytest.mark.parametrize("affine", [True, False])
def test_known_margins(affine: bool) -> None:
    teacher = network((5, 6), affine=affine)
    ofd, *signals = built(network((3, 4)), teacher, **BEFORE_RELU)
    for level, tap in enumerate((1, 4)):
        norm = teacher[tap]
        shift, scale = torch.zeros(norm.num_features), torch.ones(norm.num_features)
        if affine:
            shift, scale = norm.bias.detach(), norm.weight.detach()
        expected = [
            oracles.expected_negative(float(b), float(w)) for b, w in zip(shift, scale, strict=True)
        ]
        np.testing.assert_allclose(ofd.margins[level].mean, expected, rtol=1e-5)
    before = ofd.margins[0].mean.clone()
    ofd(*signals, ROWS, 0.0)
    assert torch.equal(ofd.margins[0].mean, before)


def test_other_margins_are_the_mean_of_the_negative_responses_so_far() -> None:
    taps = {"student_taps": ["0"], "teacher_taps": ["0"]}
    ofd, student, teacher = built(network((3, 4)), network((5, 6)), **taps)
    responses = feature(teacher, "0")
    responses[:, 0] = np.abs(responses[:, 0])  # a channel that is never negative
    responses[:2, 1] = np.abs(responses[:2, 1])  # one that is not at first
    responses[:, 2, :3] = 0  # 0 is not negative

    def part(signal: Signal, rows: slice) -> Signal:
        features = {tap: map_[rows].detach() for tap, map_ in signal.features.items()}
        return Signal(signal.logits[rows], features=features)

    others = Signal(teacher.logits, features={"0": torch.tensor(responses)})
    seen = []
    for rows in (slice(0, 2), slice(2, 3), slice(3, 4)):
        seen.append(responses[rows])
        n = len(seen[-1])
        found = ofd(part(student, rows), part(others, rows), Rows(None, torch.arange(n)), 0.0)
        expected = np.zeros(5)
        for c in range(5):
            negative = [x for batch in seen for x in batch[:, c].ravel() if x < 0]
            expected[c] = np.mean(negative) if negative else 0
        np.testing.assert_allclose(ofd.margins[0].mean, expected, rtol=1e-10)
        own = connected(ofd, 0, feature(student, "0")[rows])
        distance = oracles.partial_l2(own, seen[-1], expected)
        np.testing.assert_allclose(found["ofd"].detach(), 1e-3 * distance, rtol=1e-9)

    state = {name: value.clone() for name, value in ofd.state_dict().items()}
    ofd.eval()(student, teacher, ROWS, 0.0)
    for name, value in ofd.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_behind_a_relu_the_student_has_to_be_silent_where_the_teacher_is() -> None:
    ofd, student, teacher = built(network((3, 4)), network((5, 6)))
    assert ofd.teacher_taps == ("2", "5")
    found = ofd(student, teacher, ROWS, 0.0)["ofd"]
    expected = np.zeros(4)
    for level, tap in enumerate(("2", "5")):
        assert ofd.margins[level].mean.abs().max() == 0
        own, others = connected(ofd, level, feature(student, tap)), feature(teacher, tap)
        error = np.where(others > 0, own - others, np.maximum(own, 0)) ** 2
        expected += error.sum((1, 2, 3)) / (2, 1)[level]
    np.testing.assert_allclose(found.detach(), 1e-3 * expected, rtol=1e-9)


@pytest.mark.parametrize(("own", "others"), [(1, 2), (2, 1)])
def test_the_larger_map_is_averaged_to_the_smaller(own: int, others: int) -> None:
    taps = {"student_taps": ["0"], "teacher_taps": ["0"]}
    ofd, student, teacher = built(
        network((3, 4), first_stride=own), network((5, 6), first_stride=others), **taps
    )
    x, y = (oracles.pool(feature(s, "0"), 4) for s in (student, teacher))
    # The margin is that of the responses as the teacher gives them.
    responses = feature(teacher, "0").transpose(1, 0, 2, 3).reshape(5, -1)
    margin = np.array([channel[channel < 0].mean() for channel in responses])
    expected = oracles.partial_l2(connected(ofd, 0, x), y, margin)
    found = ofd(student, teacher, ROWS, 0.0)["ofd"]
    np.testing.assert_allclose(found.detach(), 1e-3 * expected, rtol=1e-9)


def test_one_row_of_one_pixel_trains() -> None:
    def tiny(channels: int) -> nn.Module:
        body = (nn.Conv2d(2, channels, 8), nn.BatchNorm2d(channels), nn.ReLU())
        return nn.Sequential(*body, nn.Flatten(), nn.Linear(channels, 3))

    taps = {"student_taps": ["1"], "teacher_taps": ["1"]}
    ofd, student, teacher = built(tiny(3), tiny(5), **taps)
    one: list[Signal] = []
    for signal in (student, teacher):
        features: dict[str, Tensor] = {"1": signal.features["1"][:1].detach()}
        one.append(Signal(signal.logits[:1], features=features))
    loss = ofd(one[0], one[1], Rows(None, torch.arange(1)), 0.0)["ofd"]
    loss.sum().backward()
    assert torch.isfinite(loss).all()
