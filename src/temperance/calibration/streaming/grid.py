"""The cells that streamed probabilities are counted in: equal in log p, cut at the edges of ECE."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from temperance.calibration.metrics.bins import bin_index, check_bins
from temperance.errors import UserError

FLOOR = 1e-12  # the first cell holds all probabilities below
KEYS = 2**16  # about so many at most: those that occur often fit the cache
MANTISSA = 52  # bits of a float64 after its exponent


class ExactBuffers(nn.Module):
    """A module whose buffers keep their dtype when a model around it is cast, as by `half()`."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(keeping_dtype(fn), recurse)  # type: ignore[no-untyped-call]
        return self


def keeping_dtype(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What moves tensors as `fn` does, but casts none."""

    def move(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

    return move


class LogGrid(ExactBuffers):
    """Cells (lower, upper] of 0..1, the first closed at 0.

    `size` cells are equal in log p from 1e-12 to 1; those that an edge k / n_bins falls into are
    cut there, so that the cells also add up to the bins of ECE.

    Args:
        size: how many cells, before the cuts.
        n_bins: of ECE.

    Raises:
        UserError: for fewer than one cell or bin.

    Examples:
        >>> grid = LogGrid(3, n_bins=2)
        >>> [float(f"{edge:.0e}") for edge in grid.upper]
        [1e-08, 0.0001, 0.5, 1.0]
        >>> grid.cells_of(torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64)).tolist()
        [0, 2, 2, 3]
    """

    upper: Float[Tensor, " cells"]
    bin_of_cell: Int[Tensor, " cells"]
    start: Int[Tensor, " keys"]

    def __init__(self, size: int, *, n_bins: int) -> None:
        super().__init__()
        check_bins(n_bins)
        if size < 1:
            raise UserError(f"{size} cells", where="grid", mend="Give at least 1")
        self.n_bins = n_bins
        spaced = np.exp(np.linspace(math.log(FLOOR), 0, size + 1)[1:])
        upper = torch.from_numpy(np.union1d(spaced, np.arange(1, n_bins) / n_bins))
        self.shift, self.first_key, self.steps, start = _index(upper)
        self.register_buffer("upper", upper, persistent=False)
        self.register_buffer("bin_of_cell", bin_index(upper, n_bins), persistent=False)
        self.register_buffer("start", start, persistent=False)

    def __len__(self) -> int:
        return len(self.upper)

    @property
    def lower(self) -> Float[Tensor, " cells"]:
        """Lower edges."""
        return torch.cat([self.upper.new_zeros(1), self.upper[:-1]])

    def cells_of(self, probabilities: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The cell of each probability (contiguous, float64): `searchsorted(upper, …)`, exactly.

        A search costs ten times as much. A key leads to the first cell that it may mean, and
        comparing with the edge of that one (rarely with the next, too) settles it.
        """
        flat = probabilities.view(-1)
        key = (_bits(flat) >> self.shift).sub_(self.first_key).clamp_(0, len(self.start) - 1)
        cell = self.start.index_select(0, key)
        for _ in range(self.steps):
            cell += self.upper.index_select(0, cell) < flat
        return cell.view_as(probabilities)

    def bins_of_cells(
        self, sums: Float[Tensor, "*columns cells"]
    ) -> Float[Tensor, "*columns bins"]:
        """Sums over cells, added up to sums over the bins of ECE."""
        bins = sums.new_zeros((*sums.shape[:-1], self.n_bins))
        return bins.index_add_(-1, self.bin_of_cell, sums)


def _index(upper: Float[Tensor, " cells"]) -> tuple[int, int, int, Int[Tensor, " keys"]]:
    """The shift that makes keys of bits, the first key, the most edges that a key may have to
    pass, and the first cell of each key.

    A key is the head of a probability's bits: the exponent, and as much of the mantissa as it
    takes to tell the edges apart.
    """
    for shift in range(MANTISSA, 0, -1):
        first = int(_bits(torch.tensor(FLOOR, dtype=torch.float64)) >> shift)
        edges = torch.bincount((_bits(upper) >> shift) - first)
        steps = int(edges.amax())
        if steps == 1 or len(edges) > KEYS:
            break
    return shift, first, steps, edges.cumsum(0) - edges


def _bits(values: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The bits of float64 numbers as integers, which are in the same order if none is negative."""
    return values.view(torch.int64)
