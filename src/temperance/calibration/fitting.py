"""The calibration temperature: the T that minimises the NLL of softmax(logits / T)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from temperance.calibration.fit_report import FEW_WRONG, CrossFit, Status, TemperatureFit
from temperance.calibration.metrics.bins import ECE_BINS, binned_error
from temperance.calibration.metrics.checks import check_groups, check_logits
from temperance.calibration.metrics.chunks import softmax_chunks, working_dtype
from temperance.calibration.metrics.scores import hits_first_maximum, weighted_mean
from temperance.calibration.rows import CalibrationRows
from temperance.errors import UserError

WARM_UP = 4096  # rows, drawn by seed, that find T to a few per cent: then two passes suffice
ROUGH_STEP = 0.05  # of log T, for these rows
LAST_STEP = 1e-4  # of log T: a third-order step of this size is off by its cube
MAX_ITERATIONS = 200
NEARBY = 0.01  # relative change of 1/T up to which a cubic expansion of every row is exact to 1e-8


def fit_temperature(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None = None,
    *,
    groups: Int[Tensor, " rows"] | None = None,
    bounds: tuple[float, float] = (0.01, 100.0),
    cross_fit: int | None = None,
    seed: int = 0,
) -> TemperatureFit:
    """Temperature scaling (Guo et al. 2017, §4.2) by safeguarded Newton.

    The NLL is convex in b = 1/T with slope g(b) = mean(E_softmax(bz)[z] − z_y), which is monotone:
    its root is bracketed and found on u = log b. Where no finite T > 0 is optimal is decided
    beforehand from the logits alone, and named in the status. Takes three passes over the logits
    and some 30 MB beside them. Beyond 4 million logits of 32 bits or fewer a row's terms are
    computed in float32 and summed in float64; T is then off by less than 1e-6.

    Args:
        weights: of the rows, relative.
        groups: which rows are not independent (image, document): the standard error is
            cluster-robust, and folds keep them together.
        bounds: lowest and highest T, around 1.
        cross_fit: also report NLL and ECE over so many folds, each calibrated by the T of the
            others.
        seed: of the folds.

    Raises:
        UserError: see `check_logits` and `check_groups`; for bounds that are not
            0 < low ≤ 1 ≤ high; for fewer than 2 folds, or more than rows or groups.

    Examples:
        >>> logits = torch.tensor([[3.0, 0.0]]).expand(100, 2)  # confidence 95 %, accuracy 75 %
        >>> fit = fit_temperature(logits, (torch.arange(100) % 4 == 0).long())
        >>> round(fit.temperature, 4), fit.status  # 3 / log 3
        (2.7307, 'converged')
    """
    check_logits(logits, targets, weights)
    check_groups(groups, len(logits))
    rows = CalibrationRows.of_positive_weight(logits, targets, weights, groups)
    fold_of = None if cross_fit is None else rows.folds(cross_fit, seed)
    return fit_rows(rows, bounds=bounds, fold_of=fold_of)


def fit_rows(
    rows: CalibrationRows,
    *,
    bounds: tuple[float, float],
    fold_of: Int[Tensor, " rows"] | None = None,
) -> TemperatureFit:
    """`fit_temperature` of rows that are checked already."""
    low, high = bounds
    if not 0 < low <= 1 <= high < math.inf:
        raise UserError(
            f"{low:g} to {high:g} is no range around 1",
            where="bounds",
            mend="Choose 0 < low ≤ 1 ≤ high",
        )
    raw = look_at(rows)
    status = raw.degenerate_status(rows.weights)
    found = Solution(1.0, status) if status else _solve(rows, bounds, masked=raw.masked)
    after = raw.rows if found.moments is None else found.moments.at(1 / found.temperature)
    nll_before, nll_after = (weighted_mean(x.nll, rows.weights) for x in (raw.rows, after))
    if nll_after > nll_before:  # by rounding, where the optimum is 1
        found, after, nll_after = found._replace(temperature=1.0), raw.rows, nll_before
    usable = status is None
    wrong = int((~raw.correct).sum())
    return TemperatureFit(
        temperature=found.temperature,
        status=found.status,
        usable=usable,
        fragile=usable and wrong < FEW_WRONG,
        iterations=found.iterations,
        n=len(rows.logits),
        wrong=wrong,
        nll_before=nll_before,
        nll_after=nll_after,
        ece_before=_ece(raw.rows.confidence, raw, rows.weights),
        ece_after=_ece(after.confidence, raw, rows.weights),
        se_log_temperature=_sandwich_error(found, rows),
        cross_fit=None if fold_of is None else _cross_fit(rows, raw, found, bounds, fold_of),
    )


def _ece(confidence: Tensor, raw: RawRows, weights: Tensor | None) -> float:
    return binned_error(confidence, raw.correct.double(), weights, n_bins=ECE_BINS).total


# A first look: what the logits say as they are.


class TemperedRows(NamedTuple):
    """Every row's NLL and confidence at some temperature, float64."""

    nll: Float[Tensor, " rows"]
    confidence: Float[Tensor, " rows"]


class RawRows(NamedTuple):
    """Every row at T = 1, and what decides whether a finite temperature is optimal."""

    rows: TemperedRows
    correct: Bool[Tensor, " rows"]
    """Whether the target is the first of the largest logits."""
    on_top: bool
    """Whether no logit of any row is above the target's."""
    flat: bool
    """Whether all logits of each row that are not masked are equal."""
    slope_at_zero: Float[Tensor, " rows"]
    """g(0): the mean logit − the target's."""
    masked: bool
    """Whether there is a masked class (−inf)."""

    def degenerate_status(self, weights: Float[Tensor, " rows"] | None) -> Status | None:
        """Why no finite temperature is optimal; None where one is."""
        if self.flat:
            return "flat"
        if weighted_mean(self.slope_at_zero, weights) >= 0:
            return "uninformative"
        return "separable" if self.on_top else None


def look_at(rows: CalibrationRows) -> RawRows:
    """The rows as they are, in one pass."""
    logits = rows.logits
    nll, confidence, slope_at_zero = logits.new_empty((3, len(logits)), dtype=torch.float64)
    correct = torch.empty(len(logits), dtype=torch.bool, device=logits.device)
    flat, on_top, masked = True, True, False
    for chunk in softmax_chunks(logits, dtype=working_dtype(logits)):
        labels = rows.targets[chunk.part].long()
        target = chunk.margin.gather(1, labels[:, None])[:, 0]
        correct[chunk.part] = hits_first_maximum(chunk, logits, labels, target)
        log_total = (chunk.total - 1).double().log1p_()
        nll[chunk.part], confidence[chunk.part] = log_total - target, (-log_total).exp_()
        total, classes = chunk.margin.sum(1), torch.tensor(logits.shape[1], device=logits.device)
        if bool(total.isinf().any()):
            masked, hidden = True, chunk.margin == -torch.inf
            total = chunk.margin.masked_fill_(hidden, 0).sum(1)
            classes = (~hidden).sum(1)
        slope_at_zero[chunk.part] = total / classes - target
        flat = flat and bool((total == 0).all())
        on_top = on_top and bool((target == 0).all())
    return RawRows(TemperedRows(nll, confidence), correct, on_top, flat, slope_at_zero, masked)


# One pass over the logits at some temperature.


class RowMoments(NamedTuple):
    """What softmax(b · logits) says about each row's logits at one b = 1/T; float64.

    Logits are counted from their row's maximum. The cumulants are the derivatives by b of the log
    of Σ exp(b · logit): they carry it to any b nearby without another pass.
    """

    b: float
    log_total: Float[Tensor, " rows"]
    """Of Σ exp(b · logit): minus the log of the confidence."""
    mean: Float[Tensor, " rows"]
    variance: Float[Tensor, " rows"]
    third: Float[Tensor, " rows"]
    """Third central moment."""
    target: Float[Tensor, " rows"]
    """The target's logit, ≤ 0."""

    def at(self, b: float | Float[Tensor, " rows"]) -> TemperedRows:
        """NLL and confidence at another b nearby."""
        step = b - self.b
        log_total = self.log_total + step * (
            self.mean + step / 2 * (self.variance + step / 3 * self.third)
        )
        return TemperedRows(log_total - b * self.target, (-log_total).exp())

    def slope(self, weights: Float[Tensor, " rows"] | None) -> Slope:
        """The slope of the mean NLL by b."""
        columns = (self.mean - self.target, self.variance, self.third)
        return Slope(*(weighted_mean(column, weights) for column in columns))


class Slope(NamedTuple):
    """g(b) = mean(E_softmax(bz)[z] − z_y) and its first two derivatives."""

    value: float
    curvature: float
    bend: float


def moments_at(rows: CalibrationRows, b: float, *, masked: bool) -> RowMoments:
    """The moments of every row."""
    logits = rows.logits
    columns = logits.new_empty((5, len(logits)), dtype=torch.float64)
    for chunk in softmax_chunks(logits, 1 / b, working_dtype(logits)):
        margin, share, total = chunk.margin, chunk.share, chunk.total
        target = margin.gather(1, rows.targets[chunk.part].long()[:, None])[:, 0]
        if masked:
            margin.clamp_(min=-1e30)  # such a class weighs 0, and 0 · −inf is NaN
        moments = (share.mul_(margin).sum(1).double() / total for _ in range(3))
        mean, square, cube = moments
        centred = (mean, square - mean.square(), cube - 3 * mean * square + 2 * mean**3)
        for column, values in zip(
            columns, ((total - 1).double().log1p_(), *centred, target), strict=True
        ):
            column[chunk.part] = values
    log_total, mean, variance, third, target = columns  # of b · logits
    return RowMoments(b, log_total, mean / b, variance / b**2, third / b**3, target / b)


# The optimum.


class Solution(NamedTuple):
    """Where the NLL is lowest within the bounds."""

    temperature: float
    status: Status
    iterations: int = 0
    moments: RowMoments | None = None
    """At a temperature so near that their expansion is exact."""


def _solve(rows: CalibrationRows, bounds: tuple[float, float], *, masked: bool) -> Solution:
    """The optimal temperature of rows that are not degenerate."""
    start, passes = 0.0, 0
    if len(rows.logits) > 4 * WARM_UP:
        # drawn, not the first ones: rows may come sorted by class or by confidence
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randperm(len(rows.logits), generator=generator)[:WARM_UP]
        few = rows.take(drawn.to(rows.logits.device))
        if look_at(few).degenerate_status(few.weights) is None:
            near = _newton(few, bounds, start, masked=masked, last_step=ROUGH_STEP)
            start, passes = -math.log(near.temperature), near.iterations
    found = _newton(rows, bounds, start, masked=masked, last_step=LAST_STEP)
    return found._replace(iterations=passes + found.iterations)


def _newton(
    rows: CalibrationRows,
    bounds: tuple[float, float],
    start: float,
    *,
    masked: bool,
    last_step: float,
) -> Solution:
    """The root of g on u = log b, by Chebyshev's third-order steps within a shrinking bracket."""
    low, high = -math.log(bounds[1]), -math.log(bounds[0])
    low_known = high_known = False  # whether g < 0 at low and g > 0 at high
    u, width = min(max(start, low), high), math.inf
    for iteration in range(1, MAX_ITERATIONS + 1):
        b = math.exp(u)
        moments = moments_at(rows, b, masked=masked)
        g, h, k = moments.slope(rows.weights)
        if u == low and g >= 0 and not low_known:
            return Solution(bounds[1], "at_bound", iteration, moments)
        if u == high and g <= 0 and not high_known:
            return Solution(bounds[0], "at_bound", iteration, moments)
        if g < 0:
            low, low_known = u, True
        else:
            high, high_known = u, True
        step = -g / (b * h) if h > 0 else math.copysign(math.inf, -g)
        if abs(step) < 0.1:
            step *= 1 - (1 + b * k / h) / 2 * step
        if abs(step) <= last_step and low <= u + step <= high:
            return Solution(math.exp(-u - step), "converged", iteration, moments)
        aim = u + step
        if aim <= low:
            aim = (low + high) / 2 if low_known else low
        elif aim >= high:
            aim = (low + high) / 2 if high_known else high
        elif abs(step) > width / 2:  # Newton crawls where the softmax saturates
            aim = (low + high) / 2
        u, width = aim, abs(aim - u)
    return Solution(1 / b, "at_bound", MAX_ITERATIONS, moments)


# How sure it is.


def _sandwich_error(found: Solution, rows: CalibrationRows) -> float | None:
    """Standard error of log T over draws of the rows, or of the groups."""
    if found.status != "converged" or found.moments is None:
        return None
    moments, b = found.moments, 1 / found.temperature
    mean = moments.mean + (b - moments.b) * moments.variance
    weights = torch.ones_like(mean) if rows.weights is None else rows.weights.double()
    deviation = weights * (mean - moments.target)
    if rows.groups is not None:
        _, member = torch.unique(rows.groups, return_inverse=True)
        deviation = torch.bincount(member, deviation)
    # the delta method for log T = −log b, with d g / d log b = b · curvature
    return float(deviation.square().sum().sqrt() / (b * (weights @ moments.variance)))


def _cross_fit(
    rows: CalibrationRows,
    raw: RawRows,
    found: Solution,
    bounds: tuple[float, float],
    fold_of: Int[Tensor, " rows"],
) -> CrossFit:
    """NLL and ECE of every row at the T of the other folds.

    That is so near the T of all rows, where there are many, that the moments there tell it.
    """
    folds = int(fold_of.max()) + 1
    nll, confidence = (column.clone() for column in raw.rows)
    for fold in range(folds):
        held_out = fold_of == fold
        nearby = None if found.moments is None else _nearby_root(found.moments, ~held_out, rows)
        if nearby is not None and found.moments is not None:
            tempered = found.moments.at(nearby)
            nll[held_out], confidence[held_out] = (column[held_out] for column in tempered)
            continue
        others, own = rows.take(~held_out), rows.take(held_out)
        look = look_at(others)
        if look.degenerate_status(others.weights) is None:
            b = 1 / _solve(others, bounds, masked=raw.masked).temperature
            tempered = moments_at(own, b, masked=raw.masked).at(b)
            nll[held_out], confidence[held_out] = tempered
    return CrossFit(folds, weighted_mean(nll, rows.weights), _ece(confidence, raw, rows.weights))


def _nearby_root(moments: RowMoments, chosen: Tensor, rows: CalibrationRows) -> float | None:
    """The optimal b of some of the rows; None if it is too far from where the moments are."""
    part = RowMoments(moments.b, *(column[chosen] for column in moments[1:]))
    g, h, k = part.slope(None if rows.weights is None else rows.weights[chosen])
    step = -g / h if h > 0 else math.inf
    step *= 1 - step * k / (2 * h)
    return moments.b + step if abs(step) <= NEARBY * moments.b else None
