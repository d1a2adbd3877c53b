"""What the ranks of every class's probability decide: ACE, TACE, the parts of the Brier score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from torch import Tensor

from temperance.calibration.metrics.checks import check_logits
from temperance.calibration.metrics.chunks import softmax_chunks, working_dtype
from temperance.errors import UserError

KEYS_AT_ONCE = 2**22  # log-probabilities that a thread holds: 16 MB in float32
LINE = 16  # float32 numbers in a line of the cache: fewer classes at a time read it in vain
ROWS_AT_ONCE = 1024  # transposed at a time, so that their lines are still in the cache


class BrierDecomposition(NamedTuple):
    """Parts of the Brier score; `miscalibration − discrimination + uncertainty` is the score.

    One number per class; their sums over classes decompose `brier_score`.
    """

    miscalibration: NDArray[np.float64]
    """What recalibrating the class's probability by a monotone map would gain on these rows."""
    discrimination: NDArray[np.float64]
    """What the recalibrated probability gains over the class's frequency."""
    uncertainty: NDArray[np.float64]
    """Variance of the class's indicator."""


def adaptive_calibration_error(
    logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"], *, n_ranges: int = 15
) -> float:
    """ACE (Nixon et al. 2019, eq. 5): per class, |frequency − mean probability| over equal masses.

    For each class all rows, sorted by its probability, are cut into min(n_ranges, rows) ranges as
    `np.array_split` cuts; rows of equal probability share their labels evenly, so the value does
    not depend on their order. The mean is uniform over ranges and over *all* classes, also those
    without a row. With fewer ranges than classes it hardly sees over-confidence: read it beside
    the signed gap and the ECE. Beyond 4 million logits of 32 bits or fewer, probabilities are
    compared as float32 logarithms.

    Raises:
        UserError: see `check_logits`; for fewer than one range.

    Examples:
        >>> adaptive_calibration_error(torch.zeros(4, 2), torch.tensor([0, 1, 0, 0]), n_ranges=2)
        0.25
    """
    check_logits(logits, targets)
    check_ranges(n_ranges)
    return float(rank_classes(logits, targets, n_ranges=n_ranges).range_errors().mean())


def thresholded_adaptive_calibration_error(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    n_ranges: int = 15,
    threshold: float = 0.01,
) -> float:
    """TACE (Nixon et al. 2019, §3.2): ACE of the probabilities above a threshold.

    A class without any adds 0 to the mean over all classes. Which probabilities count changes
    with the temperature, so it is no measure to choose one by.

    Raises:
        UserError: see `check_logits`; for fewer than one range, a threshold outside [0, 1).

    Examples:
        >>> logits = torch.tensor([[0.995, 0.005]]).log().expand(4, 2)
        >>> value = thresholded_adaptive_calibration_error(logits, torch.tensor([0, 1, 0, 0]))
        >>> round(value, 4)  # of the first class alone: (0.995 − 0.75) / 2
        0.1225
    """
    check_logits(logits, targets)
    check_ranges(n_ranges)
    if not 0 <= threshold < 1:
        raise UserError(f"{threshold} is not in [0, 1)", where="threshold")
    ranked = rank_classes(logits, targets, n_ranges=n_ranges, thresholds=[threshold])
    return float(ranked.range_errors().mean())


def brier_decomposition(
    logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"]
) -> BrierDecomposition:
    """The CORP decomposition of the Brier score, class by class (Dimitriadis et al. 2021, eq. 4).

    The class's probability is recalibrated by isotonic regression (pool adjacent violators) on the
    same rows: all three parts are ≥ 0, and the miscalibration of few rows is biased upwards.

    Raises:
        UserError: see `check_logits`.

    Examples:
        >>> logits = torch.tensor([[0.9, 0.1]]).log().expand(4, 2)
        >>> parts = brier_decomposition(logits, torch.tensor([0, 1, 0, 1]))
        >>> [round(float(part[0]), 3) for part in parts]  # 0.4², nothing, 0.5²
        [0.16, 0.0, 0.25]
    """
    check_logits(logits, targets)
    return rank_classes(logits, targets).brier_parts()


# What they are made of; none of these checks its input.


class RankedClasses(NamedTuple):
    """What the order of the rows by each class's probability tells."""

    rows: int
    square: NDArray[np.float64]
    """Sum of the squared probabilities `(classes,)`."""
    borders: NDArray[np.int64]
    """Ranks between the ranges of equal mass `(thresholds, classes, ranges + 1)`."""
    mass: NDArray[np.float64]
    """Sum of the probabilities in each range that is not empty."""
    label: NDArray[np.int64]
    """Ascending: the class of each row `(rows,)`, and of the entries that follow."""
    own: NDArray[np.float64]
    """The probability of that class, ascending within the class."""
    first: NDArray[np.int64]
    """The first rank of the rows of equal probability."""
    end: NDArray[np.int64]
    """The rank after the last of them."""

    def range_errors(self, threshold: int = 0) -> NDArray[np.float64]:
        """Each class's mean over ranges of |frequency − mean probability|.

        Args:
            threshold: which of them.
        """
        borders = self.borders[threshold]
        hits = np.empty(borders.shape)
        for column, ranks in enumerate(borders.T):
            # below a border that cuts a group of equal rows, each counts with an even share
            below = (ranks[self.label] - self.first) / (self.end - self.first)
            hits[:, column] = np.bincount(self.label, below.clip(0, 1), minlength=len(borders))
        gaps = np.abs(self.mass[threshold] - np.diff(hits))
        size = np.diff(borders)
        # fewer rows than ranges: what follows them is empty, and does not count
        means = np.divide(gaps, size, out=np.zeros_like(gaps), where=size > 0)
        return np.asarray(means.sum(1) / np.maximum((size > 0).sum(1), 1))

    def brier_parts(self) -> BrierDecomposition:
        """The parts of each class's Brier score."""
        classes = len(self.square)
        positives = np.bincount(self.label, minlength=classes)
        own = np.bincount(self.label, self.own, minlength=classes)
        score = (self.square - 2 * own + positives) / self.rows
        # The rows from one row of the class to the next: what follows a group with hits has none,
        # and is pooled with it anyway. One regression for all classes: 2 · label keeps them apart.
        new_class = np.diff(self.label, prepend=-1) != 0
        starts = np.flatnonzero(new_class | (np.diff(self.first, prepend=-1) != 0))
        label, first = self.label[starts], self.first[starts]
        hits = np.diff(np.append(starts, len(self.label))).astype(np.float64)
        last = np.append(new_class[starts[1:]], True)
        size = np.where(last, self.rows, np.append(first[1:], 0)) - first
        level = isotonic_regression(hits / size + 2 * label, weights=size).x - 2 * label
        loss = hits * (1 - 2 * level) + size * level**2
        recalibrated = np.bincount(label, loss, minlength=classes) / self.rows
        frequency = positives / self.rows
        uncertainty = frequency * (1 - frequency)
        return BrierDecomposition(score - recalibrated, uncertainty - recalibrated, uncertainty)


def rank_classes(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    n_ranges: int = 1,
    thresholds: Sequence[float | None] = (None,),
) -> RankedClasses:
    """Sort the rows by every class's probability.

    On the CPU, in as many threads as torch has (NumPy sorts with SIMD and without the lock), with
    some 30 MB for each and a few classes at a time, so that memory-mapped logits will do.

    Args:
        thresholds: for each, the ranges are of the probabilities above it.
    """
    logits = logits.detach()
    rows, classes = logits.shape
    dtype = working_dtype(logits)
    largest, log_total = (column.cpu().numpy() for column in normalisers(logits, dtype))
    labels = targets.cpu().numpy().astype(np.int64)
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], np.arange(classes + 1))
    ranked = RankedClasses(
        rows=rows,
        square=np.empty(classes),
        borders=np.empty((len(thresholds), classes, n_ranges + 1), dtype=np.int64),
        mass=np.empty((len(thresholds), classes, n_ranges)),
        label=labels[by_class],
        own=np.empty(rows),
        first=np.empty(rows, dtype=np.int64),
        end=np.empty(rows, dtype=np.int64),
    )
    # of a threshold of 0, masked classes are left out
    lowest = [math.log(x) if x else -math.inf for x in thresholds if x is not None]
    above = np.array(lowest, dtype=largest.dtype)
    is_cut = np.array([x is not None for x in thresholds])
    range_number = np.arange(n_ranges + 1)
    step = min(classes, max(LINE, KEYS_AT_ONCE // rows))
    threads = min(torch.get_num_threads(), -(-classes // step))

    def some_classes(thread: int) -> None:
        # memory that is new costs more than what is computed in it: these are used again
        keys = np.empty((step, rows), dtype=largest.dtype)
        probability = np.empty(rows)
        start = np.zeros(len(thresholds), dtype=np.int64)
        for begin in range(thread * step, classes, threads * step):
            columns = logits[:, begin : begin + step]
            for row in range(0, rows, ROWS_AT_ONCE):
                part = slice(row, row + ROWS_AT_ONCE)
                few = columns[part].to(dtype).cpu().numpy()
                # the margin first: −log1p of the rest is exact for a probability near 1
                block = keys[: columns.shape[1], part]
                np.subtract(few.T, largest[part], out=block)
                block -= log_total[part]
            for label, key in enumerate(keys[: columns.shape[1]], begin):
                hits = slice(starts[label], starts[label + 1])
                own = key[by_class[hits]]
                own.sort()
                key.sort()
                np.exp(key, out=probability)
                start[is_cut] = np.searchsorted(key, above, "right")
                # as np.array_split cuts: the first ranges hold one more
                kept, more = np.divmod(rows - start[:, None], n_ranges)
                borders = start[:, None] + range_number * kept + np.minimum(range_number, more)
                ranked.borders[:, label] = borders
                for mass, ranks in zip(ranked.mass, np.minimum(borders, rows - 1), strict=True):
                    mass[label] = np.add.reduceat(probability, ranks[:-1])
                # not by BLAS, whose threads would wait busily for one another
                ranked.square[label] = np.einsum("i,i", probability, probability)
                ranked.first[hits] = first = np.searchsorted(key, own, "left")
                ranked.end[hits] = np.searchsorted(key, own, "right")
                ranked.own[hits] = probability[first]

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(some_classes, thread) for thread in range(threads)]:
            done.result()
    return ranked


def normalisers(
    logits: Float[Tensor, "rows classes"], dtype: torch.dtype
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Each row's maximum, and the log of Σ exp(logit − maximum)."""
    log_total = torch.empty(len(logits), dtype=dtype, device=logits.device)
    for chunk in softmax_chunks(logits, dtype=dtype):
        log_total[chunk.part] = (chunk.total - 1).log1p_()
    return logits.amax(1).to(dtype), log_total


def check_ranges(n_ranges: int) -> None:
    """Refuse fewer than one range."""
    if n_ranges < 1:
        raise UserError(f"{n_ranges} ranges", where="n_ranges", mend="Give at least 1")
