"""Everything about one model's calibration on one set of rows, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from temperance.calibration.fit_report import TemperatureFit
from temperance.calibration.fitting import fit_temperature
from temperance.calibration.floors import (
    AcePower,
    Floor,
    ace_power,
    label_floors,
    top_label_floors,
)
from temperance.calibration.intervals import Interval, debiased_interval_of, intervals_of
from temperance.calibration.metrics.binned import Event, score_event, score_top_k
from temperance.calibration.metrics.bins import (
    ECE_BINS,
    ReliabilityBins,
    bins_of,
    check_bins,
    equal_mass,
    equal_width,
)
from temperance.calibration.metrics.checks import check_groups, check_logits
from temperance.calibration.metrics.chunks import softmax_chunks
from temperance.calibration.metrics.classwise import classwise_surplus
from temperance.calibration.metrics.ranked import rank_classes
from temperance.calibration.metrics.scores import RowScores, score_chunk, score_rows
from temperance.calibration.metrics.selective import risk_coverage_of
from temperance.calibration.metrics.smooth import ks_error_of, smooth_error_of

INTERVALS_UP_TO = 10_000_000  # logits: beyond, intervals and floors take minutes and show little
TACE_THRESHOLD = 0.01
REPLICATES, REDRAWS = 1000, 200  # of bootstrap intervals; of noise floors


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """A model's calibration: shares in 0..1, Brier score and its parts in 0..2, NLL in nats."""

    n: int
    classes: int
    k: int
    """Of the metrics of the k most probable classes: 5, or fewer if there are not so many."""
    accuracy: float
    top_k_accuracy: float
    confidence: float
    """Mean probability of the predicted class (or of class 1, for the event `positive`)."""
    gap: float
    """Mean confidence − accuracy: positive if over-confident; `ece_over − ece_under`."""
    nll: float
    brier: float
    brier_miscalibration: float
    """`brier_miscalibration − brier_discrimination + brier_uncertainty` is the Brier score."""
    brier_discrimination: float
    brier_uncertainty: float
    ece: float
    ece_over: float
    ece_under: float
    ece_equal_mass: float
    mce: float
    rmsce: float
    rmsce_debiased: float
    """Root of the debiased mean squared gap over equal masses, 0 where that is negative."""
    rmsce_debiased_squared: float
    """That square with its sign."""
    top_k_ece: float
    classwise_ece: float
    ace: float
    tace: float
    smooth_ece: float
    ks: float
    aurc: float
    fit: TemperatureFit | None
    """The temperature of these rows; None if no intervals were asked for."""
    intervals: Mapping[str, Interval]
    """95 % intervals of `accuracy`, `nll`, `brier`, `gap`, and of the ℓ₂ error
    (`rmsce_debiased`); empty if not asked for."""
    floors: Mapping[str, Floor]
    """Noise floors of `ece`, `ece_equal_mass`, `mce`, `rmsce`, `smooth_ece`, `ks`, `ace` and
    `classwise_ece`; empty if not asked for."""
    floors_at_temperature: Mapping[str, Floor]
    """The same at the fitted temperature: the noise in the data. Their p-values are of the errors
    at that temperature. Empty if no temperature could be fitted."""
    ace_power: AcePower | None
    """Whether ACE could see a temperature that is wrong by a factor of 1.3; None where there are no
    floors."""
    bins: ReliabilityBins

    def to_dict(self) -> dict[str, Any]:
        """What `json` can write; the means of empty bins are None."""
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        record["fit"] = None if self.fit is None else self.fit.to_dict()
        record["ace_power"] = None if self.ace_power is None else self.ace_power._asdict()
        for name in ("intervals", "floors", "floors_at_temperature"):
            record[name] = {key: value._asdict() for key, value in record[name].items()}
        record["bins"] = {
            name: [None if np.isnan(value) else value for value in values.tolist()]
            for name, values in asdict(self.bins).items()
        }
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> CalibrationReport:
        """The report that `to_dict` wrote."""
        bins = record["bins"]
        fit, power = record["fit"], record["ace_power"]
        floors = {
            kind: {name: Floor(**floor) for name, floor in record[kind].items()}
            for kind in ("floors", "floors_at_temperature")
        }
        return cls(
            **{
                **record,
                **floors,
                "intervals": {name: Interval(**x) for name, x in record["intervals"].items()},
                "fit": None if fit is None else TemperatureFit.from_dict(fit),
                "ace_power": None if power is None else AcePower(**power),
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
    n_bins: int = ECE_BINS,
    intervals: bool | None = None,
    groups: Int[Tensor, " rows"] | None = None,
    event: Event = "top_label",
    seed: int = 0,
) -> CalibrationReport:
    """All metrics of these rows, from one pass over the logits and one sort of every class.

    Intervals and floors take some 2 s of one core for 10,000 rows of 10 classes and a minute for
    10⁷ logits.

    Args:
        n_bins: bins of the binned errors, and ranges of ACE and TACE.
        intervals: whether to compute intervals, noise floors and the power of ACE; None for up to
            10⁷ logits.
        groups: which rows are not independent (image, document); for intervals and floors.
        event: what the confidence is about: that the predicted class is right, or, of two
            classes, that class 1 is (`positive`).
        seed: of the resampling.

    Raises:
        UserError: see `check_logits` and `check_groups`; for fewer than one bin, an unknown event.

    Examples:
        >>> logits = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log()
        >>> report = calibration_report(logits, torch.tensor([0, 1]))
        >>> round(report.gap, 3), report.accuracy
        (0.4, 0.5)
    """
    check_logits(logits, targets)
    check_groups(groups, len(logits))
    check_bins(n_bins)
    scores, classwise = _one_pass(logits, targets, n_bins)
    confidence, hit = _of_event(logits, targets, scores, event)
    ranked = rank_classes(logits, targets, n_ranges=n_bins, thresholds=(None, TACE_THRESHOLD))
    parts = ranked.brier_parts()
    k = min(5, logits.shape[1])
    of_top_k = score_top_k(logits, targets, k, scores.confidence)
    width, mass = (bins(confidence, hit, n_bins=n_bins) for bins in (equal_width, equal_mass))
    error = width.error
    if intervals is None:
        intervals = logits.numel() <= INTERVALS_UP_TO
    sure = (
        _how_sure(logits, targets, scores, event, n_bins=n_bins, groups=groups, seed=seed)
        if intervals
        else HowSure()
    )
    return CalibrationReport(
        n=len(logits),
        classes=logits.shape[1],
        k=k,
        accuracy=float(scores.correct.mean()),
        top_k_accuracy=float(of_top_k[1].mean()),
        confidence=float(confidence.mean()),
        gap=error.signed,
        nll=float(scores.nll.mean()),
        brier=float(scores.brier.mean()),
        brier_miscalibration=float(parts.miscalibration.sum()),
        brier_discrimination=float(parts.discrimination.sum()),
        brier_uncertainty=float(parts.uncertainty.sum()),
        ece=error.total,
        ece_over=error.over,
        ece_under=error.under,
        ece_equal_mass=mass.error.total,
        mce=width.largest_gap(),
        rmsce=width.root_mean_square,
        rmsce_debiased=mass.debiased.root,
        rmsce_debiased_squared=mass.debiased.squared,
        top_k_ece=equal_width(*of_top_k, n_bins=n_bins).error.total,
        classwise_ece=float(classwise.mean()),
        ace=float(ranked.range_errors(0).mean()),
        tace=float(ranked.range_errors(1).mean()),
        smooth_ece=smooth_error_of(confidence, hit).error,
        ks=ks_error_of(confidence, hit),
        aurc=risk_coverage_of(scores.confidence, scores.correct),
        bins=bins_of(confidence, hit, n_bins),
        **sure._asdict(),
    )


def _one_pass(
    logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"], n_bins: int
) -> tuple[RowScores, Float[Tensor, " classes"]]:
    """Every row's scores, and every class's ECE."""
    rows, classes = logits.shape
    scores = RowScores(*logits.new_empty((4, rows), dtype=torch.float64))
    surplus = logits.new_zeros(classes * n_bins, dtype=torch.float64)
    for chunk in softmax_chunks(logits):
        surplus += classwise_surplus(chunk, targets, n_bins=n_bins)  # scores overwrite its share
        for column, values in zip(scores, score_chunk(chunk, logits, targets), strict=True):
            column[chunk.part] = values
    return scores, surplus.view(classes, n_bins).abs().sum(1) / rows


class HowSure(NamedTuple):
    """Those fields of the report that say how sure the others are."""

    fit: TemperatureFit | None = None
    intervals: Mapping[str, Interval] = {}
    floors: Mapping[str, Floor] = {}
    floors_at_temperature: Mapping[str, Floor] = {}
    ace_power: AcePower | None = None


def _how_sure(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    scores: RowScores,
    event: Event,
    *,
    n_bins: int,
    groups: Int[Tensor, " rows"] | None,
    seed: int,
) -> HowSure:
    """Intervals; floors raw and at the fitted temperature; the power of ACE."""

    def of_event(scores: RowScores, logits: Float[Tensor, "rows classes"]) -> RowScores:
        confidence, hit = _of_event(logits, targets, scores, event)
        return scores._replace(confidence=confidence, correct=hit)

    def floors(scores: RowScores, logits: Float[Tensor, "rows classes"]) -> dict[str, Floor]:
        settings = {"redraws": REDRAWS, "seed": seed}
        return {
            **top_label_floors(of_event(scores, logits), n_bins=n_bins, groups=groups, **settings),
            **label_floors(logits, targets, n_bins=n_bins, groups=groups, **settings),
        }

    bootstrap = intervals_of(scores, replicates=REPLICATES, seed=seed, groups=groups)
    if event != "top_label":
        of_gap = of_event(scores, logits)
        again = intervals_of(of_gap, replicates=REPLICATES, seed=seed, groups=groups)
        bootstrap["gap"] = again["gap"]
    debiased = debiased_interval_of(of_event(scores, logits), n_bins=n_bins, groups=groups)
    fit = fit_temperature(logits, targets, groups=groups)
    found = HowSure(fit, {**bootstrap, "rmsce_debiased": debiased}, floors(scores, logits))
    if not fit.usable:
        return found
    tempered = logits.double() / fit.temperature
    return found._replace(
        floors_at_temperature=floors(score_rows(tempered, targets), tempered),
        ace_power=ace_power(
            logits, targets, temperature=fit.temperature, n_ranges=n_bins, seed=seed, groups=groups
        ),
    )


def _of_event(
    logits: Float[Tensor, "rows classes"],
    targets: Int[Tensor, " rows"],
    scores: RowScores,
    event: Event,
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The confidence in the event and whether it happened; the scores hold the usual one."""
    if event == "top_label":
        return scores.confidence, scores.correct
    return score_event(logits, targets, event)


def describe(report: CalibrationReport, temperature: float | None = None) -> str:
    """One or two sentences: over- or under-confident, by how much, and what mends it.

    The direction is claimed only if the interval of the gap excludes 0; without an interval the
    sign decides, and the sentence says that there was none.

    Args:
        temperature: the fitted calibration temperature, if there is one.

    Examples:
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
