"""The command line: verbs with a YAML file, `key.sub=value` overrides and a few flags.

Only typer is imported here; everything heavy waits until a verb runs.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

from temperance import __version__
from temperance.errors import Interrupted, UserError

if TYPE_CHECKING:
    from temperance.reporting.html import Report
    from temperance.verbs._common import Outcome

app = typer.Typer(
    help="Measure a teacher's calibration, calibrate it, distil a student, show whether it helped.",
    epilog="All keys of a verb, with defaults and comments: temperance config VERB",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.yaml] [key.sub=value]...",
        help="A YAML file, then overrides.",
        show_default=False,
    ),
]
Out = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Run folder.  [default: the first free runs/VERB…]"),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue exactly where the run in --out stopped.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]
Force = Annotated[
    bool, typer.Option("--force", help="Distil even if the teacher's calibrator is not usable.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _run(
    verb: str,
    tokens: list[str] | None,
    out: str | None,
    resume: bool,
    overwrite: bool,
    **more: bool,
) -> None:
    """Run a verb, print its first tables and its sentences, and say where the rest is."""
    _log()
    config, overrides = _split(tokens or [])
    function = getattr(import_module(f"temperance.verbs._{verb}"), verb)
    outcome = function(
        config, out=out, resume=resume, overwrite=overwrite, overrides=overrides, **more
    )
    _finish(outcome)


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)


def _finish(outcome: Outcome) -> None:
    if int(os.environ.get("LOCAL_RANK", "0")) != 0:
        return
    _show(outcome.report)
    if outcome.folder is not None:
        typer.echo(f"Report: {outcome.folder / 'report.html'}")
    failed = outcome.metrics.get("failed", 0)
    if failed:
        typer.echo(f"{failed} runs failed: temperance study status {outcome.folder}", err=True)
        raise typer.Exit(1)


def _split(tokens: Sequence[str]) -> tuple[str | None, list[str]]:
    """The YAML file, if the first token is one, and the overrides."""
    if tokens and "=" not in tokens[0]:
        return tokens[0], list(tokens[1:])
    return None, list(tokens)


def _show(report: Report) -> None:
    """The tables of the first section, then the summary."""
    from rich.console import Console
    from rich.table import Table as RichTable

    from temperance.reporting.html import Table

    console = Console(width=None if sys.stdout.isatty() else 160, soft_wrap=False)
    for block in report.sections[0].blocks:
        if isinstance(block, Table):
            table = RichTable(title=report.title, title_justify="left", caption=block.caption,
                              caption_justify="left")  # fmt: skip
            for column in block.columns:
                table.add_column(column.name, justify="right" if column.numeric else "left")
            for number, row in enumerate(block.rows):
                table.add_row(*row, style="bold" if number in block.emphasise else None)
            console.print(table, markup=False)
    for sentence in report.lead:
        console.print(sentence, markup=False, highlight=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options of the program itself; its help is the app's."""


def _add(verb: str, help_text: str) -> None:
    @app.command(verb, help=help_text)
    def command(
        settings: Settings = None,
        out: Out = None,
        resume: Resume = False,
        overwrite: Overwrite = False,
        debug: Debug = False,
    ) -> None:
        _run(verb, settings, out, resume, overwrite)


def _add_distill() -> None:
    @app.command("distill", help="Distil a student: teacher.weights=RUN_FOLDER model=NAME.")
    def command(
        settings: Settings = None,
        out: Out = None,
        resume: Resume = False,
        overwrite: Overwrite = False,
        force: Force = False,
        debug: Debug = False,
    ) -> None:
        forced = ["calibration.force=true"] if force else []
        _run("distill", [*(settings or []), *forced], out, resume, overwrite)


def _add_study() -> None:
    @app.command("study", help="Teachers × arms × students: [status|retry DIR], or a recipe.")
    def command(
        settings: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="[RECIPE.yaml] [key.sub=value]... | status DIR | retry DIR",
                help="A YAML file and overrides; or how far a study is, its failed runs again.",
                show_default=False,
            ),
        ] = None,
        out: Out = None,
        resume: Resume = False,
        overwrite: Overwrite = False,
        workers: Annotated[
            int | None, typer.Option("--workers", metavar="N", help="Runs at a time.")
        ] = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Only count and estimate; write nothing.")
        ] = False,
        debug: Debug = False,
    ) -> None:
        tokens = settings or []
        more = [] if workers is None else [f"executor.workers={workers}"]
        match tokens:
            case ["status", folder]:
                _show_status(folder)
            case ["retry", folder]:
                from temperance.verbs._study import study_retry

                _log()
                _finish(study_retry(folder, overrides=more))
            case ["status" | "retry", *_]:
                raise UserError(
                    "takes the folder of one study", where=tokens[0], mend="Give its --out"
                )
            case _:
                _run("study", [*tokens, *more], out, resume, overwrite, dry_run=dry_run)


def _add_advise() -> None:
    @app.command("advise", help="What measuring teachers alone can say: T, arms worth running.")
    def command(
        teachers: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="[TEACHER]... [key.sub=value]...",
                help="Folders of runs or of models, then overrides.",
                show_default=False,
            ),
        ] = None,
        out: Out = None,
        resume: Resume = False,
        overwrite: Overwrite = False,
        debug: Debug = False,
    ) -> None:
        from temperance.verbs._advise import advise

        _log()
        tokens = teachers or []
        named = [token for token in tokens if "=" not in token]
        overrides = [token for token in tokens if "=" in token]
        _finish(advise(named, out=out, resume=resume, overwrite=overwrite, overrides=overrides))


def _show_status(folder: str) -> None:
    from temperance.verbs._study import study_status

    status = study_status(folder)
    typer.echo(status["summary"])
    for key in status["running"]:
        typer.echo(f"running: {key}")
    for run, error in status["failures"].items():
        typer.echo(f"failed: {run}: {error}")


_add("demo", "The whole path on real data as a small study, in two minutes.")
_add("train", "Train a model on labels alone: a teacher or a baseline.")
_add("measure", "Measure calibration: model=RUN_FOLDER or logits=FILE.")
_add("calibrate", "Fit a calibrator: model=RUN_FOLDER or logits=FILE.")
_add_distill()
_add_study()
_add_advise()


@app.command()
def report(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="HTML file.  [default: DIR/report.html]")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a run's report again, from its folder alone."""
    from temperance.verbs._report import report as write

    typer.echo(f"Report: {write(folder, out=out).metrics['report']}")


@app.command("list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]",
            help="datasets, models, calibrators, objectives, transforms or arms; default: all",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """List the names that settings know."""
    from temperance.config import look_up
    from temperance.verbs._list import KINDS

    if kind is not None:
        look_up("kind", kind, KINDS)
    for name in [kind] if kind else KINDS:
        typer.echo(f"{name}: {', '.join(KINDS[name]())}")


@app.command()
def config(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A verb, or the name of a method (see list)."),
    ],
    debug: Debug = False,
) -> None:
    """Print the commented default settings of a verb, to redirect into a file, or of a method."""
    from temperance.verbs._config import default_config

    typer.echo(default_config(name), nl=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: 0 when done, 2 for what the user can mend, 130 after Ctrl-C.

    Args:
        argv: arguments without the program's name; by default those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        app(arguments, prog_name="temperance")
    except UserError as error:
        if "--debug" in arguments:
            raise
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2) from None
    except Interrupted as stopped:
        typer.echo(f"{stopped}", err=True)
        raise SystemExit(130) from None
    except KeyboardInterrupt:
        typer.echo("stopped at once; the last checkpoint is intact", err=True)
        raise SystemExit(130) from None
