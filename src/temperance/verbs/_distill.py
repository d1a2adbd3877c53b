"""`distill`: a student from a raw or calibrated teacher."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt

from temperance.calibration import (
    Calibrator,
    TemperatureScaling,
    calibration_report,
    get_calibrator,
    load_calibrator,
    save_calibrator,
)
from temperance.config import Args
from temperance.data import DataArgs, SplitArgs, Splits
from temperance.errors import UserError
from temperance.models import ImageClassifier, load_model, weights_of, weights_sha256
from temperance.objectives import ObjectiveArgs, get_objective
from temperance.objectives.kd import KDArgs
from temperance.objectives.labels import LabelsArgs
from temperance.reporting.html import Paragraph, Report, Section, write_report
from temperance.run import Run, identity
from temperance.tasks import predict
from temperance.teacher import LiveTeacher
from temperance.training import (
    CalibrationArgs,
    Engine,
    EngineArgs,
    Recipe,
    caution,
    fit_held_out,
    fresh_student,
    out_of_fold_logits,
    produce_student,
    usable,
)
from temperance.verbs._blocks import (
    calibration_sections,
    kept_epoch,
    results_table,
    splits_paragraph,
    what_was_kept,
)
from temperance.verbs._calibrate import fit_table
from temperance.verbs._common import (
    Config,
    Outcome,
    Place,
    provenance,
    running,
    settings,
    stored_config,
    training_of,
)
from temperance.verbs._source import taught_data, warn_if_trained_on_calibration
from temperance.verbs._train import curves_section, model_card

logger = logging.getLogger("temperance")


class TeacherArgs(Args):
    """A trained teacher, and its calibrator if there is one already."""

    weights: Path
    """A run's folder, or a folder with model.safetensors and config.json."""
    calibrator: Path | None = None
    """A folder made by `temperance calibrate`; then `calibration.fit` is not used."""


class DistillArgs(Recipe):
    """Distil a student from a teacher; the student's model and training stand at the top level."""

    teacher: TeacherArgs
    calibration: CalibrationArgs = CalibrationArgs()
    objective: ObjectiveArgs = KDArgs()
    data: DataArgs | None = None
    """null: what the teacher's run was trained on."""
    split: SplitArgs | None = None
    """null: as in the teacher's run, so that its calibration rows are rows it has not seen."""
    seed: NonNegativeInt = 0
    """Of the student's initial weights, the order of the images and their views."""
    engine: EngineArgs = EngineArgs()


def distill(
    config: Config = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    **values: Any,
) -> Outcome:
    """Distil a student from a raw or calibrated teacher, and measure it.

    Args:
        config: YAML file or mapping with the keys of `temperance config distill`.
        out: run folder; by default the first free `runs/distill…`.
        resume: continue exactly where the run in `out` stopped.
        overwrite: replace the run in `out`.
        overrides: `key.sub=value` strings on top of `config`.
        values: the same keys as keyword arguments, on top of both.

    Raises:
        UserError: for settings, data, a teacher or a folder that cannot be used, and for a
            degenerate calibration fit without `calibration.force`.
        Interrupted: after Ctrl-C, with a checkpoint written.
    """
    place = Place(out, resume, overwrite)
    args = settings(DistillArgs, config, overrides, values, place)
    engine = Engine(args.engine)
    data = taught_data(args.teacher.weights, args.data, args.split, engine)
    args = args.model_copy(update={"data": data.args, "split": data.split_args})
    splits = data.splits
    teacher = load_model(weights_of(args.teacher.weights), classes=len(splits.train.classes))
    teacher.to(engine.device)
    fitted = _calibrator_at_hand(args, teacher, splits, engine)
    facts = {"data": data.fingerprint, "teacher": weights_sha256(teacher)}
    if fitted is not None:
        facts["calibrator"] = weights_sha256(fitted)
    # What does not fit together is refused before there is a folder.
    objective = get_objective(args.objective)
    fresh_student(args, splits, LiveTeacher(teacher), objective, seed=args.seed, engine=engine)
    digest = identity(args, **facts)
    with running("distill", args, digest, engine, place) as run:
        if args.calibration.fit == "cross-fit" and args.teacher.calibrator is None:
            fitted = usable(_cross_fit(args, splits, engine, run), args.calibration)
        if fitted is not None:
            logger.info("the teacher's logits go through %s", fitted)
        warning = caution(objective, fitted)
        if warning:
            logger.warning("note: %s", warning)
        _, result = produce_student(
            args,
            splits,
            LiveTeacher(teacher, fitted.to(engine.device) if fitted else None),
            objective,
            seed=args.seed,
            engine=engine,
            run=run,
            label=args.model.name,
        )
        if run.writes:
            run.write("student/README.md", model_card(run, result))
            if fitted is not None:
                save_calibrator(fitted.cpu(), run.folder)
            _measure_teacher(run, teacher, fitted, splits, engine, warning)
        engine.barrier()
        report = compose(run)
        if run.writes:
            write_report(report, run.path("report.html"))
    return Outcome(run.folder, result, report)


def _calibrator_at_hand(
    args: DistillArgs, teacher: ImageClassifier, splits: Splits, engine: Engine
) -> Calibrator | None:
    """The calibrator that was given or is fitted on held-out rows; None for the other cases."""
    if args.teacher.calibrator is not None:
        return usable(load_calibrator(args.teacher.calibrator), args.calibration)
    if args.calibration.fit != "held-out":
        return None
    warn_if_trained_on_calibration(teacher, splits, engine)
    return usable(fit_held_out(teacher, splits, args.calibration, engine), args.calibration)


def _cross_fit(args: DistillArgs, splits: Splits, engine: Engine, run: Run) -> Calibrator:
    """A calibrator from fold teachers of the recipe that the teacher's own run recorded."""
    trained = training_of(args.teacher.weights)
    if trained is None:
        raise UserError(
            "cross-fitting trains teachers of the same recipe, which is not recorded with these"
            " weights",
            where=args.teacher.weights,
            mend="Use a teacher made by `temperance train`, or calibration.fit=held-out",
        )
    recipe = Recipe.model_validate({name: trained[name] for name in Recipe.model_fields})
    objective = get_objective(LabelsArgs.model_validate(trained["objective"]))

    def open_fold(fold: int) -> Run:
        digest = identity(recipe, fold=fold, run=(run.started_as() or {}).get("identity"))
        return Run.open(
            run.folder / "folds" / str(fold),
            verb="distill",
            config=recipe,
            identity=digest,
            resume=True,
            writes=run.writes,
        )

    logits, targets = out_of_fold_logits(
        recipe,
        objective,
        splits,
        k=args.calibration.folds,
        seed=int(trained["seed"]),
        engine=engine,
        run=run,
        open_run=open_fold,
        label="fold teachers",
    )
    return get_calibrator(args.calibration.calibrator).fit(logits, targets)


def _measure_teacher(
    run: Run,
    teacher: ImageClassifier,
    calibrator: Calibrator | None,
    splits: Splits,
    engine: Engine,
    warning: str | None,
) -> None:
    """teacher.json: the teacher on held-out rows and on the rows that it taught, raw and as used.

    Not on the student's test rows: a teacher's calibration and its student's accuracy are never
    computed on the same rows.
    """
    reports = {}
    for name, images in (("calibration", splits.calibration), ("distilled", splits.train)):
        if len(images):
            logits, targets = predict(teacher, images, device=engine.device)
            reports[f"teacher, raw, {name} rows"] = calibration_report(logits, targets).to_dict()
            if calibrator is not None:
                calibrated = calibration_report(calibrator.cpu()(logits), targets)
                reports[f"teacher, as used, {name} rows"] = calibrated.to_dict()
    fit = calibrator.fit_report if calibrator is not None else None
    run.write_json(
        "teacher.json",
        {
            "reports": reports,
            "calibrator": None if calibrator is None else calibrator.name,
            "temperature": calibrator.temperature
            if isinstance(calibrator, TemperatureScaling)
            else None,
            "fit": fit.to_dict() if fit is not None else None,
            "caution": warning,
        },
    )


def _calibrator_sentence(teacher: Mapping[str, Any]) -> str:
    if teacher["calibrator"] is None:
        return "The teacher was raw."
    if teacher["temperature"] is None:
        return f"The teacher was calibrated by '{teacher['calibrator']}'."
    return f"The teacher's logits were divided by T = {teacher['temperature']:.4f}."


def compose(run: Run) -> Report:
    """The report of a finished distillation, from its folder alone."""
    result = run.read_json("result.json") or {}
    teacher = run.read_json("teacher.json") or {
        "reports": {},
        "calibrator": None,
        "fit": None,
        "caution": None,
    }
    test, validation = result["test"], result["validation"]
    lead = [
        f"Student: test accuracy of the {kept_epoch(result)} {test['accuracy']:.2%} on {test['n']}"
        " images.",
        _calibrator_sentence(teacher),
    ]
    if teacher["caution"]:
        lead.append(f"Note: {teacher['caution']}.")
    if result["objective_parameters"] or result["objective_memory"]:
        lead.append(
            f"The student has {result['parameters']:,} parameters; its objective learned"
            f" {result['objective_parameters']:,} more and remembered"
            f" {result['objective_memory']:,} numbers, which stayed behind."
        )
    if validation:
        lead.append(
            f"On validation the last epoch has {validation['accuracy']:.2%}, the best"
            f" (epoch {validation['best_epoch']}) {validation['best_accuracy']:.2%}."
        )
    if "kept_epoch" in result:
        lead.append(f"Early stopping: {what_was_kept(result)}.")
    table = results_table({"student, test": test, **teacher["reports"]})
    caution = Paragraph(
        "One student shows nothing about whether calibrating helped: that takes replicates and"
        " controls, which `temperance demo` compares."
    )
    result_section = Section("Result", [table, splits_paragraph(result["rows"]), caution])
    sections = [result_section, curves_section(run)]
    if teacher["fit"]:
        sections.append(Section("Calibrator", [fit_table(teacher["fit"])]))
    return Report(
        title="Distillation",
        lead=lead,
        sections=[*sections, *calibration_sections({"student, test": test, **teacher["reports"]})],
        provenance=provenance(run),
        config_yaml=stored_config(run),
    )
