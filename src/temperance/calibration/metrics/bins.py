"""Sums over bins of confidence, and the calibration errors that are functions of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from temperance.errors import UserError

ECE_BINS = 15


class CalibrationError(NamedTuple):
    """Shares of a model's expected calibration error; `over + under` is the usual ECE."""

    over: float
    under: float

    @property
    def total(self) -> float:
        """The usual ECE, in 0..1."""
        return self.over + self.under

    @property
    def signed(self) -> float:
        """Mean confidence − accuracy, whatever the bins."""
        return self.over - self.under


class DebiasedError(NamedTuple):
    """A calibration error less its expectation under no error; see `debiased_calibration_error`."""

    squared: float
    """Estimate of the mean squared gap of the bins; below 0 about every other time without one."""

    @property
    def root(self) -> float:
        """Root of the square, 0 if that is negative."""
        return math.sqrt(max(self.squared, 0))


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """What a reliability diagram shows, per bin of equal width; arrays of length `n_bins`."""

    lower: NDArray[np.float64]
    """Lower edges k / n_bins; the bins are (lower, upper], the first closed at 0."""
    count: NDArray[np.int64]
    """Rows in the bin."""
    confidence: NDArray[np.float64]
    """Mean confidence of its rows; NaN in an empty bin."""
    accuracy: NDArray[np.float64]
    """Share of its rows that are predicted correctly; NaN in an empty bin."""

    @property
    def error(self) -> CalibrationError:
        """ECE of these bins, over- and under-confidence apart."""
        surplus = np.nan_to_num(self.count * (self.confidence - self.accuracy))
        return CalibrationError(
            over=float(surplus.clip(min=0).sum() / self.count.sum()),
            under=float((-surplus).clip(min=0).sum() / self.count.sum()),
        )


class BinSums(NamedTuple):
    """Sums over the rows of each bin, float64; they add up over batches and processes."""

    mass: Float[Tensor, " bins"]
    """How many rows, or their weight."""
    confidence: Float[Tensor, " bins"]
    hits: Float[Tensor, " bins"]

    @property
    def error(self) -> CalibrationError:
        """ECE as Σ |Σ (confidence − hit)| / N: empty bins need no special case."""
        surplus = self.confidence - self.hits
        return CalibrationError(
            over=float(surplus.clamp(min=0).sum() / self.mass.sum()),
            under=float((-surplus).clamp(min=0).sum() / self.mass.sum()),
        )

    @property
    def root_mean_square(self) -> float:
        """RMSCE of these bins."""
        full = self.mass > 0
        surplus = (self.confidence - self.hits)[full]
        return math.sqrt(float((surplus.square() / self.mass[full]).sum() / self.mass.sum()))

    @property
    def debiased(self) -> DebiasedError:
        """The debiased mean squared gap; the masses have to be numbers of rows."""
        full = self.mass > 1
        n, confidence, hits = self.mass[full], self.confidence[full], self.hits[full]
        frequency = hits / n
        noise = frequency * (1 - frequency) / (n - 1)
        squared = ((confidence - hits) / n).square() - noise
        return DebiasedError(float((n * squared).sum() / self.mass.sum()))

    def largest_gap(self, min_count: float = 1) -> float:
        """MCE of these bins, among those that weigh at least so much."""
        full = self.mass >= max(min_count, torch.finfo(torch.float64).tiny)
        gaps = ((self.confidence - self.hits)[full] / self.mass[full]).abs()
        return float(gaps.amax()) if len(gaps) else 0.0


def bin_index(confidence: Float[Tensor, " rows"], n_bins: int) -> Int[Tensor, " rows"]:
    """Which of the bins (k/M, (k+1)/M] holds each confidence (float64); 0 counts in the first."""
    check_bins(n_bins)
    # edges k / M, and not ceil(confidence · M): (7 / 25) · 25 > 7 in floating point
    edges = torch.arange(1, n_bins, dtype=torch.float64, device=confidence.device) / n_bins
    return torch.searchsorted(edges, confidence.contiguous())


def check_bins(n_bins: int) -> None:
    """Refuse fewer than one bin."""
    if n_bins < 1:
        raise UserError(f"{n_bins} bins", where="n_bins", mend="Give at least 1")


def equal_width(
    confidence: Float[Tensor, " rows"],
    hit: Float[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None = None,
    *,
    n_bins: int,
) -> BinSums:
    """Sums over the bins (k/M, (k+1)/M]."""
    index = bin_index(confidence, n_bins)
    if weights is None:
        return BinSums(
            torch.bincount(index, minlength=n_bins).double(),
            torch.bincount(index, confidence, minlength=n_bins),
            torch.bincount(index, hit, minlength=n_bins),
        )
    share = weights.double()
    columns = (share, share * confidence, share * hit)
    return BinSums(*(torch.bincount(index, column, minlength=n_bins) for column in columns))


def equal_mass(
    confidence: Float[Tensor, " rows"], hit: Float[Tensor, " rows"], *, n_bins: int
) -> BinSums:
    """Sums over blocks of the sorted confidences, cut as `np.array_split` cuts.

    Rows of equal confidence share their hits evenly, so their order does not matter.
    """
    check_bins(n_bins)
    ordered, order = confidence.sort()
    shared = shared_by_ties(ordered, hit[order])
    index = equal_mass_blocks(len(ordered), n_bins).to(confidence.device)
    return BinSums(
        torch.bincount(index).double(),
        torch.bincount(index, ordered),
        torch.bincount(index, shared),
    )


def equal_mass_blocks(rows: int, n_bins: int) -> Int[Tensor, " rows"]:
    """Which block each rank belongs to."""
    size = block_sizes(rows, n_bins)
    return torch.arange(len(size)).repeat_interleave(size)


def shared_by_ties(
    ordered: Float[Tensor, " rows"], values: Float[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """Each value replaced by the mean over the rows that are tied with it in the order."""
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    group = starts.cumsum(0) - 1
    return (torch.bincount(group, values) / torch.bincount(group))[group]


def block_sizes(rows: int, blocks: int) -> Int[Tensor, " blocks"]:
    """How `np.array_split` cuts: sizes differ by at most 1, the larger first; never empty."""
    blocks = min(blocks, rows)
    small, larger = divmod(rows, blocks)
    return small + (torch.arange(blocks) < larger).long()


def binned_error(
    confidence: Float[Tensor, " rows"],
    correct: Float[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None = None,
    *,
    n_bins: int,
) -> CalibrationError:
    """ECE over bins of equal width."""
    return equal_width(confidence, correct, weights, n_bins=n_bins).error


def bins_of(
    confidence: Float[Tensor, " rows"], correct: Float[Tensor, " rows"], n_bins: int
) -> ReliabilityBins:
    """The bins of a reliability diagram."""
    sums = equal_width(confidence, correct, n_bins=n_bins)
    return ReliabilityBins(
        lower=np.arange(n_bins) / n_bins,
        count=sums.mass.long().cpu().numpy(),
        confidence=(sums.confidence / sums.mass).cpu().numpy(),
        accuracy=(sums.hits / sums.mass).cpu().numpy(),
    )
