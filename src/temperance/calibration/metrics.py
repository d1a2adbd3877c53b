"""Accuracy, NLL, Brier score and binned calibration errors; all from logits, summed in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from temperance.errors import UserError

CHUNK = 2**22  # logits that are converted to float64 at a time: bounds the memory beside the input


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


def check_logits(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None = None,
) -> None:
    """Refuse what has no calibration. −inf is a masked class, allowed except on the true class.

    Raises:
        UserError: for NaN, +inf, −inf on the true class, a target outside 0..classes − 1, other
            dtypes or shapes than in the signature, no rows, fewer than 2 classes, or weights that
            are negative, not finite or all zero.
    """
    if logits.ndim != 2 or not logits.is_floating_point():
        raise UserError(
            f"must be floating point of shape (rows, classes), not {_describe(logits)}",
            where="logits",
        )
    rows, classes = logits.shape
    if rows == 0:
        raise UserError("hold no rows", where="logits", mend="Give at least one row")
    if classes < 2:
        raise UserError(
            f"hold {classes} class",
            where="logits",
            mend="Write the logit z of a sigmoid as the two classes (0, z)",
        )
    integer = not (targets.is_floating_point() or targets.is_complex())
    if targets.shape != (rows,) or not integer or targets.dtype == torch.bool:
        raise UserError(
            f"must be class indices (integers) of shape ({rows},), not {_describe(targets)}",
            where="targets",
        )
    highest = logits.amax(1)  # NaN if the row has one
    if (row := _first(~(highest < torch.inf))) is not None:
        raise UserError(f"row {row} holds NaN or +inf", where="logits")
    if (row := _first((targets < 0) | (targets >= classes))) is not None:
        raise UserError(
            f"the target {int(targets[row])} of row {row} is outside the {classes} classes"
            f" (0..{classes - 1})",
            where="targets",
        )
    if (row := _first(logits.gather(1, targets.long()[:, None])[:, 0] == -torch.inf)) is not None:
        raise UserError(
            f"row {row} holds -inf for its true class {int(targets[row])}", where="logits"
        )
    if weights is not None:
        _check_weights(weights, rows)


def accuracy(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None = None,
) -> float:
    """Share of rows whose largest logit is the target's, in 0..1; of tied logits the first counts.

    Raises:
        UserError: see `check_logits`.

    Examples:
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        0.5
    """
    check_logits(logits, targets, weights)
    return weighted_mean(score_rows(logits, targets).correct, weights)


def negative_log_likelihood(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None = None,
) -> float:
    """Mean −log of the probability of the target, in nats, ≥ 0; never clipped.

    Raises:
        UserError: see `check_logits`.

    Examples:
        >>> round(negative_log_likelihood(torch.zeros(1, 4), torch.tensor([2])), 4)  # log 4
        1.3863
    """
    check_logits(logits, targets, weights)
    return weighted_mean(score_rows(logits, targets).nll, weights)


def brier_score(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None = None,
) -> float:
    """Mean squared distance of the probabilities from the one-hot target, summed over classes.

    In 0..2 (Brier 1950), also with two classes, where others report half of it.

    Raises:
        UserError: see `check_logits`.

    Examples:
        >>> brier_score(torch.zeros(1, 2), torch.tensor([0]))
        0.5
    """
    check_logits(logits, targets, weights)
    return weighted_mean(score_rows(logits, targets).brier, weights)


def expected_calibration_error(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None = None,
    *,
    n_bins: int = 15,
) -> CalibrationError:
    """ECE of the predicted class (Guo et al. 2017, eq. 3), over- and under-confidence apart.

    Bins are (k/M, (k+1)/M], the first closed at 0: a confidence of exactly 1 counts in the last.

    Raises:
        UserError: see `check_logits`; for fewer than one bin.

    Examples:
        >>> logits = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
        >>> error = expected_calibration_error(logits, torch.tensor([0, 1]))
        >>> round(error.over, 3), error.under
        (0.4, 0.0)
    """
    check_logits(logits, targets, weights)
    scores = score_rows(logits, targets)
    return binned_error(scores.confidence, scores.correct, weights, n_bins=n_bins)


def adaptive_calibration_error(
    logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"], *, n_ranges: int = 15
) -> float:
    """ACE (Nixon et al. 2019, eq. 5): per class, |frequency − mean probability| over equal masses.

    For each class all rows, sorted by its probability, are cut into min(n_ranges, rows) ranges as
    `np.array_split` cuts; rows of equal probability share their labels evenly, so the value does
    not depend on their order. The mean is uniform over ranges and over *all* classes, also those
    without a row. With fewer ranges than classes it hardly sees over-confidence: read it beside
    the signed gap and the ECE.

    Raises:
        UserError: see `check_logits`; for fewer than one range.

    Examples:
        >>> adaptive_calibration_error(torch.zeros(4, 2), torch.tensor([0, 1, 0, 0]), n_ranges=2)
        0.25
    """
    check_logits(logits, targets)
    return cut_ranges(logits, n_ranges).error(targets)


def reliability_bins(
    logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"], n_bins: int = 15
) -> ReliabilityBins:
    """Count, mean confidence and accuracy per bin of `expected_calibration_error`.

    Raises:
        UserError: see `check_logits`; for fewer than one bin.

    Examples:
        >>> logits = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]]).log()
        >>> bins = reliability_bins(logits, torch.tensor([0, 1, 0]), n_bins=4)
        >>> bins.count.tolist(), bins.accuracy[2:].tolist()
        ([0, 0, 1, 2], [0.0, 1.0])
    """
    check_logits(logits, targets)
    scores = score_rows(logits, targets)
    return bins_of(scores.confidence, scores.correct, n_bins)


# What the metrics are made of; shared with the intervals, the report and the fit. None of these
# checks its input.


class RowScores(NamedTuple):
    """One number per row and metric, float64: all but ACE are functions of these."""

    confidence: Float[Tensor, " rows"]
    correct: Float[Tensor, " rows"]
    nll: Float[Tensor, " rows"]
    brier: Float[Tensor, " rows"]


def score_rows(
    logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"], *, temperature: float = 1
) -> RowScores:
    """The scores of softmax(logits / temperature), a chunk of rows at a time."""
    chunks = []
    for part in row_chunks(logits):
        labels = targets[part].long()
        predicted = logits[part].argmax(1)  # of the logits, which the softmax could round to ties
        log_probabilities = torch.log_softmax(logits[part].double() / temperature, 1)
        likelihood = log_probabilities.gather(1, labels[:, None])[:, 0]
        distance = log_probabilities.exp()
        confidence = distance.amax(1)
        distance.scatter_add_(1, labels[:, None], -torch.ones_like(likelihood)[:, None])
        correct = (predicted == labels).double()
        chunks.append((confidence, correct, -likelihood, distance.square_().sum(1)))
    return RowScores(*(torch.cat(column) for column in zip(*chunks, strict=True)))


def row_chunks(logits: Float[Tensor, "rows classes"]) -> Iterator[slice]:
    """Slices of rows that hold about `CHUNK` logits each."""
    rows, classes = logits.shape
    step = max(1, CHUNK // classes)
    return (slice(start, start + step) for start in range(0, rows, step))


def weighted_mean(values: Float[Tensor, " rows"], weights: Float[Tensor, " rows"] | None) -> float:
    """The mean in float64, of equal weights if there are none."""
    if weights is None:
        return float(values.mean())
    return float(values @ weights.double() / weights.double().sum())


def bin_index(confidence: Float[Tensor, " rows"], n_bins: int) -> Int[Tensor, " rows"]:
    """Which of the bins (k/M, (k+1)/M] holds each confidence (float64); 0 counts in the first."""
    if n_bins < 1:
        raise UserError(f"{n_bins} bins", where="n_bins", mend="Give at least 1")
    # edges k / M, and not ceil(confidence · M): (7 / 25) · 25 > 7 in floating point
    edges = torch.arange(1, n_bins, dtype=torch.float64, device=confidence.device) / n_bins
    return torch.searchsorted(edges, confidence)


def binned_error(
    confidence: Float[Tensor, " rows"],
    correct: Float[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None = None,
    *,
    n_bins: int,
) -> CalibrationError:
    """ECE as Σ |Σ (confidence − correct)| / n over bins: empty bins need no special case."""
    share = torch.ones_like(confidence) if weights is None else weights.double()
    surplus = torch.bincount(
        bin_index(confidence, n_bins), share * (confidence - correct), minlength=n_bins
    )
    return CalibrationError(
        over=float(surplus.clamp(min=0).sum() / share.sum()),
        under=float((-surplus).clamp(min=0).sum() / share.sum()),
    )


def bins_of(
    confidence: Float[Tensor, " rows"], correct: Float[Tensor, " rows"], n_bins: int
) -> ReliabilityBins:
    """The bins of a reliability diagram."""
    index = bin_index(confidence, n_bins)
    count = torch.bincount(index, minlength=n_bins)

    def mean(values: Tensor) -> NDArray[np.float64]:
        return (torch.bincount(index, values, minlength=n_bins) / count).cpu().numpy()

    return ReliabilityBins(
        lower=np.arange(n_bins) / n_bins,
        count=count.cpu().numpy(),
        confidence=mean(confidence),
        accuracy=mean(correct),
    )


@dataclass(frozen=True)
class RankRanges:
    """The ranges of ACE. They depend on the logits alone, so redrawn labels reuse them.

    A border between two ranges is the probability of the first row above it. The cumulative
    count of a class at a border is interpolated between the counts below and up to that
    probability: that shares the labels of tied rows evenly.
    """

    up_to: Int[Tensor, "rows classes"]
    """How many borders are < the probability: it counts up to every border from this one on."""
    below: Int[Tensor, "rows classes"]
    """How many borders are ≤ the probability: it counts below every border from this one on."""
    fraction: Float[Tensor, "classes borders"]
    """Which part of the rows tied with the border's probability lies below the border."""
    mass: Float[Tensor, "classes ranges"]
    """Sum of the probabilities in each range."""
    size: Int[Tensor, " ranges"]
    """Rows in each range."""

    def error(self, targets: Int[Tensor, " rows"]) -> float:
        """ACE for these labels."""
        labels = targets.long()
        total = torch.bincount(labels, minlength=len(self.mass)).double()[:, None]
        below, up_to = self._cumulative(self.below, labels), self._cumulative(self.up_to, labels)
        at_border = below + self.fraction * (up_to - below)
        hits = torch.cat([torch.zeros_like(total), at_border, total], 1).diff(dim=1)
        return float(((self.mass - hits).abs() / self.size).mean())

    def _cumulative(
        self, border: Int[Tensor, "rows classes"], labels: Int[Tensor, " rows"]
    ) -> Float[Tensor, "classes borders"]:
        """Per class, how many of its rows count at each border."""
        classes, ranges = self.mass.shape
        first = border.gather(1, labels[:, None])[:, 0].long()
        counts = torch.bincount(labels * ranges + first, minlength=classes * ranges)
        return counts.view(classes, ranges)[:, :-1].cumsum(1).double()


def cut_ranges(logits: Float[Tensor, "rows classes"], n_ranges: int) -> RankRanges:
    """Cut each class's sorted probabilities into ranges of equal mass, a few classes at a time."""
    if n_ranges < 1:
        raise UserError(f"{n_ranges} ranges", where="n_ranges", mend="Give at least 1")
    rows, classes = logits.shape
    blocks = np.array_split(np.arange(rows), min(n_ranges, rows))
    size = torch.tensor([len(block) for block in blocks], device=logits.device)
    borders = size.cumsum(0)[:-1]
    small = torch.int16 if n_ranges < 2**15 else torch.int32
    up_to = torch.empty((rows, classes), dtype=small, device=logits.device)
    below = torch.empty_like(up_to)
    fractions, masses = [], []
    normaliser = torch.cat([logits[part].double().logsumexp(1) for part in row_chunks(logits)])
    step = max(1, CHUNK // rows)
    for start in range(0, classes, step):
        part = slice(start, start + step)
        probabilities = (logits[:, part].double() - normaliser[:, None]).exp().T.contiguous()
        ordered = probabilities.sort(1).values
        border = ordered[:, borders].contiguous()
        first, end = (torch.searchsorted(ordered, border, right=right) for right in (False, True))
        fractions.append((borders - first) / (end - first).double())
        mass = torch.nn.functional.pad(ordered.cumsum(1), (1, 0))
        edges = torch.cat([borders.new_zeros(1), borders, borders.new_tensor([rows])])
        masses.append(mass[:, edges].diff(dim=1))
        up_to[:, part] = torch.searchsorted(border, probabilities).T.to(small)
        below[:, part] = torch.searchsorted(border, probabilities, right=True).T.to(small)
    return RankRanges(up_to, below, torch.cat(fractions), torch.cat(masses), size)


def _first(bad: Tensor) -> int | None:
    """The first row that is bad."""
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


def _check_weights(weights: Tensor, rows: int) -> None:
    if weights.shape != (rows,):
        raise UserError(f"must be of shape ({rows},), not {_describe(weights)}", where="weights")
    if (row := _first(~((weights >= 0) & (weights < torch.inf)))) is not None:
        raise UserError(
            f"row {row} has weight {float(weights[row])}",
            where="weights",
            mend="Give finite weights ≥ 0",
        )
    if not bool((weights > 0).any()):
        raise UserError("are all zero", where="weights", mend="Give some row a positive weight")


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
