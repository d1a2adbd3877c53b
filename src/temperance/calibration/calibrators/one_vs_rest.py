"""One class against the rest: what Platt scaling and beta calibration share."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from temperance.calibration.calibrators.applying import check_class_count, narrowed, widened
from temperance.calibration.calibrators.base import Calibrator, Solved
from temperance.calibration.calibrators.newton import Derivatives, Minimum, minimise
from temperance.calibration.calibrators.row_likelihoods import common_temperature, shares
from temperance.calibration.metrics.chunks import row_chunks
from temperance.config import Args

CHUNK = 2**20  # log-odds that are fitted at a time
LARGEST = 1e30  # in place of infinite log-odds, which times 0 would be NaN


class OneVsRestArgs(Args):
    """Penalties, relative to the mean NLL of a class's regression, summed over the classes."""

    slope: PositiveFloat = 1.0
    """On the mean over classes of (slope − 1)², summed over the slopes of a class."""
    intercept: PositiveFloat = 0.1
    """On the mean over classes of the squared intercept."""


class OneVsRestScaling(Calibrator):
    """sigmoid(Σ slope · evidence + intercept) of each class, normalised over the classes.

    The evidence is made of the class's log-odds under softmax(z / T), with T the calibration
    temperature, fitted first. So the result does not depend on the scale of the logits, and slopes
    of 1 with intercepts of 0 are temperature scaling, to which the penalty draws. Without it a
    class that no target has, or that is told apart perfectly, would have no finite fit. Slopes are
    ≥ 0: a class's answer never falls as its probability rises.

    Each class is fitted by itself, on whether a row is of it, without the rows where it is masked
    or the only one that is not. Newton's method in float64 until no component of the gradient
    exceeds 1e-10. The NLL of the normalised answers is not what is minimised, and may rise.
    """

    keeps_argmax = False
    n_slopes: ClassVar[int]
    args: OneVsRestArgs
    temperature: Tensor
    slopes: Tensor
    """(slopes, classes)"""
    intercepts: Tensor
    """(classes,)"""

    def __init__(self, args: OneVsRestArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        for name in ("temperature", "slopes", "intercepts"):
            self.register_buffer(name, torch.empty(0, dtype=torch.float64))

    def evidence(self, odds: Float[Tensor, "rows classes"]) -> Float[Tensor, "slopes rows classes"]:
        """Functions of the log-odds that do not fall with them; finite, as these are."""
        raise NotImplementedError

    @torch.no_grad()
    def solve(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None,
    ) -> Solved:
        """Slopes and intercepts, some classes at a time."""
        rows, classes = logits.shape
        temperature = common_temperature(logits, targets, weights)
        share = shares(weights, logits)
        odds = torch.empty_like(widened(logits))
        for part in row_chunks(logits):
            odds[part] = log_odds(logits[part].double() / temperature)
        penalty = share.new_tensor([self.args.slope] * self.n_slopes + [self.args.intercept])

        found = []
        step = max(1, CHUNK // rows)
        for start in range(0, classes, step):
            some = torch.arange(start, min(start + step, classes), device=logits.device)
            of_class = odds[:, some].double()
            regressions = _logistic_regressions(
                self.evidence(_finite(of_class)),
                hit=(targets[:, None] == some).double(),
                weight=share[:, None] * of_class.isfinite(),
                penalty=penalty / classes,
            )
            found.append(regressions)
        parameters = torch.cat([regressions.parameters for regressions in found])
        self.temperature = share.new_tensor(temperature)
        self.slopes, self.intercepts = parameters[:, :-1].T.contiguous(), parameters[:, -1].clone()
        iterations = max(regressions.iterations for regressions in found)
        unfinished = any(regressions.status == "at_bound" for regressions in found)
        return Solved(iterations, "at_bound" if unfinished else "converged")

    def calibrate(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """Log-probabilities."""
        check_class_count(logits, len(self.intercepts))
        wide = widened(logits)
        evidence = self.evidence(_finite(log_odds(wide / self.temperature.to(wide))))
        score = (evidence * self.slopes.to(wide)[:, None]).sum(0) + self.intercepts.to(wide)
        answer = logsigmoid(score).masked_fill(logits == -torch.inf, -torch.inf)
        return narrowed(answer.log_softmax(1), logits)


def log_odds(logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
    """log p − log(1 − p) of each class's softmax probability p, exact also where p rounds to 1.

    −inf for a masked class, +inf for the only class that is not masked. In the dtype of the logits
    or, if that is narrower, float32.

    Examples:
        >>> log_odds(torch.tensor([[100.0, 0.0, 0.0]]))[0, 0] == 100 - torch.tensor(2.0).log()
        tensor(True)
    """
    wide = widened(logits)
    highest, predicted = wide.max(1, keepdim=True)
    share = (wide - highest).exp()
    # the rest of any other class holds the predicted one, whose share is 1: nothing cancels
    rest = highest + (share.sum(1, keepdim=True) - share).log()
    others = wide.scatter(1, predicted, -torch.inf)
    return wide - rest.scatter(1, predicted, others.logsumexp(1, keepdim=True))


def _finite(odds: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
    return odds.clamp(-LARGEST, LARGEST)


def _logistic_regressions(
    evidence: Float[Tensor, "slopes rows classes"],
    *,
    hit: Float[Tensor, "rows classes"],
    weight: Float[Tensor, "rows classes"],
    penalty: Float[Tensor, " parameters"],
) -> Minimum:
    """Slopes ≥ 0 and intercept of each class, with the least penalised NLL."""
    evidence = torch.cat([evidence, torch.ones_like(evidence[:1])])
    identity, lowest = torch.ones_like(penalty), torch.zeros_like(penalty)
    identity[-1], lowest[-1] = 0, -torch.inf

    def derivatives(parameters: Float[Tensor, "classes parameters"]) -> Derivatives:
        score = torch.einsum("frc,cf->rc", evidence, parameters)
        p = score.sigmoid()
        off = parameters - identity
        loss = (weight * (softplus(score) - hit * score)).sum(0)
        slope = torch.einsum("frc,rc->cf", evidence, weight * (p - hit))
        curvature = torch.einsum("frc,grc->cfg", evidence * (weight * p * (1 - p)), evidence)
        return Derivatives(
            loss + (penalty * off.square()).sum(1),
            slope + 2 * penalty * off,
            curvature + 2 * penalty.diag(),
        )

    return minimise(derivatives, identity.expand(hit.shape[1], -1), lowest=lowest)
