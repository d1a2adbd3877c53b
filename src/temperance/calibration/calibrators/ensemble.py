"""Ensemble temperature scaling (ETS): three answers, mixed (Zhang, Kailkhura & Han 2020)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.calibration.calibrators.applying import check_class_count
from temperance.calibration.calibrators.base import Calibrator, Solved
from temperance.calibration.calibrators.frequencies import by_rows, keep_argmax
from temperance.calibration.calibrators.newton import Derivatives, minimise
from temperance.calibration.calibrators.row_likelihoods import (
    common_temperature,
    row_likelihoods,
    shares,
)
from temperance.config import Args


class EnsembleArgs(Args):
    """Ensemble temperature scaling."""

    name: Literal["ensemble"] = "ensemble"


class EnsembleTemperatureScaling(Calibrator):
    """w₁ · softmax(z / T) + w₂ · softmax(z) + w₃ · uniform, with w ≥ 0 summing to 1.

    T is the calibration temperature, fitted first; then w minimises the NLL, a convex problem whose
    optimum is no worse than T alone. (The paper's objective is the NLL or the squared error; its
    published demo takes the latter.) Uniform is over the classes that a row does not mask. Where
    two classes would round to a tie, the predicted one is raised by a rounding unit.

    Examples:
        >>> logits = torch.tensor([[4.0, 0.0, 0.0]]).expand(100, 3)
        >>> calibrator = EnsembleTemperatureScaling().fit(logits, (torch.arange(100) % 4) // 2)
        >>> round(float(calibrator(logits)[0].exp()[0]), 3)
        0.5
    """

    name = "ensemble"
    args_class = EnsembleArgs
    keeps_argmax = True
    temperature: Tensor
    mixture: Tensor
    """w, of the three answers."""
    classes: Tensor

    def __init__(self, args: EnsembleArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        self.register_buffer("temperature", torch.empty(0, dtype=torch.float64))
        self.register_buffer("mixture", torch.empty(0, dtype=torch.float64))
        self.register_buffer("classes", torch.tensor(0))

    @torch.no_grad()
    def solve(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None,
    ) -> Solved:
        """T, then w by Newton's method; EM needs 1e5 steps where T is near 1."""
        temperature = common_temperature(logits, targets, weights)
        share = shares(weights, logits)
        unit = torch.zeros_like(share)  # log T = 0
        log_likelihoods = torch.stack(
            [
                -row_likelihoods(logits, targets, unit + math.log(temperature)).nll,
                -row_likelihoods(logits, targets, unit).nll,
                _log_uniform(logits)[:, 0],
            ],
            1,
        )
        # only ratios matter, and these do not underflow all at once
        likelihood = (log_likelihoods - log_likelihoods.amax(1, keepdim=True)).exp()

        def derivatives(mixture: Float[Tensor, "1 answers"]) -> Derivatives:
            """Of NLL + Σ w: its minimum over w ≥ 0 sums to 1 by itself (Kim et al. 2020)."""
            mixed = likelihood @ mixture[0]
            relative = likelihood / mixed[:, None]
            curvature = relative.T @ (share[:, None] * relative)
            return Derivatives(
                (mixture.sum() - share @ mixed.log())[None],
                (1 - share @ relative)[None],
                curvature[None],
            )

        start = share.new_full((1, 3), 1 / 3)
        found = minimise(derivatives, start, lowest=share.new_zeros(3))
        self.temperature = share.new_tensor(temperature)
        self.mixture = found.parameters[0] / found.parameters.sum()
        self.classes = torch.tensor(logits.shape[1], device=logits.device)
        return Solved(found.iterations, found.status)

    def calibrate(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """Log-probabilities."""
        check_class_count(logits, int(self.classes))
        temperature, log_mixture = float(self.temperature), self.mixture.log().to(logits.device)

        def mixed(log_probability: Tensor) -> Tensor:
            softened = (log_probability / temperature).log_softmax(1)
            uniform = _log_uniform(log_probability).expand_as(softened)
            answers = torch.stack([softened, log_probability, uniform], -1)
            return (answers + log_mixture).logsumexp(-1)

        return keep_argmax(by_rows(logits, mixed), logits)


def _log_uniform(logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows 1"]:
    """The log-probability of every class that is not masked, if all are equal."""
    return -(logits > -torch.inf).sum(1, keepdim=True).double().log()
