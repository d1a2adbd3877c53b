"""Errors of probabilities that are known by sums over cells, and how far off that may be.

Every probability counts as the mean of those in its cell: the errors are exactly those of
probabilities quantised so, and differ from the errors of the rows by no more than the bound.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from temperance.calibration.metrics.bins import BinSums, block_sizes
from temperance.calibration.metrics.smooth import ks_of_ordered, on_grid, smooth_error_of_grid


class Bounded(NamedTuple):
    """An error of the quantised probabilities, and how far it may be from that of the rows."""

    value: float
    bound: float


class CellSums(NamedTuple):
    """Sums over the rows of each cell (lower, upper], float64."""

    lower: Float[Tensor, " cells"]
    upper: Float[Tensor, " cells"]
    sums: BinSums

    def without_empty(self) -> CellSums:
        """The cells that hold something."""
        full = self.sums.mass > 0
        sums = BinSums(*(column[full] for column in self.sums))
        return CellSums(self.lower[full], self.upper[full], sums)


def smooth_error_of_cells(cells: CellSums) -> Bounded:
    """Smooth ECE.

    Quantising moves a row's kernel from c to the mean m of its cell, and so changes the smoothed
    surplus at bandwidth σ by at most √(2/π) |c − m| / σ times the row's |c − hit|. The error falls
    with σ; that bounds how far the σ is that equals it.
    """
    lower, upper, (mass, confidence, hits) = cells.without_empty()
    mean, total = confidence / mass, float(mass.sum())
    error, bandwidth = smooth_error_of_grid(on_grid(mean, confidence - hits) / total)
    # of Σ |c − m| · |c − hit|, one factor is bounded row by row and the other in sum
    farthest = torch.maximum(upper - mean, mean - lower)
    deviation = 2 * mass * (upper - mean) * (mean - lower) / (upper - lower)
    surplus = (mass - hits) * upper + hits * (1 - lower)
    moved = torch.minimum(farthest * surplus, deviation * torch.maximum(upper, 1 - lower))
    change = math.sqrt(2 / math.pi) * float(moved.sum()) / total  # times 1 / σ
    # a larger σ* has σ* ≤ error + change / σ*
    largest = max((error + math.sqrt(error**2 + 4 * change)) / 2, bandwidth)
    return Bounded(error, max(largest - error, min(change / bandwidth, error)))


def ks_error_of_cells(cells: CellSums) -> Bounded:
    """KS calibration error: what it is at the edges of the cells; between them it may be larger.

    Within a cell the cumulative surplus rises by the confidence of the misses and falls by what
    the hits lack. Of these two sums the count bounds one, and the cell's surplus is their
    difference.
    """
    lower, upper, (mass, confidence, hits) = cells.without_empty()
    surplus, total = confidence - hits, float(mass.sum())
    error = ks_of_ordered(upper, surplus, total)
    start = surplus.cumsum(0) - surplus
    rise = torch.minimum((mass - hits) * upper, hits * (1 - lower) + surplus)
    fall = torch.minimum(hits * (1 - lower), (mass - hits) * upper - surplus)
    largest = torch.maximum((start + rise).abs(), (start - fall).abs()).amax()
    return Bounded(error, max(float(largest) / total - error, 0.0))


def adaptive_error_of_cells(cells: CellSums, n_ranges: int) -> Bounded:
    """ACE of sums `(classes, cells)` that hold equally many rows of each class, unweighted.

    A border between two ranges that cuts a cell shares out its rows as ties are shared. What the
    rows below it truly sum up to is bounded by the edges of the cell and by its number of hits.
    """
    lower, upper, sums = cells
    count = sums.mass.cumsum(1)
    size = block_sizes(round(float(count[0, -1])), n_ranges).to(count)
    border = size.cumsum(0)[:-1].expand(len(count), -1).contiguous()
    cut = torch.searchsorted(count, border)
    mass, confidence, hits = (column.gather(1, cut) for column in sums)
    above = count.gather(1, cut) - border
    below = mass - above
    share = below / mass
    surplus = (sums.confidence - sums.hits).cumsum(1)
    at_border = surplus.gather(1, cut) - (1 - share) * (confidence - hits)
    error = torch.cat([pad(at_border, (1, 0)), surplus[:, -1:]], 1).diff(dim=1)
    # how much lower and higher the surplus below each border may be
    least = torch.maximum(below * lower[cut], confidence - above * upper[cut])
    low = (least - share * confidence) - (torch.minimum(below, hits) - share * hits)
    high = share * hits - (hits - above).clamp(min=0)
    low, high = pad(low, (1, 1)), pad(high, (1, 1))
    off = torch.maximum(high[:, 1:] - low[:, :-1], high[:, :-1] - low[:, 1:])
    return Bounded(float((error.abs() / size).mean()), float((off / size).mean()))
