"""Calibration errors without bins: smooth ECE and the Kolmogorov–Smirnov error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.fft import dct, idct
from scipy.optimize import brentq
from torch import Tensor

from temperance.calibration.metrics.binned import Event, score_event
from temperance.calibration.metrics.checks import check_logits
from temperance.calibration.metrics.scores import Targets

GRID = 2**14  # cells of 0..1: far narrower than any bandwidth that rows of this world decide


class SmoothError(NamedTuple):
    """Smooth ECE and the bandwidth that it was taken at: they are equal where there is a root."""

    error: float
    bandwidth: float


def smooth_calibration_error(
    logits: Float[Tensor, "rows classes"],
    targets: Targets,
    weights: Float[Tensor, " rows"] | None = None,
    *,
    event: Event = "top_label",
) -> float:
    """Smooth ECE (Błasiok & Nakkiran 2023, §3.2), in 0..1: no bins, no hyper-parameter.

    ∫ |E[(hit − confidence) K_σ(t, confidence)]| dt with the Gaussian kernel reflected at 0 and 1,
    at the σ that equals the result. Confidences are shared between the two nearest of 16,384
    cells, which moves the value by less than 1e-5.

    Raises:
        UserError: see `check_logits`; for an unknown event.

    Examples:
        >>> logits = torch.tensor([[0.9, 0.1]]).log().expand(100, 2)
        >>> round(smooth_calibration_error(logits, torch.arange(100) % 2), 3)
        0.4
    """
    check_logits(logits, targets, weights, soft=True)
    return smooth_error_of(*score_event(logits, targets, event), weights).error


def ks_calibration_error(
    logits: Float[Tensor, "rows classes"],
    targets: Targets,
    weights: Float[Tensor, " rows"] | None = None,
    *,
    event: Event = "top_label",
) -> float:
    """KS calibration error (Gupta et al. 2021, eq. 5), in 0..1: the largest distance between the
    cumulative confidence and the cumulative hits, both over rows in order of confidence.

    Rows of equal confidence come at once, so their order does not matter.

    Raises:
        UserError: see `check_logits`; for an unknown event.

    Examples:
        >>> logits = torch.tensor([[0.9, 0.1]]).log().expand(100, 2)
        >>> round(ks_calibration_error(logits, torch.arange(100) % 2), 3)
        0.4
    """
    check_logits(logits, targets, weights, soft=True)
    return ks_error_of(*score_event(logits, targets, event), weights)


# What they are made of; none of these checks its input.


def smooth_error_of(
    confidence: Float[Tensor, " rows"],
    hit: Float[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None = None,
) -> SmoothError:
    """Smooth ECE of confidences in 0..1 and hits, float64."""
    surplus = confidence - hit if weights is None else weights.double() * (confidence - hit)
    total = len(confidence) if weights is None else float(weights.double().sum())
    return smooth_error_of_grid(on_grid(confidence, surplus) / total)


def on_grid(
    confidence: Float[Tensor, " rows"], values: Float[Tensor, " rows"]
) -> NDArray[np.float64]:
    """Sums of the values in cells of the confidence, each shared between the two nearest."""
    position = confidence * GRID - 0.5
    left = position.floor()
    share = position - left
    cell = left.long()
    below = torch.bincount(cell.clamp(min=0), values * (1 - share), minlength=GRID)
    above = torch.bincount((cell + 1).clamp(max=GRID - 1), values * share, minlength=GRID)
    return (below + above).cpu().numpy()


def smooth_error_of_grid(surplus: NDArray[np.float64]) -> SmoothError:
    """Smooth ECE of the surplus of confidence over hits, per cell, as a share of all rows."""
    # the reflected heat kernel is diagonal in cosines, with eigenvalues exp(−(π k σ)² / 2)
    spectrum = dct(surplus, type=2, norm="ortho")
    decay = (np.pi * np.arange(len(surplus))) ** 2 / 2

    def error(bandwidth: float) -> float:
        smoothed = idct(spectrum * np.exp(-decay * bandwidth**2), type=2, norm="ortho")
        return float(np.abs(smoothed).sum())

    narrow = 1 / len(surplus)
    if error(narrow) <= narrow:
        return SmoothError(error(narrow), narrow)
    # no error exceeds 1, but rounding may, if all rows are sure and wrong
    bandwidth = brentq(lambda width: error(width) - width, narrow, 1.01, xtol=1e-9)
    return SmoothError(error(bandwidth), bandwidth)


def ks_error_of(
    confidence: Float[Tensor, " rows"],
    hit: Float[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None = None,
) -> float:
    """KS calibration error of confidences and hits, float64."""
    ordered, order = confidence.sort()
    surplus = (confidence - hit)[order]
    total = float(len(surplus))
    if weights is not None:
        surplus, total = surplus * weights[order].double(), float(weights.double().sum())
    return ks_of_ordered(ordered, surplus, total)


def ks_of_ordered(
    confidence: Float[Tensor, " rows"], surplus: Float[Tensor, " rows"], total: float
) -> float:
    """KS calibration error of confidences in ascending order and confidence − hit."""
    last = torch.ones_like(confidence, dtype=torch.bool)
    last[:-1] = confidence[1:] != confidence[:-1]
    return float(surplus.cumsum(0)[last].abs().amax() / total)
