"""What a fit tells about itself: whether, how far, and on how many rows to trust it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

Status = Literal["flat", "uninformative", "separable", "converged", "at_bound"]

FEW_WRONG = 20  # with fewer wrong rows they alone decide T: it may be off by a factor of two


@dataclass(frozen=True)
class CrossFit:
    """The calibrator on rows that it was not fitted on: every row once, by the fit of the other
    folds."""

    folds: int
    nll: float
    ece: float


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """A fitted calibrator, and whether and how far to trust it."""

    status: Status
    """`flat`: no row prefers any class. `uninformative`: the labels fit no better than uniform
    probabilities do, so T → ∞. `separable`: the target has the largest logit in every row, so
    T → 0. `at_bound`: the optimum lies at or beyond a bound, or the iterations ran out. Otherwise
    `converged`."""
    usable: bool
    """Whether anything was fitted: not so for the first three statuses, where the calibrator
    leaves the logits as they are (only `mixture` is made for `separable` rows)."""
    fragile: bool
    """Whether fewer than 20 wrong rows decided a usable fit."""
    iterations: int
    n: int
    """Rows of positive weight."""
    wrong: int
    """How many of them are predicted wrongly before calibration."""
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float
    cross_fit: CrossFit | None = None
    """None unless asked for; `nll_after` and `ece_after` are of the rows fitted on."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What else this calibrator has to say, for JSON."""

    def to_dict(self) -> dict[str, Any]:
        """What `json` can write; `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The report that `to_dict` wrote."""
        cross_fit = record.get("cross_fit")
        return cls(**{**record, "cross_fit": CrossFit(**cross_fit) if cross_fit else None})


@dataclass(frozen=True, kw_only=True)
class TemperatureFit(FitReport):
    """A fitted temperature. Its `nll_after` is never above its `nll_before`."""

    temperature: float
    """> 0; 1 if the fit is not usable."""
    se_log_temperature: float | None
    """Sandwich standard error of log T, right for misspecified models too, cluster-robust if
    groups were given; None unless converged."""
