"""Calibration errors over bins of confidence: ECE, MCE, RMSCE, debiased and top-k."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.calibration.metrics.bins import (
    CalibrationError,
    DebiasedError,
    ReliabilityBins,
    bins_of,
    equal_mass,
    equal_width,
)
from temperance.calibration.metrics.checks import check_logits
from temperance.calibration.metrics.scores import (
    Targets,
    check_k,
    ranks_of_targets,
    score_rows,
)
from temperance.config import look_up
from temperance.errors import UserError

FEW_ROWS = 4096  # copied at a time

Event = Literal["top_label", "positive"]
"""What a confidence is about: that the predicted class is right, or that a two-class row is of
class 1."""


def expected_calibration_error(
    logits: Float[Tensor, "rows classes"],
    targets: Targets,
    weights: Float[Tensor, " rows"] | None = None,
    *,
    n_bins: int = 15,
    binning: Literal["equal_width", "equal_mass"] = "equal_width",
    event: Event = "top_label",
) -> CalibrationError:
    """ECE of the predicted class (Guo et al. 2017, eq. 3), over- and under-confidence apart.

    Args:
        binning: `equal_width`: bins (k/M, (k+1)/M], the first closed at 0; a confidence of exactly
            1 counts in the last. `equal_mass`: the sorted confidences are cut as `np.array_split`
            cuts, and equal confidences share their hits evenly; takes no weights. Others call
            that one adaptive calibration error; see `adaptive_calibration_error` for Nixon's.
        event: `positive` is for two classes: the probability of class 1 against how often it is 1.

    Raises:
        UserError: see `check_logits`; for fewer than one bin; for an unknown binning or event.

    Examples:
        >>> logits = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
        >>> error = expected_calibration_error(logits, torch.tensor([0, 1]))
        >>> round(error.over, 3), error.under
        (0.4, 0.0)
    """
    check_logits(logits, targets, weights, soft=True)
    confidence, hit = score_event(logits, targets, event)
    look_up("binning", binning, dict.fromkeys(("equal_width", "equal_mass")))
    if binning == "equal_width":
        return equal_width(confidence, hit, weights, n_bins=n_bins).error
    if weights is not None:
        raise UserError("takes no weights", where="binning equal_mass", mend="Leave them out")
    return equal_mass(confidence, hit, n_bins=n_bins).error


def maximum_calibration_error(
    logits: Float[Tensor, "rows classes"],
    targets: Targets,
    weights: Float[Tensor, " rows"] | None = None,
    *,
    n_bins: int = 15,
    min_count: float = 1,
    event: Event = "top_label",
) -> float:
    """MCE: the largest |confidence − accuracy| of a bin of equal width, in 0..1 (Guo et al. 2017).

    One row in a bin of its own decides it, so it is noisy.

    Args:
        min_count: bins that weigh less do not count; 0 if none is left.

    Raises:
        UserError: see `expected_calibration_error`.

    Examples:
        >>> logits = torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log()
        >>> round(maximum_calibration_error(logits, torch.tensor([0, 1])), 3)
        0.6
    """
    check_logits(logits, targets, weights, soft=True)
    bins = equal_width(*score_event(logits, targets, event), weights, n_bins=n_bins)
    return bins.largest_gap(min_count)


def root_mean_square_calibration_error(
    logits: Float[Tensor, "rows classes"],
    targets: Targets,
    weights: Float[Tensor, " rows"] | None = None,
    *,
    n_bins: int = 15,
    event: Event = "top_label",
) -> float:
    """RMSCE: root of the mean over rows of the squared gap of their bin, equal width, in 0..1.

    Raises:
        UserError: see `expected_calibration_error`.

    Examples:
        >>> logits = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
        >>> round(root_mean_square_calibration_error(logits, torch.tensor([0, 1])), 3)
        0.4
    """
    check_logits(logits, targets, weights, soft=True)
    bins = equal_width(*score_event(logits, targets, event), weights, n_bins=n_bins)
    return bins.root_mean_square


def debiased_calibration_error(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    n_bins: int = 15,
    event: Event = "top_label",
) -> DebiasedError:
    """The mean squared gap over bins of equal mass, debiased (Kumar, Liang & Ma 2019, def. 4).

    Σ n_m / N · [gap_m² − acc_m (1 − acc_m) / (n_m − 1)]; bins with fewer than two rows add 0. It
    estimates the ℓ₂ error of the model whose confidences are averaged within the bins.

    Raises:
        UserError: see `expected_calibration_error`.

    Examples:
        >>> logits = torch.tensor([[0.9, 0.1]]).log().expand(100, 2)
        >>> error = debiased_calibration_error(logits, torch.arange(100) % 2, n_bins=1)
        >>> round(error.squared, 4), round(error.root, 3)  # 0.4² − 0.25 / 99
        (0.1575, 0.397)
    """
    check_logits(logits, targets)
    return equal_mass(*score_event(logits, targets, event), n_bins=n_bins).debiased


def top_k_calibration_error(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None = None,
    *,
    k: int = 5,
    n_bins: int = 15,
) -> CalibrationError:
    """ECE of the set of the k most probable classes: their summed probability against how often
    it holds the target; equal width.

    Raises:
        UserError: see `check_logits`; for k outside 1..classes, fewer than one bin.

    Examples:
        >>> logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
        >>> error = top_k_calibration_error(logits, torch.tensor([2]), k=2)
        >>> round(error.over, 3), error.under
        (0.8, 0.0)
    """
    check_logits(logits, targets, weights)
    check_k(k, logits)
    confidence, hit = score_top_k(logits, targets, k, score_rows(logits, targets).confidence)
    return equal_width(confidence, hit, weights, n_bins=n_bins).error


def reliability_bins(
    logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"], n_bins: int = 15
) -> ReliabilityBins:
    """Count, mean confidence and accuracy per bin of `expected_calibration_error`.

    Raises:
        UserError: see `check_logits`; for fewer than one bin.

    Examples:
        >>> logits = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]]).log()
        >>> bins = reliability_bins(logits, torch.tensor([0, 1, 0]), n_bins=4)
        >>> bins.count.tolist(), bins.accuracy[2:].tolist()
        ([0, 0, 1, 2], [0.0, 1.0])
    """
    check_logits(logits, targets)
    scores = score_rows(logits, targets)
    return bins_of(scores.confidence, scores.correct, n_bins)


# What they are made of; none of these checks its input.


def score_event(
    logits: Float[Tensor, "rows classes"], targets: Targets, event: Event
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The confidence in the event and whether it happened, float64."""
    look_up("event", event, dict.fromkeys(("top_label", "positive")))
    if event == "top_label":
        scores = score_rows(logits, targets)
        return scores.confidence, scores.correct
    if logits.shape[1] != 2:
        raise UserError(
            f"'positive' needs two classes, not {logits.shape[1]}",
            where="event",
            mend="Give the two columns of one class against the rest, or choose top_label",
        )
    negative, positive = logits.detach().double().unbind(1)
    hit = targets[:, 1] if targets.ndim == 2 else targets == 1
    return (positive - negative).sigmoid(), hit.double()


def score_top_k(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    k: int,
    confidence: Float[Tensor, " rows"],
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The probability of the k most probable classes, and whether the target is one of them.

    Args:
        confidence: the probability of the most probable class.
    """
    logits = logits.detach()
    largest = logits.topk(k, 1).values
    own = logits.gather(1, targets.long()[:, None])[:, 0]
    hit = (own >= largest[:, -1]).double()
    tied = (own == largest[:, -1]).nonzero()[:, 0]  # of equal logits the first ones count
    for few in torch.split(tied, FEW_ROWS):
        hit[few] = (ranks_of_targets(logits[few], targets[few]) < k).double()
    share = (largest.double() - largest[:, :1].double()).exp_().sum(1)
    # not share · confidence: of flat rows, 3 · (1 / 10) lies above the edge 3 / 10
    return (share / (1 / confidence)).clamp_(max=1), hit
