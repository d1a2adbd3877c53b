"""Softmax regression from scores to scores: what vector, matrix and Dirichlet scaling share."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import minimize
from torch import Tensor

from temperance.calibration.calibrators.applying import check_class_count, narrowed, widened
from temperance.calibration.calibrators.base import Calibrator, Solved
from temperance.calibration.calibrators.row_likelihoods import common_temperature, shares
from temperance.calibration.metrics.chunks import row_chunks
from temperance.config import Args

TOLERANCE = 1e-8  # of the gradient, with every parameter in units of its curvature at the start
MAX_ITERATIONS = 1000
HISTORY = 20  # steps that L-BFGS remembers
OUT_OF_ITERATIONS = 1  # SciPy's status


class LinearScaling(Calibrator):
    """W x + b with scores x of the classes under logits / T; W is a matrix, or its diagonal alone.

    T is the calibration temperature, fitted first: the result does not depend on the scale of the
    logits, and W = 1 with b = 0 is temperature scaling. From there on the mean NLL plus
    Σ penalty · (parameter − that of temperature scaling)² falls, so on the rows fitted the NLL is
    never above that of temperature scaling. The penalties are relative to the mean NLL: more rows
    do not weaken them.

    L-BFGS in float64 until no component of the gradient exceeds 1e-8, each parameter in units of
    its curvature at the start, or until the objective falls by less than float64 can tell.
    """

    keeps_argmax = False
    has_matrix: ClassVar[bool]
    temperature: Tensor
    weight: Tensor
    """(classes, classes), or the diagonal (classes,)"""
    bias: Tensor
    """(classes,)"""

    def __init__(self, args: Args | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        for name in ("temperature", "weight", "bias"):
            self.register_buffer(name, torch.empty(0, dtype=torch.float64))

    def scores(self, tempered: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """x of logits / T."""
        return tempered

    def penalties(self, classes: int) -> Float[Tensor, "classes parameters"]:
        """On each parameter: the weights of a class, then its bias."""
        raise NotImplementedError

    @torch.no_grad()
    def solve(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None,
    ) -> Solved:
        """T, then weight and bias."""
        share = shares(weights, logits)
        self.temperature = share.new_tensor(common_temperature(logits, targets, weights))
        objective = _Objective(self, logits, targets, share)
        unit = objective.curvature(objective.start).sqrt()

        def scaled(values: np.ndarray) -> tuple[float, np.ndarray]:
            parameters = torch.from_numpy(values).to(unit.device).view_as(unit) / unit
            value, gradient = objective.value_and_gradient(parameters)
            return value, (gradient / unit).flatten().cpu().numpy()

        found = minimize(
            scaled,
            (objective.start * unit).flatten().cpu().numpy(),
            jac=True,
            method="L-BFGS-B",
            options={
                "gtol": TOLERANCE,
                "ftol": 0,
                "maxiter": MAX_ITERATIONS,
                "maxfun": 2 * MAX_ITERATIONS,
                "maxcor": HISTORY,
            },
        )
        parameters = torch.from_numpy(found.x).to(unit.device).view_as(unit) / unit
        self.weight, self.bias = _split(parameters)
        return Solved(
            int(found.nit), "at_bound" if found.status == OUT_OF_ITERATIONS else "converged"
        )

    def calibrate(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """W x + b."""
        check_class_count(logits, len(self.bias))
        wide = widened(logits)
        scores = self.scores(wide / self.temperature.to(wide))
        return narrowed(_map(scores, self.weight.to(wide), self.bias.to(wide)), logits)


class _Objective:
    """Penalised mean NLL of W x + b, a chunk of rows at a time."""

    def __init__(
        self,
        calibrator: LinearScaling,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        share: Float[Tensor, " rows"],
    ) -> None:
        self.calibrator = calibrator
        self.logits, self.targets, self.share = logits, targets.long(), share
        self.penalty = calibrator.penalties(logits.shape[1]).to(share)
        identity = torch.eye(logits.shape[1]).to(share)
        weight = identity if calibrator.has_matrix else identity.sum(1, keepdim=True)
        self.start = torch.cat([weight, torch.zeros_like(weight[:, :1])], 1)

    def value_and_gradient(
        self, parameters: Float[Tensor, "classes parameters"]
    ) -> tuple[float, Float[Tensor, "classes parameters"]]:
        off = parameters - self.start
        value = float((self.penalty * off.square()).sum())
        gradient = 2 * self.penalty * off
        for part in row_chunks(self.logits):
            scores, log_p = self._predict(part, parameters)
            share, target = self.share[part, None], self.targets[part, None]
            value -= float((share * log_p.gather(1, target)).sum())
            residual = (share * log_p.exp()).scatter_add_(1, target, -share)
            gradient += self._sum_over_rows(residual, scores)
        return value, gradient

    def curvature(
        self, parameters: Float[Tensor, "classes parameters"]
    ) -> Float[Tensor, "classes parameters"]:
        """Diagonal of the Hessian."""
        curvature = 2 * self.penalty
        for part in row_chunks(self.logits):
            scores, log_p = self._predict(part, parameters)
            p = log_p.exp()
            variance = self.share[part, None] * p * (1 - p)
            curvature = curvature + self._sum_over_rows(variance, scores.square())
        return curvature

    def _predict(
        self, part: slice, parameters: Float[Tensor, "classes parameters"]
    ) -> tuple[Float[Tensor, "rows classes"], Float[Tensor, "rows classes"]]:
        """Scores (masked ones 0) and log-probabilities of some rows."""
        logits = self.logits[part].double()
        masked = logits == -torch.inf
        tempered = logits / self.calibrator.temperature
        scores = self.calibrator.scores(tempered).masked_fill(masked, 0)
        mapped = _map(scores, *_split(parameters)).masked_fill(masked, -torch.inf)
        return scores, mapped.log_softmax(1)

    def _sum_over_rows(
        self, by_class: Float[Tensor, "rows classes"], scores: Float[Tensor, "rows classes"]
    ) -> Float[Tensor, "classes parameters"]:
        """Of the class's value times the derivatives of its mapped score by its parameters."""
        if self.calibrator.has_matrix:
            by_weight = by_class.T @ scores
        else:
            by_weight = (by_class * scores).sum(0)[:, None]
        return torch.cat([by_weight, by_class.sum(0)[:, None]], 1)


def _split(
    parameters: Float[Tensor, "classes parameters"],
) -> tuple[Tensor, Float[Tensor, " classes"]]:
    """Weight (a matrix, or its diagonal) and bias."""
    return parameters[:, :-1].squeeze(1).contiguous(), parameters[:, -1].contiguous()


def _map(
    scores: Float[Tensor, "rows classes"], weight: Tensor, bias: Float[Tensor, " classes"]
) -> Float[Tensor, "rows classes"]:
    return (scores * weight if weight.ndim == 1 else scores @ weight.T) + bias
