"""The calibration temperature: the T that minimises the NLL of softmax(logits / T)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from temperance.calibration.fit_report import FEW_WRONG, Status, TemperatureFit
from temperance.calibration.metrics.bins import binned_error
from temperance.calibration.metrics.checks import check_groups, check_logits
from temperance.calibration.metrics.chunks import row_chunks
from temperance.calibration.metrics.scores import score_rows, weighted_mean
from temperance.calibration.rows import CalibrationRows
from temperance.errors import UserError

TOLERANCE = 1e-12  # of log T
MAX_ITERATIONS = 200


def fit_temperature(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None = None,
    *,
    groups: Int[Tensor, " rows"] | None = None,
    bounds: tuple[float, float] = (0.01, 100.0),
) -> TemperatureFit:
    """Temperature scaling (Guo et al. 2017, §4.2) by safeguarded Newton, in float64.

    The NLL is convex in b = 1/T with slope g(b) = mean(E_softmax(bz)[z] − z_y), which is monotone:
    its root is bracketed and found on u = log b. Where no finite T > 0 is optimal is decided
    beforehand from the logits alone, and named in the status.

    Args:
        weights: of the rows, relative.
        groups: which rows are not independent (image, document), for the standard error.
        bounds: lowest and highest T, around 1.

    Raises:
        UserError: see `check_logits` and `check_groups`; for bounds that are not
            0 < low ≤ 1 ≤ high.

    Examples:
        >>> logits = torch.tensor([[3.0, 0.0]]).expand(100, 2)  # confidence 95 %, accuracy 75 %
        >>> fit = fit_temperature(logits, (torch.arange(100) % 4 == 0).long())
        >>> round(fit.temperature, 4), fit.status  # 3 / log 3
        (2.7307, 'converged')
    """
    check_logits(logits, targets, weights)
    check_groups(groups, len(logits))
    return fit_rows(
        CalibrationRows.of_positive_weight(logits, targets, weights, groups), bounds=bounds
    )


def fit_rows(rows: CalibrationRows, *, bounds: tuple[float, float]) -> TemperatureFit:
    """`fit_temperature` of rows that are checked already."""
    low, high = bounds
    if not 0 < low <= 1 <= high < math.inf:
        raise UserError(
            f"{low:g} to {high:g} is no range around 1",
            where="bounds",
            mend="Choose 0 < low ≤ 1 ≤ high",
        )
    logits, targets, weights, groups = rows
    before = score_rows(logits, targets)
    wrong = int((before.correct == 0).sum())
    nll_before = weighted_mean(before.nll, weights)
    status, temperature, iterations, error = _solve(logits, targets, weights, groups, bounds)
    after = score_rows(logits, targets, temperature=temperature)
    if weighted_mean(after.nll, weights) > nll_before:  # by rounding, where the optimum is 1
        temperature, after = 1.0, before
    usable = status in ("converged", "at_bound")
    return TemperatureFit(
        temperature=temperature,
        status=status,
        usable=usable,
        fragile=usable and wrong < FEW_WRONG,
        iterations=iterations,
        n=len(logits),
        wrong=wrong,
        nll_before=nll_before,
        nll_after=weighted_mean(after.nll, weights),
        ece_before=binned_error(before.confidence, before.correct, weights, n_bins=15).total,
        ece_after=binned_error(after.confidence, after.correct, weights, n_bins=15).total,
        se_log_temperature=error,
    )


class _Solution(NamedTuple):
    status: Status
    temperature: float
    iterations: int
    se_log_temperature: float | None


def _solve(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None,
    groups: Int[Tensor, " rows"] | None,
    bounds: tuple[float, float],
) -> _Solution:
    """The optimal temperature within the bounds, the degenerate cases decided first."""
    degenerate = degenerate_status(logits, targets, weights)
    if degenerate is not None:
        return _Solution(degenerate, 1.0, 0, None)

    low, high = -math.log(bounds[1]), -math.log(bounds[0])  # of u; g < 0 below, > 0 above the root
    for u, temperature, outward in ((low, bounds[1], 1), (high, bounds[0], -1)):
        if outward * _slope(logits, targets, weights, math.exp(u)).value >= 0:
            return _Solution("at_bound", temperature, 0, None)
    u, last_step = 0.0, high - low
    for iteration in range(1, MAX_ITERATIONS + 1):  # noqa: B007 - it is reported
        slope = _slope(logits, targets, weights, math.exp(u))
        low, high = (u, high) if slope.value < 0 else (low, u)
        derivative = math.exp(u) * slope.curvature  # of g, by u
        step = -slope.value / derivative if derivative > 0 else math.inf
        if abs(step) <= TOLERANCE:
            break
        # bisect where Newton leaves the bracket, or crawls because the softmax saturates
        if not low < u + step < high or abs(step) > last_step / 2:
            step = (low + high) / 2 - u
        u, last_step = u + step, abs(step)
    # the delta method for u = −log T, with dg/du = b · curvature
    error = slope.noise / (math.exp(u) * slope.curvature)
    return _Solution("converged", math.exp(-u), iteration, error)


def degenerate_status(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None,
) -> Status | None:
    """Why no finite temperature is optimal, decided from the logits alone; None where one is."""
    extent = _extent(logits, targets)
    if bool(extent.flat.all()):
        return "flat"
    if weighted_mean(extent.slope_at_zero, weights) >= 0:
        return "uninformative"
    if bool(extent.top.all()):
        return "separable"
    return None


class _Extent(NamedTuple):
    flat: Bool[Tensor, " rows"]
    """Whether all logits that are not masked are equal."""
    top: Bool[Tensor, " rows"]
    """Whether none is above the target's."""
    slope_at_zero: Float[Tensor, " rows"]
    """g(0): the mean logit − the target's."""


def _extent(logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"]) -> _Extent:
    """What decides, row by row, whether a finite temperature is optimal."""
    chunks = []
    for part in row_chunks(logits):
        margin, masked, of_target = _margins(logits[part], targets[part])
        mean = margin.sum(1) / (~masked).sum(1)
        chunks.append((margin.amin(1) == 0, of_target == 0, mean - of_target))
    return _Extent(*(torch.cat(column) for column in zip(*chunks, strict=True)))


class _Slope(NamedTuple):
    value: float
    """g(b), the slope of the NLL by b = 1/T."""
    curvature: float
    """Its derivative: the mean variance of the logits under softmax(bz)."""
    noise: float
    """Standard error of `value` over draws of the rows."""


def _slope(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None,
    b: float,
) -> _Slope:
    """g(b) and its derivative, a chunk of rows at a time."""
    value = curvature = noise = total = 0.0
    for part in row_chunks(logits):
        margin, masked, of_target = _margins(logits[part], targets[part])
        p = (b * margin).exp_().masked_fill_(masked, 0)
        p /= p.sum(1, keepdim=True)
        mean = (p * margin).sum(1)
        variance = (p * (margin - mean[:, None]).square_()).sum(1)
        share = torch.ones_like(mean) if weights is None else weights[part].double()
        deviation = share * (mean - of_target)
        value += float(deviation.sum())
        curvature += float(share @ variance)
        noise += float(deviation.square().sum())
        total += float(share.sum())
    return _Slope(value / total, curvature / total, math.sqrt(noise) / total)


def _margins(
    logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"]
) -> tuple[Float[Tensor, "rows classes"], Bool[Tensor, "rows classes"], Float[Tensor, " rows"]]:
    """Logits minus their row's maximum (masked ones 0), which are masked, and the target's."""
    masked = logits == -torch.inf
    wide = logits.double()
    margin = (wide - wide.amax(1, keepdim=True)).masked_fill_(masked, 0)
    return margin, masked, margin.gather(1, targets.long()[:, None])[:, 0]
