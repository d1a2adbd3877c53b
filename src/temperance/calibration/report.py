"""Everything about one model's calibration on one set of rows, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from temperance.calibration.floors import Floor, ace_floor, top_label_floors
from temperance.calibration.intervals import Interval, intervals_of
from temperance.calibration.metrics import adaptive_calibration_error
from temperance.calibration.metrics.bins import ReliabilityBins, binned_error, bins_of
from temperance.calibration.metrics.checks import check_logits
from temperance.calibration.metrics.scores import score_rows

INTERVALS_UP_TO = 10_000_000  # logits: beyond, intervals and floors take minutes and show little


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """A model's calibration: shares in 0..1, Brier score in 0..2, NLL in nats."""

    n: int
    classes: int
    accuracy: float
    confidence: float
    """Mean probability of the predicted class."""
    nll: float
    brier: float
    ece: float
    ece_over: float
    ece_under: float
    gap: float
    """Mean confidence − accuracy: positive if over-confident; `ece_over − ece_under`."""
    ace: float
    intervals: Mapping[str, Interval]
    """95 % intervals of `accuracy`, `nll`, `brier` and `gap`; empty if not asked for."""
    floors: Mapping[str, Floor]
    """Noise floors of `ece` and `ace`; empty if not asked for."""
    bins: ReliabilityBins

    def to_dict(self) -> dict[str, Any]:
        """What `json` can write; the means of empty bins are None."""
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        record["intervals"] = {name: pair._asdict() for name, pair in self.intervals.items()}
        record["floors"] = {name: floor._asdict() for name, floor in self.floors.items()}
        record["bins"] = {
            field.name: [
                None if np.isnan(value) else value
                for value in getattr(self.bins, field.name).tolist()
            ]
            for field in fields(self.bins)
        }
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> CalibrationReport:
        """The report that `to_dict` wrote."""
        bins = record["bins"]
        return cls(
            **{
                **record,
                "intervals": {name: Interval(**x) for name, x in record["intervals"].items()},
                "floors": {name: Floor(**x) for name, x in record["floors"].items()},
                "bins": ReliabilityBins(
                    lower=np.array(bins["lower"], dtype=np.float64),
                    count=np.array(bins["count"], dtype=np.int64),
                    confidence=np.array(bins["confidence"], dtype=np.float64),
                    accuracy=np.array(bins["accuracy"], dtype=np.float64),
                ),
            }
        )


def calibration_report(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    *,
    n_bins: int = 15,
    intervals: bool | None = None,
    seed: int = 0,
) -> CalibrationReport:
    """All metrics of these rows, from one pass over the logits and one for ACE.

    Args:
        n_bins: bins of ECE, and ranges of ACE.
        intervals: whether to compute intervals and noise floors; None for up to 10⁷ logits.
        seed: of the resampling.

    Raises:
        UserError: see `check_logits`; for fewer than one bin.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
        >>> report = calibration_report(logits, torch.tensor([0, 1]))
        >>> round(report.gap, 3), report.accuracy
        (0.4, 0.5)
    """
    check_logits(logits, targets)
    scores = score_rows(logits, targets)
    error = binned_error(scores.confidence, scores.correct, n_bins=n_bins)
    if intervals is None:
        intervals = logits.numel() <= INTERVALS_UP_TO
    return CalibrationReport(
        n=len(logits),
        classes=logits.shape[1],
        accuracy=float(scores.correct.mean()),
        confidence=float(scores.confidence.mean()),
        nll=float(scores.nll.mean()),
        brier=float(scores.brier.mean()),
        ece=error.total,
        ece_over=error.over,
        ece_under=error.under,
        gap=error.signed,
        ace=adaptive_calibration_error(logits, targets, n_ranges=n_bins),
        intervals=intervals_of(scores, replicates=1000, seed=seed) if intervals else {},
        floors={
            **top_label_floors(scores, n_bins=n_bins, redraws=200, seed=seed),
            "ace": ace_floor(logits, targets, n_ranges=n_bins, redraws=200, seed=seed),
        }
        if intervals
        else {},
        bins=bins_of(scores.confidence, scores.correct, n_bins),
    )


def describe(report: CalibrationReport, temperature: float | None = None) -> str:
    """One or two sentences: over- or under-confident, by how much, and what mends it.

    The direction is claimed only if the interval of the gap excludes 0; without an interval the
    sign decides, and the sentence says that there was none.

    Args:
        temperature: the fitted calibration temperature, if there is one.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[0.9, 0.1]]).log().expand(200, 2)
        >>> report = calibration_report(logits, torch.arange(200) % 2)
        >>> describe(report).split(" (")[0]
        'Over-confident by 40.0 percentage points'
    """
    shares = (
        f"mean confidence {_percent(report.confidence)}, accuracy {_percent(report.accuracy)},"
        f" n = {report.n:,}"
    )
    points = f"{100 * abs(report.gap):.1f} percentage points"
    interval, floor = report.intervals.get("gap"), report.floors.get("ece")
    bounds = "no interval computed"
    if interval:
        bounds = f"95 % interval {100 * interval.low:+.1f} to {100 * interval.high:+.1f}"
        bounds = bounds.replace("-", "−")
    if interval and interval.low <= 0 <= interval.high:
        text = (
            f"Neither over- nor under-confident on average that {report.n:,} rows could show:"
            f" mean confidence and accuracy differ by {points} ({shares}, {bounds})"
        )
        if floor and floor.p_value <= 0.05:
            text += (
                f"; but an ECE of {_percent(report.ece)} is more than chance explains"
                f" (p = {floor.p_value:.3f}), so errors of both signs cancel"
            )
    elif report.gap == 0:
        text = f"Mean confidence equals accuracy ({shares}, {bounds})"
    else:
        direction = "Over" if report.gap > 0 else "Under"
        text = f"{direction}-confident by {points} ({shares}, {bounds})"
    if temperature is not None:
        text += f". Dividing the logits by T = {temperature:.3g} minimises the NLL"
    return f"{text}."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
