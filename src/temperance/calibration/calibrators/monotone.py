"""Isotonic regression of hits on probabilities, in memory that grows with the hits only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy.optimize import isotonic_regression
from torch import Tensor


class Knots(NamedTuple):
    """A non-decreasing function: linear between its knots, constant outside them.

    Positions from some knot on may be infinite; the first never is.
    """

    position: Float[Tensor, " knots"]
    frequency: Float[Tensor, " knots"]


def fit_isotonic(
    hit_at: Float[Tensor, " hits"],
    hit_mass: Float[Tensor, " hits"],
    misses: Iterable[tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]],
) -> Knots:
    """The isotonic regression of 0/1 outcomes on a probability (pool adjacent violators).

    Exact without sorting the misses: those between two hits are always pooled with the hit below
    them, since they hold none, and those below every hit have frequency 0. So their mass in
    between is all that is needed. The first and the last probability of each pooled block are
    knots, as in scikit-learn. Without any observation: the identity.

    Args:
        hit_at: probabilities with outcome 1, in any order.
        hit_mass: their weights, > 0.
        misses: probabilities with outcome 0 and their weights ≥ 0, piece by piece.

    Examples:
        >>> hit_at, missed_at = torch.tensor([0.4, 0.9]), torch.tensor([0.1, 0.6])
        >>> knots = fit_isotonic(hit_at, torch.ones(2), [(missed_at, torch.ones(2))])
        >>> knots.position
        tensor([0.1000, 0.1000, 0.4000, 0.6000, 0.9000, 0.9000,    inf])
        >>> knots.frequency
        tensor([0.0000, 0.0000, 0.5000, 0.5000, 1.0000, 1.0000, 1.0000])
    """
    start, block = torch.unique(hit_at, return_inverse=True)
    blocks = len(start) + 1  # the first is what lies below every hit
    hits = start.new_zeros(blocks).index_add(0, block + 1, hit_mass)
    mass = hits.clone()
    last = torch.cat([start.new_full((1,), -torch.inf), start])
    for at, weight in misses:
        block = torch.searchsorted(start, at, right=True)
        mass.index_add_(0, block, weight)
        last.scatter_reduce_(0, block, torch.where(weight > 0, at, -torch.inf), "amax")
    seen = mass > 0
    first = torch.cat([last[:1], start])[seen]
    last, hits, mass = last[seen], hits[seen], mass[seen]
    if len(mass) == 0:
        identity = start.new_tensor([0, 1, torch.inf])
        return Knots(identity, identity.clamp(max=1))
    pooled = isotonic_regression((hits / mass).cpu().numpy(), weights=mass.cpu().numpy())
    edges = torch.from_numpy(pooled.blocks).long().to(start.device)
    position = torch.stack([first[edges[:-1]], last[edges[1:] - 1]], 1).flatten()
    frequency = torch.from_numpy(pooled.x).to(start)[edges[:-1]].repeat_interleave(2)
    infinity = start.new_tensor([torch.inf])
    return Knots(torch.cat([position, infinity]), torch.cat([frequency, frequency[-1:]]))


def interpolate(
    position: Float[Tensor, "functions knots"],
    frequency: Float[Tensor, "functions knots"],
    at: Float[Tensor, "functions points"],
) -> Float[Tensor, "functions points"]:
    """Each function at points of its own.

    Examples:
        >>> position, frequency = torch.tensor([[0.0, 1.0, torch.inf], [0.2, 0.4, 1.0]])[:, None]
        >>> interpolate(position, frequency, torch.tensor([[-1.0, 0.5, 2.0]]))
        tensor([[0.2000, 0.3000, 0.4000]])
    """
    right = torch.searchsorted(position, at, right=True).clamp(min=1)
    x, x_right = position.gather(1, right - 1), position.gather(1, right)
    y, y_right = frequency.gather(1, right - 1), frequency.gather(1, right)
    return y + ((at - x) / (x_right - x)).clamp(0, 1) * (y_right - y)
