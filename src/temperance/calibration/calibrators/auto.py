"""The simplest calibrator that cross-validation cannot tell from the best one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from temperance.calibration.calibrators.base import Calibrator
from temperance.calibration.fit_report import FitReport
from temperance.calibration.fitting import look_at
from temperance.calibration.metrics.scores import score_rows, weighted_mean
from temperance.calibration.rows import CalibrationRows
from temperance.config import Args, look_up

ROWS_PER_NUMBER = 10
STEPS = 10  # as which an isotonic regression counts: it has about that many
TIE = 1e-6  # nats: less is a matter of when an optimiser stops
MIX_CLASSES = ("matrix", "dirichlet")  # they refuse rows with masked classes


class AutoArgs(Args):
    """The best calibrator by cross-validation, or a simpler one that is as good."""

    name: Literal["auto"] = "auto"
    candidates: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of calibrators, the simplest first. By default those that fit at most one number for
    every 10 rows, and temperature always."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Of the cross-validation; no more than rows or groups."""
    seed: int = 0
    """Of the folds."""


class Comparison(NamedTuple):
    """A candidate's cross-validated NLL, beside that of the best."""

    nll: float
    difference: float
    """To the best candidate's, ≥ 0."""
    standard_error: float
    """Of the difference, paired row by row, cluster-robust if there are groups."""


class AutoCalibrator(Calibrator):
    """Chosen by cross-validated NLL: the simplest candidate within one standard error of the best.

    The standard error is that of the paired difference to the best candidate (the rule of Breiman
    et al. 1984, §3.4.3, on differences). All candidates meet the same folds, which keep groups
    together. The chosen one is fitted on all rows. `fit_report.notes` says what was chosen and why,
    with the numbers of every candidate. On degenerate rows the first candidate that is made for
    them is taken (`mixture`, if it is one), or else the first of all, unusable.

    Costs as many fits of every candidate as there are folds.

    Examples:
        >>> logits = torch.tensor([[3.0, 0.0]]).expand(100, 2)
        >>> calibrator = AutoCalibrator(candidates=["temperature", "isotonic"])
        >>> calibrator.fit(logits, (torch.arange(100) % 4 == 0).long()).chosen.name
        'temperature'
    """

    name = "auto"
    args_class = AutoArgs
    keeps_argmax = False
    args: AutoArgs

    def __init__(self, args: AutoArgs | None = None, **values: Any) -> None:
        super().__init__(args, **values)
        self.choice = nn.ModuleDict()
        """The chosen calibrator under its name, which the keys of the state therefore hold."""
        for name in self.args.candidates or ():
            _candidate(name)

    @property
    def chosen(self) -> Calibrator:
        """The calibrator that is applied.

        Raises:
            UserError: if nothing was fitted yet.
        """
        self._check_fitted()
        (calibrator,) = self.choice.values()
        return calibrator  # type: ignore[return-value]

    def calibrate(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        """As the chosen calibrator does."""
        return self.chosen(logits)  # type: ignore[no-any-return]

    def record(self) -> dict[str, Any]:
        """As of any calibrator, and the record of the chosen one."""
        chosen = self.chosen
        return {**super().record(), "chosen": {"name": chosen.name, **chosen.record()}}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over the factor, the fit and the chosen calibrator; its tensors before or after."""
        super().restore(record)
        chosen = record["chosen"]
        calibrator = _candidate(chosen["name"])(**chosen["settings"])
        if chosen["name"] in self.choice:
            calibrator.load_state_dict(self.choice[chosen["name"]].state_dict())
        calibrator.restore(chosen)
        self._take(calibrator)

    @torch.no_grad()
    def _fit_rows(self, rows: CalibrationRows) -> FitReport:
        raw = look_at(rows)
        status = raw.degenerate_status(rows.weights)
        names = self.args.candidates or default_candidates(*rows.logits.shape, masked=raw.masked)
        compared = self._compare(names, rows) if status is None else {}
        able = [name for name in names if status is None or status in _candidate(name).handles]
        if compared:
            chosen, why = _simplest_of_the_best(compared)
        elif able:
            chosen, why = able[0], "there is nothing to compare it with, or on"
        else:
            chosen, why = names[0], f"no candidate can be fitted, since the rows are {status}"
        fitted = _fitted(chosen, rows)
        self._take(fitted)
        assert fitted.fit_report is not None
        common = {field.name: getattr(fitted.fit_report, field.name) for field in fields(FitReport)}
        notes = {
            "chosen": chosen,
            "why": f"{chosen}: {why}",
            "candidates": {name: comparison._asdict() for name, comparison in compared.items()},
        }
        return FitReport(**{**common, "notes": notes})

    def _compare(self, names: tuple[str, ...], rows: CalibrationRows) -> dict[str, Comparison]:
        """Every candidate on the same folds; nothing if there is one candidate, or one fold."""
        units = len(rows.logits) if rows.groups is None else len(torch.unique(rows.groups))
        if len(names) < 2 or units < 2:
            return {}
        fold_of = rows.folds(min(self.args.folds, units), self.args.seed)
        nll = {name: torch.zeros_like(fold_of, dtype=torch.float64) for name in names}
        for fold in range(int(fold_of.max()) + 1):
            held_out = fold_of == fold
            training, test = rows.take(fold_of != fold), rows.take(held_out)
            for name in names:
                calibrated = _fitted(name, training)(test.logits)
                nll[name][held_out] = score_rows(calibrated, test.targets).nll
        means = {name: weighted_mean(values, rows.weights) for name, values in nll.items()}
        best = min(names, key=means.__getitem__)
        return {
            name: Comparison(means[name], *_paired(nll[name] - nll[best], rows)) for name in names
        }

    def _take(self, calibrator: Calibrator) -> None:
        self.choice = nn.ModuleDict({calibrator.name: calibrator})
        self.keeps_argmax = calibrator.keeps_argmax

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """The keys name the chosen calibrator: it has to be there before its own are loaded."""
        start = f"{prefix}choice."
        names = {
            key.removeprefix(start).split(".")[0] for key in state_dict if key.startswith(start)
        }
        for name in names - set(self.choice):
            self._take(_candidate(name)())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def default_candidates(rows: int, classes: int, *, masked: bool = False) -> tuple[str, ...]:
    """Temperature, and what fits at most one number for every 10 rows; the simplest first.

    Args:
        masked: whether there are masked classes, which some cannot take.

    Examples:
        >>> default_candidates(100, 10)
        ('temperature', 'ensemble', 'adaptive', 'predicted-class', 'irm')
    """
    affordable = max(1, rows // ROWS_PER_NUMBER)
    numbers = {
        "temperature": 1,
        "ensemble": 3,
        "adaptive": 3,
        "predicted-class": classes,
        "vector": 2 * classes,
        "platt": 2 * classes,
        "beta": 3 * classes,
        "matrix": classes * (classes + 1),
        "dirichlet": classes * (classes + 1),
        "irm": STEPS,
        "isotonic": STEPS * classes,
        "histogram": 15 * classes,
    }
    refused = MIX_CLASSES if masked else ()
    return tuple(
        name for name, count in numbers.items() if count <= affordable and name not in refused
    )


def _candidate(name: str) -> type[Calibrator]:
    from temperance.calibration.calibrators import CALIBRATORS  # which imports this module

    candidates = {key: cls for key, cls in CALIBRATORS.items() if key != AutoCalibrator.name}
    return look_up("candidate", name, candidates)


def _fitted(name: str, rows: CalibrationRows) -> Calibrator:
    calibrator = _candidate(name)()
    calibrator.fit_report = calibrator._fit_rows(rows)
    return calibrator


def _paired(difference: Float[Tensor, " rows"], rows: CalibrationRows) -> tuple[float, float]:
    """The weighted mean of the differences, and its standard error over rows or groups."""
    mean = weighted_mean(difference, rows.weights)
    share = torch.ones_like(difference) if rows.weights is None else rows.weights.double()
    deviation = share * (difference - mean)
    if rows.groups is not None:
        _, member = torch.unique(rows.groups, return_inverse=True)
        deviation = torch.zeros_like(deviation).index_add(0, member, deviation)
    return mean, float(deviation.square().sum().sqrt() / share.sum())


def _simplest_of_the_best(compared: Mapping[str, Comparison]) -> tuple[str, str]:
    """The first candidate that is at most one standard error above the best, and the reason."""
    best = min(compared, key=lambda name: compared[name].difference)
    chosen = next(
        name for name, other in compared.items() if other.difference <= other.standard_error + TIE
    )
    nll, difference, error = compared[chosen]
    if chosen == best:
        return chosen, (
            f"it has the lowest cross-validated NLL of {len(compared)} candidates ({nll:.4f}), and"
            " no simpler one is within one standard error of it"
        )
    return chosen, (
        f"the simplest of {len(compared)} candidates within one standard error of the lowest"
        f" cross-validated NLL: {nll:.4f}, which is {difference:.4f} ± {error:.4f} above {best}"
    )
