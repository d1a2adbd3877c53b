"""How sure the metrics are: intervals where they are valid.

A bootstrap for smooth quantities, means over rows; for the ℓ₂ error one from its debiased
estimator. Binned errors have no valid bootstrap, see `floors`. 1000 replicates take 0.1 s of a core
for 10,000 rows, 16 s for 1,000,000 (`benchmarks/results/coverage/cost.csv`).
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
AT_ONCE = 2**18  # rows drawn at a time: two arrays of 2 MB


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

    The gap is mean confidence − accuracy. Of 30 groups they cover about 92 %. No bootstrap knows of
    a kind of row that it was not shown: without a wrong row, accuracy is 1 to 1.

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
    """A 95 % interval of the ℓ₂ calibration error of the predicted class.

    From the debiased estimator and its variance in Sun, Chaudhari, Barnett & Dobriban 2024 (arXiv
    2408.08998), over bins of equal mass, rows of equal confidence together. The estimate ± 1.96
    standard errors would cover too much near 0 and too little beyond; this inverts the test of
    every possible error at the variance under that error, as Wilson's interval of a share does, so
    that calibrated and miscalibrated models need no case apart.

    It is about the model whose confidences are averaged within bins, whose error is at most that
    of the model itself: its lower end holds for both. Where the error changes smoothly with the
    confidence, round(n ** 0.4) bins, as in the paper, bring the two together as n grows.
    Simulated coverage: `benchmarks/results/coverage`. With one bin it is wider than need be.

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
    """`bootstrap_intervals` of rows that are scored already; a few replicates at a time."""
    columns = torch.stack(
        [scores.correct, scores.nll, scores.brier, scores.confidence - scores.correct]
    )
    size = torch.ones_like(scores.correct)
    if groups is not None:
        _, member = torch.unique(groups, return_inverse=True)
        size = torch.bincount(member).double()
        columns = torch.stack([torch.bincount(member, column) for column in columns])
    units = len(size)
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same on every device
    means = []
    step = max(1, AT_ONCE // units)
    for start in range(0, replicates, step):
        some = min(step, replicates - start)
        drawn = torch.randint(units, (some, units), generator=generator)
        drawn += units * torch.arange(some)[:, None]
        times = torch.bincount(drawn.flatten(), minlength=some * units).view(some, units)
        times = times.to(columns)
        means.append(times @ columns.T / (times @ size)[:, None])
    ends = torch.quantile(torch.cat(means), torch.tensor([0.025, 0.975]).to(columns), dim=0)
    names = ("accuracy", "nll", "brier", "gap")
    return {name: Interval(*ends[:, column].tolist()) for column, name in enumerate(names)}


def debiased_interval_of(
    scores: RowScores, *, n_bins: int, groups: Int[Tensor, " rows"] | None = None
) -> Interval:
    """`debiased_error_interval` of rows that are scored already."""
    confidence, order = scores.confidence.sort()
    surplus = confidence - scores.correct[order]
    bin_of = _equal_mass_bins(confidence, n_bins)
    count = torch.bincount(bin_of).double()
    total = torch.bincount(bin_of, surplus)
    gap = total / count
    deviation = surplus - gap[bin_of]
    plug_in = float(total @ gap) / len(surplus)
    influence = 2 * gap[bin_of] * deviation + gap[bin_of].square() - plug_in
    if groups is None:
        own_pairs, own_squares = count, torch.bincount(bin_of, surplus.square())
        covariance = torch.bincount(bin_of, deviation.square()).diag()
    else:
        _, member = torch.unique(groups, return_inverse=True)
        member = member[order]
        units, bins = int(member.max()) + 1, len(count)

        def sums(values: Tensor) -> Float[Tensor, "groups bins"]:
            flat = torch.bincount(member * bins + bin_of, values, minlength=units * bins)
            return flat.view(units, bins)

        own_pairs = sums(torch.ones_like(surplus)).square().sum(0)
        own_squares = sums(surplus).square().sum(0)
        covariance = sums(deviation).T @ sums(deviation)
        influence = torch.bincount(member, influence)
    # a bin that happens to hold no miss is not sure: it varies at least as with one
    covariance.diagonal().clamp_(min=own_pairs / count)
    # per bin the mean of e_i e_j over pairs i ≠ j (of two groups), weighted by the bin's share
    pairs = count.square() - own_pairs
    seen = pairs > 0
    weight = torch.where(seen, count / len(surplus) / pairs.clamp(min=1), 0)
    square = max(float(weight @ (total.square() - own_squares)), 0)
    unbiased = weight * torch.where(seen, count.square() / pairs.clamp(min=1), 0)
    constant = 2 * float(unbiased @ covariance.square() @ unbiased)
    # an estimate of x has the variance constant + rate · x: the ends are the roots in x of
    # (square − x)² = z² (constant + rate · x), an estimate below 0 counting as 0
    rate = float(influence.square().sum()) / len(surplus) ** 2 / plug_in if plug_in > 0 else 0.0
    half_sum = square + Z95**2 * rate / 2
    product = square**2 - Z95**2 * constant
    high = half_sum + math.sqrt(half_sum**2 - product)
    low = product / high if high > 0 else 0.0
    unseen = float(count[~seen].sum()) / len(surplus)  # bins that say nothing of their gap
    low, high = max(low, 0), min(high + unseen, 1)
    return Interval(math.sqrt(low), math.sqrt(high))


def _equal_mass_bins(ordered: Float[Tensor, " rows"], n_bins: int) -> Int[Tensor, " rows"]:
    """Which bin each confidence is in, in ascending order; equal ones go where their middle is.

    Bins that all lose their rows so are left out.
    """
    _, tie, size = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    end = size.cumsum(0)
    middle = (end - size + end - 1) // 2
    block = equal_mass_blocks(len(ordered), n_bins).to(ordered.device)[middle][tie]
    bin_of: Tensor = torch.unique_consecutive(block, return_inverse=True)[1]
    return bin_of
