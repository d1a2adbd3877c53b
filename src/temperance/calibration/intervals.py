"""How sure the metrics are: intervals where they are valid.

A bootstrap for smooth quantities, means over rows; for the ℓ₂ error one from its debiased
estimator. Binned errors have no valid bootstrap, see `floors`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.calibration.metrics.bins import check_bins, equal_mass_blocks
from temperance.calibration.metrics.checks import check_groups, check_logits
from temperance.calibration.metrics.scores import RowScores, score_rows

Z95 = 1.959963984540054


class Interval(NamedTuple):
    """Lower and upper end of a 95 % interval."""

    low: float
    high: float


def bootstrap_intervals(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    replicates: int = 1000,
    seed: int = 0,
    groups: Int[Tensor, " rows"] | None = None,
) -> dict[str, Interval]:
    """95 % percentile intervals of `accuracy`, `nll`, `brier` and `gap`, rows resampled.

    The gap is mean confidence − accuracy.

    Args:
        groups: which rows are not independent (image, document); groups are resampled whole. Rows
            are taken as independent without.

    Raises:
        UserError: see `check_logits` and `check_groups`.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0]]).expand(100, 2)
        >>> low, high = bootstrap_intervals(logits, torch.arange(100) % 2)["accuracy"]
        >>> 0.35 < low < 0.5 < high < 0.65
        True
    """
    check_logits(logits, targets)
    check_groups(groups, len(logits))
    scores = score_rows(logits, targets)
    return intervals_of(scores, replicates=replicates, seed=seed, groups=groups)


def debiased_error_interval(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    n_bins: int = 15,
    groups: Int[Tensor, " rows"] | None = None,
) -> Interval:
    """A 95 % interval of the ℓ₂ calibration error of the predicted class (Sun et al. 2024, §3).

    Root of (debiased square ± 1.96 standard errors), cut at 0. The standard error of the
    U-statistic holds its degenerate part, so the interval is valid for a calibrated model too. It
    is about the model whose confidences are averaged within bins of equal mass, as
    `debiased_calibration_error` is.

    Args:
        groups: which rows are not independent: only pairs of rows of two groups are used.

    Raises:
        UserError: see `check_logits` and `check_groups`; for fewer than one bin.

    Examples:
        >>> logits = torch.tensor([[0.9, 0.1]]).log().expand(1000, 2)
        >>> low, high = debiased_error_interval(logits, torch.arange(1000) % 2)
        >>> 0.35 < low < 0.4 < high < 0.45
        True
    """
    check_logits(logits, targets)
    check_groups(groups, len(logits))
    check_bins(n_bins)
    return debiased_interval_of(score_rows(logits, targets), n_bins=n_bins, groups=groups)


# What they are made of; none of these checks its input.


def intervals_of(
    scores: RowScores,
    *,
    replicates: int,
    seed: int,
    groups: Int[Tensor, " rows"] | None = None,
) -> dict[str, Interval]:
    """`bootstrap_intervals` of rows that are scored already; one replicate at a time in memory."""
    columns = torch.stack(
        [scores.correct, scores.nll, scores.brier, scores.confidence - scores.correct]
    )
    size = torch.ones_like(scores.correct)
    if groups is not None:
        names, member = torch.unique(groups, return_inverse=True)
        size = torch.bincount(member).double()
        columns = torch.stack([torch.bincount(member, column) for column in columns])
    units = len(size)
    generator = torch.Generator().manual_seed(seed)
    means = []
    for _ in range(replicates):
        drawn = torch.randint(units, (units,), generator=generator)
        times = torch.bincount(drawn, minlength=units).to(columns)
        means.append(columns @ times / (size @ times))
    ends = torch.quantile(torch.stack(means), torch.tensor([0.025, 0.975]).to(columns), dim=0)
    names = ("accuracy", "nll", "brier", "gap")
    return {name: Interval(*ends[:, column].tolist()) for column, name in enumerate(names)}


def debiased_interval_of(
    scores: RowScores, *, n_bins: int, groups: Int[Tensor, " rows"] | None = None
) -> Interval:
    """`debiased_error_interval` of rows that are scored already."""
    confidence, order = scores.confidence.sort()
    surplus = confidence - scores.correct[order]
    index = equal_mass_blocks(len(surplus), n_bins).to(surplus.device)
    bins = int(index[-1]) + 1
    count = torch.bincount(index).double()
    total = torch.bincount(index, surplus)
    deviation = surplus - (total / count)[index]
    if groups is None:
        own_pairs, own_squares = count, torch.bincount(index, surplus.square())
        covariance = torch.bincount(index, deviation.square()).diag()
    else:
        _, member = torch.unique(groups, return_inverse=True)
        cell = member[order] * bins + index
        shape = (int(member.max()) + 1, bins)

        def sums(values: Tensor | None) -> Tensor:
            table = torch.bincount(cell, values, minlength=shape[0] * bins)
            return table.view(shape).double()

        own_pairs, own_squares = sums(None).square().sum(0), sums(surplus).square().sum(0)
        by_group = sums(deviation)
        covariance = by_group.T @ by_group
    # per bin the mean of e_i e_j over pairs i ≠ j (of two groups), weighted by the bin's share
    pairs = count.square() - own_pairs
    weight = torch.where(pairs > 0, count / len(surplus) / pairs.clamp(min=1), 0)
    square = float(weight @ (total.square() - own_squares))
    degenerate = 2 * float(weight @ covariance.square() @ weight)
    linear = 4 * float((weight * total) @ covariance @ (weight * total)) - 2 * degenerate
    half = Z95 * math.sqrt(degenerate + max(linear, 0))
    low, high = (math.sqrt(max(end, 0)) for end in (square - half, square + half))
    return Interval(low, high)
