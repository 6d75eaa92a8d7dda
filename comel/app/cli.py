"""The command line: puts together the commands of :mod:`comel.app.commands`. Nothing heavy is imported before a command runs.

Exit codes: 0 done; 1 done, but some slides failed; 2 the input cannot be used, with one line on standard error.
"""

from __future__ import annotations

import logging
import os
import sys
from contextvars import ContextVar
from typing import Annotated

import typer

from comel.app.commands import (
    analyse,
    bench,
    db,
    demo,
    encoders,
    extract,
    inference,
    inspect,
    keys,
    learning,
    manifest,
    mixers,
    report,
    scales,
    slides,
    worker,
)
from comel.app.options import LazyCommand
from comel.base.memory import keep_freed_memory
from comel.base.waiting import waiting_asleep
from comel.errors import ComelError

__all__ = ["app", "main"]

_verbose: ContextVar[bool] = ContextVar("whether -v was given", default=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        from comel.base.version import comel_version

        typer.echo(f"comel {comel_version()}")
        raise typer.Exit


def _log(wanted: bool) -> None:
    _verbose.set(wanted)
    if wanted:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.captureWarnings(True)


app = typer.Typer(
    name="comel",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Continual multiple instance learning on whole-slide images. Research use only, not for diagnosis.",
)
bags_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Inspect feature files and export them to other tools."
)


@app.callback()
def _comel(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Show tracebacks and log messages of libraries; goes before the command.", callback=_log
        ),
    ] = False,
) -> None:
    """Options of every command."""


app.command(epilog="Example: comel demo --out demo")(demo.demo)
app.command(cls=LazyCommand, epilog="Example: comel synth cohort --organs colon,kidney --slides 20 --seed 1")(slides.synth)
app.add_typer(manifest.app, name="manifest")
app.command(cls=LazyCommand, epilog="Example: comel extract cohort/manifest.csv --out bags --target-mpp 0.5")(extract.extract)
app.command(epilog="Example: comel encoders uni")(encoders.encoders)
app.command(epilog="Example: comel mixers hilo")(mixers.mixers)
app.command(epilog="Example: comel analyse runs/a bags --out analysis --task colon")(analyse.analyse)
app.command(cls=LazyCommand, epilog="Example: comel inspect slide.svs --overlay tissue.png")(inspect.inspect)
app.add_typer(bags_app, name="bags")
bags_app.command("check", epilog="Example: comel bags check bags/")(slides.bags_check)
bags_app.command("stats", epilog="Example: comel bags stats bags/")(slides.bags_stats)
bags_app.command("export", epilog="Example: comel bags export bags/ --out clam --manifest cohort.csv")(slides.bags_export)
bags_app.command("scale", epilog="Example: comel bags scale bags/ --mpp 1.0 --out bags-10x")(scales.bags_scale)
bags_app.command("join-scales", epilog="Example: comel bags join-scales bags/ --out bags-joined")(scales.bags_join_scales)
app.command(cls=LazyCommand, epilog=learning.EPILOGS["train"])(learning.train)
app.command("add-task", cls=LazyCommand, epilog=learning.EPILOGS["add-task"])(learning.add_task)
app.command(cls=LazyCommand, epilog=learning.EPILOGS["evaluate"])(learning.evaluate)
app.command(epilog="Example: comel report runs/owlora runs/finetune --out report.html")(report.report)
app.command(cls=LazyCommand, epilog="Example: comel predict runs/owlora slide.svs --out predictions")(inference.predict)
app.command(cls=LazyCommand, epilog="Example: comel serve --model runs/owlora --slides /data/slides")(inference.serve)
app.command(cls=LazyCommand, epilog="Example: comel worker --model runs/owlora --state /var/lib/comel")(worker.worker)
app.add_typer(keys.app, name="keys")
app.add_typer(db.app, name="db")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """The entry point: turns what a user can get wrong into one line and exit code 2."""
    os.environ.update(waiting_asleep(os.environ))
    keep_freed_memory()
    try:
        app(prog_name="comel")
    except ComelError as error:
        _print_traceback()
        typer.echo(f"comel: {error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Typer turns the first into an exit with code 130.
        if isinstance(stop, SystemExit) and stop.code != 130:
            raise
        typer.echo("comel: interrupted; the same command continues where it stopped", err=True)
        sys.exit(130)
    except OSError as error:
        _print_traceback()
        typer.echo(
            f"comel: {error.filename or 'file'}: {error.strerror or error}; check the path, its permissions and the disk",
            err=True,
        )
        sys.exit(2)


def _print_traceback() -> None:
    """Where an error was raised, for ``-v``."""
    if _verbose.get():
        import traceback

        traceback.print_exc()


if __name__ == "__main__":
    main()
