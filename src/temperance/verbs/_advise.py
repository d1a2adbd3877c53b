"""`advise`: what to run with a teacher, or with which of several, from measuring them alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from temperance.calibration import (
    CalibrationReport,
    FitReport,
    Interval,
    TemperatureFit,
    calibration_report,
    describe,
    fit_temperature,
    get_calibrator,
)
from temperance.config import Args
from temperance.data import DataArgs, SplitArgs, Splits
from temperance.errors import UserError
from temperance.models import ImageClassifier
from temperance.objectives.transforms.row_entropy import entropy_of
from temperance.reporting.format import interval, signed
from temperance.reporting.html import write_report
from temperance.run import identity
from temperance.studies.advice import (
    Measurement,
    evidence_sentence,
    evidence_table,
    order_sentence,
    proposals,
)
from temperance.studies.evidence import Evidence, Sign, in_regime, load_evidence, to_json
from temperance.studies.ordering import REPLICATES, cross_fitted_nll, order_of
from temperance.studies.plan import Transfer
from temperance.studies.statistics import geometric_mean
from temperance.tasks import predict
from temperance.training import Engine, EngineArgs
from temperance.verbs._advise_report import compose
from temperance.verbs._common import (
    Config,
    Outcome,
    Place,
    running,
    settings,
)
from temperance.verbs._source import SourceArgs, load_source

__all__ = ["AdviseArgs", "advise", "compose"]


class AdviseArgs(Args):
    """What to run with a teacher, or with which of several, from measuring them alone."""

    teachers: tuple[Path, ...] = ()
    """Folders of runs, or with model.safetensors and config.json."""
    data: DataArgs | None = None
    """null: what each teacher's run was trained on."""
    split: SplitArgs | None = None
    """null: as in each teacher's run."""
    rows: Literal["calibration", "validation", "test"] = "calibration"
    """Which rows, that the teachers have not seen, to measure on."""
    transfer: Transfer = "in-sample"
    """Which rows will be distilled: evidence is of the same."""
    cross_fit: int = Field(default=5, ge=2)
    """Folds for the NLL at T of rows that T was not fitted on."""
    engine: EngineArgs = EngineArgs()


def advise(
    teachers: str | Path | Sequence[str | Path] = (),
    config: Config = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    **values: Any,
) -> Outcome:
    """Say whether a teacher is over- or under-confident, which calibrator and T, which arms are
    worth running, and what committed studies found for teachers like it; order several.

    Evidence is quoted for the same regime only: the same rows taught, the same sign of the gap,
    from half to twice as many classes. Writes metrics.json and report.html.

    Args:
        teachers: one or several: folders of runs, or of models; or `teachers` of the settings.
        config: YAML file or mapping with the keys of `temperance config advise`.
        out: run folder; by default the first free `runs/advise…`.
        resume: accept a finished run in `out`.
        overwrite: replace the run in `out`.
        overrides: `key.sub=value` strings on top of `config`.
        values: the same keys as keyword arguments, on top of both.

    Raises:
        UserError: without a teacher, for teachers of different classes, and for settings, models
            or a folder that cannot be used.
    """
    place = Place(out, resume, overwrite)
    given = [teachers] if isinstance(teachers, str | Path) else list(teachers)
    if given:
        values["teachers"] = given
    args = settings(AdviseArgs, config, overrides, values, place)
    _check(args, place)
    engine = Engine(args.engine)
    looks = [_look_at(path, name, args, engine) for path, name in _named(args.teachers).items()]
    _check_classes(looks)
    known = load_evidence()
    metrics = _advice(looks, known, args)
    evidence = hashlib.sha256(to_json(known).encode()).hexdigest()
    digest = identity(args, teachers=[look.facts for look in looks], evidence=evidence)
    with running("advise", args, digest, engine, place) as run:
        run.write_json("metrics.json", metrics)
        engine.barrier()
        report = compose(run)
        if run.writes:
            write_report(report, run.path("report.html"))
    return Outcome(run.folder, metrics, report)


# What is looked at.


@dataclass(frozen=True)
class Look:
    """A teacher on rows that it has not seen, and on those that it would teach."""

    name: str
    classes: tuple[str, ...]
    facts: Mapping[str, Any]
    """What identifies it and its data."""
    ids: Int[Tensor, " rows"]
    targets: Int[Tensor, " rows"]
    report: CalibrationReport
    fit: TemperatureFit
    chosen: FitReport
    """Of the calibrator that `auto` chooses."""
    nll: Float[np.ndarray, " rows"]
    """At a T fitted on other rows."""
    taught: Mapping[str, Any]

    @property
    def measured(self) -> Measurement:
        """What advice is made of; the gap of very many logits has no interval, and needs none."""
        gap = self.report.intervals.get("gap", Interval(self.report.gap, self.report.gap))
        return Measurement(gap, self.fit)


def _look_at(path: Path, name: str, args: AdviseArgs, engine: Engine) -> Look:
    source = load_source(
        SourceArgs(
            model=path, data=args.data, split=args.split, rows=args.rows, engine=args.engine
        ),
        engine,
    )
    assert source.model is not None
    assert source.splits is not None
    logits, targets = source.logits, source.targets
    report = calibration_report(logits, targets)
    folds = min(args.cross_fit, len(logits))
    fit = fit_temperature(logits, targets, cross_fit=folds)
    auto = get_calibrator("auto").fit(logits, targets)
    assert auto.fit_report is not None
    return Look(
        name=name,
        classes=tuple(source.model.classes),
        facts=source.facts,
        ids=getattr(source.splits, args.rows).ids,
        targets=targets,
        report=report,
        fit=fit,
        chosen=auto.fit_report,
        nll=cross_fitted_nll(logits, targets, folds=folds),
        taught=_taught(source.model, source.splits, args, fit.temperature, engine),
    )


def _taught(
    model: ImageClassifier, splits: Splits, args: AdviseArgs, temperature: float, engine: Engine
) -> dict[str, Any]:
    """The rows to be distilled, before and after T.

    Nobody but the teachers of the folds can say what they make of a row each has not seen: there,
    and where there are no unlabelled rows, the rows measured on stand for them.
    """
    rows = {"in-sample": "train", "unlabelled": "unlabelled"}.get(args.transfer)
    if rows is None or not len(getattr(splits, rows)):
        rows = args.rows
    logits, targets = predict(model, getattr(splits, rows), device=engine.device)
    at_T = logits.double() / temperature
    before, after = (calibration_report(z, targets, intervals=False) for z in (logits, at_T))
    return {
        "rows": rows,
        "stand_in": rows == args.rows,
        "n": before.n,
        "accuracy": before.accuracy,
        "confidence": [before.confidence, after.confidence],
        "gap": [before.gap, after.gap],
        "entropy": [float(entropy_of(z).mean()) for z in (logits.double(), at_T)],
    }


def _named(teachers: Sequence[Path]) -> dict[Path, str]:
    """Short names, where they tell the teachers apart."""
    short = {
        path: path.parent.name if path.name == "student" or path.is_file() else path.name
        for path in teachers
    }
    alone = len(set(short.values())) == len(teachers)
    return short if alone else {path: str(path) for path in teachers}


def _check(args: AdviseArgs, place: Place) -> None:
    if not args.teachers:
        raise UserError(
            "which teacher?", where="teachers", mend="Give the folder of a run, or several"
        )
    resolved = [path.resolve() for path in args.teachers]
    for path, real in zip(args.teachers, resolved, strict=True):
        if not path.exists():
            raise UserError("is no run's folder", where=path, mend="Give the --out of a run")
        if resolved.count(real) > 1:
            raise UserError("is given twice", where=path, mend="Name each teacher once")
        folder = place.folder
        if place.overwrite and folder and folder.resolve() in (real, *real.parents):
            raise UserError(
                f"overwriting it would delete what the run reads ({path})",
                where=folder,
                mend="Choose another --out",
            )


def _check_classes(looks: Sequence[Look]) -> None:
    first = looks[0]
    for other in looks[1:]:
        if other.classes != first.classes:
            raise UserError(
                f"teachers of different classes cannot be compared: {first.name} knows"
                f" {len(first.classes)} ({first.classes[0]}, …), {other.name} {len(other.classes)}"
                f" ({other.classes[0]}, …)",
                where="teachers",
                mend="Ask about each of them alone",
            )


# What is said of it.


def _advice(looks: Sequence[Look], known: Sequence[Evidence], args: AdviseArgs) -> dict[str, Any]:
    """Content of metrics.json."""
    usable = [look.fit.temperature for look in looks if look.fit.usable]
    constant = geometric_mean(usable) if len(looks) > 1 and usable else None
    classes = len(looks[0].classes)
    teachers = [_of_teacher(look, constant) for look in looks]
    signs = list(dict.fromkeys(look.measured.sign for look in looks))
    regimes = [_regime(known, args.transfer, sign, classes) for sign in signs]
    order = _order(looks, known, args.transfer, classes) if len(looks) > 1 else None
    said = order["words"] if order else []
    if len(looks) == 1:
        said += teachers[0]["words"]
    said += [regime["words"] for regime in regimes]
    return {
        "words": said,
        "transfer": args.transfer,
        "constant_T": constant,
        "teachers": teachers,
        "order": order,
        "evidence": regimes,
    }


def _of_teacher(look: Look, constant: float | None) -> dict[str, Any]:
    measured = look.measured
    return {
        "name": look.name,
        "sign": measured.sign,
        "report": look.report.to_dict(),
        "fit": look.fit.to_dict(),
        "T_interval": measured.temperature,
        "calibrator": look.chosen.notes,
        "taught": look.taught,
        "proposals": [proposal._asdict() for proposal in proposals(measured, constant)],
        "words": list(_words(look)),
    }


def _words(look: Look) -> Iterator[str]:
    fit, ends = look.fit, look.measured.temperature
    yield describe(look.report)
    if not fit.usable:
        yield (
            f"No temperature can be fitted to these {fit.n:,} rows (status '{fit.status}'): the"
            " teacher stays as it is."
        )
        return
    wrong = f"{fit.wrong:,} of {fit.n:,} rows wrong"
    trust = f"usable, but fragile ({wrong})" if fit.fragile else f"usable ({wrong})"
    between = "no interval" if ends is None else interval(*ends, 2)
    yield f"T = {fit.temperature:.3g} {between}: {trust}."
    yield f"Among the calibrators, 'auto' takes {look.chosen.notes['why']}."
    taught = look.taught
    entropy, gap = taught["entropy"], [100 * value for value in taught["gap"]]
    which = "which stand for those" if taught["stand_in"] else "the ones"
    yield (
        f"On the {taught['n']:,} rows of {taught['rows']}, {which} to be distilled, it is right in"
        f" {100 * taught['accuracy']:.1f} %; T takes its mean entropy from {entropy[0]:.3f} to"
        f" {entropy[1]:.3f} nats and its gap from {signed(gap[0], 1)} to"
        f" {signed(gap[1], 1)} points."
    )


def _regime(
    known: Sequence[Evidence], transfer: str, sign: Sign | None, classes: int
) -> dict[str, Any]:
    found = in_regime(known, transfer=transfer, sign=sign or "either", classes=classes)
    return {
        "sign": sign,
        "words": evidence_sentence(found, transfer=transfer, sign=sign, classes=classes),
        "quoted": [str(one) for one in found],
        "table": evidence_table(found).to_dict("records"),
    }


def _order(
    looks: Sequence[Look], known: Sequence[Evidence], transfer: str, classes: int
) -> dict[str, Any]:
    first = looks[0]
    same = all(
        look.facts["data"] == first.facts["data"]
        and look.ids.equal(first.ids)
        and look.targets.equal(first.targets)  # not so where their noise differs
        for look in looks
    )
    order = order_of([look.nll for look in looks], same_rows=same)
    names = [looks[place].name for place in order.places]
    signs = {look.measured.sign for look in looks}
    sign = signs.pop() if len(signs) == 1 else None
    found = in_regime(known, transfer=transfer, sign=sign or "either", classes=classes)
    if order.first_is_best is None:
        sure = "their rows differ (other data or splits), so how sure that is cannot be told"
    else:
        sure = (
            f"{names[0]} has the lowest in {100 * order.first_is_best:.1f} % of {REPLICATES:,}"
            f" resampled sets of their {len(first.ids):,} common rows"
        )
    listed = ", ".join(f"{name} {nll:.4f}" for name, nll in zip(names, order.nll, strict=True))
    return {
        "names": names,
        "nll": order.nll,
        "behind": order.behind,
        "first_is_best": order.first_is_best,
        "rows": len(first.ids) if same else None,
        "words": [f"By held-out NLL at T: {listed}; {sure}.", order_sentence(found)],
    }
