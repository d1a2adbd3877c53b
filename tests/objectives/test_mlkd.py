from __future__ import annotations

import numpy as np
import pytest
import torch

from reference import relational_logit_oracles as oracle
from temperance.errors import UserError
from temperance.objectives.mlkd import MLKD, prediction_levels, published_levels
from temperance.rows import Rows, Signal

STUDENT = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]], dtype=torch.float64)
TEACHER = torch.tensor([[3.0, 1.0, -2.0], [1.0, 0.0, 2.0]], dtype=torch.float64)
DEFAULT = (4.0, 3.0, 5.0, 2.0, 6.0)
GOLDEN = ([1.1986232114, 1.8172076468], 0.0127872235344, 0.0495698760647)
LEVELS = ("instance_level", "batch_level", "class_level")


def drawn(seed: int, rows: int = 6, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    return logits[0], logits[1]


def losses(
    mlkd: MLKD, student: torch.Tensor, teacher: torch.Tensor, views: int = 1
) -> dict[str, torch.Tensor]:
    rows = Rows(targets=None, ids=torch.arange(len(student)), views=views)
    return mlkd(Signal(student), Signal(teacher), rows, 0.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ratio", [1.0, 0.5, 3.0])
def test_the_three_levels_are_the_equations(seed: int, ratio: float) -> None:
    student, teacher = drawn(seed)
    found = losses(MLKD(softening=4.0, teacher_softening=4.0 * ratio), student, teacher)
    args = [(student.tolist(), teacher.tolist(), tau, ratio * tau) for tau in DEFAULT]
    for name, level in (
        ("instance_level", oracle.instance_level),
        ("batch_level", oracle.batch_level),
        ("class_level", oracle.class_level),
    ):
        expected = 0.9 * sum(np.array(level(*arg)) for arg in args)
        np.testing.assert_allclose(found[name], expected, rtol=1e-10)
    assert [found[name].shape for name in LEVELS] == [(6,), (), ()]


@pytest.mark.parametrize("samples", [1, 4, 5])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_the_variant_is_the_published_code(samples: int, ratio: float) -> None:
    """Of an odd and an even number of samples: the median counts itself or not."""
    student, teacher = drawn(samples, rows=2 * samples)
    mlkd = MLKD(variant="code", teacher_softening=4 * ratio)
    found = losses(mlkd, student, teacher, views=2)
    weak, strong = (
        (student[half].tolist(), teacher[half].tolist())
        for half in (slice(None, samples), slice(samples, None))
    )
    expected = oracle.published_mlkd(weak, strong, [(tau, ratio * tau) for tau in DEFAULT])
    for name, value in zip(LEVELS, expected, strict=True):
        np.testing.assert_allclose(found[name], 0.9 * value, rtol=1e-10, err_msg=name)
        assert found[name].shape == ()


def test_golden_values_at_the_defaults() -> None:
    found = losses(MLKD(), STUDENT, TEACHER)
    for name, expected in zip(LEVELS, GOLDEN, strict=True):
        np.testing.assert_allclose(found[name], expected, rtol=1e-9, err_msg=name)


def test_levels_by_hand() -> None:
    """A student that knows nothing, P_s = ½ everywhere, and a teacher that is certain, P_t = I."""
    student = torch.zeros(2, 2, dtype=torch.float64)
    teacher = torch.tensor([[1e4, 0], [0, 1e4]], dtype=torch.float64)
    instance, batch, classes = prediction_levels(student, teacher, [(2.0, 2.0)])
    torch.testing.assert_close(instance, torch.full((2,), 4 * np.log(2)).double())
    # P Pᵀ and Pᵀ P: I against ½ everywhere, four differences of ½, halved.
    assert float(batch) == float(classes) == 0.5


def test_the_masks_of_the_published_code_only_scale() -> None:
    """Three of five samples are up to the median: all five count, with a weight of 3/5."""
    student, teacher = drawn(3, rows=10)
    _, batch, classes = published_levels(student, teacher, [(4.0, 4.0)])
    _, all_batch, all_classes = prediction_levels(student[:5], teacher[:5], [(4.0, 4.0)])
    torch.testing.assert_close(batch, 0.6 * all_batch)
    torch.testing.assert_close(classes, 0.6 * all_classes)


def test_ties_in_confidence_all_count_in_the_published_code() -> None:
    """In the weak view all rows are as confident and all classes as probable: nothing is above the
    median. The strong view does not count."""
    student, teacher = drawn(4, rows=10)
    teacher[:5] = 0
    found = published_levels(student, teacher, [(4.0, 4.0)])
    weak = prediction_levels(student[:5], teacher[:5], [(4.0, 4.0)])
    torch.testing.assert_close(found[1], weak[1])
    torch.testing.assert_close(found[2], weak[2])


def test_what_the_strong_view_teaches_in_the_published_code() -> None:
    """At the first three softenings the instance level; at the others, and in the rest, nothing."""
    student, teacher = drawn(5, rows=8)
    student.requires_grad_()
    pairs = [(tau, tau) for tau in DEFAULT]

    def strong_gradient(loss: torch.Tensor) -> torch.Tensor:
        (gradient,) = torch.autograd.grad(loss, student, retain_graph=True)
        return gradient[4:]

    instance, batch, classes = published_levels(student, teacher, pairs)
    assert not strong_gradient(batch).any()
    assert not strong_gradient(classes).any()
    strong = prediction_levels(student[4:], teacher[4:], pairs[:3])[0].mean()
    torch.testing.assert_close(strong_gradient(instance), strong_gradient(strong))


def test_gradients_are_those_of_the_values() -> None:
    student, teacher = drawn(7, rows=4, classes=3)
    student.requires_grad_()
    pairs = [(4.0, 3.0), (2.0, 1.5), (1.0, 1.0), (5.0, 2.0)]
    assert torch.autograd.gradcheck(lambda z: prediction_levels(z, teacher, pairs), (student,))
    assert torch.autograd.gradcheck(lambda z: published_levels(z, teacher, pairs), (student,))


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_nothing_to_learn_from_oneself(variant: str) -> None:
    student = drawn(1)[0].requires_grad_()
    found = losses(MLKD(variant=variant), student, student.detach(), views=2)
    for name, loss in found.items():
        assert float(loss.detach().abs().max()) < 1e-12, name
    sum(loss.sum() for loss in found.values()).backward()
    assert float(student.grad.abs().max()) < 1e-12


def test_shifted_logits_say_the_same() -> None:
    student, teacher = drawn(2)
    shift = torch.arange(6)[:, None] * 10.0
    for mlkd in (MLKD(), MLKD(variant="code")):
        torch.testing.assert_close(
            losses(mlkd, student + shift, teacher - shift, views=2),
            losses(mlkd, student, teacher, views=2),
        )


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_the_order_of_samples_does_not_matter(variant: str) -> None:
    student, teacher = drawn(6)
    order = torch.tensor([2, 0, 1, 5, 3, 4])  # the same in both views
    one = losses(MLKD(variant=variant), student, teacher, views=2)
    other = losses(MLKD(variant=variant), student[order], teacher[order], views=2)
    for name in LEVELS[1:]:
        torch.testing.assert_close(one[name], other[name])


def test_only_the_published_code_needs_two_views() -> None:
    assert MLKD().needs.views == 1
    code = MLKD(variant="code")
    assert code.needs.views == 2
    with pytest.raises(UserError, match="needs 2 views of each sample"):
        losses(code, *drawn(0))


def test_labels_of_two_views_are_added_as_in_the_published_code() -> None:
    student, teacher = drawn(0)
    rows = Rows(targets=torch.arange(6) % 5, ids=torch.arange(6), views=2)
    code = MLKD(variant="code")(Signal(student), Signal(teacher), rows, 0.0)["labels"]
    cross_entropy = torch.nn.functional.cross_entropy
    weak, strong = (
        cross_entropy(student[half], rows.targets[half]) for half in (slice(3), slice(3, 6))
    )
    torch.testing.assert_close(code.mean(), 0.1 * (weak + strong))
    paper = MLKD()(Signal(student), Signal(teacher), rows, 0.0)["labels"]
    torch.testing.assert_close(code, 2 * paper)


def test_each_setting_has_its_effect() -> None:
    student, teacher = drawn(8)
    alone = losses(MLKD(softening=2.0, other_softenings=()), student, teacher)
    both = losses(MLKD(softening=2.0, other_softenings=(3.0,)), student, teacher)
    other = losses(MLKD(softening=3.0, other_softenings=()), student, teacher)
    for name in LEVELS:
        torch.testing.assert_close(both[name], alone[name] + other[name])
    weights = {"instance_weight": 1.8, "batch_weight": 2.7, "class_weight": 3.6}
    weighted = losses(MLKD(softening=2.0, other_softenings=(), **weights), student, teacher)
    for name, factor in zip(LEVELS, (2, 3, 4), strict=True):
        torch.testing.assert_close(weighted[name], factor * alone[name])


def test_a_calibration_temperature_is_a_softening_of_the_teacher() -> None:
    student, teacher = drawn(9)
    calibrated = losses(MLKD(), student, teacher / 1.7)
    softened = losses(MLKD(teacher_softening=4 * 1.7), student, teacher)
    torch.testing.assert_close(calibrated, softened)
