"""Damped Newton for small smooth problems, many at a time, with lower bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from temperance.calibration.fit_report import Status

TOLERANCE = 1e-10  # of every component of the projected gradient
MAX_ITERATIONS = 100
MAX_HALVINGS = 50
SUFFICIENT = 1e-4  # share of the decrease that the gradient promises (Armijo)
ROUNDING = 1e-14  # relative: a smaller rise of a value means nothing
SMALLEST = 1e-10  # eigenvalue of the Hessian, relative to the largest


class Derivatives(NamedTuple):
    """Of independent problems, each at a point of its own."""

    value: Float[Tensor, " problems"]
    gradient: Float[Tensor, "problems parameters"]
    curvature: Float[Tensor, "problems parameters parameters"]
    """The Hessian. Where it is not positive definite, its eigenvalues count as positive."""


class Minimum(NamedTuple):
    """Where a minimisation ended."""

    parameters: Float[Tensor, "problems parameters"]
    iterations: int
    status: Status
    """`at_bound` if the iterations ran out."""


def minimise(
    objective: Callable[[Float[Tensor, "problems parameters"]], Derivatives],
    start: Float[Tensor, "problems parameters"],
    *,
    lowest: Float[Tensor, " parameters"] | None = None,
) -> Minimum:
    """Projected Newton with backtracking (Bertsekas 1982), all problems at once, in float64.

    Converged where no component of any projected gradient exceeds 1e-10. No value ends above that
    of its start.

    Args:
        lowest: bounds of the parameters; the start lies within.
    """
    low = torch.full_like(start, -torch.inf) if lowest is None else lowest.expand_as(start)
    first = at = objective(start)
    parameters, iterations = start, 0
    while True:
        held = (parameters <= low) & (at.gradient > 0)
        active = at.gradient.masked_fill(held, 0).abs().amax(1) > TOLERANCE
        if iterations == MAX_ITERATIONS or not bool(active.any()):
            break
        step = _newton_step(at, held, parameters <= low) * active[:, None]
        parameters, at = _backtracked(objective, parameters, at, step, low)
        iterations += 1
    risen = at.value > first.value  # by rounding, where the start was the minimum
    best = torch.where(risen[:, None], start, parameters)
    return Minimum(best, iterations, "at_bound" if bool(active.any()) else "converged")


def _newton_step(
    at: Derivatives,
    held: Bool[Tensor, "problems parameters"],
    at_bound: Bool[Tensor, "problems parameters"],
) -> Float[Tensor, "problems parameters"]:
    """The Newton step of the parameters that are free, without those that would leave a bound."""
    curvature, step = _definite(at.curvature), at.gradient
    for _ in range(step.shape[1]):
        coupled = curvature.masked_fill(held[:, :, None] | held[:, None, :], 0)
        coupled = coupled + torch.diag_embed(held.to(coupled.dtype))
        step = -torch.linalg.solve(coupled, at.gradient.masked_fill(held, 0))
        held = held | (at_bound & (step < 0))
    return step.masked_fill(held, 0)


def _definite(
    hessian: Float[Tensor, "problems parameters parameters"],
) -> Float[Tensor, "problems parameters parameters"]:
    """With the sizes of the eigenvalues in their place: the step goes down along each."""
    eigenvalues, vectors = torch.linalg.eigh(hessian)
    sizes = eigenvalues.abs()
    sizes = sizes.clamp(min=SMALLEST * sizes.amax(1, keepdim=True))
    definite: Tensor = (vectors * sizes[:, None, :]) @ vectors.mT
    return definite


def _backtracked(
    objective: Callable[[Float[Tensor, "problems parameters"]], Derivatives],
    parameters: Float[Tensor, "problems parameters"],
    at: Derivatives,
    step: Float[Tensor, "problems parameters"],
    low: Float[Tensor, "problems parameters"],
) -> tuple[Float[Tensor, "problems parameters"], Derivatives]:
    """After the step, halved in each problem until its value falls as the gradient promises."""
    share = torch.ones_like(at.value)
    for _ in range(MAX_HALVINGS):
        candidate = torch.maximum(parameters + share[:, None] * step, low)
        new = objective(candidate)
        promised = (at.gradient * (candidate - parameters)).sum(1)
        enough = new.value <= at.value + SUFFICIENT * promised + ROUNDING * at.value.abs()
        if bool(enough.all()):
            break
        share = torch.where(enough, share, share / 2)
    return candidate, new
