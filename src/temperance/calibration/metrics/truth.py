"""How far probabilities are from the truth, where it is known: exact, not estimated from labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from torch import Tensor

from temperance.calibration.metrics.checks import check_logits

LOG_TEMPERATURES = np.linspace(math.log(0.01), math.log(100), 41)
"""Where the least distance is looked for first: that of squares may have several local minima."""


class TruthDistance(NamedTuple):
    """Distances of a model's probabilities p from the true ones p*, means over the rows."""

    mse: float
    """Σ over classes of (p − p*)², in 0..2: by how much the expected Brier score is above p*'s."""
    mse_calibration: float
    """What the best single temperature removes of it, ≥ 0."""
    mse_refinement: float
    """What remains at that temperature."""
    kl: float
    """KL(p* ‖ p) in nats, ≥ 0: by how much the expected NLL is above p*'s."""
    kl_calibration: float
    kl_refinement: float


def distance_to_truth(
    logits: Float[Tensor, "rows classes"], truth: Float[Tensor, "rows classes"]
) -> TruthDistance:
    """Squared distance and KL divergence, each split into calibration and refinement.

    Refinement is the least distance over softmax(logits / T) for one T in 0.01..100, a T for each
    of the two measures; calibration is the rest. So calibration is what temperature scaling with
    all knowledge could mend, and what another calibrator could mend beyond it counts as
    refinement (the decomposition of proper scores, Bröcker 2009, with temperatures in place of
    all functions of the logits).

    Args:
        truth: p*(class | row), ≥ 0 with rows that sum to 1.

    Raises:
        UserError: see `check_logits`; −inf is allowed where the truth is 0.

    Examples:
        >>> truth = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
        >>> sharp = distance_to_truth(3 * truth.log(), truth)  # right at T = 3
        >>> round(sharp.mse, 4), round(sharp.mse_calibration, 4), round(sharp.mse_refinement, 4)
        (0.0438, 0.0438, 0.0)
    """
    check_logits(logits, truth, soft=True)
    logits, truth = logits.detach().double(), truth.detach().double()
    log_truth = torch.where(truth > 0, truth, 1).log()

    def squared(temperature: float) -> float:
        return float((torch.softmax(logits / temperature, 1) - truth).square().sum(1).mean())

    def divergence(temperature: float) -> float:
        log_ratio = log_truth - torch.log_softmax(logits / temperature, 1)
        return float(torch.where(truth > 0, truth * log_ratio, 0).sum(1).mean())

    mse, kl = squared(1.0), max(divergence(1.0), 0.0)  # a KL of 0 may be rounded below it
    mse_refinement, kl_refinement = min(mse, _least(squared)), min(kl, _least(divergence))
    return TruthDistance(
        mse, mse - mse_refinement, mse_refinement, kl, kl - kl_refinement, kl_refinement
    )


def _least(distance: Callable[[float], float]) -> float:
    """The least of a distance over temperatures, ≥ 0."""

    def at(log_temperature: float) -> float:
        return distance(math.exp(log_temperature))

    best = int(np.argmin([at(x) for x in LOG_TEMPERATURES]))
    low, high = LOG_TEMPERATURES[max(best - 1, 0)], LOG_TEMPERATURES[best : best + 2][-1]
    found = minimize_scalar(at, bounds=(low, high), method="bounded", options={"xatol": 1e-8})
    return max(float(found.fun), 0.0)
