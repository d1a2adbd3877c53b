"""Accuracy, NLL, Brier score: means over rows of one number per row."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from temperance.calibration.metrics.checks import check_logits
from temperance.calibration.metrics.chunks import SoftmaxChunk, row_chunks, softmax_chunks
from temperance.errors import UserError

Targets = Int[Tensor, " rows"] | Float[Tensor, "rows classes"]
"""Class indices, or probabilities of the classes."""


def accuracy(
    logits: Float[Tensor, "rows classes"],
    targets: Targets,
    weights: Float[Tensor, " rows"] | None = None,
) -> float:
    """Share of rows whose largest logit is the target's, in 0..1; of tied logits the first counts.

    With soft targets: the mean probability that they give to the predicted class.

    Raises:
        UserError: see `check_logits`.

    Examples:
        >>> accuracy(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        0.5
    """
    check_logits(logits, targets, weights, soft=True)
    return weighted_mean(score_rows(logits, targets).correct, weights)


def top_k_accuracy(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None = None,
    *,
    k: int = 5,
) -> float:
    """Share of rows whose target is among the k largest logits, in 0..1; ties in class order.

    Raises:
        UserError: see `check_logits`; for k outside 1..classes.

    Examples:
        >>> logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
        >>> top_k_accuracy(logits, torch.tensor([1, 2]), k=2)
        0.5
    """
    check_logits(logits, targets, weights)
    check_k(k, logits)
    return weighted_mean((ranks_of_targets(logits, targets) < k).double(), weights)


def negative_log_likelihood(
    logits: Float[Tensor, "rows classes"],
    targets: Targets,
    weights: Float[Tensor, " rows"] | None = None,
) -> float:
    """Mean −log of the probability of the target, in nats, ≥ 0; never clipped.

    With soft targets: the cross-entropy.

    Raises:
        UserError: see `check_logits`.

    Examples:
        >>> round(negative_log_likelihood(torch.zeros(1, 4), torch.tensor([2])), 4)  # log 4
        1.3863
    """
    check_logits(logits, targets, weights, soft=True)
    return weighted_mean(score_rows(logits, targets).nll, weights)


def brier_score(
    logits: Float[Tensor, "rows classes"],
    targets: Targets,
    weights: Float[Tensor, " rows"] | None = None,
) -> float:
    """Mean squared distance of the probabilities from the one-hot target, summed over classes.

    In 0..2 (Brier 1950), also with two classes, where others report half of it. With soft targets:
    from their probabilities.

    Raises:
        UserError: see `check_logits`.

    Examples:
        >>> brier_score(torch.zeros(1, 2), torch.tensor([0]))
        0.5
    """
    check_logits(logits, targets, weights, soft=True)
    return weighted_mean(score_rows(logits, targets).brier, weights)


# What the metrics are made of; shared with the intervals, the report and the fit. None of these
# checks its input.


class RowScores(NamedTuple):
    """One number per row, float64: most metrics are functions of these."""

    confidence: Float[Tensor, " rows"]
    correct: Float[Tensor, " rows"]
    nll: Float[Tensor, " rows"]
    brier: Float[Tensor, " rows"]


def score_rows(
    logits: Float[Tensor, "rows classes"], targets: Targets, *, temperature: float = 1
) -> RowScores:
    """The scores of softmax(logits / temperature), a chunk of rows at a time."""
    scores = RowScores(
        *(torch.empty(len(logits), dtype=torch.float64, device=logits.device) for _ in range(4))
    )
    for chunk in softmax_chunks(logits, temperature):
        for column, values in zip(scores, score_chunk(chunk, logits, targets), strict=True):
            column[chunk.part] = values
    return scores


def score_chunk(
    chunk: SoftmaxChunk, logits: Float[Tensor, "rows classes"], targets: Targets
) -> RowScores:
    """The scores of one chunk; overwrites its `share`."""
    labels, total = targets[chunk.part], chunk.total
    others = total - 1  # relative to the predicted class
    log_total = others.log1p()
    confidence = 1 / total
    if labels.ndim == 2:
        return _score_soft(chunk, logits, labels.double())
    margin = chunk.margin.gather(1, labels.long()[:, None])[:, 0].double()
    # Σ over classes of p², less that of the predicted one, and then (p − 1)² for the target
    rest = chunk.share.square_().sum(1).double() - 1
    likelihood = (margin - log_total).exp()
    on_top = (others * confidence).square()
    elsewhere = confidence.square() + 1 - 2 * likelihood
    brier = rest * confidence.square() + elsewhere.lerp(on_top, (margin == 0).double())
    correct = hits_first_maximum(chunk, logits, labels, margin)
    return RowScores(confidence, correct.double(), log_total - margin, brier)


def hits_first_maximum(
    chunk: SoftmaxChunk, logits: Tensor, labels: Tensor, margin: Tensor
) -> Bool[Tensor, " rows"]:
    """Whether the target is the first of the largest logits; an argmax of all rows is slow."""
    correct = margin == 0
    maybe_tied = (correct & (chunk.total >= 2)).nonzero()[:, 0]  # two maxima weigh 1 each
    if len(maybe_tied):
        predicted = logits[chunk.part].index_select(0, maybe_tied).argmax(1)
        correct[maybe_tied] = predicted == labels[maybe_tied]
    return correct


def _score_soft(chunk: SoftmaxChunk, logits: Tensor, targets: Tensor) -> RowScores:
    predicted = logits[chunk.part].argmax(1, keepdim=True)
    log_total = (chunk.total - 1).log1p()
    margin = chunk.margin.masked_fill(targets == 0, 0)  # 0 · −inf is 0 here
    probabilities = chunk.share / chunk.total[:, None]
    return RowScores(
        confidence=1 / chunk.total,
        correct=targets.gather(1, predicted)[:, 0],
        nll=log_total * targets.sum(1) - (targets * margin).sum(1),
        brier=(probabilities - targets).square().sum(1),
    )


def ranks_of_targets(
    logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"]
) -> Int[Tensor, " rows"]:
    """How many classes come before the target: larger logits, and equal ones of a lower index."""
    ranks = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    index = torch.arange(logits.shape[1], device=logits.device)
    for part in row_chunks(logits):
        label = targets[part].long()[:, None]
        own = logits[part].gather(1, label)
        before = (logits[part] > own) | ((logits[part] == own) & (index < label))
        ranks[part] = before.sum(1)
    return ranks


def check_k(k: int, logits: Float[Tensor, "rows classes"]) -> None:
    """Refuse a k of the k largest logits that there is not."""
    if not 1 <= k <= logits.shape[1]:
        raise UserError(f"{k} is not in 1..{logits.shape[1]}, the number of classes", where="k")


def weighted_mean(values: Float[Tensor, " rows"], weights: Float[Tensor, " rows"] | None) -> float:
    """The mean in float64, of equal weights if there are none."""
    if weights is None:
        return float(values.mean())
    return float(values @ weights.double() / weights.double().sum())
