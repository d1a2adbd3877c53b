"""What chance alone does to a calibration error: noise floors, their p-values, the power of ACE.

Binned errors get these and no bootstrap interval: that covers nothing near zero, since resampling
adds noise that such an error counts as miscalibration.

Cost of 200 redraws on one core: all floors of 10,000 × 100 logits 1.2 s, of 1e7 logits 4 s (10,000
rows) to 27 s (1,000,000 rows) and some 250 MB (`benchmarks/results/coverage/cost.csv`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy
from torch import Tensor

from temperance.calibration.metrics import adaptive_calibration_error
from temperance.calibration.metrics.bins import block_sizes
from temperance.calibration.metrics.checks import check_groups, check_logits
from temperance.calibration.metrics.chunks import CHUNK, row_chunks
from temperance.calibration.metrics.ranked import check_ranges
from temperance.calibration.metrics.scores import RowScores, score_rows
from temperance.calibration.redraws import (
    LabelErrors,
    TopLabelErrors,
    shared_luck,
    uniforms,
)

SEEN = 3.0  # a change of so many standard deviations of the floor can be told from noise
FACTOR = 1.3  # of the temperature, for the power of ACE


class Floor(NamedTuple):
    """What a metric would be if the model were calibrated exactly as it says, at this n.

    Over labels redrawn from the model's own probabilities, inputs fixed; a test of calibration,
    never to be subtracted from the metric. With groups, rows of a group are drawn with the same
    luck as often as the observed hits vary together, in all groups alike.
    """

    mean: float
    quantile95: float
    p_value: float
    """(1 + redraws at or above the observed value) / (1 + redraws)."""


class AcePower(NamedTuple):
    """Whether ACE could see a temperature that is wrong by a factor of 1.3 on rows like these."""

    fitted: float
    """ACE at the fitted temperature."""
    perturbed: float
    """ACE at 1.3 times that temperature: under-confident."""
    sharpened: float
    """ACE at 1 / 1.3 of it: over-confident, what few ranges and many classes hide."""
    floor_mean: float
    """Mean of ACE at the fitted temperature if that were right."""
    floor_sd: float

    @property
    def change(self) -> float:
        """How many standard deviations of the floor `perturbed` lies above `fitted`."""
        return self._in_sds(self.perturbed)

    @property
    def change_sharpened(self) -> float:
        """The same of `sharpened`."""
        return self._in_sds(self.sharpened)

    @property
    def sees(self) -> bool:
        """Whether both changes are at least 3: else ACE is no axis to compare models on."""
        return min(self.change, self.change_sharpened) >= SEEN

    def _in_sds(self, error: float) -> float:
        return (error - self.fitted) / self.floor_sd if self.floor_sd > 0 else 0.0


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
        UserError: see `check_logits` and `check_groups`; for fewer than one bin.

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
    """Noise floor of `adaptive_calibration_error`; takes about 25 bytes per logit.

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
    return label_floors(
        logits, targets, n_bins=n_ranges, redraws=redraws, seed=seed, groups=groups
    )["ace"]


def ace_floor_mean(logits: Float[Tensor, "rows classes"], *, n_ranges: int = 15) -> float:
    """The mean of `ace_floor` in closed form, without a redraw.

    How many of a range's rows are of the class is a sum of unequal coins. Its mean absolute
    deviation is taken from the Poisson distribution of the same *variance*: right for rare and for
    nearly certain classes, and for large ranges, where both are normal. Within 1.5 % of redraws
    from 300 × 10 to 20,000 × 1,000 logits; the Poisson of the same mean is up to 60 % high. Rows
    are taken to differ in their probabilities: of equal ones, redraws share the labels over ranges.

    Raises:
        UserError: as `ace_floor`.

    Examples:
        >>> logits = torch.linspace(-0.1, 0.1, 1000)[:, None] * torch.tensor([[0.0, 1.0]])
        >>> round(ace_floor_mean(logits), 3)  # 67 coins a range: √(1 / (2π 67))
        0.049
    """
    check_logits(logits, logits.argmax(-1))
    check_ranges(n_ranges)
    size = block_sizes(len(logits), n_ranges).to(logits.device)
    borders = torch.nn.functional.pad(size.cumsum(0), (1, 0))
    log_total = torch.cat([logits[part].double().logsumexp(1) for part in row_chunks(logits)])
    deviations = []
    step = max(1, CHUNK // len(logits))
    for start in range(0, logits.shape[1], step):
        columns = logits[:, start : start + step].double()
        ordered = (columns - log_total[:, None]).exp().sort(0).values
        sums = torch.nn.functional.pad((ordered * (1 - ordered)).cumsum(0), (0, 0, 1, 0))
        variance = sums[borders].diff(dim=0).cpu().numpy()
        deviations.append(_mean_deviation(variance) / size[:, None].cpu().numpy())
    return float(np.concatenate(deviations, axis=1).mean())


def ace_power(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    temperature: float,
    n_ranges: int = 15,
    redraws: int = 50,
    seed: int = 0,
    groups: Int[Tensor, " rows"] | None = None,
) -> AcePower:
    """ACE at the temperature, at 1.3 times it and at 1 / 1.3 of it, against its floor there.

    Args:
        temperature: the fitted one, > 0.
        groups: which rows are not independent (image, document).

    Raises:
        UserError: as `ace_floor`.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0]]).expand(4000, 2)  # confidence 88 %
        >>> targets = (torch.arange(4000) % 25 < 3).long()  # accuracy 88 %
        >>> power = ace_power(logits, targets, temperature=1.0)
        >>> power.sees, round(power.perturbed - power.fitted, 2)
        (True, 0.06)
    """
    check_logits(logits, targets)
    check_groups(groups, len(logits))
    check_ranges(n_ranges)
    fitted = logits.double() / temperature
    errors = LabelErrors(fitted, n_ranges)
    scores = score_rows(fitted, targets)
    drawn = _redrawn_labels(errors, scores, redraws=redraws, seed=seed, groups=groups)
    return AcePower(
        fitted=errors(targets)["ace"],
        perturbed=adaptive_calibration_error(fitted / FACTOR, targets, n_ranges=n_ranges),
        sharpened=adaptive_calibration_error(fitted * FACTOR, targets, n_ranges=n_ranges),
        floor_mean=float(drawn["ace"].mean()),
        floor_sd=float(drawn["ace"].std(ddof=1)),
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
    """The floors of `ece`, `ece_equal_mass`, `rmsce`, `mce`, `smooth_ece` and `ks` of rows that are
    scored already; takes some 30 MB, and 250 bytes per row."""
    confidence, order = scores.confidence.sort()
    groups = None if groups is None else groups[order]
    hit = scores.correct[order]
    errors = TopLabelErrors(confidence, n_bins)
    shared = 0.0 if groups is None else shared_luck(confidence, hit, groups, n_bins)
    draws = [
        errors((numbers.to(confidence) < confidence).double())
        for numbers in uniforms(len(hit), redraws, seed=seed, groups=groups, shared=shared)
    ]
    observed = errors(hit[None])
    return {
        name: _floor(float(values[0]), np.concatenate([draw[name] for draw in draws]))
        for name, values in observed.items()
    }


def label_floors(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    n_bins: int,
    redraws: int,
    seed: int,
    groups: Int[Tensor, " rows"] | None = None,
) -> dict[str, Floor]:
    """The floors of `ace` and `classwise_ece`, with so many ranges and bins; takes about 25 bytes
    per logit."""
    errors = LabelErrors(logits, n_bins)
    scores = score_rows(logits, targets)
    drawn = _redrawn_labels(errors, scores, redraws=redraws, seed=seed, groups=groups)
    return {name: _floor(value, drawn[name]) for name, value in errors(targets).items()}


def _redrawn_labels(
    errors: LabelErrors,
    scores: RowScores,
    *,
    redraws: int,
    seed: int,
    groups: Int[Tensor, " rows"] | None,
) -> dict[str, NDArray[np.float64]]:
    """The errors of redrawn labels, an array for each."""
    confidence, hit, *_ = scores
    shared = 0.0 if groups is None else shared_luck(confidence, hit, groups, errors.n_bins)
    draws = [
        errors(errors.labels(row))
        for numbers in uniforms(len(hit), redraws, seed=seed, groups=groups, shared=shared)
        for row in numbers
    ]
    return {name: np.array([draw[name] for draw in draws]) for name in draws[0]}


def _floor(observed: float, values: NDArray[np.float64]) -> Floor:
    reached = int((values >= observed - 1e-12).sum())  # equal but for the order of the sums
    return Floor(
        mean=float(values.mean()),
        quantile95=float(np.quantile(values, 0.95)),
        p_value=(1 + reached) / (1 + len(values)),
    )


def _mean_deviation(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """E |X − E X| of the Poisson distribution of this variance (de Moivre)."""
    whole = np.floor(variance)
    log_half: NDArray[np.float64] = xlogy(whole + 1, variance) - variance - gammaln(whole + 1)
    return 2 * np.exp(log_half)
