from __future__ import annotations

import pytest
import torch

from reference import feature_oracles as oracle
from temperance.objectives.activations import pooled_to_smaller, rescaled, unit_length


@pytest.mark.parametrize(
    ("student", "teacher", "size"),
    [((4, 4), (4, 4), (4, 4)), ((8, 6), (4, 6), (4, 6)), ((3, 8), (7, 5), (3, 5))],
)
def test_the_larger_map_is_pooled_per_side(student, teacher, size):
    maps = [torch.randn(2, c, *s, dtype=torch.float64) for c, s in ((3, student), (5, teacher))]
    pooled = pooled_to_smaller(*maps)
    assert [x.shape for x in pooled] == [(2, 3, *size), (2, 5, *size)]
    for found, expected in zip(
        pooled, oracle.at_smaller_size(*(x.numpy() for x in maps)), strict=True
    ):
        torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1.0, 1e30])
def test_lengths_are_one_at_any_scale(scale):
    x = torch.randn(4, 6) * scale
    x[2] = 0
    x.requires_grad_()
    units = unit_length(x, 1)
    lengths = units.detach().double().norm(dim=1)
    torch.testing.assert_close(
        lengths, torch.tensor([1.0, 1, 0, 1], dtype=torch.float64), rtol=0, atol=1e-6
    )
    units[2].sum().backward()
    assert (x.grad == 0).all()


def test_gradient_of_a_unit_vector_is_that_of_the_value():
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: unit_length(x, 1), (x,))
    assert torch.autograd.gradcheck(lambda x: unit_length(rescaled(x, (0, 1)), 0), (x,))
