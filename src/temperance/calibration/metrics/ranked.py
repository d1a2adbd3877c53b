"""What the ranks of every class's probability decide: ACE, TACE, the parts of the Brier score."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from torch import Tensor

from temperance.calibration.metrics.checks import check_logits
from temperance.calibration.metrics.chunks import softmax_chunks, working_dtype
from temperance.errors import UserError

Result = TypeVar("Result")

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
    return float(np.mean(for_each_class(logits, targets, lambda x: x.range_error(n_ranges))))


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
    errors = for_each_class(logits, targets, lambda x: x.range_error(n_ranges, threshold))
    return float(np.mean(errors))


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
    found = for_each_class(logits, targets, lambda x: (x.brier_score(), x.pools()))
    scores, pools = zip(*found, strict=True)
    return decompose(scores, pools, len(logits))


# What they are made of; none of these checks its input.


class RankedClass(NamedTuple):
    """One class's log-probabilities in order, and where among them its own rows stand.

    The next class is written over the same memory.
    """

    ordered: NDArray[np.floating]
    """Ascending `(rows,)`; float32 or float64."""
    probability: NDArray[np.float64]
    """Their exponentials."""
    first: NDArray[np.int64]
    """Ascending: for each row of the class, the first rank of the rows of equal probability."""
    end: NDArray[np.int64]
    """The rank after the last of them."""

    def hits_below(self, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        """How many rows of the class stand below each rank, ties sharing theirs evenly."""
        whole = np.searchsorted(self.end, ranks, "right")
        cut = np.searchsorted(self.first, ranks, "left") - whole  # of the group that a rank cuts
        if not cut.any():
            return whole.astype(np.float64)
        group = np.minimum(whole, len(self.first) - 1)
        share = (ranks - self.first[group]) / (self.end[group] - self.first[group])
        return whole + cut * share

    def range_error(self, n_ranges: int, threshold: float | None = None) -> float:
        """Mean over ranges of |frequency − mean probability|, of those above the threshold."""
        start = 0
        if threshold is not None:
            # of a threshold of 0, masked classes are left out
            lowest = math.log(threshold) if threshold > 0 else -math.inf
            start = int(np.searchsorted(self.ordered, self.ordered.dtype.type(lowest), "right"))
        kept = len(self.ordered) - start
        if kept == 0:
            return 0.0
        blocks = min(n_ranges, kept)
        borders = start + np.arange(blocks + 1) * (kept // blocks)
        borders += np.minimum(np.arange(blocks + 1), kept % blocks)  # the first ones hold one more
        mass = np.add.reduceat(self.probability, borders[:-1])
        hits = np.diff(self.hits_below(borders))
        return float(np.mean(np.abs(mass - hits) / np.diff(borders)))

    def brier_score(self) -> float:
        """Mean squared distance of the class's probability from its indicator."""
        square = self.probability @ self.probability
        own = self.probability[self.first].sum()
        return float(square - 2 * own + len(self.first)) / len(self.ordered)

    def pools(self) -> Pools:
        """The rows between one row of the class and the next: all that a monotone map can tell.

        What follows a group with hits, up to the next, has none: it is pooled with it anyway.
        """
        starts = np.flatnonzero(np.diff(self.first, prepend=-1))
        hits = np.diff(np.append(starts, len(self.first)))
        return Pools(hits, np.diff(np.append(self.first[starts], len(self.ordered))))


class Pools(NamedTuple):
    """Groups of a class's rows in ascending order of its probability, as many as it has hits."""

    hits: NDArray[np.int64]
    """Rows of the class in each."""
    size: NDArray[np.int64]
    """Rows in each."""


def decompose(scores: Sequence[float], pools: Sequence[Pools], rows: int) -> BrierDecomposition:
    """The parts of each class's Brier score.

    Args:
        scores: one for each class.
        pools: of each class.
    """
    label = np.repeat(np.arange(len(pools)), [len(each.hits) for each in pools])
    hits, size = (
        np.concatenate([each[column] for each in pools]).astype(np.float64) for column in (0, 1)
    )
    # one regression for all: 2 · label keeps the classes apart, since frequencies are in 0..1
    level = hits / size + 2 * label
    if len(level):
        level = isotonic_regression(level, weights=size).x - 2 * label
    loss = hits * (1 - 2 * level) + size * level**2
    recalibrated = np.bincount(label, loss, minlength=len(pools)) / rows
    positives = np.bincount(label, hits, minlength=len(pools))
    frequency = positives / rows
    uncertainty = frequency * (1 - frequency)
    return BrierDecomposition(
        np.array(scores) - recalibrated, uncertainty - recalibrated, uncertainty
    )


def for_each_class(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    function: Callable[[RankedClass], Result],
) -> list[Result]:
    """The function of every class, sorted, in the order of the classes.

    On the CPU, in as many threads as torch has (NumPy sorts with SIMD and without the lock), with
    some 30 MB for each and a few classes at a time, so that memory-mapped logits will do.
    """
    logits = logits.detach()
    rows, classes = logits.shape
    dtype = working_dtype(logits)
    largest, log_total = (column.cpu().numpy() for column in normalisers(logits, dtype))
    labels = targets.cpu().numpy()
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], np.arange(classes + 1))
    step = min(classes, max(LINE, KEYS_AT_ONCE // rows))
    threads = min(torch.get_num_threads(), -(-classes // step))

    def some_classes(thread: int) -> Iterator[tuple[int, Result]]:
        # memory that is new costs more than what is computed in it: these are used again
        keys = np.empty((step, rows), dtype=largest.dtype)
        probability = np.empty(rows)
        for start in range(thread * step, classes, threads * step):
            columns = logits[:, start : start + step]
            for row in range(0, rows, ROWS_AT_ONCE):
                part = slice(row, row + ROWS_AT_ONCE)
                few = columns[part].to(dtype).cpu().numpy()
                # the margin first: −log1p of the rest is exact for a probability near 1
                block = keys[: columns.shape[1], part]
                np.subtract(few.T, largest[part], out=block)
                block -= log_total[part]
            for label, key in enumerate(keys[: columns.shape[1]], start):
                own = key[by_class[starts[label] : starts[label + 1]]]
                own.sort()
                key.sort()
                np.exp(key, out=probability)
                first, end = (np.searchsorted(key, own, side) for side in ("left", "right"))
                yield label, function(RankedClass(key, probability, first, end))

    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda thread: list(some_classes(thread)), range(threads))
    by_label = dict(pair for pairs in found for pair in pairs)
    return [by_label[label] for label in range(classes)]


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
