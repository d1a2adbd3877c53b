"""How well confidence orders the rows from right to wrong: AURC."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from temperance.calibration.metrics.bins import shared_by_ties
from temperance.calibration.metrics.checks import check_logits
from temperance.calibration.metrics.scores import Targets, score_rows


def area_under_risk_coverage(logits: Float[Tensor, "rows classes"], targets: Targets) -> float:
    """AURC (Geifman & El-Yaniv 2017), in 0..1: the error rate of the n most confident rows,
    averaged over n = 1..rows.

    Rows of equal confidence share their errors evenly. Temperature scaling may change it, since
    it may change the order of the confidences.

    Raises:
        UserError: see `check_logits`.

    Examples:
        >>> logits = torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log()
        >>> area_under_risk_coverage(logits, torch.tensor([0, 1]))  # (0 + 1/2) / 2
        0.25
    """
    check_logits(logits, targets, soft=True)
    scores = score_rows(logits, targets)
    return risk_coverage_of(scores.confidence, scores.correct)


def risk_coverage_of(confidence: Float[Tensor, " rows"], correct: Float[Tensor, " rows"]) -> float:
    """AURC of rows that are scored already."""
    ordered, order = confidence.sort(descending=True)
    shared = shared_by_ties(ordered, 1 - correct[order])
    covered = torch.arange(1, len(ordered) + 1, dtype=torch.float64, device=ordered.device)
    return float((shared.cumsum(0) / covered).mean())
