"""Progress for a person to watch: a bar on a terminal, occasional lines elsewhere, nothing if quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar", "say"]

_SECONDS_BETWEEN_LINES = 15.0


def say(text: str, *, quiet: bool = False) -> None:
    """Print a line to standard error unless quiet."""
    if not quiet:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


@contextmanager
def progress_bar(total: int | None, description: str, *, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Yield ``advance(steps=1, text="")``, which moves the bar and replaces the text after it.

    On a terminal this is a bar with the time left; elsewhere, a line on standard error every 15 seconds and one at the
    end, so that a log of a long run stays readable.
    """
    if quiet:
        yield lambda steps=1, text="": None
    elif sys.stderr.isatty():
        with _terminal_bar(total, description) as advance:
            yield advance
    else:
        with _log_lines(total, description) as advance:
            yield advance


@contextmanager
def _terminal_bar(total: int | None, description: str) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, text="")
        yield lambda steps=1, text="": progress.update(task, advance=steps, text=text)


@contextmanager
def _log_lines(total: int | None, description: str) -> Iterator[Callable[..., None]]:
    started = shown = time.monotonic()
    done, last = 0, ""

    def line(ending: str = "") -> None:
        of = f" of {total}" if total is not None else ""
        text = f"{description}: {done}{of}, {time.monotonic() - started:.0f} s{ending}"
        sys.stderr.write(f"{text}  {last}".rstrip() + "\n")
        sys.stderr.flush()

    def advance(steps: int = 1, text: str = "") -> None:
        nonlocal done, last, shown
        done, last = done + steps, text
        if time.monotonic() - shown >= _SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            line()

    yield advance
    line(", done")
