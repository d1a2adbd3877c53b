"""What the non-parametric calibrators share: probabilities in pieces, frequencies to logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.calibration.calibrators.applying import narrowed
from temperance.calibration.metrics.chunks import CHUNK, row_chunks


class Columns(NamedTuple):
    """Some classes against the rest, float64."""

    probability: Float[Tensor, "classes rows"]
    mass: Float[Tensor, "classes rows"]
    """Of the rows; 0 where the class is masked, which says nothing about its frequency."""
    hit: Float[Tensor, "classes rows"]
    """`mass` where the class is the target, else 0."""


def class_columns(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None,
) -> Iterator[Columns]:
    """The rows as each class sees them, a few classes at a time."""
    rows, classes = logits.shape
    log_total = torch.cat([logits[part].double().logsumexp(1) for part in row_chunks(logits)])
    share = torch.ones_like(log_total) if weights is None else weights.double()
    index = torch.arange(classes, device=logits.device)
    step = max(1, CHUNK // rows)
    for start in range(0, classes, step):
        column = logits[:, start : start + step].double().T
        mass = share * (column > -torch.inf)
        hit = mass * (targets == index[start : start + step, None])
        yield Columns((column - log_total).exp().contiguous(), mass, hit)


def by_rows(
    logits: Float[Tensor, "rows classes"],
    calibrate: Callable[[Float[Tensor, "chunk classes"]], Float[Tensor, "chunk classes"]],
) -> Float[Tensor, "rows classes"]:
    """`calibrate` of the log-probabilities, a chunk of rows at a time: float64 inside only."""
    calibrated = torch.empty_like(logits)
    for part in row_chunks(logits):
        log_probability = logits[part].double().log_softmax(1)
        calibrated[part] = narrowed(calibrate(log_probability), logits[part])
    return calibrated


def sloped(
    frequency: Float[Tensor, "rows classes"],
    log_probability: Float[Tensor, "rows classes"],
    slope: float,
) -> Float[Tensor, "rows classes"]:
    """Log of frequency + slope · probability, normalised over the classes.

    The slope leaves no class that is not masked without mass, and no row without any.
    """
    mass = torch.logaddexp(frequency.log(), log_probability + math.log(slope))
    return mass.masked_fill(log_probability == -torch.inf, -torch.inf).log_softmax(1)


def keep_argmax(
    calibrated: Float[Tensor, "rows classes"], logits: Float[Tensor, "rows classes"]
) -> Float[Tensor, "rows classes"]:
    """Raise the predicted class by a rounding unit where it would tie with another.

    A map that keeps the order in exact numbers may still round two classes to the same value.

    Examples:
        >>> keep_argmax(torch.tensor([[-0.7, -0.7]]), torch.tensor([[1.0, 1.001]])).argmax(1)
        tensor([1])
    """
    predicted = logits.argmax(1, keepdim=True)
    highest, first = calibrated.max(1, keepdim=True)
    raised = highest + highest.abs() * torch.finfo(calibrated.dtype).eps
    return calibrated.scatter(1, predicted, torch.where(first == predicted, highest, raised))
