"""The softmax of many rows, a piece at a time that fits the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 2**19  # logits at a time: two float64 buffers of 4 MB stay in a shared cache
NARROW = 32  # classes: below, reductions over them are faster if each class lies together
CHUNK_ON_DEVICE = 2**24  # elsewhere launching a kernel costs more than a missed cache


MANY = 2**22  # logits: their float64 is a luxury where sums over rows are float64 anyway


def working_dtype(logits: Float[Tensor, "rows classes"]) -> torch.dtype:
    """float64 for wide or few logits; float32 for many narrow ones, twice as fast."""
    wide = logits.dtype == torch.float64 or logits.numel() <= MANY
    return torch.float64 if wide else torch.float32


class SoftmaxChunk(NamedTuple):
    """Some rows' softmax before its normalisation. The next chunk reuses the memory."""

    part: slice
    """Which rows."""
    margin: Float[Tensor, "rows classes"]
    """(logits − the row's maximum) / temperature, ≤ 0; −inf for a masked class."""
    share: Float[Tensor, "rows classes"]
    """exp(margin): 1 for the predicted class."""
    total: Float[Tensor, " rows"]
    """The sum of `share`, ≥ 1; the probabilities are share / total."""


def row_chunks(logits: Float[Tensor, "rows classes"]) -> Iterator[slice]:
    """Slices of rows that hold about `CHUNK` logits each."""
    rows, classes = logits.shape
    step = max(1, (CHUNK if logits.device.type == "cpu" else CHUNK_ON_DEVICE) // max(classes, 8))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def softmax_chunks(
    logits: Float[Tensor, "rows classes"],
    temperature: float | Float[Tensor, " rows"] = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Iterator[SoftmaxChunk]:
    """The softmax of logits / temperature, chunk by chunk.

    Args:
        temperature: one, or one for each row.
        dtype: of the result; the logits are widened before anything else.
    """
    logits = logits.detach()
    margins = shares = logits.new_empty(0, dtype=dtype)
    narrow = logits.shape[1] < NARROW
    for part in row_chunks(logits):
        rows = part.stop - part.start
        if len(margins) < rows:
            margins, shares = (_buffer(rows, logits, dtype, narrow) for _ in range(2))
        margin, share = margins[:rows], shares[:rows]
        margin.copy_(logits[part])
        margin -= (margin if narrow else logits[part]).amax(1, keepdim=True)
        if isinstance(temperature, Tensor):
            margin /= temperature[part, None]
        elif temperature != 1:
            margin /= temperature
        torch.exp(margin, out=share)
        yield SoftmaxChunk(part, margin, share, _sum_of_columns(share) if narrow else share.sum(1))


def _buffer(
    rows: int, logits: Tensor, dtype: torch.dtype, narrow: bool
) -> Float[Tensor, "rows classes"]:
    classes = logits.shape[1]
    if narrow:
        return logits.new_empty((classes, rows), dtype=dtype).T
    return logits.new_empty((rows, classes), dtype=dtype)


def _sum_of_columns(share: Float[Tensor, "rows classes"]) -> Float[Tensor, " rows"]:
    """One after the other: a sum over columns orders them otherwise for some rows, and rows that
    are equal would not be tied any more."""
    total = share[:, 0].clone()
    for column in share.T[1:]:
        total += column
    return total
