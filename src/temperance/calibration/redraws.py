"""Hits and labels redrawn from a model's own probabilities, and its errors under them.

None of these checks its input.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.fft import dct, idct
from torch import Tensor

from temperance.calibration.metrics.bins import bin_index, block_sizes
from temperance.calibration.metrics.chunks import softmax_chunks
from temperance.calibration.metrics.ranges import RankRanges
from temperance.calibration.metrics.smooth import GRID, on_grid, smooth_error_of_grid

AT_ONCE = 2**20  # numbers of a few redraws: three or four float64 arrays of 8 MB
COARSE = (2**9, 2**11)  # cells that do for a kernel wider than 8 of them
BISECTIONS = 20


def uniforms(
    rows: int,
    redraws: int,
    *,
    seed: int,
    groups: Int[Tensor, " rows"] | None = None,
    shared: float = 0.0,
) -> Iterator[Float[Tensor, "some rows"]]:
    """Numbers in [0, 1) that decide what is drawn, a few redraws at a time.

    Each row takes its group's number rather than one of its own with probability √shared: two
    rows of a group share their luck with probability `shared`, and each hit is as probable as ever.
    Drawn on the CPU: the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    member = None
    if groups is not None:
        _, member = torch.unique(groups, return_inverse=True)
        member = member.cpu()
    step = max(1, AT_ONCE // rows)
    for start in range(0, redraws, step):
        size = min(step, redraws - start)
        own = torch.rand((size, rows), generator=generator, dtype=torch.float64)
        if member is not None:
            units = int(member.max()) + 1
            common = torch.rand((size, units), generator=generator, dtype=torch.float64)
            takes = torch.rand((size, rows), generator=generator) < shared**0.5
            own = torch.where(takes, common[:, member], own)
        yield own


def shared_luck(
    confidence: Float[Tensor, " rows"],
    hit: Float[Tensor, " rows"],
    groups: Int[Tensor, " rows"],
    n_bins: int,
) -> float:
    """The `shared` of `uniforms` by which hits of a group vary together as the observed ones do.

    In 0..1; from pairs of rows of one group, within bins of confidence and over all confidences,
    whichever is more: the first sees near copies, the second what shifts a whole group.
    """
    confidence, order = confidence.sort()
    surplus = confidence - hit[order]
    _, member = torch.unique(groups[order], return_inverse=True)
    bin_of = bin_index(confidence, n_bins)
    return max(_shared(confidence, surplus, member, of) for of in (bin_of, bin_of * 0))


def _shared(
    confidence: Float[Tensor, " rows"],
    surplus: Float[Tensor, " rows"],
    member: Int[Tensor, " rows"],
    bin_of: Int[Tensor, " rows"],
) -> float:
    """Covariance of hits over pairs of one group in one bin, against that under the same luck.

    Products of confidence − hit count less what pairs of two groups give: miscalibration of the
    bin, which all pairs share, is no covariance.
    """
    bins = int(bin_of.amax()) + 1
    cells, cell, size = torch.unique(
        member * bins + bin_of, return_inverse=True, return_counts=True
    )

    def sums(values: Float[Tensor, " rows"]) -> tuple[Tensor, Tensor]:
        """Per bin, products over pairs of one group, and over pairs of two groups."""
        of_cells = torch.bincount(cells % bins, torch.bincount(cell, values).square(), bins)
        own = torch.bincount(bin_of, values.square(), bins)
        return of_cells - own, torch.bincount(bin_of, values, bins).square() - of_cells

    pairs, pairs_apart = sums(torch.ones_like(surplus))  # exact, unlike what follows
    if not pairs.any():
        return 0.0
    products, products_apart = sums(surplus)
    squared_gap = products_apart / pairs_apart.clamp(min=1)
    # min(c, c') − c c' over the pairs: each row is the lesser of those with the higher in its cell
    rank = torch.empty_like(cell)
    rank[cell.argsort(stable=True)] = torch.arange(len(cell), device=cell.device)
    higher = (size.cumsum(0) - 1)[cell] - rank
    at_most = 2 * (confidence @ higher.double()) - sums(confidence)[0].sum()
    covariance = products.sum() - (pairs * squared_gap).sum()
    return float((covariance / at_most).clamp(0, 1)) if at_most > 0 else 0.0


class TopLabelErrors:
    """Errors of the predicted class's confidences, given in ascending order, under any hits."""

    def __init__(self, confidence: Float[Tensor, " rows"], n_bins: int) -> None:
        rows, device = len(confidence), confidence.device
        self.confidence = confidence
        self.mass = torch.bincount(bin_index(confidence, n_bins), minlength=n_bins)
        self.borders = _borders(self.mass)
        self.cuts = _borders(block_sizes(rows, n_bins).to(device))
        _, size = torch.unique_consecutive(confidence, return_counts=True)
        ties = _borders(size)
        self.tie_ends = ties[1:]
        # rows of equal confidence share their hits evenly over the cuts between them
        tie = torch.searchsorted(ties, self.cuts, right=True).clamp(max=len(size)) - 1
        self.tie_first, self.tie_end = ties[tie], ties[tie + 1]
        self.share = (self.cuts - self.tie_first) / size[tie].double()

    def __call__(self, hits: Float[Tensor, "redraws rows"]) -> dict[str, NDArray[np.float64]]:
        """One number per redraw of each error."""
        rows = len(self.confidence)
        surplus = self.confidence - hits
        sums = torch.nn.functional.pad(surplus.cumsum(1), (1, 0))
        gaps = sums[:, self.borders].diff(dim=1).abs()
        mass = self.mass.clamp(min=1)
        below, up_to = sums[:, self.tie_first], sums[:, self.tie_end]
        block_gaps = (below + self.share * (up_to - below)).diff(dim=1).abs()
        errors = {
            "ece": gaps.sum(1) / rows,
            "ece_equal_mass": block_gaps.sum(1) / rows,
            "rmsce": ((gaps.square() / mass).sum(1) / rows).sqrt(),
            "mce": (gaps / mass).amax(1),
            "ks": sums[:, self.tie_ends].abs().amax(1) / rows,
        }
        grids = np.stack([on_grid(self.confidence, row) for row in surplus]) / rows
        found = {name: values.cpu().numpy() for name, values in errors.items()}
        return found | {"smooth_ece": smooth_errors(grids)}


class LabelErrors:
    """Errors of the probabilities of all classes under any labels; takes 25 bytes per logit."""

    def __init__(self, logits: Float[Tensor, "rows classes"], n_bins: int) -> None:
        rows, classes = logits.shape
        self.ranges = RankRanges.cut(logits, n_bins)
        self.n_bins = n_bins
        self.cumulative = torch.empty((rows, classes), dtype=torch.float64, device=logits.device)
        self.bins = torch.empty_like(self.ranges.below)
        self.mass = torch.zeros(classes * n_bins, dtype=torch.float64, device=logits.device)
        offset = torch.arange(classes, device=logits.device) * n_bins
        for chunk in softmax_chunks(logits):
            probabilities = chunk.share.div_(chunk.total[:, None])
            bins = bin_index(probabilities, n_bins)
            self.bins[chunk.part] = bins.to(self.bins)
            cells = (bins + offset).flatten()
            self.mass += torch.bincount(cells, probabilities.flatten(), len(self.mass))
            torch.cumsum(probabilities, 1, out=self.cumulative[chunk.part])

    def labels(self, uniform: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
        """The labels that numbers in [0, 1) draw; never one of probability 0."""
        aim = uniform.to(self.cumulative) * self.cumulative[:, -1]
        drawn = torch.searchsorted(self.cumulative, aim[:, None], right=True)[:, 0]
        return drawn.clamp_(max=self.cumulative.shape[1] - 1)

    def __call__(self, labels: Int[Tensor, " rows"]) -> dict[str, float]:
        """Each error."""
        labels = labels.long()
        cells = labels * self.n_bins + self.bins.gather(1, labels[:, None])[:, 0]
        hits = torch.bincount(cells, minlength=len(self.mass))
        return {
            "ace": self.ranges.error(labels),
            "classwise_ece": float((self.mass - hits).abs().sum()) / self.cumulative.numel(),
        }


def smooth_errors(grids: NDArray[np.float64]) -> NDArray[np.float64]:
    """`smooth_error_of_grid` of each row: all at once, on a coarse grid where that will do."""
    spectra = np.stack([dct(grid, type=2, norm="ortho")[: max(COARSE)] for grid in grids])
    errors = np.zeros(len(grids))
    for cells in COARSE:
        left = errors == 0
        errors[left] = _smooth_errors_on(cells, spectra[left])
    for row in np.flatnonzero(errors == 0):
        errors[row] = smooth_error_of_grid(grids[row]).error
    return errors


def _smooth_errors_on(cells: int, spectra: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smooth ECE from the low frequencies; 0 if the bandwidth is too narrow for so few cells."""
    spectra = spectra[:, :cells] * np.sqrt(GRID / cells)
    decay = (np.pi * np.arange(cells)) ** 2 / 2

    def error(bandwidth: NDArray[np.float64]) -> NDArray[np.float64]:
        kernel = np.exp(-decay * bandwidth[:, None] ** 2)
        smoothed = idct(spectra * kernel, type=2, norm="ortho")
        sums: NDArray[np.float64] = np.abs(smoothed).sum(1)
        return sums

    low = np.full(len(spectra), 8 / cells)
    high = error(low)  # it falls with the bandwidth: it equals it between these
    wide_enough = high > low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        too_narrow = error(middle) > middle
        low, high = np.where(too_narrow, middle, low), np.where(too_narrow, high, middle)
    errors: NDArray[np.float64] = np.where(wide_enough, high, 0.0)
    return errors


def _borders(sizes: Int[Tensor, " blocks"]) -> Int[Tensor, " borders"]:
    """Ranks between which blocks of these sizes lie: from 0 to their sum."""
    return torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
