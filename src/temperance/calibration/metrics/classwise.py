"""Class-wise ECE: the calibration of every class's probability."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.calibration.metrics.bins import bin_index, check_bins
from temperance.calibration.metrics.checks import check_logits
from temperance.calibration.metrics.chunks import softmax_chunks
from temperance.calibration.metrics.scores import Targets


def classwise_calibration_error(
    logits: Float[Tensor, "rows classes"],
    targets: Targets,
    weights: Float[Tensor, " rows"] | None = None,
    *,
    n_bins: int = 15,
) -> float:
    """The ECE of each class's probability against its frequency, over all rows, as a mean over
    all classes, in 0..1 (Kull et al. 2019, §2; static calibration error in Nixon et al. 2019).

    Raises:
        UserError: see `check_logits`; for fewer than one bin.

    Examples:
        >>> logits = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
        >>> round(classwise_calibration_error(logits, torch.tensor([0, 1])), 3)
        0.4
    """
    check_logits(logits, targets, weights, soft=True)
    return float(classwise_errors(logits, targets, weights, n_bins=n_bins).mean())


def classwise_errors(
    logits: Float[Tensor, "rows classes"],
    targets: Targets,
    weights: Float[Tensor, " rows"] | None = None,
    *,
    n_bins: int,
) -> Float[Tensor, " classes"]:
    """Each class's ECE, float64."""
    check_bins(n_bins)
    surplus = torch.zeros(logits.shape[1] * n_bins, dtype=torch.float64, device=logits.device)
    for chunk in softmax_chunks(logits):
        share = None if weights is None else weights[chunk.part].double()
        probabilities = chunk.share.div_(chunk.total[:, None])
        surplus += classwise_surplus(probabilities, targets[chunk.part], share, n_bins=n_bins)
    total = len(logits) if weights is None else weights.double().sum()
    return surplus.view(-1, n_bins).abs().sum(1) / total


def classwise_surplus(
    probabilities: Float[Tensor, "rows classes"],
    targets: Targets,
    weights: Float[Tensor, " rows"] | None = None,
    *,
    n_bins: int,
) -> Float[Tensor, " cells"]:
    """Σ (probability − indicator) per class and bin, flat.

    A row has fewer than M probabilities above 1 / M: only these are looked at one by one, and
    what is left of a class's sum belongs to its first bin.
    """
    classes = probabilities.shape[1]
    surplus = torch.zeros((classes, n_bins), dtype=torch.float64, device=probabilities.device)
    total = probabilities.sum(0) if weights is None else weights @ probabilities
    row, column = (probabilities > 1 / n_bins).nonzero(as_tuple=True)
    value = probabilities[row, column]
    cell = column * n_bins + bin_index(value, n_bins)
    weighted = value if weights is None else value * weights[row]
    surplus += torch.bincount(cell, weighted, minlength=surplus.numel()).view_as(surplus)
    surplus[:, 0] += total - surplus.sum(1)
    if targets.ndim == 2:
        row, label = targets.nonzero(as_tuple=True)
        hit = targets[row, label].double()
    else:
        row, label = torch.arange(len(targets), device=targets.device), targets.long()
        hit = torch.ones_like(row, dtype=torch.float64)
    cell = label * n_bins + bin_index(probabilities[row, label], n_bins)
    hit = hit if weights is None else hit * weights[row]
    return surplus.flatten() - torch.bincount(cell, hit, minlength=surplus.numel())
