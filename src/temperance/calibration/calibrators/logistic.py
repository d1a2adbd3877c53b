"""One logistic regression per class: what Platt scaling and beta calibration share."""

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
from temperance.calibration.calibrators.one_vs_rest import log_odds
from temperance.calibration.calibrators.row_likelihoods import common_temperature, shares
from temperance.calibration.metrics.chunks import row_chunks
from temperance.config import Args

CHUNK = 2**20  # log-odds that are fitted at a time
LARGEST = 1e30  # in place of infinite log-odds, which times 0 would be NaN


class LogisticArgs(Args):
    """Penalties, relative to the mean NLL over rows, summed over the classes' regressions."""

    scale: PositiveFloat = 1.0
    """On the mean over classes of (slope − 1)², summed over the slopes of a class."""
    intercept: PositiveFloat = 0.1
    """On the mean over classes of the squared intercept."""


class OneVsRestScaling(Calibrator):
    """sigmoid(Σ slope · evidence + intercept) of each class, renormalised over the classes.

    The evidence is made of the class's log-odds under softmax(z / T), with T the calibration
    temperature, fitted first: the result does not depend on the scale of the logits, and slopes 1
    with intercepts 0 are temperature scaling, to which a penalty draws. Without one, a class that
    no target has, or that is told apart perfectly, would have no finite fit. Slopes are ≥ 0: a
    class's answer never falls as its probability rises.

    Each class is fitted by itself on whether a row is of it, without the rows where it is masked or
    the only one that is not. The NLL of the renormalised answers may rise.
    """

    keeps_argmax = False
    n_slopes: ClassVar[int]
    args: LogisticArgs
    temperature: Tensor
    slopes: Tensor
    """`(slopes, classes)`"""
    intercepts: Tensor

    def __init__(self, args: LogisticArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        for name in ("temperature", "slopes", "intercepts"):
            self.register_buffer(name, torch.empty(0, dtype=torch.float64))

    def evidence(
        self, odds: Float[Tensor, "rows classes"]
    ) -> Float[Tensor, "slopes rows classes"]:
        """Functions of finite log-odds that rise with them."""
        raise NotImplementedError

    @torch.no_grad()
    def solve(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None,
    ) -> Solved:
        """Slopes and intercepts by Newton's method, some classes at a time."""
        rows, classes = logits.shape
        temperature = common_temperature(logits, targets, weights)
        share = shares(weights, logits)
        odds = torch.empty_like(widened(logits))
        for part in row_chunks(logits):
            odds[part] = log_odds(logits[part].double() / temperature)
        strength = share.new_tensor([self.args.scale] * self.n_slopes + [self.args.intercept])

        found = []
        for some in torch.arange(classes, device=logits.device).split(max(1, CHUNK // rows)):
            of_class = odds[:, some].double()
            found.append(
                _logistic_regressions(
                    self.evidence(_finite(of_class)),
                    hit=(targets[:, None] == some).double(),
                    weight=share[:, None] * of_class.isfinite(),
                    strength=strength / classes,
                )
            )
        parameters = torch.cat([minimum.parameters for minimum in found])
        self.temperature = share.new_tensor(temperature)
        self.slopes = parameters[:, :-1].T.contiguous()
        self.intercepts = parameters[:, -1].contiguous()
        return Solved(
            max(minimum.iterations for minimum in found),
            "converged" if all(minimum.converged for minimum in found) else "at_bound",
        )

    def calibrate(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """Log-probabilities."""
        check_class_count(logits, len(self.intercepts))
        wide = widened(logits)
        evidence = self.evidence(_finite(log_odds(wide / self.temperature.to(wide))))
        score = (evidence * self.slopes.to(wide)[:, None]).sum(0) + self.intercepts.to(wide)
        answer = logsigmoid(score).masked_fill(logits == -torch.inf, -torch.inf)
        return narrowed(answer.log_softmax(1), logits)


def _logistic_regressions(
    evidence: Float[Tensor, "slopes rows classes"],
    *,
    hit: Float[Tensor, "rows classes"],
    weight: Float[Tensor, "rows classes"],
    strength: Float[Tensor, " parameters"],
) -> Minimum:
    """Slopes ≥ 0 and intercept of each class, with the least penalised NLL."""
    evidence = torch.cat([evidence, torch.ones_like(evidence[:1])])
    identity = torch.ones_like(strength)
    identity[-1] = 0
    lowest = torch.zeros_like(strength)
    lowest[-1] = -torch.inf

    def derivatives(parameters: Float[Tensor, "classes parameters"]) -> Derivatives:
        score = torch.einsum("frc,cf->rc", evidence, parameters)
        p = score.sigmoid()
        off = parameters - identity
        loss = (weight * (softplus(score) - hit * score)).sum(0)
        slope = torch.einsum("frc,rc->cf", evidence, weight * (p - hit))
        curvature = torch.einsum("frc,grc->cfg", evidence * (weight * p * (1 - p)), evidence)
        return Derivatives(
            loss + (strength * off.square()).sum(1),
            slope + 2 * strength * off,
            curvature + 2 * strength.diag(),
        )

    return minimise(derivatives, identity.expand(hit.shape[1], -1), lowest=lowest)


def _finite(odds: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
    return odds.clamp(-LARGEST, LARGEST)
