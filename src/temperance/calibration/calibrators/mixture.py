"""A mixture with uniform probabilities, for splits that a temperature alone cannot fit."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from scipy.optimize import brentq
from torch import Tensor

from temperance.calibration.calibrators.applying import check_class_count
from temperance.calibration.calibrators.base import Calibrator, Solved
from temperance.calibration.calibrators.frequencies import by_rows, keep_argmax
from temperance.calibration.fit_report import Status
from temperance.calibration.fitting import fit_rows
from temperance.calibration.metrics.scores import score_rows, weighted_mean
from temperance.calibration.rows import CalibrationRows
from temperance.config import Args

BOUNDS = (0.01, 100.0)  # of T


class MixtureArgs(Args):
    """A mixture with uniform probabilities."""

    name: Literal["mixture"] = "mixture"
    weight: Literal["laplace", "fitted"] | Annotated[float, Field(ge=0, lt=1)] = "laplace"
    """Share of the uniform probabilities. `laplace`: 1 / (n + 1) for n rows. `fitted`: the most
    likely after the temperature, between 1 / (n + 1) and n / (n + 1)."""


class UniformMixture(Calibrator):
    """(1 − w) · softmax(logits / T) + w / K.

    T is fitted first, as `temperature` does. On separable rows no T > 0 is optimal: it stays 1, and
    w alone makes the model less certain than n rows can be. K counts the classes that a row does
    not mask. Where two classes would round to a tie, the predicted one is raised by a rounding
    unit. n is the number of rows whatever their weights, which are relative.

    Examples:
        >>> logits = torch.tensor([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
        >>> calibrator = UniformMixture().fit(logits, torch.tensor([0, 1, 0]))
        >>> round(float(calibrator(logits)[0].softmax(0)[1]), 3)  # a quarter of one half
        0.125
    """

    name = "mixture"
    args_class = MixtureArgs
    keeps_argmax = True
    handles = frozenset[Status]({"separable"})
    args: MixtureArgs
    temperature: Tensor
    weight: Tensor
    classes: Tensor

    def __init__(self, args: MixtureArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        self.register_buffer("temperature", torch.tensor(1.0, dtype=torch.float64))
        self.register_buffer("weight", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("classes", torch.tensor(0))

    @torch.no_grad()
    def solve(
        self,
        logits: Float[Tensor, "rows classes"],
        targets: Int[Tensor, " rows"],
        weights: Float[Tensor, " rows"] | None,
    ) -> Solved:
        """T, then w."""
        fit = fit_rows(CalibrationRows(logits, targets, weights), bounds=BOUNDS)
        laplace = 1 / (len(logits) + 1)
        match self.args.weight:
            case "laplace":
                weight = laplace
            case "fitted":
                p = score_rows(logits, targets, temperature=fit.temperature).nll.neg().exp()
                uniform = _open_classes(logits)[:, 0].reciprocal()
                weight = _likeliest_weight(p, uniform, weights, lowest=laplace)
            case given:
                weight = given
        self.temperature.fill_(fit.temperature)
        self.weight.fill_(weight)
        self.classes.fill_(logits.shape[1])
        notes = {"temperature": fit.temperature, "weight": weight}
        return Solved(fit.iterations, fit.status, notes)

    def calibrate(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """Log-probabilities."""
        check_class_count(logits, int(self.classes))
        temperature, weight = float(self.temperature), self.weight.to(logits.device)

        def mixed(log_probability: Tensor) -> Tensor:
            softened = (log_probability / temperature).log_softmax(1) + (-weight).log1p()
            return torch.logaddexp(softened, weight.log() - _open_classes(log_probability).log())

        return keep_argmax(by_rows(logits, mixed), logits)


def _open_classes(logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows 1"]:
    """How many classes each row does not mask."""
    return (logits > -torch.inf).sum(1, keepdim=True).double()


def _likeliest_weight(
    p: Float[Tensor, " rows"],
    uniform: Float[Tensor, " rows"],
    weights: Float[Tensor, " rows"] | None,
    *,
    lowest: float,
) -> float:
    """The w between `lowest` and 1 − `lowest` that maximises mean log((1 − w) p + w uniform).

    It is concave in w: the root of its slope is bracketed.
    """

    def slope(w: float) -> float:
        return weighted_mean((uniform - p) / ((1 - w) * p + w * uniform), weights)

    highest = 1 - lowest
    if slope(lowest) <= 0:
        return lowest
    return highest if slope(highest) >= 0 else float(brentq(slope, lowest, highest))
