"""What every row's own temperature does to its likelihood."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.calibration.fitting import fit_rows
from temperance.calibration.metrics.chunks import softmax_chunks
from temperance.calibration.rows import CalibrationRows

WIDEST = (1e-8, 1e8)  # of T: what is fitted after it does not depend on the scale of the logits


class RowLikelihoods(NamedTuple):
    """The NLL of each row, with its derivatives by the logarithm of the row's temperature."""

    nll: Float[Tensor, " rows"]
    slope: Float[Tensor, " rows"]
    curvature: Float[Tensor, " rows"]


def row_likelihoods(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    log_temperature: Float[Tensor, " rows"],
) -> RowLikelihoods:
    """NLL of softmax(logits / T) row by row.

    With m = logits / T, its slope by log T is m_target − E[m], and the derivative of that
    Var[m] + E[m] − m_target.
    """
    columns = []
    for chunk in softmax_chunks(logits, log_temperature.exp()):
        p = chunk.share / chunk.total[:, None]
        margin = chunk.margin.masked_fill(chunk.share == 0, 0)
        of_target = chunk.margin.gather(1, targets[chunk.part].long()[:, None])[:, 0]
        mean = (p * margin).sum(1)
        variance = (p * (margin - mean[:, None]).square()).sum(1)
        slope = of_target - mean
        columns.append((chunk.total.log() - of_target, slope, variance - slope))
    return RowLikelihoods(*(torch.cat(column) for column in zip(*columns, strict=True)))


def common_temperature(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None,
) -> float:
    """The calibration temperature of all rows, from where richer maps start."""
    return fit_rows(CalibrationRows(logits, targets, weights), bounds=WIDEST).temperature


def shares(
    weights: Float[Tensor, " rows"] | None, logits: Float[Tensor, "rows classes"]
) -> Float[Tensor, " rows"]:
    """The weights of the rows in float64, summing to 1."""
    rows = len(logits)
    if weights is None:
        return torch.full((rows,), 1 / rows, dtype=torch.float64, device=logits.device)
    return weights.double() / weights.double().sum()
