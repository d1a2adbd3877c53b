"""Class-wise ECE: the calibration of every class's probability."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.calibration.metrics.bins import bin_index, check_bins
from temperance.calibration.metrics.checks import check_logits
from temperance.calibration.metrics.chunks import SoftmaxChunk, softmax_chunks
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
        surplus += classwise_surplus(chunk, targets, weights, n_bins=n_bins)
    total = len(logits) if weights is None else weights.double().sum()
    return surplus.view(-1, n_bins).abs().sum(1) / total


def classwise_surplus(
    chunk: SoftmaxChunk,
    targets: Targets,
    weights: Float[Tensor, " rows"] | None = None,
    *,
    n_bins: int,
) -> Float[Tensor, " cells"]:
    """Σ (probability − indicator) per class and bin, flat.

    A row has fewer than M probabilities above 1 / M: only these are looked at one by one, and
    what is left of a class's sum belongs to its first bin.

    Args:
        targets, weights: of all rows, not of the chunk's alone.
    """
    share, total, labels = chunk.share, chunk.total, targets[chunk.part]
    weight = torch.ones_like(total) if weights is None else weights[chunk.part].double()
    cells = share.shape[1] * n_bins
    nearly = total * ((1 - 1e-9) / n_bins)  # not to miss one by rounding: bin_index is exact
    row, column = (share > nearly[:, None]).nonzero(as_tuple=True)
    value = share[row, column] / total[row]
    cell = column * n_bins + bin_index(value, n_bins)
    surplus = torch.zeros((share.shape[1], n_bins), dtype=torch.float64, device=share.device)
    surplus += torch.bincount(cell, value * weight[row], minlength=cells).view_as(surplus)
    surplus[:, 0] += (weight / total) @ share - surplus.sum(1)
    if labels.ndim == 2:
        row, column = labels.nonzero(as_tuple=True)
        hit = labels[row, column].double() * weight[row]
    else:
        row, column = torch.arange(len(labels), device=labels.device), labels.long()
        hit = weight
    cell = column * n_bins + bin_index(share[row, column] / total[row], n_bins)
    return surplus.flatten() - torch.bincount(cell, hit, minlength=cells)
