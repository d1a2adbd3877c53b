"""What chance alone does to a calibration error: noise floors, their p-values, the power of ACE.

Binned errors get these and no bootstrap interval: that covers nothing near zero, since resampling
adds noise that such an error counts as miscalibration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.special import gammaln, xlog1py, xlogy
from torch import Tensor

from temperance.calibration.metrics import adaptive_calibration_error
from temperance.calibration.metrics.bins import bin_index, block_sizes
from temperance.calibration.metrics.checks import check_groups, check_logits
from temperance.calibration.metrics.chunks import row_chunks
from temperance.calibration.metrics.ranges import RankRanges
from temperance.calibration.metrics.ranked import check_ranges, ranked_classes
from temperance.calibration.metrics.scores import RowScores, score_rows
from temperance.calibration.metrics.smooth import ks_of_ordered, on_grid, smooth_error_of_grid

SEEN = 3.0  # a change of so many standard deviations of the floor can be told from noise


class Floor(NamedTuple):
    """What a metric would be if the model were calibrated exactly as it says, at this n.

    Over labels redrawn from the model's own probabilities, inputs fixed; a test of calibration,
    never to be subtracted from the metric. With groups the rows' own deviations, centred within
    each bin, get one random sign per group instead (wild cluster bootstrap): that keeps whatever
    makes rows of a group err together.
    """

    mean: float
    quantile95: float
    p_value: float
    """(1 + redraws at or above the observed value) / (1 + redraws)."""


class AcePower(NamedTuple):
    """Whether ACE could see a temperature that is 1.3 times too high on rows like these."""

    fitted: float
    """ACE at the fitted temperature."""
    perturbed: float
    """ACE at 1.3 times that temperature."""
    floor_mean: float
    """Mean of ACE at the fitted temperature if that were right."""
    floor_sd: float

    @property
    def change(self) -> float:
        """How many standard deviations of the floor lie between both."""
        difference = self.perturbed - self.fitted
        return difference / self.floor_sd if self.floor_sd > 0 else 0.0

    @property
    def sees(self) -> bool:
        """Whether the change is at least 3: else ACE is no axis to compare models on."""
        return self.change >= SEEN


def ece_floor(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    n_bins: int = 15,
    redraws: int = 200,
    seed: int = 0,
    groups: Int[Tensor, " rows"] | None = None,
) -> Floor:
    """Noise floor of `expected_calibration_error`.

    Args:
        groups: which rows are not independent (image, document).

    Raises:
        UserError: see `check_logits` and `check_groups`.

    Examples:
        >>> floor = ece_floor(torch.zeros(1000, 2), torch.arange(1000) % 2)
        >>> floor.mean < 0.02, floor.p_value
        (True, 1.0)
    """
    check_logits(logits, targets)
    check_groups(groups, len(logits))
    scores = score_rows(logits, targets)
    return top_label_floors(scores, n_bins=n_bins, redraws=redraws, seed=seed, groups=groups)["ece"]


def ace_floor(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    n_ranges: int = 15,
    redraws: int = 200,
    seed: int = 0,
    groups: Int[Tensor, " rows"] | None = None,
) -> Floor:
    """Noise floor of `adaptive_calibration_error`; takes about 20 bytes per logit.

    Args:
        groups: which rows are not independent (image, document).

    Raises:
        UserError: see `check_logits` and `check_groups`; for fewer than one range.

    Examples:
        >>> ace_floor(torch.zeros(1000, 2), torch.arange(1000) % 2).mean < 0.03
        True
    """
    check_logits(logits, targets)
    check_groups(groups, len(logits))
    check_ranges(n_ranges)
    ranges = RankRanges.cut(logits, n_ranges)
    values = (
        _redrawn_ace(logits, ranges, redraws=redraws, seed=seed)
        if groups is None
        else _wild_ace(logits, targets, ranges, groups, redraws=redraws, seed=seed)
    )
    return _floor(ranges.error(targets), values)


def ace_floor_mean(logits: Float[Tensor, "rows classes"], *, n_ranges: int = 15) -> float:
    """The mean of `ace_floor` in closed form, without a redraw.

    The labels of a range are independent with unequal probabilities; their mean absolute deviation
    is taken from the binomial distribution of the same mean and variance (de Moivre's formula,
    continued to real n). Ties across a border are ignored.

    Raises:
        UserError: as `ace_floor`.

    Examples:
        >>> round(ace_floor_mean(torch.zeros(1000, 2)), 3)  # 67 coins a range: √(1 / (2π 67))
        0.049
    """
    targets = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    targets = logits.argmax(1) if len(logits) and logits.ndim == 2 else targets
    check_logits(logits, targets)
    check_ranges(n_ranges)
    size = block_sizes(len(logits), n_ranges).numpy()
    edges = np.concatenate([[0], size.cumsum()[:-1]])
    per_class = []
    for ranked in ranked_classes(logits, targets):
        probability = np.exp(ranked.ordered.astype(np.float64))
        mean = np.add.reduceat(probability, edges)
        variance = np.add.reduceat(probability * (1 - probability), edges)
        per_class.append(np.mean(_mean_deviation(mean, variance) / size))
    return float(np.mean(per_class))


def ace_power(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    temperature: float,
    factor: float = 1.3,
    n_ranges: int = 15,
    redraws: int = 50,
    seed: int = 0,
) -> AcePower:
    """ACE at the temperature and at `factor` times it, against its floor at the temperature.

    Args:
        temperature: the fitted one, > 0.

    Raises:
        UserError: as `ace_floor`.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0]]).expand(4000, 2)
        >>> ace_power(logits, (torch.rand(4000) > 0.88).long(), temperature=1.0).sees
        True
    """
    check_logits(logits, targets)
    check_ranges(n_ranges)
    fitted = logits.double() / temperature
    ranges = RankRanges.cut(fitted, n_ranges)
    values = _redrawn_ace(fitted, ranges, redraws=redraws, seed=seed)
    return AcePower(
        fitted=ranges.error(targets),
        perturbed=adaptive_calibration_error(fitted / factor, targets, n_ranges=n_ranges),
        floor_mean=float(values.mean()),
        floor_sd=float(values.std(ddof=1)),
    )


# What they are made of; none of these checks its input.


def top_label_floors(
    scores: RowScores,
    *,
    n_bins: int,
    redraws: int,
    seed: int,
    groups: Int[Tensor, " rows"] | None = None,
) -> dict[str, Floor]:
    """The floors of `ece`, `mce`, `smooth_ece` and `ks` of rows that are scored already."""
    confidence, order = scores.confidence.sort()
    errors = _TopLabelErrors(confidence, n_bins)
    observed = errors(confidence - scores.correct[order])
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same floor on every device
    draws = []
    if groups is None:
        for _ in range(redraws):
            uniform = torch.rand(len(confidence), generator=generator, dtype=torch.float64)
            draws.append(errors(confidence - (uniform.to(confidence) < confidence).double()))
    else:
        centred = errors.centred(confidence - scores.correct[order])
        _, member = torch.unique(groups, return_inverse=True)
        member = member[order]
        for _ in range(redraws):
            signs = _signs(int(member.max()) + 1, generator).to(centred)
            draws.append(errors(signs[member] * centred))
    return {
        name: _floor(value, np.array([draw[name] for draw in draws]))
        for name, value in observed.items()
    }


class _TopLabelErrors:
    """The errors of confidences in ascending order as functions of confidence − hit."""

    def __init__(self, confidence: Float[Tensor, " rows"], n_bins: int) -> None:
        self.confidence = confidence
        self.index = bin_index(confidence, n_bins)
        self.mass = torch.bincount(self.index, minlength=n_bins).double()

    def __call__(self, surplus: Float[Tensor, " rows"]) -> dict[str, float]:
        gaps = torch.bincount(self.index, surplus, minlength=len(self.mass)).abs()
        grid = on_grid(self.confidence, surplus) / len(surplus)
        return {
            "ece": float(gaps.sum() / len(surplus)),
            "mce": float((gaps / self.mass.clamp(min=1)).amax()),
            "smooth_ece": smooth_error_of_grid(grid).error,
            "ks": ks_of_ordered(self.confidence, surplus, len(surplus)),
        }

    def centred(self, surplus: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        """Less the mean of its bin."""
        means = torch.bincount(self.index, surplus, minlength=len(self.mass)) / self.mass
        return surplus - means[self.index]


def _redrawn_ace(
    logits: Float[Tensor, "rows classes"], ranges: RankRanges, *, redraws: int, seed: int
) -> NDArray[np.float64]:
    """ACE of labels drawn from the probabilities."""
    cumulative = torch.cat(
        [logits[part].double().softmax(1).cumsum(1) for part in row_chunks(logits)]
    )
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(redraws):
        uniform = torch.rand((len(logits), 1), generator=generator, dtype=torch.float64)
        # right=True: a class of probability 0 is never drawn
        aim = uniform.to(cumulative) * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, aim, right=True)[:, 0]
        values.append(ranges.error(drawn.clamp_(max=logits.shape[1] - 1)))
    return np.array(values)


def _wild_ace(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    ranges: RankRanges,
    groups: Int[Tensor, " rows"],
    *,
    redraws: int,
    seed: int,
) -> NDArray[np.float64]:
    """ACE of deviations that are centred within each range and get a random sign per group."""
    names, member = torch.unique(groups, return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.stack([_signs(len(names), generator) for _ in range(redraws)]).to(ranges.mass)
    n_ranges = len(ranges.size)
    log_total = torch.cat([logits[part].double().logsumexp(1) for part in row_chunks(logits)])
    values = torch.zeros(redraws, dtype=torch.float64, device=logits.device)
    for label in range(logits.shape[1]):
        probability = (logits[:, label].double() - log_total).exp()
        surplus = probability - (targets == label).double()
        index = ranges.below[:, label].long()
        means = torch.bincount(index, surplus, minlength=n_ranges)
        means /= torch.bincount(index, minlength=n_ranges).clamp(min=1)
        cell = member * n_ranges + index
        sums = torch.bincount(cell, surplus - means[index], minlength=len(names) * n_ranges)
        values += ((signs @ sums.view(len(names), n_ranges)).abs() / ranges.size).mean(1)
    return (values / logits.shape[1]).cpu().numpy()


def _signs(count: int, generator: torch.Generator) -> Float[Tensor, " groups"]:
    return 2 * torch.randint(2, (count,), generator=generator).double() - 1


def _floor(observed: float, values: NDArray[np.float64]) -> Floor:
    reached = int((values >= observed - 1e-12).sum())  # equal but for the order of the sums
    return Floor(
        mean=float(values.mean()),
        quantile95=float(np.quantile(values, 0.95)),
        p_value=(1 + reached) / (1 + len(values)),
    )


def _mean_deviation(
    mean: NDArray[np.float64], variance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """E |X − mean| of the binomial of this mean and variance, its n continued to real numbers."""
    chance = np.clip(1 - variance / np.where(mean > 0, mean, 1), 1e-9, 1)
    trials = mean / chance
    last = np.floor(mean + 1e-12)  # de Moivre: 2 (m + 1) C(n, m + 1) p^(m + 1) (1 − p)^(n − m)
    left = np.maximum(trials - last, 1e-300)
    log_choose = gammaln(trials + 1) - gammaln(last + 1) - gammaln(left)
    log_weight = xlogy(last + 1, chance) + xlog1py(left, -np.minimum(chance, 1 - 1e-16))
    deviation = 2 * np.exp(log_choose + log_weight)
    return np.where((mean > 0) & (variance > 0), deviation, 0.0)


def floors_record(floors: Mapping[str, Floor]) -> dict[str, dict[str, float]]:
    """What `json` can write."""
    return {name: floor._asdict() for name, floor in floors.items()}
