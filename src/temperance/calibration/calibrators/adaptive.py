"""Adaptive temperature scaling: a temperature for each row, from its logits."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import PositiveFloat
from torch import Tensor

from temperance.calibration.calibrators.applying import check_class_count, narrowed, widened
from temperance.calibration.calibrators.base import Calibrator, Solved
from temperance.calibration.calibrators.newton import Derivatives, minimise
from temperance.calibration.calibrators.row_likelihoods import (
    common_temperature,
    row_likelihoods,
    shares,
)
from temperance.calibration.metrics.chunks import row_chunks
from temperance.config import Args


class AdaptiveArgs(Args):
    """Adaptive temperature scaling."""

    name: Literal["adaptive"] = "adaptive"
    shrinkage: PositiveFloat = 0.01
    """Penalty on the squared slope of each standardised feature, relative to the mean NLL."""


class AdaptiveTemperatureScaling(Calibrator):
    """logits / T(z), with log T(z) linear in two features of the row's logits.

    With m = z / T, T the calibration temperature, the features are the entropy of softmax(m) in
    nats and log(1 + standard deviation of m over the classes). Neither changes if all logits of
    the row are shifted, nor if those of all rows are scaled. Beyond the range that a feature had on
    the rows fitted, T(z) stays that of its end.

    After Balanya, Maroñas & Ramos (2024), where T is the softplus of a linear function of the log
    of the normalised entropy. Joy et al. (2023) take T from a network on hidden features instead.

    Examples:
        >>> logits = torch.tensor([[1.0, 0.0], [4.0, 0.0]]).repeat(50, 1)  # 73 % and 98 %
        >>> targets = (torch.arange(100) % 10 > 7).long()
        >>> targets[::4] = 1
        >>> calibrator = AdaptiveTemperatureScaling().fit(logits, targets)
        >>> len(calibrator.coefficients)
        3
    """

    name = "adaptive"
    args_class = AdaptiveArgs
    keeps_argmax = True
    scales_rows = True
    args: AdaptiveArgs
    temperature: Tensor
    coefficients: Tensor
    """Of the intercept, log T, and of the standardised features."""
    range_seen: Tensor
    """Mean, standard deviation, lowest and highest of each on the rows fitted."""
    classes: Tensor

    def __init__(self, args: AdaptiveArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        self.register_buffer("temperature", torch.empty(0, dtype=torch.float64))
        self.register_buffer("coefficients", torch.empty(0, dtype=torch.float64))
        self.register_buffer("range_seen", torch.empty(0, dtype=torch.float64))
        self.register_buffer("classes", torch.tensor(0))

    @torch.no_grad()
    def solve(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None,
    ) -> Solved:
        """The coefficients by Newton's method from T on, so the NLL is never above that of T."""
        temperature = common_temperature(logits, targets, weights)
        share = shares(weights, logits)
        self.temperature = share.new_tensor(temperature)
        self.classes = torch.tensor(logits.shape[1], device=logits.device)
        raw = torch.cat([self._features(logits[part].double()) for part in row_chunks(logits)])
        mean = share @ raw
        deviation = (share @ (raw - mean).square()).sqrt()
        self.range_seen = torch.stack([mean, deviation, raw.amin(0), raw.amax(0)])
        design = self._standardised(raw)
        start = share.new_tensor([[math.log(temperature), 0, 0]])
        penalty = share.new_tensor([0, self.args.shrinkage, self.args.shrinkage])

        def derivatives(coefficients: Float[Tensor, "1 features"]) -> Derivatives:
            rows = row_likelihoods(logits, targets, design @ coefficients[0])
            off = coefficients - start
            curvature = design.T @ (design * (share * rows.curvature)[:, None])
            return Derivatives(
                share @ rows.nll + (penalty * off.square()).sum(1),
                (share * rows.slope) @ design + 2 * penalty * off,
                (curvature + 2 * penalty.diag())[None],
            )

        found = minimise(derivatives, start)
        self.coefficients = found.parameters[0]
        return Solved(found.iterations, found.status)

    def calibrate(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """Each row divided by its temperature."""
        check_class_count(logits, int(self.classes))
        wide = widened(logits)
        log_temperature = self._standardised(self._features(wide)) @ self.coefficients.to(wide)
        return narrowed(wide / log_temperature.exp()[:, None], logits)

    def _features(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows features"]:
        """Entropy and log(1 + standard deviation) of logits / T, without the masked classes."""
        masked = logits == -torch.inf
        log_p = (logits / self.temperature.to(logits)).log_softmax(1).masked_fill(masked, 0)
        classes = (~masked).sum(1, keepdim=True)
        off = (log_p - log_p.sum(1, keepdim=True) / classes).masked_fill(masked, 0)
        deviation = (off.square().sum(1, keepdim=True) / classes).sqrt()
        entropy = -(log_p.exp() * log_p).sum(1, keepdim=True)
        return torch.cat([entropy, deviation.log1p()], 1)

    def _standardised(
        self, features: Float[Tensor, "rows features"]
    ) -> Float[Tensor, "rows coefficients"]:
        """After a column of ones for the intercept."""
        mean, deviation, lowest, highest = self.range_seen.to(features)
        seen = features.clamp(lowest, highest)
        smallest = torch.finfo(features.dtype).tiny
        standardised = (seen - mean) / deviation.clamp(min=smallest)
        return torch.cat([torch.ones_like(seen[:, :1]), standardised], 1)
