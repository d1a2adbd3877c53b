"""How sure the metrics are: bootstrap intervals where they are valid, noise floors elsewhere.

Binned errors (ECE, ACE) get no bootstrap interval: it covers nothing near zero, since resampling
adds noise that such an error counts as miscalibration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.calibration.metrics import (
    RowScores,
    bin_index,
    binned_error,
    check_logits,
    cut_ranges,
    row_chunks,
    score_rows,
)


class Interval(NamedTuple):
    """Lower and upper end of a 95 % interval."""

    low: float
    high: float


class Floor(NamedTuple):
    """What a metric would be if the model were calibrated exactly as it says, at this n.

    Over labels redrawn from the model's own probabilities, inputs fixed; a test of calibration,
    never to be subtracted from the metric.
    """

    mean: float
    quantile95: float
    p_value: float
    """(1 + redraws at or above the observed value) / (1 + redraws)."""


def bootstrap_intervals(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """95 % percentile intervals of `accuracy`, `nll`, `brier` and `gap`, rows resampled.

    The gap is mean confidence − accuracy. Rows are taken as independent.

    Raises:
        UserError: see `check_logits`.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0]]).expand(100, 2)
        >>> low, high = bootstrap_intervals(logits, torch.arange(100) % 2)["accuracy"]
        >>> 0.35 < low < 0.5 < high < 0.65
        True
    """
    check_logits(logits, targets)
    return intervals_of(score_rows(logits, targets), replicates=replicates, seed=seed)


def ece_floor(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    n_bins: int = 15,
    redraws: int = 200,
    seed: int = 0,
) -> Floor:
    """Noise floor of `expected_calibration_error`.

    Raises:
        UserError: see `check_logits`.

    Examples:
        >>> floor = ece_floor(torch.zeros(1000, 2), torch.arange(1000) % 2)
        >>> floor.mean < 0.02, floor.p_value
        (True, 1.0)
    """
    check_logits(logits, targets)
    return ece_floor_of(score_rows(logits, targets), n_bins=n_bins, redraws=redraws, seed=seed)


def ace_floor(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    n_ranges: int = 15,
    redraws: int = 200,
    seed: int = 0,
) -> Floor:
    """Noise floor of `adaptive_calibration_error`; takes about 12 bytes per logit.

    Raises:
        UserError: see `check_logits`.

    Examples:
        >>> ace_floor(torch.zeros(1000, 2), torch.arange(1000) % 2).mean < 0.03
        True
    """
    check_logits(logits, targets)
    ranges = cut_ranges(logits, n_ranges)
    cumulative = torch.cat(
        [logits[part].double().softmax(1).cumsum(1) for part in row_chunks(logits)]
    )

    def redraw(uniform: Tensor) -> float:
        # right=True: a class of probability 0 is never drawn
        drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
        return ranges.error(drawn[:, 0].clamp_(max=logits.shape[1] - 1))

    observed = ranges.error(targets)
    return _floor(observed, redraw, like=cumulative[:, :1], redraws=redraws, seed=seed)


def intervals_of(scores: RowScores, *, replicates: int, seed: int) -> dict[str, Interval]:
    """`bootstrap_intervals` of rows that are scored already; one replicate at a time in memory."""
    columns = torch.stack(
        [scores.correct, scores.nll, scores.brier, scores.confidence - scores.correct]
    )
    rows = columns.shape[1]
    generator = torch.Generator().manual_seed(seed)
    means = []
    for _ in range(replicates):
        drawn = torch.randint(rows, (rows,), generator=generator)
        times = torch.bincount(drawn, minlength=rows).to(columns)
        means.append(columns @ times / rows)
    ends = torch.quantile(torch.stack(means), torch.tensor([0.025, 0.975]).to(columns), dim=0)
    names = ("accuracy", "nll", "brier", "gap")
    return {name: Interval(*ends[:, column].tolist()) for column, name in enumerate(names)}


def ece_floor_of(scores: RowScores, *, n_bins: int, redraws: int, seed: int) -> Floor:
    """`ece_floor` of rows that are scored already: correctness is Bernoulli(confidence)."""
    bins = bin_index(scores.confidence, n_bins)
    expected = torch.bincount(bins, scores.confidence, minlength=n_bins)

    def redraw(uniform: Tensor) -> float:
        correct = (uniform < scores.confidence).double()
        surplus = expected - torch.bincount(bins, correct, minlength=n_bins)
        return float(surplus.abs().sum() / len(bins))

    observed = binned_error(scores.confidence, scores.correct, n_bins=n_bins).total
    return _floor(observed, redraw, like=scores.confidence, redraws=redraws, seed=seed)


def _floor(
    observed: float,
    redraw: Callable[[Tensor], float],
    *,
    like: Tensor,
    redraws: int,
    seed: int,
) -> Floor:
    """The floor, where `redraw` turns uniform numbers, shaped `like`, into a redrawn metric."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same floor on every device
    values = torch.tensor(
        [
            redraw(torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like))
            for _ in range(redraws)
        ],
        dtype=torch.float64,
    )
    reached = int((values >= observed - 1e-12).sum())  # equal but for the order of the sums
    return Floor(
        mean=float(values.mean()),
        quantile95=float(values.quantile(0.95)),
        p_value=(1 + reached) / (1 + redraws),
    )
